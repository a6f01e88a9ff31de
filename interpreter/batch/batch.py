"""A batch: its rows are given out as they finish. Knows neither threads nor tasks, which wait for the next row."""

from __future__ import annotations

from typing import Any

from ...backend.waiting import Flow, StreamFlow, Wait
from ..state import ProgramState
from .progress import Progress
from .results import Results


class RowBatch:
    """What a batch on threads (`ThreadBatch`) and one on an event loop (`TaskBatch`) have in common."""

    def __init__(self, results: Results) -> None:
        self._results, self._plan, self._rows = results, results.plan, results.rows
        self._missing = results.missing()

    def next_row(self) -> Any:
        """Wait for the next row to finish (a `TaskBatch`: give a coroutine that does); None when no more will."""
        raise NotImplementedError

    def _given(self) -> None:
        """Note that a row was given out: there may be room for another."""
        raise NotImplementedError

    def _stop(self) -> None:
        """Start no more rows; what runs may finish."""
        raise NotImplementedError

    def _progress(self) -> Progress:
        return Progress(self._rows.total, self._plan.progress)

    def _all(self, bar: Progress) -> Flow[None]:
        """Wait for every row."""
        results = self._results
        while (i := (yield from self._finished())) is not None:
            self._given()
            if results.fails(found := results.seen(i, bar)):
                assert found.error is not None
                results.failed[i] = found.error
            if results.failed or results.unwritten is not None:
                self._stop()

    def _each(self, bar: Progress) -> StreamFlow[ProgramState]:
        """Give rows as they finish, in order or as completed. Raises the error of the first that failed."""
        results, waiting = self._results, set[int]()
        while (i := (yield from self._finished())) is not None:
            results.seen(i, bar)
            waiting.add(i)
            for turn in results.turns(waiting):
                state = results.give(turn)
                self._given()
                yield state

    def _finished(self) -> Flow[int | None]:
        """The next row to finish; None after the last."""
        wait = _NextRow(self)
        yield wait
        return wait.row if wait.row is not None else next(self._missing, None)


class _NextRow(Wait):
    """Wait for the next row of a batch to finish."""

    __slots__ = ("_batch", "row")

    def __init__(self, batch: RowBatch) -> None:
        self._batch = batch
        self.row: int | None = None

    def block(self) -> None:
        self.row = self._batch.next_row()

    async def suspend(self) -> None:
        self.row = await self._batch.next_row()
