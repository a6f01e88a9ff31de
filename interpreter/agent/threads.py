"""Event loops on daemon threads of their own. Knows nothing of tools.

A sync program has no event loop. So its tools are looked after on one loop, and its async tools run on another one,
which their own code may block. A blocked loop is left behind, and the next tools get a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading

log = logging.getLogger("sgl")

ANSWER_SECONDS = 1.0
"""In which a loop must answer; else its thread is taken for blocked."""


class LoopThread:
    """An event loop that runs on a daemon thread until the process ends, or until `stop`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name=f"sgl-{name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def stop(self) -> None:
        """Stop the loop; its thread ends."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(ANSWER_SECONDS)

    async def answers(self) -> bool:
        """Whether the loop still takes work. To be awaited on another loop."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asker = asyncio.get_running_loop()

        def told() -> None:
            if not answer.done():
                answer.set_result(None)

        self.loop.call_soon_threadsafe(asker.call_soon_threadsafe, told)
        done, _ = await asyncio.wait({answer}, timeout=ANSWER_SECONDS)
        return bool(done)


_kept: dict[str, tuple[int, LoopThread]] = {}
_making = threading.Lock()


def loop_thread(name: str) -> LoopThread:
    """The process's loop of this name; it is started when it is first asked for."""
    with _making:
        known = _kept.get(name)
        if known is None or known[0] != os.getpid():  # the thread of a parent is not in a forked child
            known = _kept[name] = os.getpid(), LoopThread(name)
        return known[1]


def leave_behind(thread: LoopThread) -> None:
    """Use a blocked loop no more."""
    with _making:
        if (known := _kept.get(thread.name)) is not None and known[1] is thread:
            del _kept[thread.name]
            log.warning("an async tool blocks its event loop; its thread %s is left behind", thread.name)
