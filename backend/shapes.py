"""The shape of JSON data that came from outside: `misfit` says where they are not what they ought to be.

Knows nothing of what the data mean.
"""

from __future__ import annotations

import reprlib
from typing import Any

short = reprlib.repr
"""The `repr` of a value of any depth and size, cut."""


class Either:
    """One of several shapes."""

    __slots__ = ("shapes",)

    def __init__(self, *shapes: Any) -> None:
        self.shapes = shapes


def maybe(shape: Any) -> Either:
    """The shape, or None."""
    return Either(type(None), shape)


def misfit(data: Any, shape: Any, at: str = "") -> str | None:
    """Where `data` is not of the shape, in words; None if it is.

    A shape is a type (a float may be an int), a dict of names, a list of one shape, a tuple of shapes for a list of
    that length, or `Either`.
    """
    if isinstance(shape, Either):
        found = [misfit(data, each, at) for each in shape.shapes]
        return None if None in found else found[-1]
    if isinstance(shape, type):
        fits = type(data) is shape or (shape is float and type(data) is int)
        return None if fits else f"{at or 'it'} is {short(data)}"
    if isinstance(shape, dict):
        if not isinstance(data, dict):
            return f"{at or 'it'} is {short(data)}"
        if lacks := sorted(shape.keys() - data.keys()):
            return f"{at}/{lacks[0]} is missing"
        if more := sorted(map(short, data.keys() - shape.keys())):
            return f"{at or 'it'} has {more[0]}, which nobody knows"
        parts = [(data[name], each, f"{at}/{name}") for name, each in shape.items()]
    else:
        if not isinstance(data, list) or (isinstance(shape, tuple) and len(data) != len(shape)):
            return f"{at or 'it'} is {short(data)}"
        shapes = shape if isinstance(shape, tuple) else shape * len(data)
        parts = [(part, each, f"{at}/{i}") for i, (part, each) in enumerate(zip(data, shapes))]
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)
