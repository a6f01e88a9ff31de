"""Many runs of one program: `run_batch`, its generator style, and `arun_batch`.

Owns: which rows start when, who executes their bodies, and in which order finished ones are given out. Bodies of plain
functions run on a bounded pool of daemon threads; a thread is not held by a program whose body has returned, so a few
threads keep many more programs in flight. Bodies of async programs are coroutines on one loop, without threads
(`batch_async.py`). The caller's own thread waits for the programs, which drives the backend.

Invariants: at most `plan.in_flight` programs are unfinished; with a window, at most `plan.window` are started and not
yet given out; a row is never started after a stop; every row that was read is finished exactly once. The lock is never
held while the backend, the rows or the program are called.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import NoReturn

from ..backend.base import Backend, Handle
from ..lang.errors import JournalError, OptionError, ProgramTimeout
from .journal import Journal
from .plan import Plan, States
from .progress import Progress
from .restored import RestoredState
from .rows import Row, Rows
from .run import Instance, start_thread
from .source import note
from .state import ProgramState


class Found:
    """What became of a row: its state, and the error of the row or None. `kept`: the error is the row's own, which
    `on_error="keep"` keeps (a backend that cannot open is everybody's)."""

    __slots__ = ("error", "instance", "kept", "state")

    def __init__(
        self, state: ProgramState | None, instance: Instance | None, error: BaseException | None, kept: bool = True
    ) -> None:
        self.state, self.instance, self.error, self.kept = state, instance, error, kept


class Results:
    """Rows of one batch as they finish: shared by threads and coroutines. `start` opens a program for a row."""

    def __init__(
        self, start: Callable[[Row], Instance], rows: Rows, plan: Plan, backend: Backend, journal: Journal | None
    ) -> None:
        self.start, self.rows, self.plan, self.backend, self.journal = start, rows, plan, backend, journal
        self.running: dict[int, Instance] = {}
        self.found: dict[int, Found] = {}
        self.given = 0  # rows given out
        self.failed: dict[int, BaseException] = {}
        self.unwritten: JournalError | None = None  # what the journal says of its failure

    def begin(self, row: Row) -> Instance | None:
        """Start a row; None if it is finished already (wrong, restored, or impossible to start)."""
        i = row.index
        if row.call is None:
            assert row.error is not None
            self.found[i] = Found(RestoredState.failed(row.error), None, row.error)
            return None
        if self.journal is not None:
            try:
                restored = self.journal.restored(i, row.call)
            except OptionError as error:  # arguments that cannot be known again
                self.found[i] = Found(RestoredState.failed(error), None, error)
                return None
            if restored is not None:
                self.found[i] = Found(RestoredState(restored), None, None)
                return None
        try:
            instance = self.running[i] = self.start(row)
        except BaseException as error:
            self.found[i] = Found(None, None, error, kept=False)
            return None
        return instance

    def end(self, i: int) -> None:
        """A started row is finished: its body has ended, and so has everything it said."""
        instance = self.running.pop(i)
        error = instance.body.error or instance.cursor.branch.error
        self.found[i] = Found(instance.state, instance, error)

    def seen(self, i: int, bar: Progress) -> Found:
        """Whoever gives rows out sees that one is finished."""
        found = self.found[i]
        bar.finished(found)
        if self.journal is not None and found.instance is not None:
            try:
                self.journal.note(i, found.instance, found.error)
            except JournalError as error:
                self._unwritten(error)
        return found

    def _unwritten(self, error: JournalError) -> None:
        """The journal has failed, and says so once. No row is harmed by that: with errors kept all of them run on, else
        those that run now."""
        if self.plan.keep:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        else:
            self.unwritten = error

    def close(self) -> None:
        """Nothing more will be noted."""
        if self.journal is not None:
            try:
                self.journal.close()
            except JournalError as error:
                self._unwritten(error)

    def fails(self, found: Found) -> bool:
        return found.error is not None and not (self.plan.keep and found.kept)

    def missing(self) -> Iterator[int]:
        """After a `batch_timeout`, with errors kept: the rows that never began, each with that error."""
        if self.plan.expired and self.plan.keep and self.rows.total is not None:
            for i in range(self.rows.count, self.rows.total):
                why = self.plan.timeout_error()
                self.found[i] = Found(RestoredState.failed(why), None, why)
                yield i

    def states(self) -> States:
        """Every row's state, in order. Raises the first row's error, with all states as its `.states`."""
        self.close()
        self.plan.raise_if_late(self)
        first = min(self.failed, default=None)
        error = self.unwritten if first is None else self.failed[first]
        if error is not None:
            with suppress(Exception):  # some exceptions take no attributes
                error.states = self.so_far()  # type: ignore[attr-defined]
        if first is not None:
            self.raise_row(first)
        if self.unwritten is not None:
            raise self.unwritten
        return States(
            self.plan.where, [found.state for _, found in sorted(self.found.items()) if found.state is not None]
        )

    def so_far(self) -> list[ProgramState | None]:
        total = max(self.found, default=-1) + 1 if self.rows.total is None else self.rows.total
        return [self.found[i].state if i in self.found else None for i in range(total)]

    def raise_row(self, i: int) -> NoReturn:
        """Raise a row's error, with a note of the row. (One that is only kept gets none: many rows may share it.)"""
        found = self.found[i]
        assert found.error is not None
        if found.instance is not None:
            note(found.instance.cursor.explain(found.error), f"in row {i} of {self.plan.where}")
        raise found.error

    def end_of_stream(self) -> None:
        self.close()
        self.plan.raise_if_late(self)
        if self.unwritten is not None:
            raise self.unwritten

    def turns(self, waiting: set[int]) -> Iterator[int]:
        """Of the finished rows, those whose turn it is to be given out."""
        while waiting and (not self.plan.ordered or self.given in waiting):
            turn = self.given if self.plan.ordered else waiting.pop()
            waiting.discard(turn)
            yield turn

    def give(self, i: int) -> ProgramState:
        """The state of a row, which is kept no longer. Raises its error."""
        if self.fails(self.found[i]):
            self.raise_row(i)
        if self.unwritten is not None:
            raise self.unwritten
        state = self.found.pop(i).state
        assert state is not None
        return state

    def late(self, now: float) -> dict[int, ProgramTimeout]:
        """Running rows whose time is over, with why."""
        if self.plan.deadline is not None and now >= self.plan.deadline:
            why = self.plan.timeout_error()
            return dict.fromkeys(self.running, why)
        return {
            i: ProgramTimeout(f"{self.plan.where}: row {i}: timeout={instance.timeout:g} s passed in its body")
            for i, instance in list(self.running.items())
            if instance.deadline is not None and now >= instance.deadline and not instance.body.ended
        }

    def next_deadline(self) -> float | None:
        """Seconds until some running row may be late."""
        times = [i.deadline for i in list(self.running.values()) if i.deadline is not None and not i.body.ended]
        if self.plan.deadline is not None:
            times.append(self.plan.deadline)
        return max(0.0, min(times) - time.monotonic()) if times else None


class Batch:
    """A batch of a plain function, on a pool of threads."""

    def __init__(self, results: Results) -> None:
        self._results, self._plan, self._rows = results, results.plan, results.rows
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # threads wait here for a row they may start
        self._news = threading.Condition(self._lock)  # the waiter, while only Python runs
        self._threads = self._idle = 0
        self._pulling = False  # a thread is reading the next row
        self._taken = 0  # rows read
        self._unfinished = 0  # of them, not finished
        self._bodies = 0  # of them, in the hands of a thread
        self._done: deque[int] = deque()  # finished rows that the waiter has not seen
        self._any: Handle[None] | None = None  # what the waiter waits for: any row to finish
        self._stopping = self._exhausted = False
        self._cancelled = False  # nobody wants what still runs
        self._abandoned: set[int] = set()  # rows that were given up while their body ran

    # -- giving out
    def run(self) -> States:
        """Every row, finished."""
        results = self._results
        with closing(results), self._progress() as bar, closing(self._finished()) as finished:
            for i in finished:
                self._given()
                if results.fails(found := results.seen(i, bar)):
                    assert found.error is not None
                    results.failed[i] = found.error
                if results.failed or results.unwritten is not None:
                    self._stop()  # what runs may finish; nothing more starts
        return results.states()

    def iterate(self) -> Iterator[ProgramState]:
        """Rows as they finish, in order or as completed; closing cancels the rest."""
        results = self._results
        with closing(results), self._progress() as bar, closing(self._finished()) as finished:
            waiting: set[int] = set()
            for i in finished:
                results.seen(i, bar)
                waiting.add(i)
                for turn in results.turns(waiting):
                    state = results.give(turn)
                    self._given()
                    yield state
        results.end_of_stream()

    def _progress(self) -> Progress:
        return Progress(self._rows.total, self._plan.progress)

    def _given(self) -> None:
        with self._lock:
            self._results.given += 1
            self._room.notify()

    # -- the waiter
    def _finished(self) -> Generator[int, None, None]:
        """Rows in the order in which they finish. Closing stops and cancels the rest."""
        self._start_thread()
        over = False
        try:
            while (i := self._wait()) is not None:
                yield i
            yield from self._results.missing()
            over = True
        finally:
            self._cancelled = not over
            self._stop()
            if not over:
                for instance in list(self._results.running.values()):
                    if not instance.body.ended or instance.cursor.pending():
                        instance.cursor.cancel()

    def _wait(self) -> int | None:
        """The next row to finish; None when no more will. Drives the backend while programs wait for it."""
        while True:
            left = self._results.next_deadline()
            with self._lock:
                if self._done:
                    return self._done.popleft()
                if (self._exhausted or self._stopping) and not self._unfinished:
                    return None
                anyone = None
                if self._unfinished == self._bodies:  # only Python is running
                    self._news.wait(left)
                else:
                    anyone = self._any = Handle("run_batch")
            if anyone is not None:
                self._results.backend.wait(anyone, timeout=left)
            if left is not None:
                self._give_up_late()

    def _give_up_late(self) -> None:
        """Rows whose time is over are finished with `ProgramTimeout`, even while their body blocks: its thread is left
        to itself, and another takes its place."""
        now = time.monotonic()
        if self._plan.deadline is not None and now >= self._plan.deadline:
            self._plan.expired = True
            self._stop()
        for i, why in self._results.late(now).items():
            instance = self._results.running.get(i)
            if instance is None:
                continue
            stuck = not instance.body.ended
            instance.give_up(why)
            if stuck:
                with self._lock:
                    self._abandoned.add(i)
                    self._threads -= 1
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
        start_thread("batch", self._work)

    def _work(self) -> None:
        """One thread of the pool."""
        while (row := self._take()) is not None:
            i = row.index
            instance = self._results.begin(row)
            if instance is None:
                self._finish(i, body=True, started=False)
                continue
            if self._cancelled:
                instance.cursor.cancel()
            instance.execute()
            with self._lock:
                if i in self._abandoned:
                    return
                self._bodies -= 1
                self._news.notify()  # the waiter may have to drive now
            self._watch(i, instance)
        with self._lock:
            self._threads -= 1

    def _take(self) -> Row | None:
        with self._lock:
            while not self._may_take():
                if self._stopping or self._exhausted:
                    return None
                self._idle += 1
                self._room.wait()
                self._idle -= 1
            self._pulling = True
            self._unfinished += 1
            self._bodies += 1
            self._taken += 1
        row = self._rows.next()  # may be the user's generator
        with self._lock:
            self._pulling = False
            if row is None:
                self._exhausted = True
                self._taken -= 1
                self._unfinished -= 1
                self._bodies -= 1
                self._room.notify_all()
                self._news.notify()
                anyone, self._any = self._any, None
            elif self._idle:
                self._room.notify()
        if row is None:
            if anyone is not None:
                anyone.finish(None)
        elif not self._idle:
            self._start_thread()
        return row

    def _may_take(self) -> bool:
        plan = self._plan
        return not (
            self._stopping
            or self._exhausted
            or self._pulling
            or self._unfinished >= plan.in_flight
            or self._taken - self._results.given >= plan.window
        )

    def _watch(self, i: int, instance: Instance) -> None:
        """The body has ended: the row is finished when everything it said is."""
        left = instance.cursor.barriers()
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
        """Row i is finished; `body`: its thread is done with it now; not `started`: it was never a program."""
        if started:
            self._results.end(i)
        with self._lock:
            self._bodies -= body
            self._unfinished -= 1
            self._done.append(i)
            self._room.notify()
            self._news.notify()
            anyone, self._any = self._any, None
        if anyone is not None:
            anyone.finish(None)
