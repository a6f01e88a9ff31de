"""The Python side of one run of a program: is its body still running, and what came of it.

Owns: the body's end, its return value or its exception. All branches of a program share one body and its pulse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..lang.errors import OptionError
from .pulse import Pulse


class Body:
    __slots__ = ("_task", "ended", "error", "loop", "pulse", "value")

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.ended = False
        self.error: BaseException | None = None
        self.value: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None  # where an async body runs as a task

    def start(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        """Run an async body as a task of `loop`."""
        self.loop = loop
        self._task = loop.create_task(work)  # kept: a loop holds its tasks weakly

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error, self.ended = value, error, True
        self.pulse.beat()

    def wait(self, seen: int) -> None:
        """Block until the program changes. The loop that runs the body would never get to change it."""
        if self.loop is not None and asyncio._get_running_loop() is self.loop:
            raise OptionError(
                "the program runs on this very event loop, which a blocking read would stop; "
                "use `await state.aget(name)` or `async for ... in state.text_async_iter(...)`"
            )
        self.pulse.wait(seen)
