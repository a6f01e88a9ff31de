"""A Python value as JSON data, for what is written down of a program: its arguments and what it returned.

Owns: which values are JSON data, and how the others are spelled. Knows nothing of files.

Invariants: `plain(x)` is JSON data that equals `x` (a tuple becomes a list), or exactly `{"repr": text}`; so a dict
that has only the key "repr" is itself spelled. Spelling a value never waits for a program's text.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

_LONGEST_INT = 10_000  # bits; Python refuses to spell much longer ones in decimal
_LONGEST = 2_000  # characters of a value that is spelled


def plain(value: Any) -> Any:
    """`value` as new JSON data, or `{"repr": ...}` for what is not JSON data as a whole."""
    try:
        return _plain(value)
    except (_NotPlain, RecursionError):
        return {"repr": _SPELLING.repr(value)[:_LONGEST]}


def is_spelled(data: Any) -> bool:
    """Is this what is left of a value that was not JSON data?"""
    return isinstance(data, dict) and data.keys() == {"repr"}


class _NotPlain(Exception):
    pass


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int and value.bit_length() <= _LONGEST_INT:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    if kind is dict and not is_spelled(value) and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise _NotPlain


class _Spelling(reprlib.Repr):
    """`repr` that is bounded, survives an object's broken one, and does not wait for a program's text as the `repr` of
    its state does."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 8
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 100
        self.maxstring = self.maxother = self.maxlong = _LONGEST

    def repr_ProgramState(self, value: Any, level: int) -> str:  # found by the name of the type
        return "<ProgramState>"

    def repr_ProgramStateGroup(self, value: Any, level: int) -> str:
        return "<ProgramStateGroup>"

    def repr_int(self, value: int, level: int) -> str:
        return super().repr_int(value, level) if value.bit_length() <= _LONGEST_INT else hex(value)[:_LONGEST]


_SPELLING = _Spelling()
