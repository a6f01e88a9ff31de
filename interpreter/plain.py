"""A Python value as JSON data, for records of a program's arguments and of what it returned. Knows nothing of files.

1. `plain(x)` is JSON data that equals `x` (a tuple becomes a list), or exactly `{"repr": text}`. So a dict that has
   only the key "repr" is itself given by its repr.
2. It never waits for a program's text.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

from ..backend.contain import is_interruption

_MOST_INT_BITS = 10_000  # Python refuses to write much longer integers in decimal
_MOST_REPR_CHARACTERS = 2_000


def plain(value: Any) -> Any:
    """`value` as new JSON data, or `{"repr": ...}` for what is not JSON data as a whole."""
    try:
        return _plain(value)
    except (_NotPlain, RecursionError):
        return {"repr": _spelled(value)}


def _spelled(value: Any) -> str:
    try:
        return _BOUNDED_REPR.repr(value)[:_MOST_REPR_CHARACTERS]
    except BaseException as error:
        if is_interruption(error):
            raise
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def is_spelled(data: Any) -> bool:
    """Whether `data` stands for a value that was no JSON data."""
    return isinstance(data, dict) and data.keys() == {"repr"}


class _NotPlain(Exception):
    pass


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int and value.bit_length() <= _MOST_INT_BITS:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    if kind is dict and not is_spelled(value) and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise _NotPlain


class _BoundedRepr(reprlib.Repr):
    """A bounded `repr` that survives an object's broken one, and does not wait for text as the repr of a state does."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 8
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 100
        self.maxstring = self.maxother = self.maxlong = _MOST_REPR_CHARACTERS

    def repr_ProgramState(self, value: Any, level: int) -> str:  # found by the name of the type
        return "<ProgramState>"

    def repr_ProgramStateGroup(self, value: Any, level: int) -> str:
        return "<ProgramStateGroup>"

    def repr_int(self, value: int, level: int) -> str:
        return (
            super().repr_int(value, level)
            if value.bit_length() <= _MOST_INT_BITS
            else hex(value)[:_MOST_REPR_CHARACTERS]
        )


_BOUNDED_REPR = _BoundedRepr()
