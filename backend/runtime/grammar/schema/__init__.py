"""JSON Schema made into what the engine enforces: read as sets of JSON values, computed with, written down again.

Strict llguidance is right about the keywords that it takes, and refuses the rest (`not`, `oneOf` that overlaps, `if`,
...). Any of them is an equation of sets, so a schema is solved first, and what is left needs only the keywords taken:

    lint      broken, contradictory, hostile or misspelt: `ConstraintError` with a JSON pointer         lint.py
    places    each subschema gets a number; `$ref` is the number that it leads to                       places.py
    read      keywords become sets: unions of pieces of each JSON type      read.py, typed.py, unevaluated.py; sets.py
    combine   both, either, not, of sets; exact, or larger with a `Loss`    combine.py; pieces.py, members.py
    reach     what the root leads to, and whether some finite value is in it at all                     reach.py
    write     each set as anyOf of plain types, closed objects, patterns                    write.py, scalars.py
    try       compiled by the engine; what it refuses alone is left open, with a `Loss`                 engine.py
    account   a row for each keyword: enforced, checked (some `Loss` is booked on it), annotation       lower.py

For example `{"type": ["integer", "string"], "not": {"maximum": 3}}` is read as (integers or strings) and not
(numbers <= 3 or anything else that is no number), comes to the integers above 3, and is written
`{"type": "integer", "minimum": 4}`.

Invariant of all steps: a set is what the schema says, or a larger one with a `Loss` that names the keyword; never a
smaller one (but for the spellings that `lower.py` lists). The door is `lower.lower`; languages of strings (`pattern`,
`format`, key names) are in `languages.py`.
"""
