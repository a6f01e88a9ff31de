"""The engine: interprets ops, runs steps, hands out results. A plain object with `step()`.

Owns: the life of every branch, the list of those that want a step, and the order in which things happen. Everything
here runs under one lock (`drive.py` says who holds it); branches enqueue from any thread through `notify`.

A step is `launch()` (interpret ops, plan, forward) then `collect()` (sample, read, finish), two calls from the first
day so that they can overlap on a device. A step happens whole or not at all: if the forward raises, the watermarks it
raised are lowered again and the branches in it fail with the original error; nothing else is lost.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from typing import Any

from ...lang.errors import BackendError, Cancelled, ContextOverflow, OptionError, OutOfMemory, ProgramTimeout
from .batch import Model
from .branch import Branch, ForkOp, GenOp, RestOp, ScoreOp, SyncOp, TokensOp, WarmOp
from .drive import Drive
from .gen import Gen, Samples
from .job import Job
from .noise import mix
from .options import EngineOptions
from .pool import SCRATCH, SlotPool
from .sample.sampler import Request, sample
from .scheduler import Scheduler, undo
from .score import Score
from .step import Step, pack
from .text.tokenizer import Tokenizer
from .tree import Tree

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
        self.attached: dict[Branch, None] = {}
        self.scheduler = Scheduler(self.tree, options, self.attached)
        self.active: list[Branch] = []  # branches with a job, sorted by order
        self.inbox: deque[Branch] = deque()
        self.drive = Drive(self)
        self.programs = 0
        self.steps = 0
        self.rows = 0
        self.closed: BaseException | None = None

    # -- from any thread
    def open(self, seed: int | None = None, path: int = 0, timeout: float | None = None) -> Branch:
        """A new empty branch. Without `seed`, its noise is the runtime's next."""
        self.programs += 1
        root = mix(self.options.seed, self.programs) if seed is None else mix(seed)
        deadline = None if timeout is None else time.monotonic() + timeout
        branch = Branch(self, self.tree, (self.programs,), root, path, deadline)
        branch.timeout = timeout
        return branch

    def notify(self, branch: Branch) -> None:
        """The branch has news: ops, a failure, an end."""
        if not branch.queued:
            branch.queued = True
            self.inbox.append(branch)
            self.drive.wake()

    def poke(self) -> None:
        """Take notice of the inbox now if nobody is driving (who drives takes notice by itself)."""
        if self.drive.lock.acquire(blocking=False):
            try:
                self._take_inbox()
            finally:
                self.drive.lock.release()

    # -- one step
    def step(self) -> bool:
        """Run one step; False if there was nothing to do."""
        step = self.launch()
        if step is None:
            return False
        self.collect(step)
        return True

    def launch(self) -> Step | None:
        """Interpret news, plan, and send the step through the model. Branches that cannot go on fail here."""
        self._take_inbox()
        self._expire()
        while self.active:
            spans, starved = self.scheduler.plan(self.active)
            if starved is not None:
                self._fail(starved[0], self._out_of_memory(*starved))
                continue
            if not spans:  # nothing to compute: jobs whose end was already reached
                if not self._finish_settled(list(self.active)):
                    raise AssertionError(f"{len(self.active)} branches want a step and none has a span")
                continue
            step = Step(self.scheduler.number, spans)
            try:
                step.logits = self.model.forward(pack(spans))
            except BaseException as error:
                undo(spans)
                if not isinstance(error, Exception):
                    raise  # an interruption: the step did not happen, and everything is as it was
                self._fail_step(spans, error)
                continue
            self.steps += 1
            self.rows += sum(len(span.tokens) for span in spans)
            return step
        return None

    def collect(self, step: Step) -> None:
        """Sample, hand rows to their readers, finish what is finished."""
        requests: list[Request] = []
        rows: list[int] = []
        takers: list[Branch] = []
        at = 0
        for span in step.spans:
            width, branch = len(span.want), span.branch
            job = branch.job
            if width and job is not None:
                request = job.request(branch) if span.chain is None else None
                if request is not None:
                    requests.append(request)
                    rows.append(at)
                    takers.append(branch)
                else:
                    self._guarded(branch, job.read, branch, span, step.logits[at : at + width])
            at += width
        if requests:
            logits = step.logits if len(rows) == at else step.logits[rows]
            for branch, sampled in zip(takers, sample(logits, requests, self.tokenizer.vocab_size)):
                if branch.job is not None:
                    self._guarded(branch, branch.job.accept, branch, sampled)
        self._finish_settled(list(dict.fromkeys(span.branch for span in step.spans)))

    def _finish_settled(self, branches: list[Branch]) -> int:
        finished = 0
        for branch in branches:
            job = branch.job
            if job is not None and job.settled(branch):
                self._deactivate(branch)
                if self._guarded(branch, job.close, branch):
                    branch.job = None
                    self._advance(branch)
                finished += 1
        return finished

    def _guarded(self, branch: Branch, call: Any, *args: Any) -> bool:
        """Run one branch's part of a step; its errors are its own."""
        try:
            call(*args)
            return True
        except Exception as error:
            self._fail(branch, error)
            return False

    # -- branches and their ops
    def _take_inbox(self) -> None:
        while self.inbox:
            branch = self.inbox.popleft()
            branch.queued = False
            if branch.error is not None or self.closed is not None:
                self._fail(branch, branch.error or self.closed or BackendError("the runtime was shut down"))
            elif branch.closing and not any(isinstance(op, ForkOp) for op in branch.ops):
                self._close(branch)
            elif branch.born:
                self._advance(branch)

    def _advance(self, branch: Branch) -> None:
        """Interpret ops until one needs the model, or none is left."""
        try:
            while branch.job is None and branch.ops:
                op = branch.ops.popleft()
                if isinstance(op, tuple):
                    branch.pending.append(op)
                else:
                    self._interpret(branch, op)
        except Exception as error:
            self._fail(branch, error)
            return
        if branch.closing and branch.job is None:
            self._close(branch)

    def _interpret(self, branch: Branch, op: Any) -> None:
        if isinstance(op, SyncOp):
            op.handle.finish(None)
        elif isinstance(op, RestOp):
            if not branch.ops:
                branch.park()
        elif isinstance(op, ForkOp):
            self._fork(branch, op.children)
        elif isinstance(op, TokensOp):
            self._check_ids("input_ids", op.tokens, "generate")
            self._encode_pending(branch, "generate")
            self._extend(branch, list(op.tokens), "generate")
        else:
            try:
                self._begin(branch, op)
            except Exception as error:
                op.handle.finish(None, error)
                raise

    def _begin(self, branch: Branch, op: GenOp | ScoreOp | WarmOp) -> None:
        if isinstance(op, GenOp):
            self._begin_gen(branch, op)
        elif isinstance(op, ScoreOp):
            pending, branch.pending = branch.pending, []
            prefix, tokens = self.tokenizer.encode_choices(pending, op.request.choices, first=branch.length == 0)
            self._extend(branch, prefix, op.request.where, room=max(map(len, tokens)))
            self._activate(branch, Score(branch, op.request, op.handle, tokens, self.tokenizer))
        else:
            self._encode_pending(branch, "cache_prefix")
            self._activate(branch, Job(branch, op.handle, "cache_prefix"))

    def _begin_gen(self, branch: Branch, op: GenOp) -> None:
        request, where = op.request, op.request.where
        self._check_ids("stop_token_ids", request.sampling.stop_token_ids or (), where)
        self._check_ids("logit_bias", [token for token, _ in request.sampling.logit_bias or ()], where)
        self._encode_pending(branch, where)
        if not branch.length:
            bos = self.tokenizer.bos_id
            if bos is None:
                raise OptionError(f"{where}: there is no text before it and the model has no begin token; add text")
            branch.extend([bos])
        self._extend(branch, [], where, room=1)
        samples = Samples(op.handle, request.n)
        if request.n > 1:
            branch.settle()
        branches = [branch, *(branch.child(-1, i) for i in range(1, request.n))]
        for i, each in enumerate(branches):
            if i:
                each.path = branch.path
                each.inherit(branch)
                each.closing = True  # its KV becomes cache as soon as its sample is there
                samples.others.append(each)
            self._activate(each, Gen(each, request, samples, i, self.tokenizer, self.options.context_length))
            if i and each.job is None:  # max_tokens=0: it is over already
                self._close(each)

    def _fork(self, branch: Branch, children: tuple[Branch, ...]) -> None:
        """Freeze the branch except its last token and let the children continue from there. Text whose tokens may
        still depend on what follows it is handed down as text."""
        stable, branch.pending = self.tokenizer.encode_stable(branch.pending, first=branch.length == 0)
        self._extend(branch, stable, "fork")
        if branch.length:
            branch.settle()
        for child in children:
            if child.error is None and not (child.closing and not child.ops):
                child.inherit(branch)
                self._advance(child)

    def _encode_pending(self, branch: Branch, where: str) -> None:
        pending, branch.pending = branch.pending, []
        if pending:
            self._extend(branch, self.tokenizer.encode(pending, first=branch.length == 0), where)

    def _extend(self, branch: Branch, tokens: list[int], where: str, room: int = 0) -> None:
        limit = self.options.context_length
        if branch.length + len(tokens) + room > limit:
            raise ContextOverflow(
                f"{where}: the text is {branch.length + len(tokens)} tokens long and {room} more are "
                f"needed, but the context is {limit}; shorten the text or raise context_length="
            )
        branch.extend(tokens)

    def _check_ids(self, option: str, ids: Iterable[int], where: str) -> None:
        last = self.tokenizer.vocab_size - 1
        for token in ids:
            if not isinstance(token, int) or not 0 <= token <= last:
                raise OptionError(f"{where}: {option} names token {token!r}, but token ids are 0 to {last}")

    def _activate(self, branch: Branch, job: Job) -> None:
        share_from = 0 if branch.newborn else SHARE_FROM  # siblings of a fork often begin alike
        if branch.attached and len(branch.tail) - branch.tail_computed > share_from:
            branch.settle()
        branch.newborn = False
        branch.job = job
        if isinstance(job, Gen) and job.budget == 0:
            job.finish_reason = {"type": "length", "length": 0}
            job.tries = []
            job.close(branch)
            branch.job = None
            return
        insort(self.active, branch, key=lambda b: b.order)

    def _deactivate(self, branch: Branch) -> None:
        i = bisect_left(self.active, branch.order, key=lambda b: b.order)
        while i < len(self.active) and self.active[i].order == branch.order:
            if self.active[i] is branch:
                del self.active[i]
                return
            i += 1

    # -- ends
    def _close(self, branch: Branch) -> None:
        if branch.closed:
            return
        branch.closed = True
        if branch.job is not None or branch.ops:
            self._fail(
                branch,
                Cancelled(
                    "the branch was closed before this finished; keep the program state for as "
                    "long as its values are needed"
                ),
            )
        branch.park()
        branch.tail, branch.pending = [], []

    def _fail(self, branch: Branch, error: BaseException) -> None:
        self._deactivate(branch)
        branch.fail(error)

    def _fail_step(self, spans: list[Any], error: Exception) -> None:
        wrapped = (
            error
            if isinstance(error, MemoryError)
            else BackendError(f"the model's forward failed: {type(error).__name__}: {error}")
        )
        wrapped.__cause__ = error if wrapped is not error else None
        for branch in dict.fromkeys(span.branch for span in spans):
            self._fail(branch, wrapped)

    def _expire(self) -> None:
        now = time.monotonic()
        for branch in [b for b in self.active if b.deadline is not None or (b.job and b.job.timeout is not None)]:
            if branch.deadline is not None and now > branch.deadline:
                self._fail(
                    branch,
                    ProgramTimeout(
                        f"{branch.job.where if branch.job else 'program'}: the program's "
                        f"timeout={branch.timeout:g} s passed before it finished"
                    ),
                )
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

    def shut_down(self) -> None:
        """Fail everything that is still running, and everything that comes later."""
        self.closed = BackendError("the runtime was shut down; make a new sgl.Runtime()")
        for branch in [*self.active, *self.attached]:
            self._fail(branch, self.closed)
        self._take_inbox()

    def flush(self) -> bool:
        """Drop all KV that no live branch holds."""
        self._take_inbox()
        self.tree.evict(self.options.pool_tokens)
        return True
