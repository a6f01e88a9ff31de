"""The engine: plans steps, sends them through the model, and hands out the answers. A plain object with `step()`.

Knows nothing of text or grammars, nor of how a model computes. Everything here runs under one lock (`drive.py` says
which thread holds it); branches enqueue from any thread (`program/branch.py`).

1. At most one step is in flight between two calls of `step()`.
2. A branch that an answer in flight is for takes part in a plan only if it runs ahead (`step/flight.py`).
3. A step happens whole or not at all. If its launch raises, the watermarks that its plan raised are lowered again. The
   branches in the step fail with the original error; nothing else is lost.
4. Only an error of the engine's own bookkeeping closes the runtime. Then everything that waits fails: nothing hangs.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ...lang.advice import Advice
from ...lang.errors import BackendError, OutOfMemory
from ..base import StepRecord
from ..contain import is_interruption, said
from .draft.grammar_source import GrammarSource
from .draft.speculation import Speculation
from .draft.suffix_source import SuffixSource
from .drive import Drive
from .grammar.compile import Grammars
from .job.job import JobContext
from .job.told import StepClock
from .kv.pool import SCRATCH, SlotPool
from .kv.tree import Tree
from .meter import Meter, log
from .options import EngineOptions
from .program.branch import Branch
from .program.branches import Branches
from .program.program import Program
from .sample.noise import mix
from .sizes import allocate
from .step.executor import Executor, executor_of
from .step.flight import ask, begin_masks, goes_on, hand_out, run_ahead
from .step.packed import Model
from .step.scheduler import Scheduler, Starved
from .step.step import Step
from .text.tokenizer import Tokenizer

MANY_NEWS = 1000
"""Branches with news that nobody took notice of, from which on opening another one does."""
HOST_SLOPE, DEVICE_SLOPE = 0.3, 0.02
"""What a row more adds to a step of one row, of its time, until it is measured."""


class Engine:
    """One model, one pool, one tree; any number of branches."""

    def __init__(self, model: Model, tokenizer: Tokenizer, options: EngineOptions) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self.tree = Tree(SlotPool(options.pool_tokens), options.reuse)
        allocate(model, options.pool_tokens + SCRATCH)
        self.executor: Executor = executor_of(model, tokenizer.vocab_size, options)
        self.grammars = Grammars(tokenizer, model.vocab_size, options.grammar_backend)
        self.meter = Meter()
        self.clock = StepClock()
        self.drive = Drive(self)
        context = JobContext(tokenizer, options.context_length, self.meter, self.clock, Advice())
        self.branches = Branches(self.tree, context, self.grammars, self.drive.wake, self.look)
        self.branches.admission.called_since = self.drive.called_since
        self.scheduler = Scheduler(self.tree, options, self.clock, self.branches.attached)
        ahead = self.executor.ahead
        self.speculation = Speculation(DEVICE_SLOPE if ahead else HOST_SLOPE, options.draft_tokens, ahead)
        sites = self.speculation.sites
        self.speculation.proposers += [SuffixSource(sites), GrammarSource(sites)]
        self.flying: Step | None = None  # launched and asked, not collected
        self.programs = 0
        self.watchers: list[Callable[[StepRecord], None]] = []  # replaced, never changed: read without a lock
        self._watching = threading.Lock()
        self._one_call = getattr(model, "one_call", False)
        self._masks = ThreadPoolExecutor(1, "sgl-masks")  # starts its thread with the first constrained gen
        self._numbers = itertools.count(1)  # atomic: programs are opened from any thread
        self._last_worked = 0.0  # when a step was last collected

    # -- the loop
    def step(self) -> bool:
        """Run one step; False if there was nothing to do.

        Where the executor runs ahead, the next step is planned and launched before the answers of this one are there.
        That is right because a token that is not known yet has a stand-in, which the device replaces in time. If a text
        turns out to have ended, its branch falls back, and its row was in vain. When most branches must know their
        token first (and the step is small), the answers are collected first.
        """
        try:
            worked = self.flying is not None and not goes_on(self.flying) and self.collect()
            step = self.plan()  # news taken, programs admitted, spans chosen, watermarks raised
            if step is not None and self.launch(step):  # packed, and sent through the model
                self.ask(step)  # what each wanted row is for
            if self.flying is not None:
                worked = self.collect()  # answers to their jobs; what is finished ends
            self.flying = step if step is not None and step.flight is not None else None
            if self.flying is not None and not self.executor.ahead:
                self.collect()
        except Exception as error:
            raise self._broken(error) from error
        return worked or step is not None

    def plan(self) -> Step | None:
        """Plan the next step. Branches that can never run fail here. None: no branch has anything to compute now."""
        branches = self.branches
        while True:
            branches.look_around(self._last_worked)
            if not branches.running:
                branches.fresh.clear()
                return None
            if self.flying is not None:
                run_ahead(self.flying)
            self.speculation.propose(branches.running)
            step, starved = self.scheduler.plan(branches.running)
            if self.scheduler.evicted:
                branches.send_back(self.scheduler.evicted, step.number)
            if starved is not None:
                if self.flying is not None:
                    return None  # its answers may end the very text that wants room
                branches.fail(starved.branch, self._out_of_memory(starved))
                continue
            try:
                finished = branches.fresh and branches.finish_settled(branches.without_span(step.number))
            except BaseException:  # an interruption: this step will not happen, and jobs are looked at again
                self.scheduler.undo(step)
                branches.fresh = list(branches.running)
                raise
            if step.spans:
                return step
            if not finished:
                assert self.flying is not None, f"{len(branches.running)} branches want a step and none has a span"
                return None  # all wait for its answers
            # else what follows those jobs may want a span

    def launch(self, step: Step) -> bool:
        """Send a step through the model. False if that failed: then its branches have failed."""
        try:
            step.masks = begin_masks(step, self._masks, self._one_call)
            step.flight = self.executor.launch(step.pack())
        except BaseException as error:
            self.scheduler.undo(step)
            if is_interruption(error):
                raise  # the step did not happen, and everything is as it was
            self._fail_step([span.branch for span in step.spans], error)
            return False
        self.meter.steps += 1
        self.meter.rows += len(step.tokens)
        return True

    def ask(self, step: Step) -> None:
        """Ask what is wanted of the rows of a launched step."""
        try:
            if step.masks is not None:
                step.masks.result()
            ask(step, self.branches.fail)
        except BaseException:
            for span in step.spans:
                span.branch.asked_in = step.number  # as good as asked: what was launched will not be answered
            self._forget()
            raise

    def collect(self) -> bool:
        """Collect the step in flight: hand its answers to their jobs, and finish those that are over. False if no step
        is in flight."""
        step, self.flying = self.flying, None
        if step is None:
            return False
        self.clock.landing = step.number
        try:
            try:
                hand_out(step, self.branches.fail)
            except BaseException as error:
                if is_interruption(error):
                    raise
                self._fail_step([span.branch for span in step.asked if span.branch.job is span.job], error)
            self.speculation.learn(step, self.meter.tokens)
            self._tell(step)  # first: a thread that waits for a call may look at the call's steps
            self.branches.finish_settled(list(dict.fromkeys([s.branch for s in step.spans if not s.branch.asked_in])))
        except BaseException:
            self._forget()
            raise
        self._last_worked = time.monotonic()
        return True

    def _tell(self, step: Step) -> None:
        """Tell the log and the watchers of a step that is over."""
        if log.isEnabledFor(logging.INFO) and self.meter.is_due():
            branches, running = self.branches, step.count_branches()
            queued = len(branches.running) + sum(1 for _ in branches.admission.waiting()) - running
            self.meter.write_line(running, queued, self.tree, getattr(self.executor, "outside", 0))
        if self.watchers:
            prompt_rows = step.rows - step.sampled_rows
            ended = time.monotonic()
            record = StepRecord(step.number, step.began, ended, step.rows, prompt_rows, step.count_branches())
            for watcher in self.watchers:
                try:
                    watcher(record)
                except BaseException:  # its own error: neither the engine's nor another listener's
                    log.exception("a listener of steps raised; it is told of no more steps")
                    self.unwatch(watcher)

    def _forget(self) -> None:
        """Take back what is in flight after an interruption: its answers are lost. Jobs that asked ask again, and jobs
        that got an answer are looked at again."""
        self.flying = None
        self.branches.fresh = list(self.branches.running)
        for branch in [*self.branches.running, *self.branches.admission.waiting()]:
            if branch.asked_in and branch.job is not None:
                branch.fall_back()
                branch.job.park()

    def _fail_step(self, branches: list[Branch], error: BaseException) -> None:
        failed = BackendError(f"the model's forward failed: {said(error)}")
        wrapped = error if isinstance(error, MemoryError) else failed
        wrapped.__cause__ = error if wrapped is not error else None
        for branch in dict.fromkeys(branches):
            self.branches.fail(branch, wrapped)

    def _out_of_memory(self, starved: Starved) -> OutOfMemory:
        job, cursor = starved.branch.job, starved.branch.cursor
        pinned = sum(b.cursor.computed for b in self.branches.attached if b.cursor.pinned)
        return OutOfMemory(
            f"{job.where if job else 'program'}: the KV pool is too small for this one request: its text is "
            f"{cursor.length} tokens long and it needs {starved.need} more slots at once; the pool has "
            f"{self.options.pool_tokens}{f', of which {pinned} are pinned by cache_prefix' if pinned else ''}; "
            f"raise max_total_tokens= or shorten the program"
        )

    # -- what a driver asks
    def has_news(self) -> bool:
        return bool(self.branches.inbox)

    def has_work(self) -> bool:
        return bool(self.branches.inbox or self.branches.running)

    def silence_seconds(self) -> float | None:
        admission = self.branches.admission
        if not admission.line:
            return None
        return min(admission.grace, admission.patience) if admission.resting else admission.grace

    # -- from any thread
    def open(
        self, seed: int | None = None, path: int = 0, timeout: float | None = None, caller: Program | None = None
    ) -> Branch:
        """A new empty branch. Without `seed`, its noise is the runtime's next."""
        if len(self.branches.inbox) >= MANY_NEWS:
            self.look()  # branches that were dropped unread would lie there until somebody drives
        number = self.programs = next(self._numbers)
        return self.branches.open(
            number, mix(self.options.seed, number) if seed is None else seed, path, timeout, caller
        )

    def look(self) -> None:
        """Take notice of news now, if no thread drives (a driver takes notice by itself)."""
        with self.drive.held(blocking=False) as mine:
            if mine:
                self.branches.take_news()

    def watch(self, listener: Callable[[StepRecord], None]) -> None:
        """Call `listener` after each step, from the thread that drives."""
        with self._watching:
            self.watchers = [*self.watchers, listener]

    def unwatch(self, listener: Callable[[StepRecord], None]) -> None:
        """Call `listener` no more."""
        with self._watching:
            self.watchers = [each for each in self.watchers if each is not listener]

    # -- counts and ends
    @property
    def steps(self) -> int:
        """Steps launched since the start."""
        return self.meter.steps

    @property
    def rows(self) -> int:
        """Rows that went through the model since the start."""
        return self.meter.rows

    @property
    def closed(self) -> BaseException | None:
        """Why the engine runs nothing any more; None: it runs."""
        return self.branches.closed

    def flush(self) -> bool:
        """Drop all KV that no live branch holds, and what drafts come from."""
        self.collect()
        self.branches.take_news()
        self.tree.evict(self.options.pool_tokens)
        self.speculation.forget()
        return True

    def shut_down(self, error: BackendError | None = None) -> None:
        """Fail everything that is still running, and everything that comes later; let go of the model."""
        self.branches.end_all(error or BackendError("the runtime was shut down; make a new sgl.Runtime()"))
        self._masks.shutdown(wait=False)
        self.flying = None
        self.speculation.proposers = []
        self.model = self.executor = None  # type: ignore[assignment]  # nothing runs any more; its memory is free

    def _broken(self, error: Exception) -> BackendError:
        """Close the runtime after an error of the engine itself (not of a model, a branch or a choice method)."""
        broken = BackendError(f"internal error, please report it: {type(error).__name__}: {error}")
        broken.__cause__ = error
        self.shut_down(broken)
        return broken
