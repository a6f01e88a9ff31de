"""The scheduler: which spans go next. It makes the plan of one step.

Knows nothing of logits or of text. There are no phases: a branch wants the tokens between its watermark and its end.
Branches are served in their fixed order (depth first by program). Each takes as many rows as the budget leaves, while
later ones still get one each. Watermarks are raised as spans are planned. So a later span of the *same* step counts on
what an earlier one writes, and a thousand programs with one prefix need one step.

To find room, cached nodes are evicted first. Then branches that do not take part in steps are parked, then running
branches later in the order. A running branch never loses its KV to a later one, so the first one goes on.
"""

from __future__ import annotations

import time

from ..job.job import Job
from ..job.told import StepClock
from ..kv.chain import Chain
from ..kv.tree import Tree
from ..options import EngineOptions
from ..program.branch import Branch, Life
from .step import Span, Step

TAIL_RESERVE_SLOTS = 32
"""Slots that a tail takes at a time, so that it grows in long runs."""
LEAST_RESERVE_SLOTS = 8
"""Slots that it takes at least, or as many as its gen may need, where slots that were in use before have no room for
more."""
PLENTY_SHARE = 8
"""In a large pool a tail may take more: at most 1 / (8 x `max_running`) of the free slots."""


class Starved(Exception):
    """A branch lacks `need` slots even after parking everything that may be parked. Raised within a plan only."""

    def __init__(self, branch: Branch, need: int) -> None:
        self.branch, self.need = branch, need


class Scheduler:
    """Plans steps over one tree and its pool. `attached`: the branches that hold KV, in no particular order."""

    def __init__(self, tree: Tree, options: EngineOptions, clock: StepClock, attached: dict[Branch, None]) -> None:
        self.tree = tree
        self.pool = tree.pool
        self.options = options
        self.clock = clock
        self.attached = attached
        self.preemptions = 0
        self.evicted: list[Branch] = []  # branches that gave up their KV for the plan made last

    def plan(self, running: list[Branch]) -> tuple[Step, Starved | None]:
        """Plan the next step of these branches. The second value names a branch that can never run, if there is one."""
        self.clock.planned += 1
        self.evicted = []
        step = Step(self.clock.planned, time.monotonic())
        budget = self.options.step_tokens
        places = self.options.max_running
        for i, branch in enumerate(running):
            if budget <= 0 or not places:
                break
            if branch.asked_in and not branch.cursor.runs_ahead:
                continue  # the next row of this branch depends on an answer that is in flight
            job = branch.job
            assert job is not None
            if self._add_next_row(branch, job, step):
                budget -= 1
                places -= 1
                continue
            waiting = min(len(running) - i - 1, places - 1, budget // 2)
            before = len(step.spans)
            try:
                used = self._add_spans(branch, job, budget - waiting, step)
            except Starved as starved:
                if len(step.spans) == before == 0:
                    return step, starved
                break  # those behind it must not take what it is waiting for
            budget -= used
            places -= used > 0
        return step, None

    def _add_next_row(self, branch: Branch, job: Job, step: Step) -> bool:
        """Add the row of the branch's last token, which is all that a generating branch wants in nearly every step.

        False if the branch wants something else too: then `_add_spans` adds what it wants.
        """
        if job.tries or job.draft or not job.wants_last() or (row := branch.cursor.raise_by_one()) is None:
            return False
        depth = row[0]
        job.account(depth, depth + 1, step.number, step.began)
        step.add_row(branch, job, branch.cursor.tail[-1], *row)
        return True

    def _add_spans(self, branch: Branch, job: Job, budget: int, step: Step) -> int:
        """Add the branch's spans and raise its watermark as far as they reach; the rows used."""
        cursor = branch.cursor
        if not cursor.attached:
            branch.settle()
        if job.wants_last() and cursor.length:
            cursor.want_logits()
        used = 0
        target = job.target()
        if cursor.computed < target:
            used = self._add_path_span(branch, job, target, budget, step)
        if cursor.computed >= target:
            for chain in job.open_chains():
                if used >= budget:
                    break
                used += self._add_chain_span(branch, job, chain, budget - used, step)
        return used

    def _add_path_span(self, branch: Branch, job: Job, target: int, budget: int, step: Step) -> int:
        cursor = branch.cursor
        while True:
            start = cursor.computed
            rows = min(target - start, budget)
            self._make_room(cursor.slots_for(rows), branch)
            if cursor.computed == start:
                break  # else a branch that was parked for room gave its KV to a node of this very path: look again
        if not rows:
            return 0
        job.account(start, start + rows, step.number, step.began)
        context = cursor.context(start)
        spare = self._spare_slots(job)
        for tokens, runs in cursor.raise_by(rows, spare, step.number, max(0, TAIL_RESERVE_SLOTS - spare)):
            step.fill(tokens, runs)
        if not job.wants_last() or cursor.computed < cursor.length:
            step.add_span(Span(branch, job, start, ()), context)
            return rows
        draft, job.draft = list(job.draft[: budget - rows]), ()
        if draft:
            slots = cursor.write_ahead(draft, spare)
            draft = list(cursor.written)
            step.fill(draft, slots)
            job.account_draft(len(draft))
        step.add_span(Span(branch, job, start, range(rows - 1, rows + len(draft)), None, draft), context)
        return rows + len(draft)

    def _spare_slots(self, job: Job) -> int:
        """Slots to take ahead: in a large pool as many as the gen may need, so that its text lies in one run."""
        return max(
            LEAST_RESERVE_SLOTS, min(job.most(), self.pool.available // (PLENTY_SHARE * self.options.max_running))
        )

    def _add_chain_span(self, branch: Branch, job: Job, chain: Chain, budget: int, step: Step) -> int:
        rows = min(chain.rows - chain.computed, budget)
        self._make_room(rows, branch)
        job.account_chain(rows)
        job.join(step.number, step.began)
        context = (branch.cursor.context(chain.depth) if chain.depth else ()) + chain.before()
        start = chain.start + chain.computed
        vertices, taken = chain.raise_by(rows, self.pool)
        step.fill([vertex.token for vertex in vertices], taken)
        want = [i for i, vertex in enumerate(vertices) if vertex.children]
        step.add_span(Span(branch, job, start, want, chain), context)
        return rows

    # -- room
    def _make_room(self, slots: int, branch: Branch) -> None:
        """Make `slots` slots available for `branch`, or raise `Starved`."""
        if slots <= self.pool.available:
            return
        self.tree.evict(slots - self.pool.available)
        while slots > self.pool.available:
            victim = self._victim(branch)
            if victim is None:
                raise Starved(branch, slots)
            self.preemptions += victim.job is not None
            victim.park(self.clock.planned)
            self.evicted.append(victim)
            self.tree.evict(slots - self.pool.available)

    def _victim(self, branch: Branch) -> Branch | None:
        """Which branch gives up its KV for `branch`: the last of those that have no part in steps, else the last one
        behind `branch`."""
        step = self.clock.planned
        free = [b for b in self.attached if b is not branch and not b.cursor.pinned and b.planned_in != step]
        idle = [b for b in free if b.life is not Life.RUNNING]
        later = idle or [b for b in free if b.order > branch.order]
        return max(later, key=lambda b: b.order, default=None)

    def undo(self, step: Step) -> None:
        """Lower the watermarks that a plan raised: its step did not happen."""
        for span in reversed(step.spans):
            if span.chain is None:
                span.branch.cursor.lower(span.start)
            else:
                span.chain.lower(span.start, self.pool)
