"""The Python side of one run of a program: is its body still running, and what came of it.

Owns: the body's end, its return value or its exception. All branches of a program share one body and its pulse.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from ..backend.base import Handle
from ..lang.errors import OptionError, VariableError
from .pulse import Pulse
from .record import ProgramRecord


class Body:
    """`outcome.value()` gives what the body returned, or raises its error as it was."""

    __slots__ = ("_runner", "_task", "is_async", "loop", "outcome", "pulse", "record")

    def __init__(self, is_async: bool = False) -> None:
        self.pulse = Pulse()
        self.is_async = is_async
        self.record: ProgramRecord | None = None  # of a traced program
        self.outcome: Handle[Any] = Handle("body")
        self._runner: object = None  # the thread or the task that runs it
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

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        self.outcome.finish(value, error)
        self.pulse.beat()

    def runs_here(self, task: asyncio.Future[Any] | None = None) -> None:
        """The body is about to run in `task`, in this task, or (a plain one) in this thread."""
        self._runner = (task or asyncio.current_task()) if self.is_async else threading.get_ident()

    def _refuse_itself(self, runner: object) -> None:
        if runner == self._runner and not self.ended:
            raise VariableError(
                "the program waits here for its own end: what run(stream=True) returned is for others to read; in the "
                "body read from its own state, and only what was said already"
            )

    async def wait_async(self, seen: int) -> None:
        self._refuse_itself(asyncio.current_task())
        await self.pulse.wait_async(seen)

    def is_on_its_loop(self) -> bool:
        """Whether the caller is on the event loop that runs this async body: it must not block."""
        return self.loop is not None and asyncio._get_running_loop() is self.loop

    def wait(self, seen: int) -> None:
        """Block until the program changes. The loop that runs the body would never get to change it."""
        self._refuse_itself(threading.get_ident())
        if self.is_on_its_loop():
            raise OptionError(
                "the program runs on this very event loop, which a blocking read would stop; "
                "use `await state.aget(name)` or `async for ... in state.text_async_iter(...)`"
            )
        self.pulse.wait(seen)
