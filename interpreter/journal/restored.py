"""The state of a row that did not run here: restored from a journal, or failed before its program began.

Knows no branch and no body: it reads a `Finished`, and refuses to say more.
"""

from __future__ import annotations

from html import escape
from typing import Any, NoReturn

from ...backend.base import Usage
from ...backend.waiting import Flow, StreamFlow, no_wait
from ...lang.errors import OptionError, VariableError, suggest
from ..colour import SHOWN_CHARACTERS
from ..line import Line
from ..reading import Part, needs_a_name
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
        """The state of a row that never began."""
        state = cls(Finished(0, "", usage=UsageTree("never began", Usage())))
        state._why, state._traceback, state.restored = error, error.__traceback__, False
        return state

    # -- reading: flows that wait for nothing
    def _read(self, name: str, part: Part) -> Flow[Any]:
        return no_wait(self._part(name, part))

    def _part(self, name: str, part: Part) -> Any:
        kept = self._kept(name)
        if part == "typed":
            return _told(name, kept.typed, f"it keeps the text: use sgl.schema(T).parse(s[{name!r}])")
        if part == "meta":
            return _told(name, kept.meta, "read s.text()")
        return _told(name, kept.value, "read s.text(), or set it to plain data")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._finished.variables

    def _names(self) -> list[str]:
        return list(self._row().variables)

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

    def _text(self, deep: bool | None = None) -> Flow[str]:
        return no_wait(self._row().text)

    def _messages(self) -> Flow[list[dict[str, str]]]:
        return no_wait([dict(message) for message in self._row().messages])

    def _sync(self) -> Flow[None]:
        return no_wait(None)

    def _error(self) -> Flow[BaseException | None]:
        return no_wait(self._why)

    def _pieces(self, name: str | None, with_meta: bool = False, deep: bool | None = None) -> StreamFlow[Any]:
        needs_a_name(name, with_meta)
        text = self._row().text if name is None else self._streamed(name)
        if text:
            yield (text, self._part(name, "meta")) if with_meta and name is not None else text
        if with_meta and name is not None:
            yield "", self._part(name, "meta")

    def _streamed(self, name: str) -> str:
        value = self._part(name, "value")
        if isinstance(value, list) and self._kept(name).meta is not None:  # of several samples or branches
            raise OptionError(f"{name!r} is a list and has no single text to stream; read s[{name!r}]")
        return str(value)

    def _values(self, name: str) -> StreamFlow[Any]:
        self._streamed(name)
        yield self._part(name, "typed")  # the final value alone: how it grew is not kept

    def _events(self, name: str) -> StreamFlow[Any]:
        self._streamed(name)
        raise OptionError(f"event_iter: the events of {name!r} were not kept; s.value({name!r}) has its calls")
        yield  # never; it makes this a stream

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
        """Show the text in a notebook, uncoloured: where it came from is not kept."""
        text, more = self._finished.text, len(self._finished.text) - SHOWN_CHARACTERS
        half = SHOWN_CHARACTERS // 2
        shown = text if more <= 0 else f"{text[:half]} … {more:,} characters are not shown … {text[-half:]}"
        shown = repr(self._why) if self._why is not None else shown
        printable = shown.encode("utf-8", "replace").decode()
        return f'<div style="white-space:pre-wrap;font-family:monospace">{escape(printable)}</div>'

    # -- what needs a branch
    def _open(self, what: str) -> Line:
        self._refuse(what)

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
