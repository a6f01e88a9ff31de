"""Which tools may run at the same time, in order of call. Used on one event loop; knows nothing of tools.

1. At most `most` run. One that is to run alone waits until no other runs, and none begins beside it.
2. Who waits begins in the order in which it came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Places for what runs at the same time."""

    def __init__(self, most: int) -> None:
        self._most, self._running, self._alone = most, 0, False
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, alone: bool) -> AsyncIterator[None]:
        """Wait for a place, and hold it in the `async with` block."""
        turn = asyncio.get_running_loop().create_future()
        entry = alone, turn
        self._waiting.append(entry)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif not turn.cancelled():  # the place was given just now
                self._running -= 1
                self._alone = False
            self._admit()
            raise
        try:
            yield
        finally:
            self._running -= 1
            self._alone = False
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            alone, turn = self._waiting[0]
            if self._alone or (self._running > 0 if alone else self._running >= self._most):
                return
            self._waiting.popleft()
            if not turn.done():
                self._running += 1
                self._alone = alone
                turn.set_result(None)
