"""Finished text against its constraint, independent of masks and engines.

check.py        the check, and strict JSON
dialect.py      the JSON Schema dialect of the check, in each draft
metaschema.py   whether a schema is surely valid in its draft
formats.py      the string formats, one table for mask and check
splitting.py    where the parts of a sequence end in a text
"""
