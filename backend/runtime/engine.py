"""The engine: interprets ops, runs steps, hands out results. A plain object with `step()`.

Owns: the life of every branch, the list of those that want a step, and the order in which things happen. Everything
here runs under one lock (`drive.py` says who holds it); branches enqueue from any thread through `notify`.

A step is `launch()` (interpret ops, plan, send it on its way) then `collect()` (take the answers, finish what is
finished). Where the executor runs ahead, the next step is launched before this one is collected: a token that is not
known yet is stood for by its place among the answers (`Branch.run_ahead`), and a text that turns out to have ended
there falls back. A step happens whole or not at all: if its launch raises, the watermarks it raised are lowered again
and the branches in it fail with the original error; nothing else is lost.

Invariants: at most one step is in flight between two calls of `step()`; a branch that an answer in flight is for takes
part in a plan only if it runs ahead.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...lang.errors import BackendError, Cancelled, OutOfMemory
from ..base import StepRecord
from .drive import Drive
from .grammar.compile import Grammars
from .job.job import Job
from .kv.pool import SCRATCH, SlotPool
from .kv.tree import Tree
from .meter import Meter
from .options import EngineOptions
from .program.admission import Admission, Program, by_order
from .program.branch import Branch, ForkOp, HoldOp, RestOp, SyncOp, TokensOp, refuse
from .program.ops import Ops
from .sample.noise import mix
from .step.executor import Executor, executor_of
from .step.flight import answered, ask, begin_masks, goes_on, run_ahead
from .step.packed import Model
from .step.scheduler import Scheduler, undo
from .step.span import Draft, Step
from .text.tokenizer import Tokenizer

SHARE_FROM = 16
"""New constant text of at least this many tokens is laid into the tree, where others find it; less rides along."""


class Engine:
    """One model, one pool, one tree; any number of branches."""

    def __init__(self, model: Model, tokenizer: Tokenizer, options: EngineOptions) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self.tree = Tree(SlotPool(options.pool_tokens), options.reuse)
        model.allocate(options.pool_tokens + SCRATCH)
        self.executor: Executor = executor_of(model, tokenizer.vocab_size, options)
        self.attached: dict[Branch, None] = {}
        self.scheduler = Scheduler(self.tree, options, self.attached)
        self.admission = Admission(self.tree, options.context_length)
        self.active: list[Branch] = []  # branches of admitted programs with a job, sorted by order
        self.inbox: deque[Branch] = deque()
        self.drive = Drive(self)
        self.programs = 0
        self.grammars = Grammars(tokenizer, model.vocab_size, options.grammar_backend)
        self.ops = Ops(tokenizer, options, self.grammars, self._activate, self.notify)
        self._masks = ThreadPoolExecutor(1, "sgl-masks")  # starts its thread with the first constrained gen
        self._numbers = itertools.count(1)  # atomic: programs are opened from any thread
        self.steps = 0
        self.rows = 0
        self._fresh: list[Branch] = []  # active since the last plan (or an interruption), or warming up
        self._timed: dict[Branch, None] = {}  # branches with a job that may run out of time
        self._worked = 0.0  # when the last step ended
        self.meter = Meter()
        self._lingering: dict[Branch, None] = {}  # closing, with a fork that some child was still needing
        self.flying: Step | None = None  # launched, not collected
        self.landing = 0  # number of the step that is being collected, or was last
        self.watchers: list[Callable[[StepRecord], None]] = []  # replaced, never changed: read without a lock
        self.closed: BaseException | None = None

    # -- from any thread
    def open(
        self, seed: int | None = None, path: int = 0, timeout: float | None = None, caller: Program | None = None
    ) -> Branch:
        """A new empty branch. Without `seed`, its noise is the runtime's next."""
        number = self.programs = next(self._numbers)
        program = Program(number, mix(self.options.seed, number) if seed is None else seed, timeout, caller)
        return Branch(self, self.tree, program, (number,), path)

    def notify(self, branch: Branch, wake: bool = True) -> None:
        """The branch has news: ops, a failure, an end. Without `wake` this takes no lock."""
        if not branch.queued:
            branch.queued = True
            self.inbox.append(branch)
            if wake:
                self.drive.wake()

    def poke(self) -> None:
        """Take notice of the inbox now if nobody is driving (who drives takes notice by itself)."""
        with self.drive.held(blocking=False) as mine:
            if mine:
                self.take_inbox()

    # -- one step
    def step(self) -> bool:
        """Run one step; False if there was nothing to do.

        An error of the engine itself (not of a model, a branch or a choice method: those are theirs) closes the
        runtime: everything that waits fails with `BackendError`, nothing hangs.
        """
        try:
            worked = self.flying is not None and not goes_on(self.flying) and self.land()
            step = self.launch()
            worked |= self.land()
            self.flying = step
            if step is not None and not self.executor.ahead:
                self.land()
            self._worked = time.monotonic() if worked or step is not None else self._worked
            return worked or step is not None
        except Exception as error:
            broken = BackendError(f"internal error, please report it: {type(error).__name__}: {error}")
            broken.__cause__ = error
            self.shut_down(broken)
            raise broken from error

    def land(self) -> bool:
        """Collect the step in flight, if there is one."""
        step, self.flying = self.flying, None
        if step is not None:
            try:
                self.collect(step)
            except BaseException:
                self._forget()
                raise
        return step is not None

    def _forget(self) -> None:
        """An interruption: answers are lost, so whoever asked asks again, and whoever got one is looked at again."""
        self.flying = None
        self._fresh = list(self.active)
        for branch in [*self.active, *self.admission.waiting]:
            if branch.asked_in and branch.job is not None:
                branch.fall_back()
                branch.job.park(branch)

    def _tell(self, step: Step) -> None:
        """Whoever watches learns of a step that is over."""
        self.meter.tick(self, step)
        if self.watchers:
            fixed = step.rows - step.sampled
            record = StepRecord(step.number, step.began, time.monotonic(), step.rows, fixed, step.branches)
            for watcher in self.watchers:
                watcher(record)

    def launch(self) -> Step | None:
        """Interpret news, plan, and send the step through the model. Branches that cannot go on fail here."""
        while True:
            self.take_inbox()
            self._expire()
            self._admit()
            if not self.active:
                self._fresh.clear()
                return None
            if self.flying is not None:
                run_ahead(self.flying)
            draft, starved = self.scheduler.plan(self.active)
            for victim in self.scheduler.evicted:
                self._send_back(victim)
            if starved is not None:
                if self.flying is not None:
                    return None  # its answers may end the very text that wants room
                self._fail(starved[0], self._out_of_memory(*starved))
                continue
            if self._finish_settled(self._without_span()) and not draft.spans:
                continue  # what follows those jobs may want a span
            if not draft.spans and self.flying is not None:
                return None  # all wait for its answers
            assert draft.spans, f"{len(self.active)} branches want a step and none has a span"
            step = self._send(draft)
            if step is not None:
                return step

    def _send(self, draft: Draft) -> Step | None:
        """Send a step through the model and ask for what is wanted of it; None if that failed."""
        spans = draft.spans
        try:
            masks = begin_masks(spans, self._masks)
            flight = self.executor.launch(draft.pack())
        except BaseException as error:
            undo(spans)
            if not isinstance(error, Exception):
                raise  # an interruption: the step did not happen, and everything is as it was
            self._fail_step([span.branch for span in spans], error)
            return None
        step = Step(self.scheduler.number, self.scheduler.now, len(draft.tokens), spans, flight)
        self.steps += 1
        self.rows += step.rows
        try:
            if masks is not None:
                masks.result()
            ask(step, self._fail)
        except BaseException:
            for span in spans:
                span.branch.asked_in = step.number  # as good as asked: what was launched will not be answered
            self._forget()
            raise
        return step

    def _admit(self) -> None:
        """Let waiting branches in, as far as their programs fit; one where nobody has run for a while."""
        self.admission.let_go()
        if self.admission.waiting:
            idle = not self.active and time.monotonic() - self._worked > self.admission.grace
            for branch in self.admission.admit(idle):
                self._run(branch)

    def _run(self, branch: Branch) -> None:
        insort(self.active, branch, key=by_order)
        self._fresh.append(branch)

    def _send_back(self, victim: Branch) -> None:
        """It gave up its KV: its program is to be admitted anew, unless another of its branches is in this step."""
        program = victim.program
        mine = [branch for branch in self.active if branch.program.account is program.account]
        if not program.account.admitted or any(branch.planned_in == self.scheduler.number for branch in mine):
            return
        self.admission.revoke(program.account)
        for branch in mine:
            self.active.remove(branch)
            self.admission.add(branch)

    def _without_span(self) -> list[Branch]:
        """Branches without a span in the step just planned whose job may need no (more) step: those that have just
        begun, and those that wait for tokens which others may compute."""
        number = self.scheduler.number
        fresh = [b for b in self._fresh if b.job is not None and not b.asked_in]
        found = [b for b in fresh if not b.waiting and b.planned_in != number]
        self._fresh = [b for b in self._fresh if b.job is not None and type(b.job) is Job]
        return found

    def collect(self, step: Step) -> None:
        """Hand the answers to their readers, finish what is finished."""
        self.landing = step.number
        try:
            answered(step, self._fail)
        except Exception as error:
            self._fail_step([span.branch for span in step.asked if span.branch.job is span.job], error)
        self._tell(step)  # first: whoever waits for a call may look at its steps
        self._finish_settled(list(dict.fromkeys([s.branch for s in step.spans if not s.branch.asked_in])))

    def _finish_settled(self, branches: list[Branch]) -> int:
        finished = 0
        for branch in branches:
            job = branch.job
            if job is not None and not branch.asked_in and job.settled(branch):
                self._deactivate(branch)
                if self._guarded(branch, job.close, branch):
                    self.meter.ended.add(job.usage)
                    branch.job = None
                    self.admission.call_ends(branch)
                    self._advance(branch)
                finished += 1
        return finished

    def _guarded(self, branch: Branch, call: Any, *args: Any) -> bool:
        """Run one branch's part of a step; its errors are its own, and so is an interruption in the middle of it."""
        try:
            call(*args)
            return True
        except BaseException as error:
            self._fail(branch, error)
            if not isinstance(error, Exception):
                raise
            return False

    # -- branches and their ops
    def take_inbox(self) -> None:
        """Take notice of all news; a branch that lingered for its children goes with the last of them."""
        self._take_news()
        while gone := [b for b in self._lingering if b.closed or b.error is not None or self._drop_after_forks(b)]:
            for branch in gone:
                del self._lingering[branch]
                self._close(branch)
            self._take_news()

    def _take_news(self) -> None:
        while self.inbox:
            branch = self.inbox.popleft()
            branch.queued = False
            if branch.error is not None or self.closed is not None:
                self._fail(branch, branch.error or self.closed or BackendError("the runtime was shut down"))
            elif branch.closing and self._drop_after_forks(branch):
                self._close(branch)
            elif branch.closing and (branch.job is not None or branch.waits_for is not None or not branch.born):
                self._lingering[branch] = None
            elif branch.born:
                self._advance(branch)

    def _drop_after_forks(self, branch: Branch) -> bool:
        """Refuse a closing branch's ops after its last fork (children still need what is before it); True if no fork is
        left, so that the branch can go."""
        error = closed_early()
        while branch.ops and not (isinstance(op := branch.ops[-1], ForkOp) and not all(map(_gone, op.children))):
            refuse(branch.ops.pop(), error)
        return not branch.ops

    def _advance(self, branch: Branch) -> None:
        """Interpret ops until one needs the model, or none is left."""
        try:
            while branch.job is None and branch.waits_for is None and branch.ops:
                op = branch.ops.popleft()
                if isinstance(op, tuple):
                    branch.pending.append(op)
                else:
                    self._interpret(branch, op)
        except Exception as error:
            self._fail(branch, error)
            return
        if branch.closing and branch.job is None and branch.waits_for is None:
            self._close(branch)

    def _interpret(self, branch: Branch, op: Any) -> None:
        if isinstance(op, SyncOp):
            op.handle.finish(None)
        elif isinstance(op, RestOp):
            if all(isinstance(op, SyncOp) for op in branch.ops):
                branch.park()
                self.admission.over(branch)
        elif isinstance(op, ForkOp):
            try:
                self.ops.fork(branch, op.children)
            except Exception as error:
                refuse(op, error)
                raise
        elif isinstance(op, HoldOp):
            branch.hold_for(op.until)
        elif isinstance(op, TokensOp):
            self.ops.append(branch, op.tokens)
        else:
            try:
                self.ops.begin(branch, op)
            except Exception as error:
                op.handle.finish(None, error)
                raise

    def _activate(self, branch: Branch, job: Job) -> None:
        share_from = 0 if branch.newborn else SHARE_FROM  # siblings of a fork often begin alike
        if branch.attached and len(branch.tail) - branch.tail_computed > share_from:
            branch.settle()
        branch.newborn = False
        branch.job = job
        self.admission.call_begins(branch)
        if branch.program.deadline is not None or job.timeout is not None:
            self._timed[branch] = None
        if branch.program.account.admitted:
            self._run(branch)
        else:
            self.admission.add(branch)  # the next launch may let it in

    def _deactivate(self, branch: Branch) -> None:
        self._timed.pop(branch, None)
        if (i := self._place(branch)) is not None:
            del self.active[i]
            return
        self.admission.remove(branch)

    def _place(self, branch: Branch) -> int | None:
        """Where an active branch is in the list (n samples of one gen share an order)."""
        i = bisect_left(self.active, branch.order, key=by_order)
        while i < len(self.active) and self.active[i].order == branch.order:
            if self.active[i] is branch:
                return i
            i += 1
        return None

    # -- ends
    def _close(self, branch: Branch) -> None:
        if branch.closed:
            return
        branch.closed = True
        if branch.job is not None or branch.waits_for is not None or branch.ops:
            self._fail(branch, closed_early())
        branch.park()
        branch.tail, branch.pending = [], []
        self.admission.over(branch)

    def _fail(self, branch: Branch, error: BaseException) -> None:
        self._deactivate(branch)
        if branch.job is not None:
            self.admission.call_ends(branch)
        branch.fail(error)
        self.admission.over(branch)

    def _fail_step(self, branches: list[Branch], error: Exception) -> None:
        failed = BackendError(f"the model's forward failed: {type(error).__name__}: {error}")
        wrapped = error if isinstance(error, MemoryError) else failed
        wrapped.__cause__ = error if wrapped is not error else None
        for branch in dict.fromkeys(branches):
            self._fail(branch, wrapped)

    def _expire(self) -> None:
        if not self._timed:
            return
        now = time.monotonic()
        for branch in list(self._timed):
            if branch.program.deadline is not None and now > branch.program.deadline:
                self._fail(branch, branch.program.timeout_error(branch.job.where if branch.job else "program"))
            elif branch.job is not None and branch.job.overdue(now):
                self._fail(branch, branch.job.timeout_error())

    def _out_of_memory(self, branch: Branch, need: int) -> OutOfMemory:
        where = branch.job.where if branch.job else "program"
        pinned = sum(b.computed for b in self.attached if b.pinned)
        return OutOfMemory(
            f"{where}: the KV pool is too small for this one request: its text is {branch.length} tokens long and it "
            f"needs {need} more slots at once; the pool has {self.options.pool_tokens}"
            f"{f', of which {pinned} are pinned by cache_prefix' if pinned else ''}; "
            f"raise max_total_tokens= or shorten the program"
        )

    def shut_down(self, error: BackendError | None = None) -> None:
        """Fail everything that is still running, and everything that comes later; let go of the model."""
        if self.closed is None:
            self.closed = error or BackendError("the runtime was shut down; make a new sgl.Runtime()")
        for branch in [*self.active, *self.admission.waiting, *self.attached]:
            branch.doom(self.closed)
        self.take_inbox()
        self._masks.shutdown(wait=False)
        self.flying = None
        self.model = self.executor = None  # type: ignore[assignment]  # nothing runs any more; its memory is free

    def flush(self) -> bool:
        """Drop all KV that no live branch holds."""
        self.land()
        self.take_inbox()
        self.tree.evict(self.options.pool_tokens)
        return True


def _gone(child: Branch) -> bool:
    return child.closed or child.error is not None


def closed_early() -> Cancelled:
    return Cancelled(
        "the branch was closed before this finished; keep the program state for as long as its values are needed"
    )
