"""Many runs of one program: `run_batch`, its generator style, and `arun_batch`.

Owns: which rows start when, who executes their bodies, and in which order finished ones are given out. Bodies of plain
functions run on a bounded pool of daemon threads; a thread is not held by a program whose body has returned, so a few
threads keep many more programs in flight. Bodies of async programs are coroutines on one loop, without threads.
The caller's own thread waits for the programs, which drives the backend.

Invariants: at most `plan.in_flight` programs are unfinished; with a window, at most `plan.window` are started and not
yet given out; a row is never started after a stop. The lock is never held while the backend is called.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from ..backend.base import Backend, Handle
from ..lang.errors import OptionError
from .progress import Progress
from .run import Instance, in_thread, no_loop_here, start_thread
from .source import note
from .state import ProgramState

MAX_THREADS = 64


@dataclass(frozen=True)
class Plan:
    where: str
    rows: int
    threads: int
    in_flight: int
    window: int
    progress: bool
    keep: bool
    ordered: bool

    @staticmethod
    def of(
        where: str, rows: int, num_threads: Any, progress: bool, on_error: str, ordered: bool, windowed: bool
    ) -> Plan:
        if num_threads == "auto":
            threads = MAX_THREADS
        elif isinstance(num_threads, int) and not isinstance(num_threads, bool) and num_threads >= 1:
            threads = num_threads
        else:
            raise OptionError(f"{where}: num_threads must be 'auto' or at least 1, got {num_threads!r:.60}")
        if on_error not in ("raise", "keep"):
            raise OptionError(f"{where}: on_error must be 'raise' or 'keep', got {on_error!r:.60}")
        in_flight = max(MAX_THREADS, threads * 4)
        window = in_flight * 4 if windowed else rows
        return Plan(where, rows, min(threads, max(rows, 1)), in_flight, window, progress, on_error == "keep", ordered)


class Batch:
    def __init__(self, start: Callable[[int], Instance], plan: Plan, backend: Backend | None, is_async: bool) -> None:
        self._start, self._plan, self._backend, self._is_async = start, plan, backend, is_async
        self._instances: dict[int, Instance] = {}
        self._unstartable: dict[int, BaseException] = {}
        self._news = threading.Condition()
        self._next = 0  # the next row to start
        self._given = 0  # rows given out
        self._bodies = 0  # started rows whose body is running
        self._unfinished = 0  # started rows that are not finished
        self._done: deque[int] = deque()  # finished rows that the waiter has not seen
        self._any: Handle[None] | None = None  # what the waiter waits for: any row to finish
        self._stopping = False

    # -- giving out
    def run(self) -> list[ProgramState]:
        """Every row, finished."""
        if self._is_async:
            no_loop_here(self._plan.where.removesuffix(".run_batch"), "arun_batch")
            return asyncio.run(self.arun())
        first: dict[int, BaseException] = {}
        with Progress(self._plan.rows, self._plan.progress) as bar, closing(self._finished()) as finished:
            for i in finished:
                self._look(i, bar, first)
        return self._states(first)

    async def arun(self) -> list[ProgramState]:
        first: dict[int, BaseException] = {}
        with Progress(self._plan.rows, self._plan.progress) as bar:
            finished = self._finished_async()
            try:
                async for i in finished:
                    self._look(i, bar, first)
            finally:
                await finished.aclose()
        return self._states(first)

    def iterate(self) -> Iterator[ProgramState]:
        """Rows as they finish, in order or as completed; closing cancels the rest."""
        if self._is_async:
            no_loop_here(self._plan.where.removesuffix(".run_batch"), "arun_batch")
        return self._iterate()

    def _iterate(self) -> Iterator[ProgramState]:
        finished = self._finished_on_loop() if self._is_async else self._finished()
        with Progress(self._plan.rows, self._plan.progress) as bar, closing(finished):
            waiting: set[int] = set()
            for i in finished:
                bar.finished(self._instances.get(i))
                waiting.add(i)
                while waiting and (not self._plan.ordered or self._given in waiting):
                    turn = self._given if self._plan.ordered else waiting.pop()
                    waiting.discard(turn)
                    if self._error(turn) is not None and not self._keeps(turn):
                        self._raise(turn)
                    state = self._instances.pop(turn).state
                    with self._news:
                        self._given += 1
                        self._news.notify_all()
                    yield state

    def _look(self, i: int, bar: Progress, failed: dict[int, BaseException]) -> None:
        bar.finished(self._instances.get(i))
        if (error := self._error(i)) is not None and not self._keeps(i):
            failed[i] = error
            self._stop()  # what runs may finish; nothing more starts

    def _states(self, failed: dict[int, BaseException]) -> list[ProgramState]:
        if not failed:
            return [self._instances[i].state for i in range(self._plan.rows)]
        first = min(failed)
        error = failed[first]
        with suppress(Exception):  # some exceptions take no attributes
            error.states = [  # type: ignore[attr-defined]
                self._instances[i].state if i in self._instances else None for i in range(self._plan.rows)
            ]
        self._raise(first)

    def _error(self, i: int) -> BaseException | None:
        """The original error of a finished row."""
        instance = self._instances.get(i)
        return self._unstartable[i] if instance is None else instance.body.error or instance.cursor.branch.error

    def _raise(self, i: int) -> NoReturn:
        """Raise it, with a note of the row. (An error that is only kept gets none: many rows may share it.)"""
        error, instance = self._error(i), self._instances.get(i)
        assert error is not None
        if instance is not None:
            note(instance.cursor.explain(error), f"in row {i} of {self._plan.where}")
        raise error

    def _keeps(self, i: int) -> bool:
        return self._plan.keep and i in self._instances  # a row that could not start has no state to give

    # -- plain functions: a pool of threads
    def _finished(self) -> Generator[int, None, None]:
        """Rows in the order in which they finish. Closing stops and cancels the rest."""
        for _ in range(min(self._plan.threads, self._plan.rows)):
            start_thread("batch", self._work)
        left = self._plan.rows
        try:
            while left and (i := self._wait()) is not None:
                left -= 1
                yield i
        finally:
            if left:
                self._stop()
                for instance in list(self._instances.values()):
                    if not instance.body.ended or instance.cursor.pending():
                        instance.cursor.cancel()

    def _wait(self) -> int | None:
        """The next row to finish; None when no more will. Drives the backend while programs wait for it."""
        assert self._backend is not None
        while True:
            with self._news:
                if self._done:
                    return self._done.popleft()
                if self._stopping and not self._unfinished:
                    return None
                if self._unfinished == self._bodies:  # only Python is running
                    self._news.wait()
                    continue
                anyone = self._any = Handle("run_batch")
            self._backend.wait(anyone)

    def _work(self) -> None:
        """One thread of the pool."""
        while (i := self._take()) is not None:
            try:
                instance = self._start(i)
            except BaseException as error:
                self._unstartable[i] = error
                self._finish(i, body=True)
                continue
            self._instances[i] = instance
            if self._stopping:
                instance.cursor.cancel()
            instance.execute()
            self._watch(i, instance)

    def _take(self) -> int | None:
        with self._news:
            while not self._stopping and self._next < self._plan.rows:
                if self._unfinished < self._plan.in_flight and self._next - self._given < self._plan.window:
                    self._next += 1
                    self._unfinished += 1
                    self._bodies += 1
                    return self._next - 1
                self._news.wait()
            return None

    def _watch(self, i: int, instance: Instance) -> None:
        """The body has ended: the row is finished when everything it said is."""
        with self._news:
            self._bodies -= 1
            self._news.notify_all()  # the waiter may have to drive now
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

    def _finish(self, i: int, body: bool = False) -> None:
        with self._news:
            self._bodies -= body
            self._unfinished -= 1
            self._done.append(i)
            self._news.notify_all()
            anyone, self._any = self._any, None
        if anyone is not None:
            anyone.finish(None)

    def _stop(self) -> None:
        with self._news:
            self._stopping = True
            self._news.notify_all()

    # -- coroutines
    async def _finished_async(self) -> AsyncGenerator[int, None]:
        """The same on the running loop. Plain bodies run on daemon threads, `plan.threads` at a time."""
        bodies = asyncio.Semaphore(self._plan.in_flight if self._is_async else self._plan.threads)
        running: set[asyncio.Task[int]] = set()
        try:
            while True:
                while (
                    len(running) < self._plan.in_flight
                    and self._next < self._plan.rows
                    and not self._stopping
                    and self._next - self._given < self._plan.window
                ):
                    running.add(asyncio.get_running_loop().create_task(self._row(self._next, bodies)))
                    self._next += 1
                if not running:
                    return
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for i in sorted(task.result() for task in ended):
                    yield i
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _row(self, i: int, bodies: asyncio.Semaphore) -> int:
        try:
            async with bodies:
                try:
                    instance = self._instances[i] = self._start(i)
                except Exception as error:
                    self._unstartable[i] = error
                    return i
                if self._is_async:
                    await instance.execute_async()
                else:
                    await in_thread(instance.name, instance.execute)
            for barrier in instance.cursor.barriers():
                await instance.cursor.backend.wait_async(barrier)
        except asyncio.CancelledError:
            if i in self._instances:
                self._instances[i].cursor.cancel()
            raise
        return i

    def _finished_on_loop(self) -> Generator[int, None, None]:
        """Async programs for a caller without a loop: a private one runs while the caller waits for the next row."""
        loop = asyncio.new_event_loop()
        finished = self._finished_async()
        row: asyncio.Task[int] | None = None
        try:
            while True:
                row = loop.create_task(_next(finished))
                try:
                    i = loop.run_until_complete(row)
                except StopAsyncIteration:
                    return
                yield i
        finally:
            if row is not None:  # Ctrl-C leaves it unfinished, and a generator that runs cannot be closed
                row.cancel()
                loop.run_until_complete(asyncio.gather(row, return_exceptions=True))
            loop.run_until_complete(finished.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _next(rows: AsyncIterator[int]) -> int:
    return await rows.__anext__()
