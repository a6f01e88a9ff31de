"""A counter that threads and event loops can wait on, without polling and without lost wake-ups.

Owns: "something changed in this program" (text was appended, a variable appeared, the body ended). Knows nothing of
what changed. A reader notes `version`, looks at the state, and if there is nothing for it waits for a version after the
one it noted: a change in between returns at once.

Invariant: nobody calls a backend while holding the pulse's lock, so a backend may beat it from inside its own locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Pulse:
    __slots__ = ("_changed", "_wakers", "version")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakers: list[Callable[[], None]] = []
        self.version = 0

    def beat(self) -> None:
        """Something changed; wake everyone who waits."""
        with self._changed:
            self.version += 1
            self._changed.notify_all()
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def wait(self, seen: int, timeout: float | None = None) -> bool:
        """Block until `version != seen`; False if `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.version != seen, timeout)

    async def wait_async(self, seen: int) -> None:
        """The same, on the running event loop."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
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
