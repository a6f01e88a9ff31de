"""What a name in a program stands for, from the moment its op was enqueued: the kinds of variables.

Knows nothing of waiting: `handles()` says what to wait for; `value()`, called after that, gives the value or raises the
original error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backend import meta
from ..backend.base import GenResult, Handle
from ..lang.constraint import Constraint
from ..lang.errors import OptionError, Truncated, VariableError
from ..lang.expr import CallTools
from ..lang.syntax import CallClosed, CallReader, CallSyntax, TextDelta
from .transcript import Segment, joined, pending


class Variable:
    """Base: a variable that has its value already."""

    __slots__ = ()

    def handles(self) -> Sequence[Handle[Any]]:
        """The handles to wait for before `value()`. Once this is empty it stays empty, except for an open scope."""
        return ()

    def value(self) -> Any:
        raise NotImplementedError

    def typed(self) -> Any:
        """The value that the text of a constrained gen stands for; `value()` of any other variable."""
        return self.value()

    def meta(self) -> Any:
        """The meta information of a finished op; None of a variable that no single call made."""
        return None

    def meta_so_far(self) -> Any:
        """The meta information of an op that may still run. Raises nothing."""
        return None

    def stream(self, name: str) -> tuple[Sequence[Segment], bool]:
        """The segments that spell the value as it grows, and whether there will be no more of them."""
        raise OptionError(f"{name!r} is a list and has no single text to stream; read s[{name!r}]")


class Given(Variable):
    """Set by `set_var` or `s[name] = value`."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def value(self) -> Any:
        return self._value

    def stream(self, name: str) -> tuple[Sequence[Segment], bool]:
        return (Segment(str(self._value)),), True


class CallVariable(Variable):
    """Written by one call of the model, whose name for `get_meta_info` is `_id`."""

    __slots__ = ("_id", "_segment")

    def __init__(self, kind: str, segment: Segment) -> None:
        self._segment, self._id = segment, meta.call_id(kind)

    def handles(self) -> Sequence[Handle[Any]]:
        return pending([self._segment])

    def meta_so_far(self) -> Any:
        handle = self._segment.handle
        assert handle is not None
        so_far = handle.so_far  # before `done`, which comes first
        if handle.done:
            return self.meta() if handle.error is None else None
        return None if so_far is None else meta.of_gen(self._id, so_far())

    def stream(self, name: str) -> tuple[Sequence[Segment], bool]:
        return (self._segment,), True

    def _result(self) -> Any:
        assert self._segment.handle is not None
        return self._segment.handle.value()


class Generated(CallVariable):
    """Written by a gen: a string, or for n > 1 a list of n strings."""

    __slots__ = ("_n", "constraint")

    def __init__(self, segment: Segment, n: int, constraint: Constraint | None = None) -> None:
        super().__init__("gen", segment)
        self._n, self.constraint = n, constraint

    def value(self) -> Any:
        results = self._result()
        return results[0].text if self._n == 1 else [result.text for result in results]

    def typed(self) -> Any:
        return self._each(lambda result: _complete(result, self._segment.where))

    def meta(self) -> Any:
        return self._each(lambda result: meta.of_gen(self._id, result))

    def _each(self, read: Callable[[GenResult], Any]) -> Any:
        found = [read(result) for result in self._result()]
        return found[0] if self._n == 1 else found

    def stream(self, name: str) -> tuple[Sequence[Segment], bool]:
        return super().stream(name) if self._n == 1 else Variable.stream(self, name)


class Called(Generated):
    """Written by a call of tools: its text, or for n > 1 a list of n texts. Typed: the calls, or the answer.

    `turn`: how many calls of tools there were before it on its line. So ids of calls differ.
    """

    __slots__ = ("_asked", "_syntax", "_turn")

    def __init__(self, segment: Segment, asked: CallTools, syntax: CallSyntax, turn: int) -> None:
        super().__init__(segment, asked.n, asked.constraint)
        self._asked, self._syntax, self._turn = asked, syntax, turn

    def reader(self) -> CallReader:
        """A reader of the text from its start."""
        thinking: Any = "open" if self._asked.in_thought else "none"
        return self._syntax.reader(self._asked.tools, thinking=thinking, turn=self._turn)

    def typed(self) -> Any:
        return self._each(self._meaning)

    def _meaning(self, result: GenResult) -> Any:
        _complete(result, self._segment.where)
        reader = self.reader()
        events = [*reader.feed(result.text), *reader.close()]
        calls = [event.call for event in events if isinstance(event, CallClosed)]
        if calls or self._asked.answer is None:
            return calls
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        return self._asked.answer.parse(text)


def _complete(result: GenResult, where: str) -> Any:
    if result.receipt is None:
        return result.text
    if not result.receipt["complete"]:
        raise Truncated(
            f"{where}: the text was cut by its budget (on_budget='partial') and has no value; read it as text, or "
            "raise max_tokens=",
            result.text,
        )
    return result.value


class Picked(CallVariable):
    """The winner of a select."""

    __slots__ = ()

    def __init__(self, segment: Segment) -> None:
        super().__init__("select", segment)

    def value(self) -> Any:
        return self._result().text

    def meta(self) -> Any:
        return meta.of_select(self._id, self._result())


class Scope(Variable):
    """The text written inside `with s.var_scope(name)`. Has no value while it is open."""

    __slots__ = ("_closed", "_segments", "_start", "name")

    def __init__(self, name: str, segments: list[Segment]) -> None:
        self.name, self._segments, self._start = name, segments, len(segments)
        self._closed: tuple[Segment, ...] | None = None

    @property
    def open(self) -> bool:
        return self._closed is None

    def close(self) -> None:
        self._closed = tuple(self._segments[self._start :])

    def handles(self) -> Sequence[Handle[Any]]:
        return pending(self._closed or ())

    def value(self) -> Any:
        if self._closed is None:
            raise VariableError(f"{self.name!r} is the scope that is being written; read it after its `with` block")
        for segment in self._closed:
            segment.check()
        return joined(self._closed)

    def stream(self, name: str) -> tuple[Sequence[Segment], bool]:
        closed = self._closed
        return (self._segments[self._start :], False) if closed is None else (closed, True)
