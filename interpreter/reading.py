"""`StateReads`: what a user reads of a program's state: values, meta information, text, streams.

Every read is a flow that a kind of state supplies. Knows nothing of saying more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

from ..backend.waiting import Flow, StreamFlow, T, block_on, iterate, iterate_async, suspend_on
from ..lang.errors import OptionError

Part = Literal["value", "typed", "meta"]
"""What can be read of a variable."""


class StateReads:
    """The reads of a `ProgramState`."""

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

    def text_iter(self, name: str | None = None, *, var_name: str | None = None) -> Iterator[str]:
        """Give the text piece by piece while it is written, from its start to its end.

        Args:
            name: A variable; None (default) for the whole transcript.
            var_name: SGLang's name of the same argument.

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
        yield from iterate(self._pieces(_one_name(name, var_name)))

    def text_async_iter(
        self, name: str | None = None, return_meta_data: bool = False, *, var_name: str | None = None
    ) -> AsyncIterator[Any]:
        """Give `text_iter` for `async for`. Errors are those of `text_iter`.

        Args:
            name: A variable; None (default) for the whole transcript.
            return_meta_data: Give pairs of a piece and meta information (needs `name`): that of `get_meta_info(name)`
                for the text so far, with finish_reason None. The last pair has no text, and the final information.
                Default False.
            var_name: SGLang's name of `name`.

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
        return iterate_async(self._pieces(_one_name(name, var_name), return_meta_data, deep=True))

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

    def event_iter(self, name: str) -> Iterator[Any]:
        """Give what a `sgl.call` writes as typed events, while it is written.

        Events are `sgl.TextDelta`, `sgl.ThinkingDelta`, `sgl.CallBegan` (the name of a tool is known),
        `sgl.ArgumentsDelta` and `sgl.CallClosed` (its `call` is a whole `sgl.ToolCall`). They follow from the place in
        the grammar that the text was written under, and depend on the text alone.

        Args:
            name: The name of the call. Its error is raised at the end.

        Raises:
            OptionError: The variable is no call of tools.

        Example:
            >>> import sgl
            >>> @sgl.tool
            ... def add(a: int, b: int) -> int:
            ...     "Add two numbers."
            ...     return a + b
            >>> ask = sgl.function(lambda s: s.assistant(sgl.call("step", [add], choice="required", calls=1)))
            >>> events = list(ask.run(backend=sgl.Runtime.toy()).event_iter("step"))
            >>> [event.name for event in events if isinstance(event, sgl.CallBegan)]
            ['add']
        """
        self._refuse_to_wait("event_iter", "async for ... in s.event_async_iter(...)")
        yield from iterate(self._events(name))

    def event_async_iter(self, name: str) -> AsyncIterator[Any]:
        """Give `event_iter(name)` for `async for`. Errors are those of `event_iter`.

        Example:
            >>> import asyncio, sgl
            >>> @sgl.function
            ... async def ask(s):
            ...     s += sgl.user("Go on.") + sgl.assistant(sgl.call("step", choice="none", max_tokens=4))
            ...     return [type(event).__name__ async for event in s.event_async_iter("step")]
            >>> set(asyncio.run(ask.arun(backend=sgl.Runtime.toy())).ret_value) <= {"TextDelta"}
            True
        """
        return iterate_async(self._events(name))

    # -- what each kind of state supplies, beside `__contains__`
    def _run(self, what: str, flow: Callable[[], Flow[T]]) -> T:
        """The result of a read, which a user spells `what`."""
        return block_on(flow())

    def _names(self) -> list[str]:
        """The variables that there are so far."""
        raise NotImplementedError

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

    def _events(self, name: str) -> StreamFlow[Any]:
        raise NotImplementedError


def _one_name(name: str | None, var_name: str | None) -> str | None:
    if name is not None and var_name is not None:
        raise OptionError("name= and var_name= are one argument; give one of them")
    return var_name if name is None else name


def needs_a_name(name: str | None, with_meta: bool) -> None:
    """Refuse a stream with meta information of a whole transcript."""
    if with_meta and name is None:
        raise OptionError("text_async_iter: return_meta_data needs the name of a variable")
