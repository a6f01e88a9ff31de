"""The shape of JSON data that came from outside: `misfit` says where they are not what they ought to be.

Knows nothing of what the data mean.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

short = reprlib.repr
"""The `repr` of a value of any depth and size, cut."""


class AnyShape:
    """One of several shapes."""

    __slots__ = ("shapes",)

    def __init__(self, *shapes: Any) -> None:
        self.shapes = shapes


def maybe(shape: Any) -> AnyShape:
    """The shape, or None."""
    return AnyShape(type(None), shape)


def misfit(data: Any, shape: Any, at: str = "") -> str | None:
    """Where `data` is not of the shape, in words; None if it is.

    A shape is a type (a float may be an int), a dict of names, a list of one shape, a tuple of shapes for a list of
    that length, or `AnyShape`.
    """
    if isinstance(shape, AnyShape):
        found = [misfit(data, each, at) for each in shape.shapes]
        return None if None in found else found[-1]
    kind = shape if isinstance(shape, type) else dict if isinstance(shape, dict) else list
    fits = type(data) is kind or (kind is float and type(data) is int)
    if not fits or (isinstance(shape, tuple) and len(data) != len(shape)):
        return f"{at or 'it'} is {short(data)}"
    if isinstance(shape, dict):
        return _misfit_of_names(data, shape, at)
    if isinstance(shape, type):
        return None
    shapes = shape if isinstance(shape, tuple) else shape * len(data)
    return _first((part, each, f"{at}/{i}") for i, (part, each) in enumerate(zip(data, shapes)))


def _misfit_of_names(data: dict[str, Any], shape: dict[str, Any], at: str) -> str | None:
    if lacks := sorted(shape.keys() - data.keys()):
        return f"{at}/{lacks[0]} is missing"
    if more := sorted(map(short, data.keys() - shape.keys())):
        return f"{at or 'it'} has {more[0]}, which nobody knows"
    return _first((data[name], each, f"{at}/{name}") for name, each in shape.items())


def _first(parts: Iterable[tuple[Any, Any, str]]) -> str | None:
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)
