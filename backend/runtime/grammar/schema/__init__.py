"""JSON Schema made into what the engine enforces: read as sets of JSON values, computed with, written down again.

`lower.py` is the door. `places.py` finds subschemas, `lint.py` refuses what is broken, `sets.py` has the sets,
`combine.py` and `pieces.py` their algebra, `read.py` turns keywords into sets, `reach.py` finds what can hold at all,
`write.py` spells the sets as a schema that strict llguidance compiles, `engine.py` asks whether it does.
"""
