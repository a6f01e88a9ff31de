"""One try of a tool: a plain function on a thread, an async one on an event loop, within its time.

Owns the call into user code: whatever a tool, the validators of its arguments or its result's own code raise becomes
an `Outcome`. Knows nothing of approvals, retries, or of who waits.

A plain function cannot be stopped. One that is late is left behind on its daemon thread, and its value is dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ...backend.contain import is_interruption
from ...lang.tools.result import ToolFault, result_text
from ...lang.tools.tool import Tool
from ..run import start_thread
from .threads import leave_behind, loop_thread

MOST_LEFT_BEHIND = 64
"""Threads of a process whose tools do not return; with more of them no further plain function is started."""
CANCEL_SECONDS = 1.0
"""In which a cancelled async tool must end, to be waited for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one try came to. `error` is what was raised; of "timeout" there is none."""

    value: Any = None
    text: str = ""
    fault: ToolFault | None = None
    error: BaseException | None = None


LATE = Outcome(fault="timeout")
TOO_MANY = Outcome(fault="timeout", text=f"not started: {MOST_LEFT_BEHIND} earlier calls still have not returned")


async def attempt(
    tool: Tool[Any, Any],
    arguments: Mapping[str, Any],
    given: Mapping[Any, Any],
    seconds: float | None,
    at_home: bool,
) -> Outcome:
    """Try a tool once, for at most so many seconds. `at_home`: async functions run on this very event loop."""
    function = tool.function
    if is_async(function):
        return await _within(_awaited(tool, arguments, given), seconds, at_home)
    outcome = await _on_thread(f"tool-{tool.name}", lambda: _called(tool, arguments, given), seconds)
    if outcome.fault is None and inspect.isawaitable(outcome.value):  # of a plain function around an async one
        return await _within(_finished(outcome.value), seconds, at_home)
    return outcome


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


# -- the calls into user code
def _called(tool: Tool[Any, Any], arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> Outcome:
    bound = _bound(tool, arguments, given)
    if isinstance(bound, Outcome):
        return bound
    try:
        value = tool.function(*bound[0], **bound[1])
        return Outcome(value, "" if inspect.isawaitable(value) else result_text(value))
    except BaseException as error:
        return Outcome(fault="raised", error=error)


async def _awaited(tool: Tool[Any, Any], arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> Outcome:
    bound = _bound(tool, arguments, given)
    return bound if isinstance(bound, Outcome) else await _finished(tool.function, *bound)


async def _finished(work: Any, args: Any = (), kwargs: Any = None) -> Outcome:
    """Await what is awaitable, or what the function `work` gives."""
    try:
        value = await (work if inspect.isawaitable(work) else work(*args, **kwargs))
        return Outcome(value, result_text(value))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if is_interruption(error):
            raise
        return Outcome(fault="raised", error=error)


def _bound(
    tool: Tool[Any, Any], arguments: Mapping[str, Any], given: Mapping[Any, Any]
) -> Outcome | tuple[list[Any], dict[str, Any]]:
    try:
        return tool.parameters.bind(arguments, given)
    except BaseException as error:
        if is_interruption(error):
            raise
        return Outcome(fault="arguments", error=error)


# -- where they run
_left: set[threading.Thread] = set()


async def _on_thread(name: str, work: Callable[[], Outcome], seconds: float | None) -> Outcome:
    _left.difference_update([thread for thread in _left.copy() if not thread.is_alive()])
    if len(_left) >= MOST_LEFT_BEHIND:
        return TOO_MANY
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome] = loop.create_future()

    def tell(outcome: Outcome) -> None:
        if not ended.done():
            ended.set_result(outcome)

    def body() -> None:
        outcome = work()
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, outcome)

    thread = start_thread(name, body)
    try:
        done, _ = await asyncio.wait({ended}, timeout=seconds)
    except asyncio.CancelledError:
        _left.add(thread)
        raise
    if done:
        return ended.result()
    _left.add(thread)
    return LATE


async def _within(work: Coroutine[Any, Any, Outcome], seconds: float | None, at_home: bool) -> Outcome:
    elsewhere = None if at_home else loop_thread("async-tools")
    running: asyncio.Future[Outcome]
    if elsewhere is None:
        running = asyncio.get_running_loop().create_task(work)
    else:
        running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, elsewhere.loop))
    try:
        done, _ = await asyncio.wait({running}, timeout=seconds)
    except asyncio.CancelledError:
        running.cancel()
        raise
    if done:
        if running.cancelled():  # by itself
            return Outcome(fault="raised", error=asyncio.CancelledError("the tool cancelled itself"))
        return running.result()
    running.cancel()
    if elsewhere is None:
        await asyncio.wait({running}, timeout=CANCEL_SECONDS)
    elif not await elsewhere.answers():
        leave_behind(elsewhere)
    return LATE


async def ask(function: Callable[..., Any], *args: Any, at_home: bool) -> Outcome:
    """Call any function of the user's, plain or async, where it blocks nobody else."""
    if is_async(function):
        return await _within(_finished(function, args, {}), None, at_home)

    def call() -> Outcome:
        try:
            return Outcome(function(*args))
        except BaseException as error:
            return Outcome(fault="raised", error=error)

    outcome = await _on_thread("approval", call, None)
    if outcome.fault is None and inspect.isawaitable(outcome.value):
        return await _within(_finished(outcome.value), None, at_home)
    return outcome
