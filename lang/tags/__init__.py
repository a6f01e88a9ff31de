"""Structural tags, as xgrammar, SGLang and vLLM write them, as constraints of our own.

Knows nothing of how constraints are enforced.

    formats.py     each type of format as a constraint, or refused
    parameters.py  the styles that write an object's properties as XML
"""
