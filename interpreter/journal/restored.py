"""The state of a row that did not run here: restored from a journal, or failed before its program began.

Owns: `RestoredState`, which reads as the `ProgramState` that it stands for reads once its program has ended, and
refuses everything else. There is no branch behind it, so nothing of the base class that needs one is left in place;
what a later version of the base class adds is refused too, with the same reason (`__getattr__`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from html import escape
from typing import Any, Literal, NoReturn

from ...backend.base import Usage
from ...lang.errors import OptionError, VariableError, suggest
from ...lang.expr import Appendable
from ..colour import LIMIT
from ..state import ProgramState
from ..usage import UsageTree
from .finished import Finished, Kept, NotKept

_OF_A_LIVE_ONE = ("_line", "_body", "_outside", "_root")


class RestoredState(ProgramState):
    """A finished row, to be read. `restored` is True if it comes from a journal, and False if it never began: then
    every read raises its error."""

    def __init__(self, finished: Finished) -> None:
        self._finished = finished
        self._why: BaseException | None = None
        self._traceback: Any = None
        self.restored = True

    @classmethod
    def failed(cls, error: BaseException) -> RestoredState:
        """Of a row that never began."""
        state = cls(Finished(0, "", usage=UsageTree("never began", Usage())))
        state._why, state._traceback, state.restored = error, error.__traceback__, False
        return state

    # -- reading values
    def __getitem__(self, name: str) -> Any:
        return _told(name, self._kept(name).value, "read s.text(), or set it to plain data")

    def get_var(self, name: str) -> Any:
        return self[name]

    def value(self, name: str) -> Any:
        return _told(name, self._kept(name).typed, f"it keeps the text: use sgl.schema(T).parse(s[{name!r}])")

    def get_meta_info(self, name: str) -> Any:
        return _told(name, self._kept(name).meta, "read s.text()")

    async def aget(self, name: str) -> Any:
        return self[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._finished.variables

    def _kept(self, name: str) -> Kept:
        variables = self._row().variables
        if not isinstance(name, str) or name not in variables:
            known = f"it has {', '.join(map(repr, variables))}" if variables else "it has none"
            raise VariableError(f"the program has no variable {name!r}{suggest(str(name), variables)}; {known}")
        return variables[name]

    def _row(self) -> Finished:
        if self._why is not None:
            raise self._why.with_traceback(self._traceback)  # as it was: reads do not add to it
        return self._finished

    # -- reading text
    def text(self) -> str:
        return self._row().text

    async def async_text(self) -> str:
        return self.text()

    def messages(self) -> list[dict[str, str]]:
        return [dict(message) for message in self._row().messages]

    def sync(self) -> None:
        return None

    def error(self) -> BaseException | None:
        return self._why

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        text = self.text() if name is None else self._stream(name)
        if text:
            yield text

    async def text_async_iter(self, name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        if return_meta_data and name is None:
            raise OptionError("text_async_iter: return_meta_data needs the name of a variable")
        for piece in self.text_iter(name):
            yield (piece, None) if return_meta_data else piece
        if return_meta_data and name is not None:
            yield "", self.get_meta_info(name)

    def _stream(self, name: str) -> str:
        value = self[name]
        if isinstance(value, list) and self._kept(name).meta is not None:  # of several samples or branches
            raise OptionError(f"{name!r} is a list and has no single text to stream; read s[{name!r}]")
        return str(value)

    def value_iter(self, name: str) -> Iterator[Any]:
        """The final value alone: how it grew is not kept."""
        self._stream(name)
        yield self.value(name)

    async def value_async_iter(self, name: str) -> AsyncIterator[Any]:
        for value in self.value_iter(name):
            yield value

    # -- seeing
    @property
    def usage(self) -> UsageTree:
        """What the row cost when it ran."""
        return self._finished.usage

    @property
    def ret_value(self) -> Any:
        return _told("ret_value", self._row().ret_value, "return plain data")

    def __repr__(self) -> str:
        return f"ProgramState({self._finished.text})"

    def _repr_html_(self) -> str:
        """The text for a notebook, uncoloured: where it came from is not kept."""
        text, more = self._finished.text, len(self._finished.text) - LIMIT
        shown = (
            text if more <= 0 else f"{text[: LIMIT // 2]} … {more:,} characters are not shown … {text[-LIMIT // 2 :]}"
        )
        shown = repr(self._why) if self._why is not None else shown
        printable = shown.encode("utf-8", "replace").decode()
        return f'<div style="white-space:pre-wrap;font-family:monospace">{escape(printable)}</div>'

    # -- what needs a branch
    def _refuse(self, what: str) -> NoReturn:
        why = "was restored from a journal (resume=)" if self.restored else "never began"
        raise OptionError(
            f"{what}: this row {why}, so there is no program to go on from, and its state can only be read; to go on "
            "from it, run the program for this row alone"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_A_LIVE_ONE:
            self._refuse("this read or operation")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iadd__(self, other: Appendable) -> NoReturn:
        self._refuse("s += ...")

    def _role(self, role: str, expr: Any) -> NoReturn:
        self._refuse(f"s.{role}(...)")

    def var_scope(self, name: str) -> NoReturn:
        self._refuse("s.var_scope(...)")

    def set_var(self, name: str, value: object) -> NoReturn:
        self._refuse("s.set_var(...)")

    def fork(
        self, size: int = 1, position_ids_offset: object = None, *, on_error: Literal["spare", "cancel"] = "spare"
    ) -> NoReturn:
        self._refuse("s.fork(...)")

    def copy(self, position_ids_offset: object = None) -> NoReturn:
        self._refuse("s.copy()")

    @property
    def trace(self) -> NoReturn:
        self._refuse("s.trace")

    def cancel(self) -> NoReturn:
        self._refuse("s.cancel()")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError("the state of a row cannot be copied or pickled: keep s.text() or s.messages()")


def _told(name: str, value: Any, instead: str) -> Any:
    """A fresh value: what a caller does to it is not seen by the next read."""
    if not isinstance(value, NotKept):
        return _fresh(value)
    if value.failed:
        raise VariableError(f"{name!r} of this row, which was restored from a journal, has no value: {value.what}")
    raise VariableError(
        f"{name!r} of this row, which was restored from a journal, was {value.what}, which a journal cannot keep: "
        f"{instead}"
    )


def _fresh(value: Any) -> Any:
    """A copy of plain data, as deep as it can be changed."""
    if isinstance(value, list):
        return [_fresh(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(_fresh, value))
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items()}
    return set(value) if isinstance(value, set) else value
