"""Masks that are computed once for all texts of a constraint that stand in the same state.

Knows nothing of how an engine computes a mask.

    mask_cache.py        masks, forced tokens and ends by state; a matcher that asks its engine for the rest
    state_keys.py        state keys of patterns and of plain text
    json_state_keys.py   state keys of JSON Schemas
    lexeme_keys.py       state keys of joined constraints
"""
