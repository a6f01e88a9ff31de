"""`ProgramState`: what the body of a program calls `s`, and what a run returns.

The names and documentation of what a user says to a state or reads of it. Knows nothing of waiting. `LiveState`
(`live.py`) is the state of a program that runs here, `RestoredState` (`journal/`) that of a row read from a journal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, NoReturn, overload

from ..backend.waiting import Flow, StreamFlow, T, block_on, iterate, iterate_async, suspend_on
from ..lang.errors import OptionError
from ..lang.expr import Appendable, RoleBegin, RoleEnd, Seq, as_expr
from .body import Body
from .join import ProgramStateGroup
from .line import Line
from .usage import UsageTree
from .variables import Given

Part = Literal["value", "typed", "meta"]
"""What can be read of a variable."""

_SAID = Seq(())  # what `s.user("x")` returns: it was appended already, so appending this again adds nothing
_BLOCK = object()  # `s.user()` without an argument opens a block; None is a mistake like any other value


class ProgramState:
    """One line of a program: its text so far and its variables. Values are read lazily, and so are errors.

    `s += x` appends text or an expression and returns at once. `s["name"]` waits for a value and raises the original
    error if there is none. In the body of an `async def` program every read is awaited: `await s["name"]`,
    `await s.text()`. Program arguments are no variables: read them as the Python names they are.

    Attributes:
        restored: True for a batch row read from a journal (`resume=`): it can be read, all else is an `OptionError`.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def greet(s, name):
        ...     s += f"Dear {name}, " + sgl.gen("rest", max_tokens=4)
        >>> state = greet.run("Ada", backend=sgl.Runtime.toy())
        >>> state.text() == "Dear Ada, " + state["rest"]
        True
    """

    restored = False
    _line: Line  # of a live state
    _body: Body  # of a live state

    # -- saying
    def __iadd__(self, other: Appendable) -> ProgramState:
        self._open("s += ...").say(as_expr(other))
        return self

    @overload
    def system(self, expr: Appendable) -> Seq: ...
    @overload
    def system(self) -> AbstractContextManager[None]: ...
    def system(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append a system message. See `user`.

        Args:
            expr: The content, text or an expression, appended now. Without it: a context manager, in whose `with`
                block the content is appended.

        Raises:
            OptionError: Another role is open, or the chat template refuses this one here.
            CapabilityError: The backend has no chat template.
        """
        return self._role("system", expr)

    @overload
    def user(self, expr: Appendable) -> Seq: ...
    @overload
    def user(self) -> AbstractContextManager[None]: ...
    def user(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append a user message. Arguments and errors are those of `system`.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def ask(s):
            ...     s.system("Be brief.")
            ...     s.user("Why?")
            ...     with s.assistant():
            ...         s += sgl.gen("answer", max_tokens=4)
            >>> [m["role"] for m in ask.run(backend=sgl.Runtime.toy()).messages()]
            ['system', 'user', 'assistant']
        """
        return self._role("user", expr)

    @overload
    def assistant(self, expr: Appendable) -> Seq: ...
    @overload
    def assistant(self) -> AbstractContextManager[None]: ...
    def assistant(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append an assistant message. Arguments and errors are those of `system`. See `user`."""
        return self._role("assistant", expr)

    def _role(self, role: str, expr: Any) -> Seq | AbstractContextManager[None]:
        line = self._open(f"s.{role}(...)")
        if expr is _BLOCK:
            return self._role_block(role)
        line.say(Seq((RoleBegin(role), *as_expr(expr).parts(), RoleEnd(role))))
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
        """Make the text written in the `with` block a variable, readable after the block. See `copy`.

        Args:
            name: The name of the variable.
        """
        line = self._open("s.var_scope(...)")
        scope = line.open_scope(name)
        try:
            yield
        finally:
            line.close_scope(scope)

    def set_var(self, name: str, value: object) -> None:
        """Define a variable of the program's own, at once. `s[name] = value` does the same.

        Args:
            name: The name of the variable. A name that exists is overwritten.
            value: Any Python value. It is kept as it is, not copied.

        Example:
            >>> import sgl
            >>> sgl.function(lambda s: s.set_var("tries", 1)).run(backend=sgl.Runtime.toy()).get_var("tries")
            1
        """
        self._open("s.set_var(...)").define(name, Given(value))

    def __setitem__(self, name: str, value: object) -> None:
        self.set_var(name, value)

    # -- branching
    def fork(
        self, size: int = 1, position_ids_offset: object = None, *, on_error: Literal["spare", "cancel"] = "spare"
    ) -> ProgramStateGroup:
        """Open a group of branches that go on from here independently and share the KV of everything said so far.

        Args:
            size: Number of branches, at least 0. Default 1.
            position_ids_offset: SGLang's argument; only None is possible, as a token's position is its depth.
            on_error: What happens to the siblings of a branch that fails: "spare" (default) leaves them alone,
                "cancel" cancels them (`Cancelled`, with the failure as its cause).

        Raises:
            OptionError: An argument is none of the above, or this branch was joined already.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def tips(s):
            ...     branches = s.fork(2)
            ...     branches += sgl.gen("tip", max_tokens=4)
            ...     branches.join()
            >>> len(tips.run(backend=sgl.Runtime.toy())["tip"])
            2
        """
        self._open("s.fork(...)")
        if on_error not in ("spare", "cancel"):
            raise OptionError(f"fork: on_error must be 'spare' or 'cancel', got {on_error!r:.60}")
        if position_ids_offset is not None:
            raise OptionError("fork: position_ids_offset has no meaning here; a token's position is its depth")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise OptionError(f"fork: size must be an integer of at least 0, got {size!r:.60}")
        return ProgramStateGroup(self._branches(size, on_error == "cancel"), self)

    @contextmanager
    def copy(self, position_ids_offset: object = None) -> Iterator[ProgramState]:
        """Open `fork(1)` for a `with` block; its variables come back as lists of one. Argument and errors are `fork`'s.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def think(s):
            ...     with s.copy() as branch, branch.var_scope("note"):
            ...         branch += "Look again."
            >>> think.run(backend=sgl.Runtime.toy())["note"]
            ['Look again.']
        """
        self._open("s.copy()")
        group = self.fork(1, position_ids_offset)
        try:
            yield group[0]
        except BaseException:
            group[0]._line.seal("ended with its `with s.copy()` block")
            raise
        group.join()

    # -- reading values
    def __getitem__(self, name: str) -> Any:
        return self._run(f"s[{name!r}]", lambda: self._read(name, "value"))

    def get_var(self, name: str) -> Any:
        """Read the variable `name`: `s[name]`, under SGLang's name for it. See `set_var`."""
        return self[name]

    def value(self, name: str) -> Any:
        """Wait for the typed value of a constrained gen.

        Args:
            name: The name of the gen.

        Returns:
            An instance of its `schema=`, its `json_schema=` data, its `dtype=` number, or its text. A list for n > 1.

        Raises:
            VariableError: The program has no such variable.
            Truncated: The text was cut by its budget (`on_budget="partial"`), so it has no value.
            Exception: The error that made the gen fail, as it was raised there.

        Example:
            >>> import sgl
            >>> age = sgl.function(lambda s: s.assistant(sgl.gen("age", dtype=int, max_tokens=3)))
            >>> type(age.run(backend=sgl.Runtime.toy()).value("age"))
            <class 'int'>
        """
        return self._run(f"s.value({name!r})", lambda: self._read(name, "typed"))

    def get_meta_info(self, name: str) -> Any:
        """Wait for what is known of a finished gen or select. Errors are those of `value`.

        Args:
            name: The name of the gen or select.

        Returns:
            A dict with SGLang's keys: token ids, counts, log-probabilities asked for, finish reason, the receipt.
            A list of n dicts for n > 1; None for a variable that no single call made (`set_var`, `var_scope`).

        Example:
            >>> import sgl
            >>> ask = sgl.function(lambda s: s.assistant(sgl.gen("word", regex="yes|no")))
            >>> ask.run(backend=sgl.Runtime.toy()).get_meta_info("word")["finish_reason"]["type"]
            'stop'
        """
        return self._run(f"s.get_meta_info({name!r})", lambda: self._read(name, "meta"))

    async def aget(self, name: str) -> Any:
        """Read the variable `name` without blocking the event loop, in the program or outside. Otherwise as `s[name]`.

        Example:
            >>> import asyncio, sgl
            >>> state = sgl.function(lambda s: s.set_var("tries", 1)).run(backend=sgl.Runtime.toy())
            >>> asyncio.run(state.aget("tries")), asyncio.run(state.async_text())
            (1, '')
        """
        return await suspend_on(self._read(name, "value"))

    def __contains__(self, name: object) -> bool:
        """Whether there is a variable `name`: true from the moment its gen was enqueued."""
        raise NotImplementedError

    # -- reading text
    def text(self) -> str:
        """Wait for the whole text as it was appended, the chat template's own text included. See `text_iter`.

        Raises:
            Exception: The original error, if the program or this branch failed.
        """
        return self._run("s.text()", self._text)

    async def async_text(self) -> str:
        """Give `text()` without blocking the event loop. See `aget`."""
        return await suspend_on(self._text(deep=True))

    def messages(self) -> list[dict[str, str]]:
        """Wait for the turns of the chat: a new list of `{"role": ..., "content": ...}`. See `user`.

        The last turn is unfinished if a role is open. Errors are those of `text`.
        """
        return self._run("s.messages()", self._messages)

    def sync(self) -> None:
        """Wait until everything said so far is done. Raises nothing. See `error`."""
        return self._run("s.sync()", self._sync)

    def error(self) -> BaseException | None:
        """Wait, and give what went wrong here or in a branch that was joined here; None if nothing did.

        Example:
            >>> import sgl
            >>> state = sgl.function(lambda s: s.cancel()).run(backend=sgl.Runtime.toy())
            >>> state.sync()
            >>> state.error()
            Cancelled('the branch was cancelled')
        """
        return self._run("s.error()", self._error)

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        """Give the text piece by piece while it is written, from its start to its end.

        Args:
            name: A variable; None (default) for the whole transcript.

        Raises:
            OptionError: The variable is a list, which has no single text.
            Exception: The original error, after the last piece.

        Example:
            >>> import sgl
            >>> ask = sgl.function(lambda s: s.assistant(sgl.gen("more", max_tokens=4)))
            >>> state = ask.run(backend=sgl.Runtime.toy(), stream=True)
            >>> "".join(state.text_iter()) == state.text()
            True
        """
        self._refuse_to_wait("text_iter", "async for ... in s.text_async_iter(...)")
        yield from iterate(self._pieces(name))

    def text_async_iter(self, name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """Give `text_iter` for `async for`. Errors are those of `text_iter`.

        Args:
            name: A variable; None (default) for the whole transcript.
            return_meta_data: Give pairs of a piece and meta information (needs `name`). The meta information is None
                until the last pair, which has no text and `get_meta_info(name)`. Default False.

        Example:
            >>> import asyncio, sgl
            >>> @sgl.function
            ... async def pair(s):
            ...     s.assistant(sgl.gen("pair", json_schema={"const": [1, 2]}))
            ...     values = [value async for value in s.value_async_iter("pair")]
            ...     return values[-1], "".join([piece async for piece in s.text_async_iter("pair")])
            >>> asyncio.run(pair.arun(backend=sgl.Runtime.toy())).ret_value
            ([1, 2], '[1, 2]')
        """
        return iterate_async(self._pieces(name, return_meta_data, deep=True))

    def value_iter(self, name: str) -> Iterator[Any]:
        """Give what is known of a `schema=` or `json_schema=` gen while it is written.

        There is a typed partial value each time a part is complete; what is missing is None, or absent from plain data.
        The last item is the checked value itself. The items depend on the text alone, not on how it arrived.

        Args:
            name: The name of the gen. Its error is raised at the end.

        Example:
            >>> import sgl
            >>> ask = sgl.function(lambda s: s.assistant(sgl.gen("pair", json_schema={"const": [1, 2]})))
            >>> list(ask.run(backend=sgl.Runtime.toy()).value_iter("pair"))[-1]
            [1, 2]
        """
        self._refuse_to_wait("value_iter", "async for ... in s.value_async_iter(...)")
        yield from iterate(self._values(name))

    def value_async_iter(self, name: str) -> AsyncIterator[Any]:
        """Give `value_iter(name)` for `async for`. See `text_async_iter`."""
        return iterate_async(self._values(name))

    # -- seeing and ending
    @property
    def usage(self) -> UsageTree:
        """Token counts of this branch, its calls and its forks, as a tree. Waits, except in an async program's body."""
        raise NotImplementedError

    @property
    def trace(self) -> dict[str, Any]:
        """This program's part of the trace, as JSON data. Waits for nothing.

        Raises:
            OptionError: The program was not run inside `with sgl.trace()`.
        """
        self._open("s.trace")
        return self._trace()

    @property
    def ret_value(self) -> Any:
        """What the body returned. Waits for the end of a body that runs elsewhere; raises the body's error."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Fail this branch and all forked from it with `Cancelled`. What is finished stays readable. See `error`."""
        self._open("s.cancel()").cancel()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError(
            "a program's state is live and cannot be copied or pickled: keep s.text() or s.messages(), or go on from "
            "it with s.fork(1)"
        )

    __iter__ = None  # a state has names and text, not items

    def _repr_html_(self) -> str:
        """Show the transcript in a notebook, coloured by where its text came from."""
        raise NotImplementedError

    # -- what each kind of state supplies, beside `__contains__`, `usage`, `ret_value` and `_repr_html_`
    def _open(self, what: str) -> Line:
        """The line to say more on. A state that can only be read raises, and says that `what` is not possible."""
        raise NotImplementedError

    def _branches(self, n: int, together: bool) -> list[Any]:
        """`n` states that go on from here; with `together`, when one fails the others are cancelled."""
        raise NotImplementedError

    def _run(self, what: str, flow: Callable[[], Flow[T]]) -> T:
        """The result of a read, which a user spells `what`."""
        return block_on(flow())

    def _refuse_to_wait(self, what: str, instead: str) -> None:
        """Raise where a wait would block the event loop of an async program."""

    def _read(self, name: str, part: Part) -> Flow[Any]:
        raise NotImplementedError

    def _text(self, deep: bool | None = None) -> Flow[str]:
        raise NotImplementedError

    def _messages(self) -> Flow[list[dict[str, str]]]:
        raise NotImplementedError

    def _sync(self) -> Flow[None]:
        raise NotImplementedError

    def _error(self) -> Flow[BaseException | None]:
        raise NotImplementedError

    def _pieces(self, name: str | None, with_meta: bool = False, deep: bool | None = None) -> StreamFlow[Any]:
        raise NotImplementedError

    def _values(self, name: str) -> StreamFlow[Any]:
        raise NotImplementedError

    def _trace(self) -> dict[str, Any]:
        raise NotImplementedError


def needs_a_name(name: str | None, with_meta: bool) -> None:
    """Refuse a stream with meta information of a whole transcript."""
    if with_meta and name is None:
        raise OptionError("text_async_iter: return_meta_data needs the name of a variable")
