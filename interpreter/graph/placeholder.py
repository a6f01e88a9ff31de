"""A value that only a run has, as a string that stands for it: `{question}`.

Owns: the `str` subclass and what a body may do with one. Putting it into text is what it is for, and keeps its name
readable there. Anything else that Python lets us see (comparing, measuring, slicing, calling a method) is *looking*: it
is told to `watch`, because what the body does next may depend on it. What cannot be done at all without the value
(iterating over it) ends the trace. Functions written in C (`re.match`, `open`) look without our seeing it.

Knows nothing of traces: `watch` is two callbacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

_PACKAGE = __name__.rpartition(".interpreter")[0]
_OWN = tuple(f"{_PACKAGE}.{room}" for room in ("interpreter", "lang", "backend"))
_HARMLESS = ("format", "strip", "lstrip", "rstrip", "encode", "join")  # they say nothing of the value


class Watch(Protocol):
    def looked(self, placeholder: Placeholder) -> None:
        """The body looks at it. May raise to end the trace."""

    def refused(self, placeholder: Placeholder, what: str) -> BaseException:
        """The exception that ends the trace, because the body `what` (\"iterates over\", ...) it."""


class Placeholder(str):
    """`{name}`. `what`: "argument", or "value" for what a model writes."""

    name: str
    what: str
    _watch: Watch

    def __new__(cls, name: str, what: str, watch: Watch, text: str | None = None) -> Placeholder:
        self = super().__new__(cls, f"{{{name}}}" if text is None else text)
        self.name, self.what, self._watch = name, what, watch
        return self

    def __getattribute__(self, attribute: str) -> Any:
        if attribute[0] != "_" and hasattr(str, attribute) and attribute not in _HARMLESS:
            _look(self)
        return super().__getattribute__(attribute)

    def __iter__(self) -> Iterator[str]:
        if _inside(1):
            return super().__iter__()
        raise self._watch.refused(self, "iterates over")

    def __getitem__(self, key: Any) -> str:
        if isinstance(key, str):
            raise TypeError(f"{self!s} is a placeholder, which has no {key!r}; give trace() a value for it")
        _look(self)
        return super().__getitem__(key)

    def __format__(self, spec: str) -> str:
        return str(self)  # no `:.2f` fits it, and cut to `:.3` its name would be lost

    def __int__(self) -> int:
        _look(self)
        raise ValueError(f"int() of the placeholder {self!s}, which is no number without a run")

    def __float__(self) -> float:
        _look(self)
        raise ValueError(f"float() of the placeholder {self!s}, which is no number without a run")

    def __index__(self) -> int:
        _look(self)
        raise TypeError(f"the placeholder {self!s} is no number; give trace() a value for it")

    def __reduce_ex__(self, protocol: object) -> Any:
        return str, (str(self),)  # a copy that leaves the trace is an ordinary string


def _look(placeholder: Placeholder) -> None:
    if not _inside(2):
        placeholder._watch.looked(placeholder)


def _inside(depth: int) -> bool:
    """Is the caller, `depth` frames up from ours, sgl itself?"""
    return str(sys._getframe(depth + 1).f_globals.get("__name__", "")).startswith(_OWN)


def _looking(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: Placeholder, *args: Any) -> Any:
        _look(self)
        return plain(self, *args)

    method.__name__ = name
    return method


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "__len__", "__hash__"):
    setattr(Placeholder, _name, _looking(_name))
