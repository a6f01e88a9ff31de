"""`ToolRunner`: calls of tools, with approval, retries and limits. `run_tools` runs some calls and waits for them.

Knows nothing of models, nor of how a call was written. A call is looked after by a coroutine: on the event loop of an
async program, else on a loop of the process's own. So a sync program and an async one run tools in the same way.

1. Each call that is started has a `ToolResult` in the end. What a tool raises never leaves it.
2. A call that is cancelled has its result at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from ...backend.base import Handle
from ...backend.contain import message_of
from ...lang.errors import OptionError, ToolError, suggest
from ...lang.tools.listing import tool_list
from ...lang.tools.result import MOST_NOTE_CHARACTERS, Cut, ToolFault, ToolResult, cut_text
from ...lang.tools.spec import ToolCall
from ...lang.tools.tool import Tool, check_seconds
from ..record import BranchRecord, within_tool
from ..run import running
from .gate import Gate
from .threads import loop_thread
from .trying import LATE, Outcome, ask, attempt

MOST_PARALLEL = 16
"""Calls that run at the same time, unless the caller says otherwise."""
Approve = Callable[[ToolCall], Any]
"""Gives True, False, a text (denied, and why), the call with other arguments, or `PAUSE`."""


class Pause(Enum):
    """The type of `sgl.PAUSE`."""

    PAUSE = "sgl.PAUSE"

    def __repr__(self) -> str:
        return self.value


PAUSE = Pause.PAUSE
"""What `approve=` gives for "not yet": nobody has decided. The call is not run, and its error is "paused"."""


class ToolRunner:
    """Runs calls of tools. `start` returns at once; results may be waited for in any order.

    Args:
        tools: a list of tools, or what `tool_list` makes one of.
        given: values of injected parameters, by name or by type.
        approve: what is asked about calls of tools with `requires_approval`.
        cut: cuts texts to so many tokens; default: four characters count as a token.
        most_parallel: calls that run at the same time.
        loop: the event loop of an async program, on which its async tools run. None: a sync program.
        record: where a trace notes the calls; None: nowhere.

    Raises:
        ToolError: a tool cannot be run: it has no function, an injected parameter has no value, or nobody approves.
    """

    def __init__(
        self,
        tools: Iterable[Any],
        *,
        given: Mapping[Any, Any] | None = None,
        approve: Approve | None = None,
        cut: Cut | None = None,
        most_parallel: int = MOST_PARALLEL,
        loop: asyncio.AbstractEventLoop | None = None,
        record: BranchRecord | None = None,
    ) -> None:
        self.tools, self._given, self._approve, self._cut = tool_list(tools), dict(given or {}), approve, cut
        if isinstance(most_parallel, bool) or not isinstance(most_parallel, int) or most_parallel < 1:
            raise OptionError(f"most_parallel must be a whole number above 0, got {most_parallel!r:.60}")
        for tool in self.tools:
            self._check(tool)
        self._record = record
        self._at_home = loop is not None
        self._loop = loop or loop_thread("tools").loop
        self._gate, self._asking = Gate(most_parallel), Gate(1)
        self._open: dict[Handle[ToolResult], tuple[ToolCall, asyncio.Task[None] | None]] = {}

    def _check(self, tool: Tool[Any, Any]) -> None:
        _ = tool.function
        if (name := tool.parameters.needed(self._given)) is not None:
            raise ToolError(
                f"tool {tool.name}: the program gives its parameter {name!r}, so say given={{{name!r}: ...}}"
            )
        if tool.requires_approval and self._approve is None:
            raise ToolError(f"tool {tool.name}: it requires approval, so say approve=")

    def start(self, call: ToolCall, seconds: float | None = None) -> Handle[ToolResult]:
        """Start a call. From any thread.

        Args:
            call: the call.
            seconds: what is left for it, all tries and waiting included; default None: any time.
        """
        if self._record is None:
            return self._started(call, seconds)
        return self._record.tool(call, lambda: self._started(call, seconds))

    def _started(self, call: ToolCall, seconds: float | None) -> Handle[ToolResult]:
        handle = Handle[ToolResult](f"tool {call.name}")
        self._open[handle] = call, None
        context = contextvars.copy_context()
        context.run(within_tool.set, running.get())
        until = None if seconds is None else time.monotonic() + seconds

        def begin() -> None:
            if not handle.done:
                task = context.run(self._loop.create_task, self._finish(call, handle, until))
                self._open[handle] = call, task
                if handle.done:  # another thread has cancelled it just now
                    task.cancel()

        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            begin()
        else:
            self._loop.call_soon_threadsafe(begin)
        return handle

    def cancel(self) -> None:
        """Cancel all calls that are not over. Their results are there when this returns. From any thread."""
        while self._open:
            try:
                handle, (call, task) = self._open.popitem()
            except KeyError:  # it has just ended by itself
                return
            handle.finish(_failed(call, "cancelled", "the program was stopped before the tool ended"))
            if task is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(task.cancel)

    # -- one call
    async def _finish(self, call: ToolCall, handle: Handle[ToolResult], until: float | None) -> None:
        try:
            result = await self._within(call, until)
            handle.finish(result)
        finally:
            self._open.pop(handle, None)
            handle.finish(_failed(call, "cancelled", "the tool was cancelled"))  # counts if it has no result

    async def _within(self, call: ToolCall, until: float | None) -> ToolResult:
        if until is None:
            return await self._run(call)
        running = asyncio.ensure_future(self._run(call))
        try:
            done, _ = await asyncio.wait({running}, timeout=max(0.0, until - time.monotonic()))
        finally:
            running.cancel()
        return running.result() if done else _failed(call, "timeout", "the time of the whole program is over")

    async def _run(self, call: ToolCall) -> ToolResult:
        tool = self.tools.named(call.name)
        if tool is None:
            names = [tool.name for tool in self.tools]
            hint = suggest(call.name, names) or f"; there is {', '.join(names[:20]) or 'none'}"
            return _failed(call, "unknown", f"there is no tool {call.name!r}{hint}")
        if tool.requires_approval:
            asked = await self._approved(call)
            if isinstance(asked, ToolResult):
                return asked
            call = asked
        async with self._gate.place(alone=not tool.parallel_safe):
            return await self._tried(tool, call)

    async def _approved(self, call: ToolCall) -> ToolCall | ToolResult:
        """Ask about a call. People are asked one question at a time, in the order of the calls."""
        assert self._approve is not None
        async with self._asking.place(alone=True):
            outcome = await ask(self._approve, call, at_home=self._at_home)
        said = outcome.value
        if outcome.error is not None:
            why = f"the approval failed: {_short(outcome.error)}"
            return _failed(call, "denied", why, outcome.error)
        if said is True:
            return call
        if said is PAUSE:
            return _failed(call, "paused", "the call waits for an approval")
        if isinstance(said, ToolCall) and said.name == call.name:
            return replace(call, arguments=dict(said.arguments))
        if said is False:
            return _failed(call, "denied", "the call was not approved")
        if isinstance(said, str):
            return _failed(call, "denied", said or "the call was not approved")
        return _failed(
            call, "denied", f"approve= gave {said!r:.60}; it gives True, False, a reason, the call or sgl.PAUSE"
        )

    async def _tried(self, tool: Tool[Any, Any], call: ToolCall) -> ToolResult:
        began, outcome, tries = time.monotonic(), LATE, 0
        while tries <= tool.retries:
            tries += 1
            outcome = await attempt(tool, call.arguments, self._given, tool.timeout, self._at_home)
            if outcome.fault is None or outcome.fault == "arguments" or isinstance(outcome.error, ToolError):
                break
        result = self._told(tool, call, outcome)
        return replace(result, seconds=time.monotonic() - began, tries=tries)

    def _told(self, tool: Tool[Any, Any], call: ToolCall, outcome: Outcome) -> ToolResult:
        if outcome.fault is None:
            text, truncated = cut_text(outcome.text, tool.max_result_tokens, self._cut)
            return ToolResult(call, text, truncated=truncated, value=outcome.value)
        error = outcome.error
        if outcome.fault == "timeout":
            return _failed(call, "timeout", outcome.text or f"{tool.name} did not return within {tool.timeout:g} s")
        assert error is not None
        if outcome.fault == "arguments":
            return _failed(call, "arguments", _of_arguments(error), error)
        why = message_of(error) if isinstance(error, ToolError) else _short(error)
        return _failed(call, "raised", why, error)


def _failed(call: ToolCall, fault: ToolFault, why: str, error: BaseException | None = None) -> ToolResult:
    label = "" if fault == "raised" else f" ({fault})"
    return ToolResult(call, f"Error{label}: {_bounded(why)}", error=fault, exception=error)


def _short(error: BaseException) -> str:
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _bounded(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_NOTE_CHARACTERS else f"{text[: MOST_NOTE_CHARACTERS - 3]}..."


def _of_arguments(error: BaseException) -> str:
    """Say in few words what is wrong with arguments: pydantic's errors by their places, else the message."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return message_of(error) or type(error).__name__
    try:
        faults = listed(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}" for fault in faults[:5])
    except Exception:
        return message_of(error)


def run_tools(
    calls: Iterable[ToolCall],
    tools: Iterable[Any],
    *,
    given: Mapping[Any, Any] | None = None,
    approve: Approve | None = None,
    cut: Cut | None = None,
    most_parallel: int = MOST_PARALLEL,
    timeout: float | None = None,
) -> list[ToolResult]:
    """Run calls of tools, at the same time where they may, and wait for all of them.

    Plain functions run on threads, async ones on an event loop. What a tool raises is in its result.

    Args:
        calls: The calls, as `s.value(name)` of a `sgl.call` gives them.
        tools: A list of tools, as in `sgl.call`.
        given: Values of the tools' injected parameters, by name or by type; default none.
        approve: Asked about each call of a tool with `requires_approval`, one call at a time; plain or async. It gives
            True, False, a text (denied, and why), the call with other arguments, or `sgl.PAUSE` (not yet: it is not
            run, and its error is "paused").
        cut: `cut(text, n)` gives the beginning of a text that has at most n tokens; default: four characters count as
            a token.
        most_parallel: Calls that run at the same time; default 16.
        timeout: Seconds for each call, with waiting and all tries; default None: any time.

    Returns:
        A `ToolResult` for each call, in the order of the calls.

    Raises:
        ToolError: A tool cannot be run: it has no function, an injected parameter has no value, or nobody approves.

    Example:
        >>> import sgl
        >>> @sgl.tool
        ... def divide(a: int, b: int) -> float:
        ...     return a / b
        >>> calls = [sgl.ToolCall("divide", {"a": 1, "b": b}, f"call0000{b}") for b in (2, 0)]
        >>> [result.text for result in sgl.run_tools(calls, [divide])]
        ['0.5', 'Error: ZeroDivisionError: division by zero']
    """
    check_seconds("run_tools", timeout)
    runner = ToolRunner(
        tools, given=given, approve=approve, cut=cut, most_parallel=most_parallel, record=_record_here()
    )
    try:
        handles = [runner.start(call, timeout) for call in _calls(calls)]
        for handle in handles:
            over = threading.Event()
            handle.listen(over.set)
            over.wait()
        return [handle.value() for handle in handles]
    finally:
        runner.cancel()


async def arun_tools(
    calls: Iterable[ToolCall],
    tools: Iterable[Any],
    *,
    given: Mapping[Any, Any] | None = None,
    approve: Approve | None = None,
    cut: Cut | None = None,
    most_parallel: int = MOST_PARALLEL,
    timeout: float | None = None,
) -> list[ToolResult]:
    """Run calls of tools as `run_tools` does, from a coroutine: async tools run on its event loop.

    Arguments, result and errors are those of `run_tools`. Cancelling the coroutine cancels the tools.

    Example:
        >>> import asyncio, sgl
        >>> @sgl.tool
        ... async def double(a: int) -> int:
        ...     return 2 * a
        >>> call = sgl.ToolCall("double", {"a": 4}, "call00000")
        >>> asyncio.run(sgl.arun_tools([call], [double]))[0].text
        '8'
    """
    check_seconds("arun_tools", timeout)
    loop = asyncio.get_running_loop()
    runner = ToolRunner(
        tools, given=given, approve=approve, cut=cut, most_parallel=most_parallel, loop=loop, record=_record_here()
    )
    try:
        handles = [runner.start(call, timeout) for call in _calls(calls)]
        for handle in handles:
            over = asyncio.Event()
            handle.listen(over.set)  # on this loop, where all of them end
            await over.wait()
        return [handle.value() for handle in handles]
    finally:
        runner.cancel()


def _record_here() -> BranchRecord | None:
    """Where the calls of a program's body are noted; None outside of one. What a tool calls is a part of its run."""
    program = running.get()
    return None if program is None or program.record is None or within_tool.get() is program else program.record.root


def _calls(calls: Iterable[ToolCall]) -> list[ToolCall]:
    found = list(calls)
    for call in found:
        if not isinstance(call, ToolCall) or not isinstance(call.arguments, dict):
            raise OptionError(f"calls are ToolCall(name, arguments, id) with a dict of arguments, got {call!r:.80}")
    return found
