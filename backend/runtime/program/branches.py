"""All branches of one engine: their news, their jobs, and their ends.

Knows nothing of how steps are planned or computed. Everything here runs under the engine's lock, except that any thread
may put a branch with news into the inbox (`Registry.notify`).

1. `running` holds exactly the branches whose life is RUNNING, in their order (depth first by program).
2. A branch with a job is in `running`, or waits for admission.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable

from ....lang.errors import BackendError, Cancelled
from ...contain import is_interruption
from ..grammar.compile import Grammars
from ..job.job import Job, JobContext
from ..kv.tree import Tree
from .admission import Admission, by_order
from .branch import Branch, ForkOp, Life, Registry, refuse
from .ops import Ops
from .program import Program

SHARE_FROM_TOKENS = 16
"""New constant text of at least this many tokens is laid into the tree, where others find it; less rides along."""


class Branches:
    """The branches over one tree. `wake` and `look` are the driver's: see `Registry`."""

    def __init__(
        self, tree: Tree, context: JobContext, grammars: Grammars, wake: Callable[[], None], look: Callable[[], None]
    ) -> None:
        self.attached: dict[Branch, None] = {}  # those that hold KV
        self.inbox: deque[Branch] = deque()  # those with news
        self.registry = Registry(tree, wake, look, self.attached, self.inbox)
        self.admission = Admission(tree, context.context_length)
        self.running: list[Branch] = []
        self.fresh: list[Branch] = []  # whose job has just begun, or is without logits: it may need no step
        self.timed: dict[Branch, None] = {}  # whose job may run out of time
        self.lingering: dict[Branch, None] = {}  # asked to close, with a fork that some child still needs
        self.closed: BaseException | None = None  # why everything fails from now on
        self._meter = context.meter
        self._ops = Ops(context, grammars, self.activate, self.admission.over)

    def open(self, number: int, seed: int, path: int, timeout: float | None, caller: Program | None) -> Branch:
        """The first branch of program number `number`."""
        return Branch(self.registry, Program(number, seed, timeout, caller), (number,), path)

    # -- news
    def take_news(self) -> None:
        """Take notice of what happened: news of branches, deadlines that passed, programs that are over. What is
        counted or held afterwards is true without another step."""
        if self.inbox or self.lingering:
            self._look_into_inbox()
        if self.timed:
            self._expire()
        if self.admission.leaving:
            self.admission.let_go()

    def _look_into_inbox(self) -> None:
        """Take notice of all news. A branch that lingered for its children goes with the last of them."""
        self._empty_inbox()
        while self.lingering and (gone := [b for b in self.lingering if self._may_go(b)]):
            for branch in gone:
                del self.lingering[branch]
                self.close(branch)
            self._empty_inbox()

    def _empty_inbox(self) -> None:
        while self.inbox:
            branch = self.inbox.popleft()
            branch.queued = False
            branch.look_outside()
            if branch.error is not None or self.closed is not None:
                self.fail(branch, branch.error or self.closed or BackendError("the runtime was shut down"))
            elif branch.closing and _drop_after_forks(branch):
                self.close(branch)
            elif branch.closing and branch.is_busy:
                self.lingering[branch] = None
            elif branch.life is not Life.UNBORN:
                self.advance(branch)

    def _may_go(self, branch: Branch) -> bool:
        return _is_gone(branch) or _drop_after_forks(branch)

    def advance(self, branch: Branch) -> None:
        """Carry out the branch's ops until one needs the model, or none is left."""
        try:
            self._ops.advance(branch)
        except BaseException as error:  # of a gate or a tokenizer, a SystemExit too: the branch's own
            self.fail(branch, error)
            if is_interruption(error):
                raise
            return
        account = branch.account
        if not (account.calls or account.admitted) and account.attached and account not in self.admission.resting:
            self.admission.rests(account)  # forked outside its place: the branches hold what is left of its KV
        if branch.closing and not branch.is_busy:
            self.close(branch)

    # -- jobs
    def activate(self, branch: Branch, job: Job) -> None:
        """Let a job take part in steps, now or when its program is admitted."""
        cursor = branch.cursor
        is_new_fork = len(branch.order) > 1 and not cursor.high
        share_from = 0 if is_new_fork else SHARE_FROM_TOKENS  # siblings of a fork often begin alike
        if cursor.attached and len(cursor.tail) - cursor.tail_computed > share_from:
            branch.settle()
        branch.job = job
        self.admission.call_begins(branch, job.started)
        if branch.program.deadline is not None or job.timeout is not None:
            self.timed[branch] = None
        if branch.account.admitted:
            self.run(branch)
        else:
            self.admission.add(branch)  # the next step may let it in

    def run(self, branch: Branch) -> None:
        """Let a branch with a job take part in steps."""
        branch.life = Life.RUNNING
        insort(self.running, branch, key=by_order)
        self.fresh.append(branch)

    def look_around(self, silent_since: float) -> None:
        """Take notice of what happened since the last plan: news, deadlines that passed, room for waiting programs.

        `silent_since`: when a step was last collected, in seconds on the monotonic clock.
        """
        admission = self.admission
        if self.inbox or self.lingering or self.timed or admission.leaving:
            self.take_news()
        if admission.line:
            now = time.monotonic()
            idle = not self.running and now - silent_since > admission.grace
            for branch in admission.admit(now, idle):
                self.run(branch)

    def send_back(self, victims: Iterable[Branch], step: int) -> None:
        """Let the programs of branches that gave up their KV wait for a new admission.

        A program of which another branch has a span in this step stays admitted.
        """
        for victim in victims:
            account = victim.account
            mine = [branch for branch in self.running if branch.account is account]
            if account.admitted and not any(branch.planned_in == step for branch in mine):
                self.admission.revoke(account)
                for branch in mine:
                    self.running.remove(branch)
                    self.admission.add(branch)

    def without_span(self, step: int) -> list[Branch]:
        """Branches without a span in the step just planned, whose job may be over all the same.

        These are jobs that have just begun, and jobs that wait for tokens which other branches may compute.
        """
        if not self.fresh:
            return []
        fresh = [branch for branch in self.fresh if branch.job is not None]
        self.fresh = [branch for branch in fresh if type(branch.job) is Job]
        return [b for b in fresh if not b.asked_in and b.life is Life.RUNNING and b.planned_in != step]

    def finish_settled(self, branches: list[Branch]) -> int:
        """Finish the jobs of these branches that are over, and let their next ops begin; how many there were."""
        finished = 0
        for branch in branches:
            job = branch.job
            if job is None or branch.asked_in or not job.settled():
                continue
            finished += 1
            self._stop(branch)
            try:
                job.close()
            except BaseException as error:  # of a choice method, a SystemExit too: the branch's own
                self.fail(branch, error)
                if is_interruption(error):
                    raise
            else:
                self._meter.ended.add(job.usage)
                branch.finish_job()
                try:
                    self.advance(branch)
                finally:
                    self.admission.call_ends(branch)  # after: a program whose queue goes on does not rest in between
        return finished

    def _stop(self, branch: Branch) -> None:
        """Take the branch's job out of steps, or out of the line for admission."""
        self.timed.pop(branch, None)
        if branch.life is Life.RUNNING:
            i = bisect_left(self.running, branch.order, key=by_order)
            while self.running[i] is not branch:  # orders may be equal
                i += 1
            del self.running[i]
            branch.life = Life.IDLE
        elif branch.life is Life.WAITING:
            self.admission.remove(branch)
            branch.life = Life.IDLE

    # -- ends
    def close(self, branch: Branch) -> None:
        """Let a branch go: it will never be used again."""
        if branch.life is Life.CLOSED:
            return
        if branch.job is not None or branch.hold_on is not None or branch.ops:
            self.fail(branch, closed_early())
        branch.life = Life.CLOSED
        branch.park()
        branch.cursor.tail, branch.pending = [], []
        self.admission.over(branch)

    def fail(self, branch: Branch, error: BaseException) -> None:
        """Fail a branch: everything pending ends with `error`, and everything that comes later."""
        self._stop(branch)
        if branch.job is not None:
            self.admission.call_ends(branch)
        branch.fail(error)
        self.admission.over(branch)

    def _expire(self) -> None:
        """Fail the branches whose program or job has run out of time."""
        now = time.monotonic()
        for branch in list(self.timed):
            job, program = branch.job, branch.program
            if program.is_overdue(now):
                self.fail(branch, program.timeout_error(job.where if job else "program"))
            elif job is not None and job.overdue(now):
                self.fail(branch, job.timeout_error())

    def end_all(self, error: BaseException) -> None:
        """Fail every branch, and every branch that comes later."""
        self.closed = self.closed or error
        for branch in [*self.running, *self.admission.waiting(), *self.attached]:
            branch.doom(self.closed)
        self.take_news()


def _drop_after_forks(branch: Branch) -> bool:
    """Refuse the ops of a closing branch after its last fork: children still need what is before it. Whether no fork is
    left, so that the branch can go."""
    error = closed_early()
    while branch.ops and not (isinstance(op := branch.ops[-1], ForkOp) and not all(map(_is_gone, op.children))):
        refuse(branch.ops.pop(), error)
    return not branch.ops


def _is_gone(branch: Branch) -> bool:
    return branch.life is Life.CLOSED or branch.error is not None


def closed_early() -> Cancelled:
    return Cancelled(
        "the branch was closed before this finished; keep the program state for as long as its values are needed"
    )
