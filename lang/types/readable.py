"""Types as pydantic reads them: what it would refuse or read lazily is written anew, wherever it stands in a type.

Knows nothing of schemas. Before Python 3.12 pydantic takes only the TypedDict of `typing_extensions`. An `Iterable`
would be validated when it is iterated, long after a text was handed over, so it is read as a list.
"""

from __future__ import annotations

import collections.abc
import functools
import sys
import types
import typing
from typing import Any

from ..kept import by_text, kept

_LAZY = (collections.abc.Iterable, collections.abc.Iterator, collections.abc.Generator)


def readable(tp: Any) -> Any:
    """Replace every `typing.TypedDict` in `tp` by one of `typing_extensions`, and every iterable by a list.

    Returns `tp` itself if it has neither.
    """
    if sys.version_info < (3, 12) and type(tp).__name__ == "_TypedDictMeta" and type(tp).__module__ == "typing":
        return _rewritten(tp)
    if typing.get_origin(tp) in _LAZY:
        return list[readable(typing.get_args(tp)[0])]  # type: ignore[misc]
    arguments = typing.get_args(tp)
    new = tuple(readable(part) if not isinstance(part, (str, list)) else part for part in arguments)
    if all(a is b for a, b in zip(arguments, new)):
        return tp
    origin: Any = typing.get_origin(tp)
    if origin is typing.Union or origin is types.UnionType:
        union: Any = typing.Union
        return union[new]
    if origin is typing.Annotated or hasattr(tp, "__metadata__"):
        return functools.reduce(lambda inner, note: typing.Annotated[inner, note], tp.__metadata__, new[0])
    return tp.copy_with(new) if hasattr(tp, "copy_with") else origin[new]


@kept(256, by_text(0, 20_000))
def _rewritten(tp: Any) -> Any:
    import typing_extensions as te

    fields: dict[str, Any] = {}
    for name, annotation in te.get_type_hints(tp, include_extras=True).items():
        wrapper: Any = te.get_origin(annotation)
        required = wrapper is te.Required or (wrapper is not te.NotRequired and name in tp.__required_keys__)
        inner = readable(typing.get_args(annotation)[0] if wrapper in (te.Required, te.NotRequired) else annotation)
        fields[name] = inner if required else te.NotRequired[inner]
    make: Any = te.TypedDict
    made = make(tp.__name__, fields)
    made.__doc__, made.__module__ = tp.__doc__, tp.__module__
    return made
