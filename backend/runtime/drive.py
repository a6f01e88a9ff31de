"""Who drives: whoever waits.

Owns: the engine's lock and the waiting. A caller that needs a value takes the lock and steps until the value is there;
others that wait meanwhile sleep, and one of them takes over when the driver leaves. Scripts and tests have no
background thread and get whole tracebacks. Only while a coroutine waits does one daemon thread drive, so that no event
loop is blocked; it ends with the last of them.

Ctrl-C on the main thread is taken between steps, never within one: the engine is whole and usable afterwards.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base import Handle

if TYPE_CHECKING:
    from .engine import Engine


class Drive:
    """The right to step one engine, passed from waiter to waiter."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self._sleepers: dict[int, threading.Event] = {}
        self._sleepers_lock = threading.Lock()
        self._coroutines = 0
        self._thread: threading.Thread | None = None

    # -- synchronous waiting
    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Drive, or sleep while another drives, until `handle.ready(seen)`; False if `timeout` seconds pass first."""
        if handle.ready(seen):
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        wake = threading.Event()
        handle.listen(wake.set)
        with self._sleepers_lock:
            self._sleepers[id(wake)] = wake
        try:
            while not handle.ready(seen):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                wake.clear()
                if self._try_drive(handle, seen, deadline):
                    continue
                if not handle.ready(seen):
                    wake.wait(left)
            return True
        finally:
            handle.unlisten(wake.set)
            with self._sleepers_lock:
                del self._sleepers[id(wake)]
            self.wake()  # whoever still waits may have to take over

    def _try_drive(self, handle: Handle[Any], seen: int | None, deadline: float | None) -> bool:
        """Step until ready, idle or late. False when there was nothing to do or somebody else is driving."""
        if not self.lock.acquire(blocking=False):
            return False
        worked = False
        try:
            with _interrupts_held() as interrupted:
                while not handle.ready(seen) and not interrupted:
                    if deadline is not None and time.monotonic() >= deadline:
                        return True
                    if not self.engine.step():
                        break
                    worked = True
        finally:
            self.lock.release()
        return worked or bool(self.engine.inbox)

    def wake(self) -> None:
        """There may be something to do: let one sleeper look, if nobody is driving."""
        with self._sleepers_lock:
            sleeper = next(iter(self._sleepers.values()), None)
        if sleeper is not None:
            sleeper.set()

    # -- waiting in an event loop
    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        """The same for a coroutine: a thread drives, the loop stays free."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        handle.listen(tell)
        with self._sleepers_lock:
            self._coroutines += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive_for_coroutines, name="sgl-driver", daemon=True)
                self._thread.start()
        try:
            while not handle.ready(seen):
                await news.wait()
                news.clear()
        finally:
            handle.unlisten(tell)
            with self._sleepers_lock:
                self._coroutines -= 1
            self.wake()

    def _drive_for_coroutines(self) -> None:
        wake = threading.Event()
        with self._sleepers_lock:
            self._sleepers[id(wake)] = wake
        while True:
            wake.clear()
            with self.lock:
                while self._coroutines and self.engine.step():
                    pass
            with self._sleepers_lock:
                if not self._coroutines:
                    del self._sleepers[id(wake)]
                    self._thread = None
                    break
            if not self.engine.inbox:
                wake.wait(0.5)
        self.wake()


@contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Hold back Ctrl-C on the main thread: yields a list that is non-empty once it came; raised when the block ends."""
    came: list[int] = []
    held = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if held:
        signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        if held:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
