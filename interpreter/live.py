"""`LiveState`: the state of a program that runs, or ran, in this process.

Every read is a flow (`backend/waiting.py`), so threads, event loops and streams share one definition of it. Knows
nothing of how the body is run.

One program can have two faces. The body reads its own (`outside=False`): a name that was never defined is an error at
once. `run(stream=True)` hands out the other while the body still runs (`outside=True`): names and text may still come,
so a read waits until the body ends.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, NoReturn

from ..backend.base import Backend, Handle
from ..backend.waiting import AtHandle, Carried, Flow, StreamFlow, T, Wait, block_on, suspend_on, through
from ..lang.errors import OptionError, VariableError, suggest
from .body import AtNews, Body
from .colour import html_of, parts_of
from .hooks import hooks
from .line import Line
from .reading import Part, needs_a_name
from .state import ProgramState
from .stream import growing
from .transcript import joined, pending
from .usage import UsageTree
from .variables import Called, Scope, Variable


class LiveState(ProgramState):
    """A `ProgramState` over a line of a program and the program's body."""

    def __init__(self, line: Line, body: Body, *, outside: bool = False, root: bool = False) -> None:
        self._line = line
        self._body = body
        self._outside = outside
        self._root = root  # the body's own error is the error of the program, not of each fork

    def _open(self, what: str) -> Line:
        return self._line

    def _branches(self, n: int, together: bool) -> list[LiveState]:
        return [type(self)(line, self._body, outside=self._outside) for line in self._line.fork(n, together)]

    # -- how a read is run
    def _is_awaited(self) -> bool:
        """Whether a read here is to be awaited: the reader is on the event loop that runs the program's body.

        After its end, the body's own state can be read at once; a state that `run(stream=True)` gave is still awaited.
        """
        return self._body.is_on_its_loop() and (self._outside or not self._body.ended)

    def _run(self, what: str, flow: Callable[[], Flow[T]]) -> T:
        if self._is_awaited():
            return Awaited(what, lambda: suspend_on(flow()))  # type: ignore[return-value]
        return block_on(flow())

    def _refuse_to_wait(self, what: str, instead: str) -> None:
        if self._is_awaited():
            raise OptionError(f"{what} would block the event loop of an async program: use `{instead}`")

    # -- values
    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._line.find(name) is not None

    def _names(self) -> list[str]:
        return self._line.names()

    def _read(self, name: str, part: Part) -> Flow[Any]:
        variable = self._look(name) or (yield from self._find(name))
        if handles := variable.handles():
            yield from self._done(handles)
        return self._take(variable, part)

    def _take(self, variable: Variable, part: Part) -> Any:
        """Read a part of a variable whose handles are done."""
        try:
            return through(getattr(variable, part))
        except Carried:
            raise
        except Exception as error:
            self._line.explain(error)
            raise

    def _find(self, name: str, growing: bool = False) -> Flow[Variable]:
        """Wait until there is the variable. A scope that the body still writes counts only with `growing`."""
        while True:
            news = self._body.pulse.news
            if (found := self._look(name, growing)) is not None:
                return found
            yield AtNews(self._body, news)

    def _look(self, name: str, growing: bool = False) -> Variable | None:
        complete = self._complete()  # before looking: what is not there then never will be
        found = self._line.find(name)
        if found is None and complete:
            self._unknown(name)
        unfinished = not complete and not growing and isinstance(found, Scope) and found.open
        return None if unfinished else found

    def _unknown(self, name: str) -> NoReturn:
        if self._root and self._body.error is not None:
            through(self._body.outcome.value)  # the body died before it came to the name
        names = self._line.names()
        known = f"it has {', '.join(map(repr, names))}" if names else "it has none yet"
        raise VariableError(f"the program has no variable {name!r}{suggest(str(name), names)}; {known}")

    # -- text and errors
    def _text(self, deep: bool | None = None) -> Flow[str]:
        _check((yield from self._finish(deep)))
        return joined(self._line.segments)

    def _messages(self) -> Flow[list[dict[str, str]]]:
        _check((yield from self._finish()))
        return [{"role": m.role, "content": joined(m.parts)} for m in self._line.roles.messages]

    def _sync(self) -> Flow[None]:
        yield from self._finish()

    def _error(self) -> Flow[BaseException | None]:
        failed = yield from self._finish()
        return failed.error if failed is not None else (yield from self._first_hole(self._line))

    def _first_hole(self, line: Line) -> Flow[BaseException | None]:
        """Find the error of the first failed branch that was joined to `line`."""
        for child in line.with_joined():
            if child is not line:
                barrier = child.barrier()
                yield from self._done([barrier])
                if barrier.error is not None:
                    return child.explain(barrier.error)
        return None

    # -- streams
    def _pieces(self, name: str | None, with_meta: bool = False, deep: bool | None = None) -> StreamFlow[Any]:
        needs_a_name(name, with_meta)
        try:
            variable = None
            if name is not None:
                variable = yield from self._find(name, growing=True)
            for piece in self._growing(name, variable):
                if with_meta and variable is not None and not isinstance(piece, Wait):
                    yield piece, variable.meta_so_far()
                else:
                    yield piece
            if variable is None:
                _check((yield from self._finish(deep)))
            elif with_meta:
                yield "", variable.meta()
        except Exception as error:
            self._line.explain(error)
            raise

    def _values(self, name: str) -> StreamFlow[Any]:
        variable = yield from self._find(name, growing=True)
        partials, text = hooks.partial_values(getattr(variable, "constraint", None)), ""
        for piece in self._growing(name, variable):
            if isinstance(piece, Wait):
                yield piece
            else:
                text += piece
                yield from partials.events(text)
        yield self._take(variable, "typed")

    def _events(self, name: str) -> StreamFlow[Any]:
        variable = yield from self._find(name, growing=True)
        if not isinstance(variable, Called):
            raise OptionError(f"event_iter: {name!r} is no sgl.call(...); its text comes from text_iter({name!r})")
        reader = variable.reader()
        for piece in self._growing(name, variable):
            if isinstance(piece, Wait):
                yield piece
            else:
                yield from reader.feed(piece)
        yield from reader.close()

    def _growing(self, name: str | None, variable: Variable | None) -> StreamFlow[str]:
        """The pieces of a variable, or (without a name) of the transcript."""
        if name is None or variable is None:
            return growing(self._body, self._line.backend, lambda: (self._line.segments, self._over()))
        if isinstance(variable, Scope) and variable.open and self._complete():
            through(variable.value)  # the body streams the scope it is still writing: this raises
        return growing(self._body, self._line.backend, lambda: variable.stream(name))

    # -- seeing
    @property
    def usage(self) -> UsageTree:
        if not self._body.is_on_its_loop():
            block_on(self._done(self._line.barriers()))
        return self._line.ledger.tree()

    def _trace(self) -> dict[str, Any]:
        return hooks.program_trace(self._body.record)

    @property
    def ret_value(self) -> Any:
        block_on(self._until(self._complete))
        return self._body.outcome.value() if self._body.ended else None

    def __repr__(self) -> str:
        self._settle()
        return f"ProgramState({joined(self._line.segments)})"

    def _repr_html_(self) -> str:
        self._settle()
        return html_of(parts_of(self._line.segments))

    def _settle(self) -> None:
        """Wait before showing the state, where that may block. Raises nothing: a failure shows the text it got to."""
        if not self._body.is_on_its_loop():
            block_on(self._finish())

    # -- what is waited for
    def _complete(self) -> bool:
        """Whether this reader will see no more text and names."""
        return not self._outside or self._body.ended

    def _over(self) -> bool:
        """Whether there will be no more text. A failed branch says no more, though its body may still set names."""
        return self._complete() or self._line.branch.error is not None

    def _until(self, enough: Callable[[], bool]) -> Flow[None]:
        while True:
            news = self._body.pulse.news
            if enough():
                return
            yield AtNews(self._body, news)

    def _done(self, handles: Iterable[Handle[Any]]) -> Flow[None]:
        for handle in handles:
            if not handle.done:
                yield _AtOp(self._body, self._line.backend, handle)

    def _finish(self, deep: bool | None = None) -> Flow[Handle[Any] | None]:
        """Wait for everything said so far; what went wrong, or None. `deep`: also on branches that were joined here (by
        default where the read is awaited, since what follows it may not block the loop)."""
        yield from self._until(self._over)
        barrier = self._line.barrier() if self._complete() else self._line.failure()
        yield from self._done([barrier, *pending(self._line.segments)])  # the last first: a sleeper is woken once
        if self._is_awaited() if deep is None else deep:
            yield from self._done(self._line.barriers()[1:])
        if barrier.error is not None:
            self._line.explain(barrier.error)
            return barrier
        return self._body.outcome if self._root and self._body.error is not None else None


LiveState.__name__ = LiveState.__qualname__ = (
    "ProgramState"  # messages that name the type of a value say the public one
)


class _AtOp(AtHandle):
    """Wait for an op of a program; refuse to do so on the event loop that the program's body ran on."""

    __slots__ = ("_body",)

    def __init__(self, body: Body, backend: Backend, handle: Handle[Any]) -> None:
        super().__init__(backend, handle)
        self._body = body

    def block(self) -> None:
        if self._body.is_on_its_loop():
            raise OptionError(
                "this is not finished, and waiting for it here would block the event loop that its async program ran "
                "on: use `await state.aget(name)` or `await state.async_text()`"
            )
        super().block()


def _check(failed: Handle[Any] | None) -> None:
    if failed is not None:
        through(failed.value)  # raises, as it was


class Awaited:
    """A read in an `async def` body, to be awaited: `await s["x"]`. Used without `await` it raises.

    A read that waited at once would stop the event loop. One that gave its value only when the value happens to be
    there would work in tests and fail under load. `what`: how the read is spelled, for messages; `read` gives a new
    coroutine at each `await`.
    """

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
