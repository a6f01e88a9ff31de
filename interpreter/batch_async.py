"""A batch on an event loop: of async programs, or (`arun_batch`) of plain ones, whose bodies run on daemon threads.

Owns: the tasks. What is shared with the pool of threads is `batch.py: Results`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing

from .batch import Results
from .plan import States
from .progress import Progress
from .rows import Row
from .run import no_loop_here
from .state import ProgramState


class AsyncBatch:
    """A batch whose rows are tasks of one loop."""

    def __init__(self, results: Results, is_async: bool) -> None:
        self._results, self._plan, self._rows = results, results.plan, results.rows
        self._in_flight = self._plan.in_flight
        self._threads = None if is_async else self._plan.threads
        self._stopping = self._exhausted = False

    # -- giving out
    async def arun(self) -> States:
        results = self._results
        with closing(results), Progress(self._rows.total, self._plan.progress) as bar:
            async with aclosing(self._finished()) as finished:
                async for i in finished:
                    results.given += 1
                    if results.fails(found := results.seen(i, bar)):
                        assert found.error is not None
                        results.failed[i] = found.error
                    if results.failed or results.unwritten is not None:
                        self._stopping = True  # what runs may finish; nothing more starts
        return results.states()

    async def aiterate(self) -> AsyncIterator[ProgramState]:
        results = self._results
        with closing(results), Progress(self._rows.total, self._plan.progress) as bar:
            async with aclosing(self._finished()) as finished:
                waiting: set[int] = set()
                async for i in finished:
                    results.seen(i, bar)
                    waiting.add(i)
                    for turn in results.turns(waiting):
                        state = results.give(turn)
                        results.given += 1
                        yield state
        results.end_of_stream()

    def run(self) -> States:
        """For a caller without a loop."""
        no_loop_here(self._plan.where.removesuffix(".run_batch"), "arun_batch")
        return asyncio.run(self.arun())

    def iterate(self) -> Iterator[ProgramState]:
        """For a caller without a loop: a private one runs while the caller waits for the next row."""
        no_loop_here(self._plan.where.removesuffix(".run_batch"), "arun_batch")
        return self._on_private_loop()

    def _on_private_loop(self) -> Generator[ProgramState, None, None]:
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

    # -- the tasks
    async def _finished(self) -> AsyncGenerator[int, None]:
        """Rows in the order in which they finish. Closing cancels the rest."""
        bodies = asyncio.Semaphore(self._threads or self._in_flight)
        running: set[asyncio.Task[int]] = set()
        try:
            while True:
                async for row in self._more(running):
                    running.add(asyncio.get_running_loop().create_task(self._row(row, bodies)))
                if not running:
                    break
                left = self._results.next_deadline()
                ended, running = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                self._give_up_late()
                for i in sorted(task.result() for task in ended):
                    yield i
            for i in self._results.missing():
                yield i
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _more(self, running: set[asyncio.Task[int]]) -> AsyncIterator[Row]:
        """Rows that may start now."""
        while (
            not (self._stopping or self._exhausted)
            and len(running) < self._in_flight
            and self._rows.count - self._results.given < self._plan.window
        ):
            row = await self._rows.anext()
            if row is None:
                self._exhausted = True
            else:
                yield row

    async def _row(self, row: Row, bodies: asyncio.Semaphore) -> int:
        i = row.index
        try:
            async with bodies:
                instance = self._results.begin(row)
                if instance is None:
                    return i
                await instance.finish_body()
            for barrier in instance.cursor.barriers():
                await instance.cursor.backend.wait_async(barrier)
        except asyncio.CancelledError:
            if i in self._results.running:
                self._results.running[i].cursor.cancel()
            raise
        self._results.end(i)
        return i

    def _give_up_late(self) -> None:
        """End what the batch's own time has run out for; a program's own `timeout` is watched by itself."""
        if self._plan.deadline is None or time.monotonic() < self._plan.deadline:
            return
        self._plan.expired = self._stopping = True
        for instance in list(self._results.running.values()):
            instance.give_up(self._plan.timeout_error())


async def _next(states: AsyncIterator[ProgramState]) -> ProgramState:
    return await states.__anext__()
