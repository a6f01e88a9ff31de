"""The grammar libraries behind one protocol, and what keeps them exact.

Knows nothing of which constraint goes to which engine (`compile.py`).

    llguidance.py        JSON Schemas, regexes, EBNF and Lark: masks
    xgrammar.py          EBNF, regexes and JSON Schemas when asked for
    outlines.py          small regexes when asked for
    watched.py           calls that may not return, made in time
    xgrammar_schemas.py  which JSON Schemas xgrammar enforces exactly
    json_guard.py        what no JSON grammar says: digits end, keys differ
    worker.py            compiling in a child process that can be killed
    artefact_cache.py    what was compiled, in memory and on disk
"""
