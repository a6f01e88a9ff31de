"""The Python side of one run of a program: whether its body still runs, what it returned, and how to wait for news.

Knows nothing of text or backends. All branches of a program share one body and its pulse.

Invariant: nobody calls a backend while holding the pulse's lock. So a backend may beat the pulse inside its own locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..backend.base import Handle
from ..backend.waiting import Wait
from ..lang.errors import OptionError, VariableError
from .record import ProgramRecord


class Pulse:
    """A counter of changes in a program, to wait on without polling: text was said, a name appeared, the body ended.

    A reader notes `version`, looks at the program, and if there is nothing for it waits for a version after the noted
    one. A change in between ends that wait at once.
    """

    __slots__ = ("_changed", "_wakers", "version")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []
        self.version = 0

    def beat(self) -> None:
        """Note a change and wake every waiter."""
        with self._changed:
            self.version += 1
            self._changed.notify_all()
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def wait(self, seen: int) -> None:
        """Block until `version != seen`."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != seen)

    async def wait_async(self, seen: int) -> None:
        """Wait on the running event loop until `version != seen`."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits on it any more
                loop.call_soon_threadsafe(settle)

        with self._changed:
            if self.version != seen:
                return
            self._wakers.append(wake)
        try:
            await woken
        finally:
            with self._changed:
                if wake in self._wakers:
                    self._wakers.remove(wake)


class Body:
    """The body of one program. `outcome.value()` gives what the body returned, or raises its error as it was."""

    __slots__ = ("_runner", "_task", "is_async", "loop", "outcome", "pulse", "record")

    def __init__(self, is_async: bool = False) -> None:
        self.pulse = Pulse()
        self.is_async = is_async
        self.record: ProgramRecord | None = None  # of a traced program
        self.outcome: Handle[Any] = Handle("body")
        self._runner: object = None  # the thread or the task that runs the body
        self.loop: asyncio.AbstractEventLoop | None = None  # where an async body runs as a task

    @property
    def ended(self) -> bool:
        return self.outcome.done

    @property
    def error(self) -> BaseException | None:
        return self.outcome.error

    def start(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        """Run an async body as a task of `loop`."""
        self.loop = loop
        self._task = loop.create_task(work)  # kept: a loop holds its tasks weakly

    def runs_here(self, task: asyncio.Future[Any] | None = None) -> None:
        """Note that the body is about to run in `task`, in the current task, or (a plain body) in this thread."""
        self._runner = (task or asyncio.current_task()) if self.is_async else threading.get_ident()

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        """Note the end of the body; the first end counts."""
        self.outcome.finish(value, error)
        self.pulse.beat()

    def is_on_its_loop(self) -> bool:
        """Whether the caller is on the event loop that runs this async body. Such a caller must not block."""
        return self.loop is not None and asyncio._get_running_loop() is self.loop

    def _refuse_itself(self, runner: object) -> None:
        if runner == self._runner and not self.ended:
            raise VariableError(
                "the program waits here for its own end: what run(stream=True) returned is for others to read; in the "
                "body read from its own state, and only what was said already"
            )


class AtPulse(Wait):
    """Wait until the program is at another version than `version`."""

    __slots__ = ("_body", "_version")

    def __init__(self, body: Body, version: int) -> None:
        self._body, self._version = body, version

    def block(self) -> None:
        self._body._refuse_itself(threading.get_ident())
        if self._body.is_on_its_loop():  # the loop would never get to change the program
            raise OptionError(
                "the program runs on this very event loop, which a blocking read would stop; "
                "use `await state.aget(name)` or `async for ... in state.text_async_iter(...)`"
            )
        self._body.pulse.wait(self._version)

    async def suspend(self) -> None:
        self._body._refuse_itself(asyncio.current_task())
        await self._body.pulse.wait_async(self._version)
