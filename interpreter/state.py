"""`ProgramState`: what the body of a program calls `s`.

Owns: reading (waiting for values, raising original errors) and the user's spelling of everything else. Saying more is
the `Line`'s; how the body runs is `run.py`'s.

The same program can have two faces. The body's own (`outside=False`): a name it never defined is an error at once.
The one `run(stream=True)` hands out while the body still runs (`outside=True`): a name, or more text, may still
come, so a read waits until the body ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, NoReturn, overload

from ..backend.base import Handle
from ..lang.errors import OptionError, VariableError, suggest
from ..lang.expr import Appendable, RoleBegin, RoleEnd, Seq, as_expr
from .awaited import Awaited
from .body import Body
from .colour import html_of, parts_of
from .join import ProgramStateGroup
from .line import Line
from .partial.values import Partials
from .stream import Reader, pieces, pieces_async
from .transcript import joined, pending
from .usage import UsageTree
from .variables import Given, Scope, Variable

_SAID = Seq(())  # what `s.user("x")` returns: it was appended already, so appending this again adds nothing


_BLOCK = object()  # `s.user()` without an argument opens a block; None is a mistake like any other value


class ProgramState:
    """One line of a program: its text so far and its variables. Values are read lazily, as errors are."""

    restored = False  # read from a journal: its program did not run here

    def __init__(self, line: Line, body: Body, *, outside: bool = False, root: bool = False) -> None:
        self._line = line
        self._body = body
        self._outside = outside
        self._root = root  # the body's own error is the error of the program, not of each fork

    # -- saying
    def __iadd__(self, other: Appendable) -> ProgramState:
        self._line.say(as_expr(other))
        return self

    @overload
    def system(self, expr: Appendable) -> Seq: ...
    @overload
    def system(self) -> AbstractContextManager[None]: ...
    def system(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append a system message now, or (without `expr`) open one for a `with` block."""
        return self._role("system", expr)

    @overload
    def user(self, expr: Appendable) -> Seq: ...
    @overload
    def user(self) -> AbstractContextManager[None]: ...
    def user(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append a user message now, or (without `expr`) open one for a `with` block."""
        return self._role("user", expr)

    @overload
    def assistant(self, expr: Appendable) -> Seq: ...
    @overload
    def assistant(self) -> AbstractContextManager[None]: ...
    def assistant(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append an assistant message now, or (without `expr`) open one for a `with` block."""
        return self._role("assistant", expr)

    def _role(self, role: str, expr: Any) -> Seq | AbstractContextManager[None]:
        if expr is _BLOCK:
            return self._role_block(role)
        self._line.say(Seq((RoleBegin(role), *as_expr(expr).parts(), RoleEnd(role))))
        return _SAID

    @contextmanager
    def _role_block(self, role: str) -> Iterator[None]:
        self._line.say(RoleBegin(role))
        try:
            yield
        except BaseException:
            with suppress(OptionError):  # a turn that the template refuses must not hide the body's error
                self._line.say(RoleEnd(role))
            raise
        self._line.say(RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """The text written in the `with` block becomes the variable `name`, readable after it."""
        scope = self._line.open_scope(name)
        try:
            yield
        finally:
            self._line.close_scope(scope)

    def set_var(self, name: str, value: object) -> None:
        """Define a variable of the program's own. Takes effect at once."""
        self._line.define(name, Given(value))

    def __setitem__(self, name: str, value: object) -> None:
        self.set_var(name, value)

    # -- branching
    def fork(
        self, size: int = 1, position_ids_offset: object = None, *, on_error: Literal["spare", "cancel"] = "spare"
    ) -> ProgramStateGroup:
        """`size` branches that go on from here independently. When one fails, `on_error="spare"` leaves its siblings
        alone and "cancel" cancels them (`Cancelled`, with the failure as its cause)."""
        if on_error not in ("spare", "cancel"):
            raise OptionError(f"fork: on_error must be 'spare' or 'cancel', got {on_error!r:.60}")
        if position_ids_offset is not None:
            raise OptionError("fork: position_ids_offset has no meaning here; a token's position is its depth")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise OptionError(f"fork: size must be an integer of at least 0, got {size!r:.60}")
        children = [
            ProgramState(c, self._body, outside=self._outside) for c in self._line.fork(size, on_error == "cancel")
        ]
        return ProgramStateGroup(children, self)

    @contextmanager
    def copy(self, position_ids_offset: object = None) -> Iterator[ProgramState]:
        """An independent branch for a `with` block; its variables come back as lists of one."""
        group = self.fork(1, position_ids_offset)
        try:
            yield group[0]
        except BaseException:
            group[0]._line.seal("ended with its `with s.copy()` block")
            raise
        group.join()

    # -- reading values
    def __getitem__(self, name: str) -> Any:
        """Wait for a generated or set variable. Raises the original error, or `VariableError` for an unknown name.

        In the body of an `async def` program every read is awaited: `await s["x"]`, `await s.value("x")`,
        `await s.text()`. Program arguments are not variables: read those as the Python names they are.
        """
        return self._read(f"s[{name!r}]", name, lambda variable: variable.value())

    def get_var(self, name: str) -> Any:
        return self[name]

    def value(self, name: str) -> Any:
        """The value of a constrained gen: an instance of its `schema=` type, the parsed data of its `json_schema=`, the
        number of its `dtype=`; the text for anything else. A list of n for n > 1."""
        return self._read(f"s.value({name!r})", name, _typed)

    def __contains__(self, name: object) -> bool:
        """True from the moment the gen was enqueued."""
        return isinstance(name, str) and self._line.find(name) is not None

    def get_meta_info(self, name: str) -> Any:
        """Token ids, log-probabilities, counts and finish reason of a gen or select: a dict (a list of n for n > 1).

        None for a variable that no single call made (`set_var`, `var_scope`).
        """
        return self._read(f"s.get_meta_info({name!r})", name, lambda variable: variable.meta())

    async def aget(self, name: str) -> Any:
        """`s[name]` without blocking the event loop, in the program or outside."""
        return await self._read_async(name, lambda variable: variable.value())

    async def _read_async(self, name: str, take: Callable[[Variable], Any]) -> Any:
        variable = await self._find_async(name)
        for handle in variable.handles():
            await self._line.backend.wait_async(handle)
        return self._take(variable, take)

    def _read(self, what: str, name: str, take: Callable[[Variable], Any]) -> Any:
        if self._is_awaited():
            return Awaited(what, lambda: self._read_async(name, take))
        variable = self._find(name)
        self._wait(variable.handles())
        return self._take(variable, take)

    def _take(self, variable: Variable, take: Callable[[Variable], Any]) -> Any:
        """After its handles are done."""
        try:
            return take(variable)
        except Exception as error:
            self._line.explain(error)
            raise

    # -- reading text
    def text(self) -> str:
        """The whole text, exactly as it was appended (the chat template's own text included). Waits; raises."""
        return self._now("s.text()", lambda: joined(self._line.segments))  # type: ignore[no-any-return]

    async def async_text(self) -> str:
        """`text()` without blocking the event loop."""
        _check(await self._finish_async())
        return joined(self._line.segments)

    def messages(self) -> list[dict[str, str]]:
        """A fresh list of `{"role", "content"}`; the last is the one being written, if a role is open."""
        return self._now(  # type: ignore[no-any-return]
            "s.messages()",
            lambda: [{"role": m.role, "content": joined(m.parts)} for m in self._line.roles.messages],
        )

    def _now(self, what: str, take: Callable[[], Any], raises: bool = True) -> Any:
        """`take()` once everything said so far is done; `raises` what went wrong."""
        if self._is_awaited():
            return Awaited(what, lambda: self._now_async(take, raises))
        failed = self._finish()
        if raises:
            _check(failed)
        return take()

    async def _now_async(self, take: Callable[[], Any], raises: bool) -> Any:
        failed = await self._finish_async()
        if raises:
            _check(failed)
        return take()

    def _refuse_to_wait(self, what: str, instead: str) -> None:
        if self._is_awaited():
            raise OptionError(f"{what} would block the event loop of an async program: use `{instead}`")

    def sync(self) -> None:
        """Wait until everything said so far is done. Raises nothing: see `error()`."""
        return self._now("s.sync()", lambda: None, raises=False)  # type: ignore[no-any-return]

    def error(self) -> BaseException | None:
        """What went wrong here, or in a branch that was joined here; None if nothing did. Waits."""
        return self._now("s.error()", self._first_error, raises=False)  # type: ignore[no-any-return]

    def _first_error(self) -> BaseException | None:
        """After everything is done."""
        failed = self._failure(self._barrier())
        return failed.error if failed is not None else self._first_hole(self._line)

    def _first_hole(self, line: Line) -> BaseException | None:
        for child in line.joined:
            barrier = child.barrier()
            self._wait([barrier])
            error = child.explain(barrier.error) if barrier.error is not None else self._first_hole(child)
            if error is not None:
                return error
        return None

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        """Pieces of the transcript, or of one variable, from its start to its end. Raises the error at its end."""
        self._refuse_to_wait("text_iter", "async for ... in s.text_async_iter(...)")
        try:
            source = None if name is None else self._find(name, growing=True)
            yield from pieces(self._reader(name, source), self._line.backend, self._body)
            if name is None:
                _check(self._finish())
        except Exception as error:
            self._line.explain(error)
            raise

    async def text_async_iter(self, name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """The same for `async for`. With `return_meta_data` (needs a name): pairs of piece and meta information,
        which is complete in the last pair."""
        if return_meta_data and name is None:
            raise OptionError("text_async_iter: return_meta_data needs the name of a variable")
        try:
            source = None if name is None else await self._find_async(name, growing=True)
            async for piece in pieces_async(self._reader(name, source), self._line.backend, self._body):
                yield (piece, None) if return_meta_data else piece
            if source is None:
                _check(await self._finish_async())
            elif return_meta_data:
                yield "", source.meta()
        except Exception as error:
            self._line.explain(error)
            raise

    def value_iter(self, name: str) -> Iterator[Any]:
        """What is known of a `schema=` or `json_schema=` gen as it is written: a typed partial value each time a part
        is complete (what is missing is None, or absent from plain data), and at the end the checked value itself. They
        depend on the text alone, not on how it arrived. Raises the gen's error at its end."""
        self._refuse_to_wait("value_iter", "async for ... in s.value_async_iter(...)")
        variable = self._find(name, growing=True)
        partials, text = Partials(getattr(variable, "constraint", None)), ""
        for piece in pieces(self._reader(name, variable), self._line.backend, self._body):
            text += piece
            yield from partials.events(text)
        yield self._take(variable, _typed)

    async def value_async_iter(self, name: str) -> AsyncIterator[Any]:
        """The same for `async for`."""
        variable = await self._find_async(name, growing=True)
        partials, text = Partials(getattr(variable, "constraint", None)), ""
        async for piece in pieces_async(self._reader(name, variable), self._line.backend, self._body):
            text += piece
            for value in partials.events(text):
                yield value
        yield self._take(variable, _typed)

    def _reader(self, name: str | None, variable: Variable | None) -> Reader:
        if name is None or variable is None:
            return Reader(self._body, lambda: (self._line.segments, self._over()))
        if isinstance(variable, Scope) and variable.open and self._complete():
            variable.value()  # the body streams the scope it is still writing: this raises
        return Reader(self._body, lambda: variable.stream(name))

    # -- seeing and ending
    @property
    def usage(self) -> UsageTree:
        """Token counts as a tree: this branch, its calls, and the branches forked from it. Waits for what was said (in
        the body of an async program it does not wait)."""
        if not self._body.is_on_its_loop():
            self._wait(self._line.barriers())
        return self._line.ledger.tree()

    @property
    def trace(self) -> dict[str, Any]:
        """This program's part of the trace (`OptionError` if it was not traced). Waits for nothing."""
        from .trace.recording import program_trace

        return program_trace(self._body.record)

    @property
    def ret_value(self) -> Any:
        """What the body returned."""
        self._await_body(self._complete)
        return self._body.outcome.value() if self._body.ended else None

    def cancel(self) -> None:
        """Fail this branch and all that were forked from it with `Cancelled`. What is finished stays readable."""
        self._line.cancel()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError(
            "a program's state is live and cannot be copied or pickled: keep s.text() or s.messages(), or go on from "
            "it with s.fork(1)"
        )

    __iter__ = None  # it has names and text, not items

    def __repr__(self) -> str:
        if not self._body.is_on_its_loop():
            self._finish()  # raises nothing: a failed program shows the text it got to
        return f"ProgramState({joined(self._line.segments)})"

    def _repr_html_(self) -> str:
        """The transcript for a notebook, coloured by where its text came from."""
        if not self._body.is_on_its_loop():
            self._finish()
        return html_of(parts_of(self._line.segments))

    # -- waiting
    def _is_awaited(self) -> bool:
        """Whether a read here is to be awaited: in the body of an async program, and on the state of one that streams,
        as long as it is read on the program's own event loop (whether it has ended or not)."""
        return self._body.is_on_its_loop() and (self._outside or not self._body.ended)

    def _complete(self) -> bool:
        """Will there be no more text and names (as far as this reader is concerned)?"""
        return not self._outside or self._body.ended

    def _over(self) -> bool:
        """Will there be no more text? A failed branch says no more, though its body may still run and set names."""
        return self._complete() or self._line.branch.error is not None

    def _find(self, name: str, *, growing: bool = False) -> Variable:
        """The variable once it is there; a scope that the body is still writing is not, unless `growing` will do."""
        while True:
            version = self._body.pulse.version
            if (found := self._look(name, growing)) is not None:
                return found
            self._body.wait(version)

    async def _find_async(self, name: str, *, growing: bool = False) -> Variable:
        while True:
            version = self._body.pulse.version
            if (found := self._look(name, growing)) is not None:
                return found
            await self._body.wait_async(version)

    def _look(self, name: str, growing: bool) -> Variable | None:
        complete = self._complete()  # before looking: what is not there then never will be
        found = self._line.find(name)
        if found is None and complete:
            self._unknown(name)
        if isinstance(found, Scope) and found.open and not complete and not growing:
            return None
        return found

    def _unknown(self, name: str) -> NoReturn:
        if self._root and self._body.error is not None:
            self._body.outcome.value()  # the body died before it came to the name
        names = self._line.names()
        known = f"it has {', '.join(map(repr, names))}" if names else "it has none yet"
        raise VariableError(f"the program has no variable {name!r}{suggest(str(name), names)}; {known}")

    def _wait(self, handles: Sequence[Handle[Any]]) -> None:
        if self._body.is_on_its_loop() and not all(handle.done for handle in handles):
            raise OptionError(
                "this is not finished, and waiting for it here would block the event loop that its async program ran "
                "on: use `await state.aget(name)` or `await state.async_text()`"
            )
        for handle in handles:
            if not handle.done:
                self._line.backend.wait(handle)

    def _await_body(self, enough: Callable[[], bool]) -> None:
        while True:
            version = self._body.pulse.version
            if enough():
                return
            self._body.wait(version)

    def _finish(self) -> Handle[Any] | None:
        """Wait for everything said so far; gives what went wrong."""
        self._await_body(self._over)
        barrier = self._barrier()
        self._wait([barrier, *pending(self._line.segments)])  # the last first: who sleeps is woken once
        return self._failure(barrier)

    async def _finish_async(self) -> Handle[Any] | None:
        """The same on an event loop; branches that were joined here are finished too."""
        while True:
            version = self._body.pulse.version
            if self._over():
                break
            await self._body.wait_async(version)
        barrier = self._barrier()
        for handle in [barrier, *pending(self._line.segments), *self._line.barriers()[1:]]:
            await self._line.backend.wait_async(handle)
        return self._failure(barrier)

    def _barrier(self) -> Handle[None]:
        return self._line.barrier() if self._complete() else self._line.failure()

    def _failure(self, barrier: Handle[None]) -> Handle[Any] | None:
        if barrier.error is not None:
            self._line.explain(barrier.error)
            return barrier
        return self._body.outcome if self._root and self._body.error is not None else None


def _typed(variable: Variable) -> Any:
    return variable.typed()


def _check(failed: Handle[Any] | None) -> None:
    if failed is not None:
        failed.value()  # raises, as it was
