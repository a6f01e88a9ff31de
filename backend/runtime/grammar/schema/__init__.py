"""JSON Schema made into what the engine enforces: read as sets of JSON values, computed with, written down again.

Strict llguidance is right about the keywords that it takes, and refuses the rest (`not`, `oneOf` that overlaps, `if`,
...). Any of them is an equation of sets, so a schema is solved first, and what is left needs only the keywords taken:

    lower.py         the door: the steps in their order, and a row for each keyword (enforced, checked, annotation)
    lint.py          what is refused: broken, contradictory, hostile or misspelt schemas
    metaschemas.py   the drafts' own metaschemas as definitions of a schema that refers to them
    places.py        each subschema has a number; `$ref` is the number that it leads to
    read.py          keywords become sets: those that combine schemas
    typed.py         keywords become sets: those of one type, enum and const
    unevaluated.py   what unevaluatedProperties and unevaluatedItems speak of
    sets.py          sets of JSON values, as unions of pieces of each type
    combine.py       the algebra of sets: both, either, not; exact, or larger with a `Loss`
    pieces.py        the algebra of one piece: numbers, strings, arrays
    objects.py       the algebra of one piece: objects
    languages.py     languages of strings: patterns, formats, key names
    keys.py          whether a mask may have to let a key be repeated
    reach.py         what the root leads to, and whether some finite value is in it
    write.py         sets become nodes: arrays and objects
    scalars.py       sets become nodes: numbers and strings
    nodes.py         the lowered schema: typed nodes, the one walk over them, their spelling as JSON Schema
    engine.py        whether llguidance takes what is written

For example `{"type": ["integer", "string"], "not": {"maximum": 3}}` is read as (integers or strings) and not
(numbers <= 3 or anything else that is no number), comes to the integers above 3, and is written
`{"type": "integer", "minimum": 4}`.

Invariant of all steps: a set is what the schema says, or a larger one with a `Loss` that names the keyword. It is never
a smaller one (but for the spellings that `lower.py` lists).
"""
