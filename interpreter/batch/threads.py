"""A batch of a plain function: bodies run on a bounded pool of daemon threads.

Knows nothing of how rows are given out (`batch.py`). A program whose body has returned holds no thread, so a few
threads keep many more programs in flight. The caller's thread waits, and so drives the backend. While the caller is
busy with a row of `generator_style`, a thread of the batch drives.

1. At most `plan.in_flight` programs are unfinished, and at most `plan.window` are started and not yet given out.
2. No row is started after a stop. Every row that was read before the stop is finished exactly once. While its body runs
   it is in `_inside`; the thread that takes it out finishes it.
3. The lock is never held while the backend, the rows or the program are called.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from ...backend.base import Handle
from ...backend.waiting import block_on, iterate
from ...lang.errors import BackendError
from ..run import Instance, start_thread
from ..state import ProgramState
from .batch import RowBatch
from .progress import Progress
from .results import Results, States
from .rows import Row


class ThreadBatch(RowBatch):
    """A batch whose bodies run on a pool of threads."""

    def __init__(self, results: Results) -> None:
        super().__init__(results)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # threads wait here for a row they may start
        self._news = threading.Condition(self._lock)  # the waiter, while only Python runs
        self._threads = self._idle = 0
        self._pulling = False  # a thread is reading the next row
        self._unfinished = 0  # rows that were read and are not finished
        self._bodies = 0  # of the unfinished rows, those in the hands of a thread
        self._inside: set[int] = set()  # of the rows in the hands of a thread, those whose body runs
        self._done: deque[int] = deque()  # finished rows that the waiter has not seen
        self._any: Handle[None] | None = None  # what the waiter waits for: any row to finish
        self._until: float | None = None  # when the waiter looks again by itself
        self._stopping = self._exhausted = False
        self._cancelled = False  # rows that begin now are cancelled at once

    # -- giving out
    def run(self) -> States:
        """Wait for every row; their states."""
        with self._running() as bar:
            block_on(self._all(bar))
        return self._results.states()

    def iterate(self) -> Iterator[ProgramState]:
        """Give rows as they finish, in order or as completed. Closing the iterator cancels the rest."""
        over = Handle[None]("run_batch")
        if self._rows.total != 0:
            start_thread("batch-driver", lambda: self._drive(over))
        try:
            with self._running() as bar:
                yield from iterate(self._each(bar))
            self._results.end_of_stream()
        finally:
            over.finish(None)

    def _drive(self, over: Handle[None]) -> None:
        """Keep the model busy while the consumer is busy with a row."""
        with suppress(BackendError):  # a read of the row raises it
            self._results.backend.wait(over)

    def _given(self) -> None:
        with self._lock:
            self._results.given += 1
            self._room.notify()

    @contextmanager
    def _running(self) -> Iterator[Progress]:
        """Run the pool. What still runs at the end of the block is cancelled, unless the block ended by itself."""
        with closing(self._results), self._progress() as bar:
            self._start_thread()
            over = False
            try:
                yield bar
                over = True
            finally:
                self._cancelled = not over
                self._stop()
                if not over:
                    for instance in list(self._results.running.values()):
                        if not instance.body.ended or instance.line.pending():
                            instance.cancel()

    # -- the waiter
    def next_row(self) -> int | None:
        """Wait for the next row to finish; None when no more will. Drives the backend while programs wait for it."""
        while True:
            with self._lock:
                if self._done:
                    return self._done.popleft()
                if (self._exhausted or self._stopping) and not self._unfinished:
                    return None
                left = self._results.next_deadline()  # under the lock: a row that begins later wakes us
                self._until = None if left is None else time.monotonic() + left
                anyone = None
                if self._unfinished == self._bodies:  # only Python is running
                    self._news.wait(left)
                else:
                    anyone = self._any = Handle("run_batch")
            if anyone is not None:
                self._results.backend.wait(anyone, timeout=left)
            if left is not None:
                self._give_up_late()

    def _wake_waiter(self) -> Handle[None] | None:
        """Wake the waiter, under the lock. A handle that is given is to be finished after the lock is released."""
        self._news.notify()
        anyone, self._any = self._any, None
        return anyone

    def _give_up_late(self) -> None:
        """Finish the rows whose time is over, with `ProgramTimeout`. The thread of a body that blocks is left to
        itself, and another takes its place."""
        now = time.monotonic()
        if self._plan.deadline is not None and now >= self._plan.deadline:
            self._plan.expired = True
            self._stop()
        for i, why in self._results.late(now).items():
            with self._lock:
                stuck = i in self._inside
                self._inside.discard(i)
                self._threads -= stuck
            instance = self._results.running.get(i)
            if instance is not None:
                instance.give_up(why)
            if stuck:
                self._finish(i, body=True)
                self._start_thread()

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._room.notify_all()
            self._news.notify_all()

    # -- the pool
    def _start_thread(self) -> None:
        with self._lock:
            if self._stopping or self._threads >= self._plan.threads:
                return
            self._threads += 1
        try:
            start_thread("batch", self._work)
        except RuntimeError:  # the system gives no more threads: go on with those there are
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    raise

    def _work(self) -> None:
        """Run rows, one after the other: one thread of the pool."""
        while (row := self._take()) is not None:
            i = row.index
            instance = self._results.begin(row)
            if instance is None:
                self._finish(i, body=True, started=False)
                continue
            if self._cancelled:
                instance.cancel()
            with self._lock:
                self._inside.add(i)
                late = instance.deadline is not None and (self._until is None or instance.deadline < self._until)
                anyone = self._wake_waiter() if late else None
            if anyone is not None:
                anyone.finish(None)
            instance.execute()
            with self._lock:
                if i not in self._inside:
                    return  # given up meanwhile, and this thread with it
                self._inside.remove(i)
                self._bodies -= 1
                self._news.notify()  # the waiter may have to drive now
            try:
                self._watch(i, instance)
            except BaseException as error:  # of the chat template, at text that a role held back
                instance.give_up(error)
                self._finish(i)
        with self._lock:
            self._threads -= 1

    def _take(self) -> Row | None:
        """Wait for room and read the next row; None when no more is to be started."""
        with self._lock:
            while not self._may_take():
                if self._stopping or self._exhausted:
                    return None
                self._idle += 1
                self._room.wait()
                self._idle -= 1
            self._pulling = True
        row = self._rows.next()  # may be the user's generator, and may block
        with self._lock:
            self._pulling = False
            anyone = None
            if row is None:
                self._exhausted = True
                self._room.notify_all()
                anyone = self._wake_waiter()
            elif self._stopping:
                row = None  # it was never begun
            else:
                self._results.taken += 1
                self._unfinished += 1
                self._bodies += 1
                self._room.notify()
            alone = not self._idle
        if anyone is not None:
            anyone.finish(None)
        if row is not None and alone:
            self._start_thread()
        return row

    def _may_take(self) -> bool:
        plan = self._plan
        return not (
            self._stopping
            or self._exhausted
            or self._pulling
            or self._unfinished >= plan.in_flight
            or self._results.taken - self._results.given >= plan.window
        )

    def _watch(self, i: int, instance: Instance) -> None:
        """Finish row `i`, whose body has ended, when everything it said is finished."""
        left = instance.line.barriers()
        count = threading.Lock()

        def one_less() -> None:
            with count:
                left.pop()
                last = not left
            if last:
                self._finish(i)

        for barrier in tuple(left):
            barrier.listen(one_less)

    def _finish(self, i: int, body: bool = False, started: bool = True) -> None:
        """Note that row `i` is finished. `body`: a thread still held it. Not `started`: it was no program."""
        if started:
            self._results.end(i)
        with self._lock:
            self._bodies -= body
            self._unfinished -= 1
            self._done.append(i)
            self._room.notify()
            anyone = self._wake_waiter()
        if anyone is not None:
            anyone.finish(None)
