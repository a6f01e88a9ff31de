"""A read in an `async def` body, to be awaited: `await s["x"]`.

Owns: the object that such a read gives. In a coroutine a read that waited at once would stop the event loop, and one
that gave its value only when it happens to be there would work in tests and fail under load; so it is always awaited,
and using it without `await` raises instead of comparing or printing as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn

from ..lang.errors import VariableError


class Awaited:
    """`what`: how the read is spelled, for messages. `read` gives a new coroutine at each `await`."""

    __slots__ = ("_read", "_what")

    def __init__(self, what: str, read: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._what, self._read = what, read

    def __await__(self) -> Generator[Any, None, Any]:
        return self._read().__await__()

    def __repr__(self) -> str:
        return f"<{self._what} in an async program: await it>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python asks of any object (copying, inspecting)
            raise AttributeError(name)
        _refuse(self)


def _refuse(self: Awaited, *args: object, **kwargs: object) -> NoReturn:
    raise VariableError(
        f"{self._what} is read in an async program, where reads are awaited: write `await {self._what}`"
    )


_OPERATIONS = (
    *("bool", "str", "format", "len", "iter", "contains", "getitem", "call", "int", "float", "index"),
    *("eq", "ne", "lt", "le", "gt", "ge", "add", "radd", "sub", "rsub", "mul", "rmul", "mod", "rmod"),
    *("truediv", "rtruediv", "enter", "exit", "aenter", "aexit", "aiter"),
)
for _name in _OPERATIONS:
    setattr(Awaited, f"__{_name}__", _refuse)
