"""Driving: the thread that waits for a value steps the engine.

Knows nothing of what a step does. A caller that needs a value takes the engine's lock and steps until the value is
there. Other waiting threads sleep, and one of them takes over when the driver leaves. In a plain script no background
thread drives, so tracebacks are whole. While a coroutine waits, one daemon thread drives, so that no event loop is
blocked.

1. A thread that releases the lock while there is work wakes a sleeper.
2. The driver lets go between steps when another thread wants the lock.
3. `wake` takes no lock, so it may run anywhere, in a finaliser too.
4. Ctrl-C on the main thread is taken between steps, never within one: the engine is whole and usable afterwards.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ...lang.errors import BackendError
from ..base import Handle
from ..contain import HeldBack

LINGER_SECONDS = 0.5
"""How long the thread that drives for coroutines waits for more of them."""
LAST_STEP_SECONDS = 10.0
"""How long the end of the process waits for a step that runs: a thread within the model would end it with a crash."""

STEP_CALLS = 250
"""How deeply the calls of a step may nest. With a model of transformers some 60 were met; checks of nested data take
more."""

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class Driven(Protocol):
    """What a driver asks of an engine."""

    def step(self) -> bool:
        """Run one step; False if there was nothing to do."""

    def has_news(self) -> bool:
        """Whether some branch has news that no step has taken notice of."""

    def has_work(self) -> bool:
        """Whether some branch has news, or a job that takes part in steps."""

    def silence_seconds(self) -> float | None:
        """How long a driver may sleep while programs wait to be admitted; None: none waits."""


class Drive:
    """The right to step one engine, passed from waiter to waiter."""

    def __init__(self, engine: Driven) -> None:
        self.check_process()
        _drives.add(self)
        self.engine = engine
        self._ended = False  # the process is ending
        self._lock = threading.Lock()
        self._owner: int | None = None  # the thread that holds the lock
        self._driving = False  # it holds it to step
        self._wanting: dict[int, None] = {}  # threads that wait for the lock itself
        self._sleepers: dict[int, SimpleQueue[None]] = {}  # a thread's bell; queues may be rung from anywhere
        self._due: list[SimpleQueue[None]] = []  # bells that are rung when the step is over
        self._called: dict[object, float] = {}  # waiters whose value is there and that have not run yet, since when
        self._coroutines = 0
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._alarms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Alarm] = weakref.WeakKeyDictionary()

    # -- the lock
    @contextmanager
    def held(self, blocking: bool = True) -> Iterator[bool]:
        """Hold the engine between steps; yields whether this thread holds it. The driver lets go after its step."""
        me = threading.get_ident()
        if _is_deep():
            if blocking:
                raise RecursionError("the program calls itself too deeply to look at the runtime here")
            yield False
            return
        if blocking:
            self.check_process()
            self._refuse_reentry()
            self._wanting[me] = None
        try:
            mine = self._lock.acquire(blocking=blocking)
        finally:
            self._wanting.pop(me, None)
        if mine:
            self._owner = me
        try:
            yield mine
        finally:
            if mine:
                self._release()
                self._hand_over()

    def _hand_over(self) -> None:
        """Wake a sleeper when this thread leaves for good and programs wait for admission.

        The sleeper may have gone to sleep before its own program was one of them. (Not at every release: two sleepers
        would ring each other.)
        """
        if self.engine.silence_seconds() is not None:
            self.wake()

    def _release(self) -> None:
        self._owner = None
        self._lock.release()
        self._pass_on()

    def _pass_on(self) -> None:
        if self.engine.has_work():
            self.wake()

    def _refuse_reentry(self) -> None:
        if self._owner == threading.get_ident():
            raise BackendError(
                "the runtime was used from within its own step (by a choice method, a type's validator, or a listener "
                "of a handle); do that in the program's body"
            )

    # -- the process
    @staticmethod
    def check_process() -> None:
        """Raise `BackendError` in a forked child: the threads and locks of its runtimes stayed in the parent."""
        if _forked:
            raise BackendError(
                "this process was forked from one that has a runtime, and a runtime does not work in a forked child; "
                'start the process with multiprocessing.get_context("spawn") and make the runtime there'
            )

    def end(self) -> None:
        """Run no more steps: the process is ending. Waits for the step that runs, for some seconds at most."""
        self._ended = True
        self._wanting[threading.get_ident()] = None
        if self._lock.acquire(timeout=LAST_STEP_SECONDS):
            self._lock.release()
        self._wanting.pop(threading.get_ident(), None)
        if (thread := self._thread) is not None:
            if (bell := self._sleepers.get(thread.ident or 0)) is not None:
                bell.put(None)
            thread.join(LAST_STEP_SECONDS)

    # -- synchronous waiting
    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Drive, or sleep while another drives, until `handle.ready(seen)`; False if `timeout` seconds pass first."""
        if handle.ready(seen):
            return True
        self.check_process()
        self._refuse_reentry()
        deadline = None if timeout is None else time.monotonic() + timeout
        bell: SimpleQueue[None] = SimpleQueue()
        left: list[bool] = []  # no longer empty: this waiter has run

        def ring() -> None:
            if handle.ready(seen):  # not at every token: a thread that waits for the end sleeps until then
                self._note_called(bell, left)
                self._ring(bell)

        deep = _is_deep()  # then a thread with a stack of its own drives, as for a coroutine
        with _interrupts_held() as interrupted, self._lent_thread() if deep else nullcontext():
            handle.listen(ring)
            self._sleepers[threading.get_ident()] = bell
            try:
                while not handle.ready(seen) and not interrupted:
                    seconds = None if deadline is None else deadline - time.monotonic()
                    if seconds is not None and seconds <= 0:
                        return False
                    if deep or not self._drive(lambda: handle.ready(seen) or bool(interrupted), deadline):
                        _sleep(bell, self._patience(seconds) if interrupted is _UNHELD else _nap(seconds))
                return handle.ready(seen)
            finally:
                handle.unlisten(ring)
                left.append(True)
                self._called.pop(bell, None)
                self._sleepers.pop(threading.get_ident(), None)
                self._pass_on()  # a thread that still waits may have to take over
                self._hand_over()

    def _drive(self, enough: Callable[[], bool], deadline: float | None) -> bool:
        """Step until enough, late, or wanted by another. False when there was nothing to do, or another drives."""
        if not self._lock.acquire(blocking=False) and (self._driving or not self._lock.acquire(timeout=1.0)):
            return enough()  # another thread steps for us; one that only looks is soon done, and is waited for in turn
        self._owner, self._driving = threading.get_ident(), True
        worked = True
        try:
            if self._ended:
                raise BackendError("the process is ending: no step runs any more")
            while worked and not (enough() or self._wanting or self._ended):
                if deadline is not None and time.monotonic() >= deadline:
                    break
                worked = self.engine.step()
                self._ring_due()
        finally:
            self._driving = False
            self._ring_due()
            self._release()
        if self._wanting:
            time.sleep(0.0001)  # locks are not fair: let the one that wants it have it
        return worked or enough() or self.engine.has_news()

    def _ring(self, bell: SimpleQueue[None]) -> None:
        """Ring a sleeper's bell: within a step, after that step.

        A woken thread wants the interpreter, and the next step is to be on its way first.
        """
        if self._driving and self._owner == threading.get_ident():
            self._due.append(bell)
        else:
            bell.put(None)

    def _ring_due(self) -> None:
        due, self._due = self._due, []
        for bell in due:
            bell.put(None)

    def wake(self) -> None:
        """Let one sleeper look, since there may be something to do. Takes no lock (a queue's `put` is safe anywhere).

        A driver needs no sleeper: it takes notice in its next step, or passes on what it leaves behind.
        """
        if self._driving:
            return
        me = threading.get_ident()
        for thread, bell in list(self._sleepers.items()):
            if thread != me and bell.empty():  # one that was rung will look anyway, and passes on what it leaves
                bell.put(None)
                return

    def _note_called(self, waiter: object, left: list[bool]) -> None:
        """Note that a waiter's value is there. One that has `left` meanwhile is not noted."""
        self._called.setdefault(waiter, time.monotonic())
        if left:
            self._called.pop(waiter, None)

    def called_since(self) -> float | None:
        """Since when some waiter's value is there although the waiter has not run yet, in seconds on the monotonic
        clock. None: all have run."""
        with suppress(RuntimeError):  # another thread came or went meanwhile
            return next(iter(self._called.values()), None)
        return None

    # -- waiting in an event loop
    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        """`wait` for a coroutine: a thread drives, and the event loop stays free."""
        if handle.ready(seen):
            return
        self.check_process()
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()
        alarm = self._alarm(loop)
        left: list[bool] = []

        def tell() -> None:
            if handle.ready(seen):
                self._note_called(tell, left)
                alarm.ring(news)

        handle.listen(tell)
        try:
            with self._lent_thread():
                while not handle.ready(seen):
                    await news
                    news = loop.create_future()
        finally:
            handle.unlisten(tell)
            left.append(True)
            self._called.pop(tell, None)

    @contextmanager
    def _lent_thread(self) -> Iterator[None]:
        """Let a thread drive for a caller that cannot."""
        with self._thread_lock:
            self._coroutines += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive_for_coroutines, name="sgl-driver", daemon=True)
                self._thread.start()
        self.wake()
        try:
            yield
        finally:
            with self._thread_lock:
                self._coroutines -= 1

    def _alarm(self, loop: asyncio.AbstractEventLoop) -> _Alarm:
        with self._thread_lock:
            if loop not in self._alarms:
                self._alarms[loop] = _Alarm(loop)
            return self._alarms[loop]

    def _drive_for_coroutines(self) -> None:
        me = threading.get_ident()
        bell = self._sleepers[me] = SimpleQueue()
        while True:
            with suppress(BackendError):  # the engine failed: handles say so
                if self._drive(lambda: not self._coroutines, None) and self._coroutines:
                    continue
            with self._thread_lock:
                if not self._coroutines or self._ended:
                    self._sleepers.pop(me, None)
                    self._thread = None
                    break
            _sleep(bell, self._patience(LINGER_SECONDS))
        self._pass_on()
        self._hand_over()

    def _patience(self, left: float | None) -> float | None:
        """How long to sleep: while programs wait to be admitted, not long."""
        silence = self.engine.silence_seconds()
        return left if silence is None else silence if left is None else min(left, silence)


_drives: weakref.WeakSet[Drive] = weakref.WeakSet()


@atexit.register
def _end_drives() -> None:
    if _forked:  # whoever held a lock, and the threads to wait for, stayed in the parent
        return
    for drive in list(_drives):
        drive.end()


class _Alarm:
    """Wakes coroutines of one loop from other threads, all that are to be woken with one call into the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._woken: deque[asyncio.Future[None]] = deque()
        self._called = False

    def ring(self, waiter: asyncio.Future[None]) -> None:
        self._woken.append(waiter)
        if not self._called:
            self._called = True
            loop = self._loop()
            if loop is not None:
                with suppress(RuntimeError):  # the loop was closed meanwhile: no coroutine waits there
                    loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._called = False  # first: a ring from here on makes a new call
        while self._woken:
            waiter = self._woken.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _is_deep() -> bool:
    """Whether a step may not fit on this thread's stack. A `RecursionError` within one would end the runtime."""
    try:
        sys._getframe(max(0, sys.getrecursionlimit() - STEP_CALLS))
    except ValueError:
        return False
    return True


def _sleep(bell: SimpleQueue[None], seconds: float | None) -> None:
    """Sleep until the bell rings, at most `seconds`. Rings that came before count once."""
    with suppress(Empty):
        bell.get(timeout=seconds)
        while True:
            bell.get_nowait()


_UNHELD: list[int] = []


def _nap(left: float | None) -> float:
    """How long the main thread sleeps before it looks whether Ctrl-C came, in seconds."""
    return 0.1 if left is None else min(left, 0.1)


@contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Hold back Ctrl-C on the main thread, and raise `KeyboardInterrupt` when the block ends.

    Yields a list that is no longer empty once Ctrl-C came. On other threads, or where the program has a handler of its
    own, yields `_UNHELD`.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield _UNHELD
        return
    held = HeldBack()
    signal.signal(signal.SIGINT, held)
    try:
        yield held.came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if held.came:
            raise KeyboardInterrupt
