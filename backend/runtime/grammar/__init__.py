"""Constraints at work: compiled for an engine, as masks over the vocabulary, and explained.

Knows nothing of gens or steps.

    compile.py      which engine enforces a constraint; the constraints that are compiled already
    lexemes.py      joined constraints as rules over lexemes
    lark.py         constraints as llguidance's Lark dialect
    raw.py          grammars that users write, and the second look at their texts
    protocol.py     what the runtime asks of an engine; masks
    vocabulary.py   token ids as bytes, and forced bytes as tokens
    trie.py         the tokens as a trie of their bytes
    coverage.py     `sgl.explain`: how each keyword of a constraint is carried out
    usable.py       which tools have arguments that can be enforced
    accepts.py      whether a text fits a constraint
    deadline.py     work that its caller waits for only so long
    once.py         a cache whose values are made once
    schema/         JSON Schema lowered to what the engine enforces
    rules/          grammars as rules over patterns, whatever they were written in
    engines/        the grammar libraries
    sharing/        the mask cache
    closing/        the way to a text's end within a budget
"""
