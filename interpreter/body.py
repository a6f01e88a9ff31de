"""The Python side of one run of a program: whether its body still runs, what it returned, and how to wait for news.

Knows nothing of text or backends. All branches of a program share one body and its pulse.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from ..backend.base import Handle
from ..backend.waiting import Wait, sleep_until, sleep_until_async
from ..lang.errors import OptionError, VariableError
from .record import ProgramRecord


class Pulse:
    """Tells of changes in a program: text was said, a name appeared, the body ended.

    `news` is a handle that is done at the next change. A reader keeps `news`, looks at the program, and waits for the
    kept handle if it found nothing. So a change between the look and the wait ends the wait at once.
    """

    __slots__ = ("_lock", "news")

    def __init__(self) -> None:
        self.news: Handle[None] = Handle("news")
        self._lock = threading.Lock()

    def beat(self) -> None:
        """Tell of a change."""
        with self._lock:
            news, self.news = self.news, Handle("news")
        news.finish(None)


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


class AtNews(Wait):
    """Wait until `news`, a handle of the program's pulse, is done. Only the body brings that about, not a backend."""

    __slots__ = ("_body", "_news")

    def __init__(self, body: Body, news: Handle[None]) -> None:
        self._body, self._news = body, news

    def block(self) -> None:
        self._body._refuse_itself(threading.get_ident())
        if self._body.is_on_its_loop():  # the loop would never get to change the program
            raise OptionError(
                "the program runs on this very event loop, which a blocking read would stop; "
                "use `await state.aget(name)` or `async for ... in state.text_async_iter(...)`"
            )
        sleep_until(self._news)

    async def suspend(self) -> None:
        self._body._refuse_itself(asyncio.current_task())
        await sleep_until_async(self._news)
