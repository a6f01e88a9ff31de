"""What became of each row of a batch, and the list of states that comes of it.

Starts a program for a row, and notes finished rows in the journal. Tells which rows are to be given out next and which
have run out of time. Knows nothing of threads or tasks.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn, SupportsIndex, cast

from ...backend.base import Backend, Usage
from ...backend.contain import is_interruption
from ...lang.errors import JournalError, OptionError, ProgramTimeout, suggest
from ..arguments import RUN_OPTIONS, Declared, Options
from ..journal.journal import Journal
from ..journal.restored import RestoredState
from ..run import Instance, backend_here, instance_on, is_async
from ..source import note
from ..state import ProgramState
from ..usage import UsageTree
from .plan import BatchPlan
from .progress import Progress
from .rows import Row, Rows

_BATCH_OPTIONS = ("num_threads", "progress_bar", "generator_style", "on_error", "ordered", "resume", "batch_timeout")


class RowOutcome:
    """What became of a row: its state, its program, and its error or None.

    `kept`: the error is the row's own, which `on_error="keep"` keeps. (A backend that cannot open fails the batch.)
    """

    __slots__ = ("error", "instance", "kept", "state")

    def __init__(
        self, state: ProgramState | None, instance: Instance | None, error: BaseException | None, kept: bool = True
    ) -> None:
        self.state, self.instance, self.error, self.kept = state, instance, error, kept

    def cost(self) -> Usage:
        """The costs of the row in this run: nothing for a row that was restored or never ran."""
        return Usage() if self.instance is None else self.instance.line.ledger.total()


class Results:
    """The rows of one batch as they finish. `start` opens a program for a row."""

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
        self.unwritten: JournalError | None = None  # the journal's failure

    @staticmethod
    def of(
        func: Callable[..., Any],
        declared: Declared,
        bound: Mapping[str, Any],
        rows: Any,
        on_loop: bool,
        *,
        resume: Any,
        backend: Any,
        options: Mapping[str, Any],
        **plan_options: Any,
    ) -> Results:
        """Check the options and rows of a batch. `on_loop`: the batch is to be awaited."""
        where = f"{declared.name}.run_batch"
        known = (*(o for o in RUN_OPTIONS if o != "stream"), *_BATCH_OPTIONS)
        for name in options:
            if name not in known:
                raise OptionError(f"{where}: unknown option {name!r}{suggest(name, known)}")
        run_options = Options.of(where, options)
        plan = BatchPlan(where, is_async=is_async(func), **plan_options)
        read = Rows(declared, rows, bound, plan.keep, on_loop)
        target = backend_here(backend) if read.total != 0 else None
        late = plan.deadline is not None

        def start(row: Row) -> Instance:
            assert target is not None and row.call is not None
            return instance_on(target, func, declared.name, row.call, run_options, row=row.index, may_be_late=late)

        journal = None if resume is None else Journal.open(resume, declared.name)
        return Results(start, read, plan, cast(Backend, target), journal)

    def begin(self, row: Row) -> Instance | None:
        """Start a row. None if it is finished already: it is wrong, restored, or impossible to start."""
        i = row.index
        if row.call is None:
            assert row.error is not None
            self.found[i] = RowOutcome(RestoredState.failed(row.error), None, row.error)
            return None
        if self.journal is not None:
            try:
                restored = self.journal.restored(i, row.call)
            except BaseException as error:  # arguments that cannot be recognised later, or a line that is no row
                if is_interruption(error):
                    raise
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
        """Note that a started row is finished: its body has ended, and so has everything it said."""
        instance = self.running.pop(i)
        self.found[i] = RowOutcome(instance.state, instance, instance.error)

    def seen(self, i: int, bar: Progress) -> RowOutcome:
        """Look at a finished row before it is given out: note it on the bar and in the journal."""
        found = self.found[i]
        bar.finished(found.cost)
        if self.journal is not None and found.instance is not None:
            try:
                self.journal.note(i, found.instance, found.error)
            except JournalError as error:
                self._unwritten(error)
        return found

    def _unwritten(self, error: JournalError) -> None:
        """Note that the journal failed, to report it once. It harms no row.

        With `on_error="keep"` the batch goes on. Otherwise only the running rows finish.
        """
        if self.plan.keep:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        else:
            self.unwritten = error

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            try:
                self.journal.close()
            except JournalError as error:
                self._unwritten(error)

    def fails(self, found: RowOutcome) -> bool:
        """Whether a row ends the batch with its error."""
        return found.error is not None and not (self.plan.keep and found.kept)

    def missing(self) -> Iterator[int]:
        """Give the rows that never began before `batch_timeout`, each with that error, if errors are kept."""
        if self.plan.expired and self.plan.keep and self.rows.total is not None:
            for i in range(self.taken, self.rows.total):
                why = self.plan.timeout_error()
                self.found[i] = RowOutcome(RestoredState.failed(why), None, why)
                yield i

    def states(self) -> States:
        """The state of every row, in order. Raises the error of the first failed row, with all states as `.states`."""
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
        """The states there are, in order; None for a row that has none."""
        total = max(self.found, default=-1) + 1 if self.rows.total is None else self.rows.total
        return [self.found[i].state if i in self.found else None for i in range(total)]

    def raise_row(self, i: int) -> NoReturn:
        """Raise a row's error, with a note of the row. (A kept error gets no note: many rows may share it.)"""
        found = self.found[i]
        assert found.error is not None
        if found.instance is not None:
            note(found.instance.line.explain(found.error), f"in row {i} of {self.plan.where}")
        raise found.error

    def _raise_if_late(self) -> None:
        """Raise the error of a batch that was cut short, unless errors are kept: then each row has it."""
        if self.plan.expired and not self.plan.keep:
            error = self.plan.timeout_error()
            error.states = self.so_far()  # type: ignore[attr-defined]
            raise error

    def end_of_stream(self) -> None:
        """At the end of a stream, raise a timeout or the error of the journal."""
        self._raise_if_late()
        if self.unwritten is not None:
            raise self.unwritten

    def turns(self, waiting: set[int]) -> Iterator[int]:
        """Take from `waiting`, the finished rows, those that are to be given out next."""
        while waiting and (not self.plan.ordered or self.given in waiting):
            turn = self.given if self.plan.ordered else waiting.pop()
            waiting.discard(turn)
            yield turn

    def give(self, i: int) -> ProgramState:
        """Give out the state of a row and forget the row. Raises the row's error."""
        if self.fails(self.found[i]):
            self.raise_row(i)
        if self.unwritten is not None:
            raise self.unwritten
        state = self.found.pop(i).state
        assert state is not None
        return state

    def late(self, now: float) -> dict[int, ProgramTimeout]:
        """The running rows whose time is over, each with its error."""
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
            return None  # most batches have no time limit, and this is asked for each row
        times = [i.deadline for i in list(self.running.values()) if i.deadline is not None and not i.body.ended]
        if self.plan.deadline is not None and not self.plan.expired:
            times.append(self.plan.deadline)
        return max(0.0, min(times) - time.monotonic()) if times else None


class States(list[ProgramState]):
    """The states of a batch, in the rows' order: a list that also has the rows' errors and the batch's costs."""

    def __init__(self, where: str, states: Iterable[ProgramState]) -> None:
        super().__init__(states)
        self._where = where

    @property
    def errors(self) -> dict[int, BaseException]:
        """The errors of the rows that failed, by row. Waits for all rows."""
        found = ((i, state.error()) for i, state in enumerate(self))
        return {i: error for i, error in found if error is not None}

    @property
    def usage(self) -> UsageTree:
        """What the batch cost: a tree with a branch for each row."""
        return UsageTree(f"{self._where}, {len(self)} rows", Usage(), [], [state.usage for state in self])

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise OptionError(
            "the states of a batch are live and cannot be copied or pickled: keep s.text() or s.messages()"
        )
