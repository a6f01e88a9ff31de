"""A batch on an event loop: of async programs, or (`arun_batch`) of plain ones, whose bodies run on daemon threads.

Knows nothing of how rows are given out (`batch.py`). There is a task for each row, and one that reads the next row
where that has to be awaited. Everything runs on the loop; every change that `next_row` waits for sets `_news`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from typing import Any

from ...backend.waiting import iterate_async, suspend_on
from ..run import CLEANUP_SECONDS
from ..state import ProgramState
from .batch import RowBatch
from .progress import Progress
from .results import Results, States
from .rows import Row


class TaskBatch(RowBatch):
    """A batch whose rows are tasks of one loop."""

    def __init__(self, results: Results, is_async: bool) -> None:
        super().__init__(results)
        self._most_bodies = self._plan.in_flight if is_async else self._plan.threads
        self._bodies = 0  # rows whose body runs
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None  # the next row, where that is awaited
        self._done: deque[int] = deque()  # finished rows that were not given out
        self._stopping = self._exhausted = self._closing = False

    # -- giving out
    async def arun(self) -> States:
        """Wait for every row; their states."""
        async with self._running() as bar:
            await suspend_on(self._all(bar))
        return self._results.states()

    async def aiterate(self) -> AsyncIterator[ProgramState]:
        """Give rows as they finish, in order or as completed. Closing the iterator cancels the rest."""
        async with self._running() as bar, aclosing(iterate_async(self._each(bar))) as states:
            async for state in states:
                yield state
        self._results.end_of_stream()

    def run(self) -> States:
        """Run for a caller without a loop."""
        return asyncio.run(self.arun())

    def iterate(self) -> Iterator[ProgramState]:
        """Run for a caller without a loop: a private loop runs while the caller waits for the next row."""
        loop = asyncio.new_event_loop()
        states = self.aiterate()
        row: asyncio.Task[ProgramState] | None = None
        try:
            while True:
                row = loop.create_task(_next(states))
                try:
                    state = loop.run_until_complete(row)
                except StopAsyncIteration:
                    return
                yield state
        finally:
            if row is not None:  # Ctrl-C leaves it unfinished, and a generator that runs cannot be closed
                row.cancel()
                loop.run_until_complete(asyncio.gather(row, return_exceptions=True))
            loop.run_until_complete(states.aclose())  # type: ignore[attr-defined]
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _given(self) -> None:
        self._results.given += 1

    def _stop(self) -> None:
        self._stopping = True

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Progress]:
        """Run the tasks. What still runs at the end of the block is cancelled."""
        self._news = asyncio.Event()
        with closing(self._results), self._progress() as bar:
            try:
                yield bar
            finally:
                self._closing = True
                left: set[asyncio.Task[Any]] = {*self._tasks, *([] if self._reading is None else [self._reading])}
                for task in left:
                    task.cancel()
                if left:  # a body may refuse to be cancelled
                    await asyncio.wait(left, timeout=CLEANUP_SECONDS)

    # -- the tasks
    async def next_row(self) -> int | None:
        """Wait for the next row to finish; None when no more will. Starts rows as there is room."""
        while True:
            if not self._done:
                self._start_more()  # may finish a row at once: one that was never a program
            if self._done:
                return self._done.popleft()
            if not self._tasks and (self._reading is None or self._stopping):
                return None
            self._news.clear()
            await _wait(self._news, self._results.next_deadline())
            self._give_up_late()

    def _start_more(self) -> None:
        while self._reading is None and self._may_start():
            if self._rows.is_async:
                self._reading = asyncio.get_running_loop().create_task(self._read())
            elif (row := self._rows.next()) is None:
                self._exhausted = True
            else:
                self._start(row)

    def _may_start(self) -> bool:
        return not (
            self._stopping
            or self._exhausted
            or self._bodies >= self._most_bodies
            or len(self._tasks) >= self._plan.in_flight
            or self._results.taken - self._results.given >= self._plan.window
        )

    async def _read(self) -> None:
        row = await self._rows.anext()
        self._reading = None
        if row is None:
            self._exhausted = True
        elif not self._stopping:
            self._start(row)
        self._news.set()

    def _start(self, row: Row) -> None:
        self._results.taken += 1
        self._bodies += 1
        task = asyncio.get_running_loop().create_task(self._row(row))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._news.set()

    async def _row(self, row: Row) -> None:
        i, results, in_body = row.index, self._results, True
        try:
            instance = results.begin(row)
            if instance is None:
                return
            try:
                await instance.finish_body()
            except asyncio.CancelledError:
                if self._closing:
                    instance.cancel()
                    raise
                # else the body ended with it: the row's own error
            self._bodies -= 1
            in_body = False
            self._news.set()
            try:
                await suspend_on(instance.finish_ops())
            except asyncio.CancelledError:
                instance.cancel()
                raise
            results.end(i)
        finally:
            self._bodies -= in_body
            if i in results.found:
                self._done.append(i)

    def _give_up_late(self) -> None:
        """End all rows once `batch_timeout` has passed. (A program watches its own `timeout`.)"""
        if self._plan.expired or self._plan.deadline is None or time.monotonic() < self._plan.deadline:
            return
        self._plan.expired = self._stopping = True
        for instance in list(self._results.running.values()):
            instance.give_up(self._plan.timeout_error())


async def _next(states: AsyncIterator[ProgramState]) -> ProgramState:
    return await states.__anext__()


async def _wait(news: asyncio.Event, seconds: float | None) -> None:
    if seconds is None:
        await news.wait()
        return
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except asyncio.TimeoutError:
        return
