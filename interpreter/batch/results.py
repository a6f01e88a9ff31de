"""The rows of one batch as they finish: what `batch.py` (threads) and `batch_async.py` (coroutines) share.

Owns: starting a program for a row, what became of each row, the order in which rows are given out, the journal, and
which rows have run out of time; the list of states that comes of it. Knows nothing of threads or tasks.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, SupportsIndex

from ...backend.base import Backend
from ...lang.errors import JournalError, OptionError, ProgramTimeout
from ..journal.journal import Journal
from ..journal.restored import RestoredState
from ..run import Instance
from ..source import note
from ..state import ProgramState
from ..usage import UsageTree
from .plan import BatchPlan
from .progress import Progress
from .rows import Row, Rows


class RowOutcome:
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
        self, start: Callable[[Row], Instance], rows: Rows, plan: BatchPlan, backend: Backend, journal: Journal | None
    ) -> None:
        self.start, self.rows, self.plan, self.backend, self.journal = start, rows, plan, backend, journal
        self.running: dict[int, Instance] = {}
        self.found: dict[int, RowOutcome] = {}
        self.taken = 0  # rows read: 0 .. taken-1
        self.given = 0  # rows given out
        self.timed = plan.deadline is not None  # or a row that began has a time limit
        self.failed: dict[int, BaseException] = {}
        self.unwritten: JournalError | None = None  # what the journal says of its failure

    def begin(self, row: Row) -> Instance | None:
        """Start a row; None if it is finished already (wrong, restored, or impossible to start)."""
        i = row.index
        if row.call is None:
            assert row.error is not None
            self.found[i] = RowOutcome(RestoredState.failed(row.error), None, row.error)
            return None
        if self.journal is not None:
            try:
                restored = self.journal.restored(i, row.call)
            except OptionError as error:  # arguments that cannot be known again
                self.found[i] = RowOutcome(RestoredState.failed(error), None, error)
                return None
            if restored is not None:
                self.found[i] = RowOutcome(RestoredState(restored), None, None)
                return None
        try:
            instance = self.running[i] = self.start(row)
        except BaseException as error:
            self.found[i] = RowOutcome(None, None, error, kept=False)
            return None
        self.timed |= instance.deadline is not None
        return instance

    def end(self, i: int) -> None:
        """A started row is finished: its body has ended, and so has everything it said."""
        instance = self.running.pop(i)
        error = instance.body.error or instance.line.branch.error
        self.found[i] = RowOutcome(instance.state, instance, error)

    def seen(self, i: int, bar: Progress) -> RowOutcome:
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

    def fails(self, found: RowOutcome) -> bool:
        return found.error is not None and not (self.plan.keep and found.kept)

    def missing(self) -> Iterator[int]:
        """After a `batch_timeout`, with errors kept: the rows that never began, each with that error."""
        if self.plan.expired and self.plan.keep and self.rows.total is not None:
            for i in range(self.taken, self.rows.total):
                why = self.plan.timeout_error()
                self.found[i] = RowOutcome(RestoredState.failed(why), None, why)
                yield i

    def states(self) -> States:
        """Every row's state, in order. Raises the first row's error, with all states as its `.states`."""
        self._raise_if_late()
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
            note(found.instance.line.explain(found.error), f"in row {i} of {self.plan.where}")
        raise found.error

    def _raise_if_late(self) -> None:
        """A batch that was cut short says so, unless errors are kept: then each row says it."""
        if self.plan.expired and not self.plan.keep:
            error = self.plan.timeout_error()
            error.states = self.so_far()  # type: ignore[attr-defined]
            raise error

    def end_of_stream(self) -> None:
        self._raise_if_late()
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
        if not self.timed:
            return None  # most batches: rows are many, and this is asked for each
        times = [i.deadline for i in list(self.running.values()) if i.deadline is not None and not i.body.ended]
        if self.plan.deadline is not None and not self.plan.expired:
            times.append(self.plan.deadline)
        return max(0.0, min(times) - time.monotonic()) if times else None


class States(list[ProgramState]):
    """The states of a batch, in the rows' order: a list that also knows what went wrong and what it cost."""

    def __init__(self, where: str, states: Iterable[ProgramState]) -> None:
        super().__init__(states)
        self._where = where

    @property
    def errors(self) -> dict[int, BaseException]:
        """Row -> its error, for the rows that failed."""
        found = ((i, state.error()) for i, state in enumerate(self))
        return {i: error for i, error in found if error is not None}

    @property
    def usage(self) -> UsageTree:
        """What the batch cost, a branch a row."""
        return UsageTree.of_batch(f"{self._where}, {len(self)} rows", [state.usage for state in self])

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise OptionError(
            "the states of a batch are live and cannot be copied or pickled: keep s.text() or s.messages()"
        )
