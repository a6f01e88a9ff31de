"""A value that only a run has, as a string that stands for it: `{question}`.

Knows nothing of dry runs: what happens at a look is its watch's to decide.

1. To put a placeholder into text is what it is for, and its name stays readable there.
2. Any other use that Python lets us see (comparing, measuring, slicing, calling a method) is a *look*: the body may
   depend on the value from there on. Functions written in C (`re.match`, `open`) look without our seeing it.
3. What cannot be done at all without the value (to iterate over it) ends the dry run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

_PACKAGE = __name__.rpartition(".interpreter")[0]
_OWN = tuple(f"{_PACKAGE}.{room}" for room in ("interpreter", "lang", "backend"))
_HARMLESS = ("format", "strip", "lstrip", "rstrip", "encode", "join")  # they say nothing of the value


class PlaceholderWatch(Protocol):
    """What is told of the uses of a placeholder."""

    def looked(self, placeholder: Placeholder) -> None:
        """Hear that the body looks at the placeholder. May raise to end the dry run."""

    def refused(self, placeholder: Placeholder, what: str) -> BaseException:
        """Give the exception that ends the dry run. The body does `what` to the placeholder: "iterates over", ..."""


class Placeholder(str):
    """`{name}`. `what` is "argument", or "value" for what a model writes."""

    name: str
    what: str
    _watch: PlaceholderWatch

    def __new__(cls, name: str, what: str, watch: PlaceholderWatch, text: str | None = None) -> Placeholder:
        self = super().__new__(cls, f"{{{name}}}" if text is None else text)
        self.name, self.what, self._watch = name, what, watch
        return self

    def __getattribute__(self, attribute: str) -> Any:
        if attribute[0] != "_" and hasattr(str, attribute) and attribute not in _HARMLESS:
            _look(self)
        return super().__getattribute__(attribute)

    def __iter__(self) -> Iterator[str]:
        if _is_called_by_sgl(1):
            return super().__iter__()
        raise self._watch.refused(self, "iterates over")

    def __getitem__(self, key: Any) -> str:
        if isinstance(key, str):
            raise TypeError(f"{self!s} is a placeholder, which has no {key!r}; give graph() a value for it")
        _look(self)
        return super().__getitem__(key)

    def __format__(self, spec: str) -> str:
        return str(self)  # no `:.2f` fits it, and cut to `:.3` its name would be lost

    def __reduce_ex__(self, protocol: object) -> Any:
        return str, (str(self),)  # a copy that leaves the dry run is an ordinary string


def _look(placeholder: Placeholder) -> None:
    if not _is_called_by_sgl(2):
        placeholder._watch.looked(placeholder)


def _is_called_by_sgl(depth: int) -> bool:
    """Whether the caller, `depth` frames up from the calling function, is sgl itself."""
    return str(sys._getframe(depth + 1).f_globals.get("__name__", "")).startswith(_OWN)


def _looking(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: Placeholder, *args: Any) -> Any:
        _look(self)
        return plain(self, *args)

    return method


def _no_number(name: str, error: type[Exception]) -> Callable[[Placeholder], Any]:
    def method(self: Placeholder) -> Any:
        _look(self)
        raise error(f"{name}() of the placeholder {self!s}, which is no number; give graph() a value for it")

    return method


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", "len", "hash"):
    setattr(Placeholder, f"__{_name}__", _looking(f"__{_name}__"))
for _name, _error in (("int", ValueError), ("float", ValueError), ("index", TypeError)):
    setattr(Placeholder, f"__{_name}__", _no_number(_name, _error))
