"""Which spans go next: the plan of one step.

Owns: the order, the row budget, finding room in the pool, and preemption. Knows nothing of logits or of text.

There are no phases: a branch wants the tokens between its watermark and its end, whatever they are. Branches are served
in their fixed order (depth first by program), each taking as many rows as the budget leaves while later ones still get
one each. Watermarks are raised as spans are planned, so a later span of the *same* step already counts on what an
earlier one writes: a thousand programs with one prefix need one step.

Room is found by evicting cached nodes, then by parking (lowering the watermark of) branches that wait for their
program, then branches later in the order; never earlier ones, so the first always gets on.
"""

from __future__ import annotations

import time

from ..job.job import Job
from ..kv.chain import Chain
from ..kv.pool import SlotPool, append_run, part, size
from ..kv.tree import Node, Tree
from ..options import EngineOptions
from ..program.branch import Branch
from .span import Draft, Span

TAIL_RESERVE = 32
"""Slots a tail takes at a time, so that it grows in long runs."""


PLENTY = 8
"""A tail takes more only while all tails of a full step could, and leave this many times as much free."""


class NoRoom(Exception):
    """Not enough slots for a span even after parking everything that may be parked. Internal to a plan."""

    def __init__(self, need: int) -> None:
        self.need = need


class Scheduler:
    """Plans steps over one tree and pool. `attached` are the branches that hold KV, in no particular order."""

    def __init__(self, tree: Tree, options: EngineOptions, attached: dict[Branch, None]) -> None:
        self.tree = tree
        self.pool: SlotPool = tree.pool
        self.options = options
        self.attached = attached
        self.number = 0
        self.now = 0.0  # when the plan of this step began, on the monotonic clock
        self.preemptions = 0
        self.evicted: list[Branch] = []  # branches that gave up their KV for this plan

    def plan(self, active: list[Branch]) -> tuple[Draft, tuple[Branch, int] | None]:
        """The next step, and the branch that can never run (with the slots it lacks), if there is one."""
        self.number += 1
        self.evicted = []
        self.now = time.monotonic()
        draft = Draft()
        budget = self.options.step_tokens
        places = self.options.max_running
        for i, branch in enumerate(active):
            if budget <= 0 or not places:
                break
            if branch.asked_in and not branch.ahead:
                continue  # what it wants next depends on an answer that is in flight
            job = branch.job
            assert job is not None
            if self._next_row(branch, job, draft):
                budget -= 1
                places -= 1
                continue
            waiting = min(len(active) - i - 1, places - 1, budget // 2)
            before = len(draft.spans)
            try:
                used = self._plan_branch(branch, job, budget - waiting, draft)
                budget -= used
                places -= used > 0
            except NoRoom as lack:
                if len(draft.spans) == before == 0:
                    return Draft(), (branch, lack.need)
                break  # those behind it must not take what it is waiting for
        return draft, None

    def _next_row(self, branch: Branch, job: Job, draft: Draft) -> bool:
        """What a branch that generates wants nearly always, found without asking all there is to ask: a span of its
        last token alone, whose slot is in reserve. False: look properly."""
        at, reserve, runs = branch.tail_computed, branch.reserve, branch.runs
        if at + 1 != len(branch.tail) or not reserve or job.tries or not branch.attached or not job.wants_last():
            return False
        start, size = runs[-1]
        if reserve > size:
            return False
        below = branch.below
        if below is None or below[0] is not branch.node or below[1] != self.tree.undone:
            if not branch.node.full:
                return False
            below = branch.below = branch.node, self.tree.undone, branch.context(branch.base)
        context = below[2] if len(runs) == 1 else below[2] + tuple(runs[:-1])
        slot = start + size - reserve
        if slot > start:
            context += ((start, slot - start),)
        depth = branch.base + at
        branch.tail_computed = at + 1
        branch.reserve = reserve - 1
        job.account(branch, depth, depth + 1)
        self._joins(branch)
        draft.row(branch, depth, branch.tail[at], slot, context)
        return True

    def _plan_branch(self, branch: Branch, job: Job, budget: int, draft: Draft) -> int:
        """Add the branch's spans; rows used. Its watermark is raised as far as they reach."""
        if not branch.attached:
            branch.settle()
        if job.wants_last() and branch.length:
            branch.want_logits()
        used = 0
        target = job.target(branch)
        if branch.computed < target:
            used = self._path_span(branch, job, target, budget, draft)
            if used:
                self._joins(branch)
        if branch.computed >= target:
            for chain in job.open_chains():
                if used >= budget:
                    break
                used += self._chain_span(branch, chain, budget - used, draft)
                self._joins(branch)
        return used

    def _joins(self, branch: Branch) -> None:
        """The branch has a span in this step."""
        if branch.planned_in != self.number:
            branch.planned_in = self.number
            assert branch.job is not None
            branch.job.in_step(self.now)

    def _path_span(self, branch: Branch, job: Job, target: int, budget: int, draft: Draft) -> int:
        while True:
            start = branch.computed
            rows = min(target - start, budget)
            in_nodes = max(0, min(rows, branch.base - start))
            self._room(in_nodes + max(0, rows - in_nodes - branch.reserve), branch)
            if branch.computed == start:
                break  # else a branch that was parked for room gave its KV to a node of this very path: look again
        if not rows:
            return 0
        job.account(branch, start, start + rows)
        context = branch.context(start)
        left = in_nodes
        for node in branch.unfilled() if in_nodes else ():
            take = min(left, len(node.tokens) - node.computed)
            self._fill_node(node, take, draft)
            left -= take
            if not left:
                break
        if rows > in_nodes:
            self._fill_tail(branch, rows - in_nodes, draft)
        wanted = job.wants_last() and branch.computed == branch.length
        draft.add(Span(branch, start, (rows - 1,) if wanted else ()), context)
        return rows

    def _fill_node(self, node: Node, rows: int, draft: Draft) -> None:
        last = node.runs or (node.parent.runs if node.parent else [])
        taken = self.pool.take(rows, after=last[-1][0] + last[-1][1] if last else None)
        draft.fill(node.tokens[node.computed : node.computed + rows], taken)
        for run in taken:
            append_run(node.runs, run)
        node.computed += rows
        node.raised = self.number

    def _fill_tail(self, branch: Branch, rows: int, draft: Draft) -> None:
        lack = rows - branch.reserve
        if lack > 0:
            last = branch.runs or branch.node.runs
            ask = min(lack + self._reserve(branch), self.pool.available)
            for run in self.pool.take(ask, after=last[-1][0] + last[-1][1] if last else None):
                append_run(branch.runs, run)
            branch.reserve += ask
        at = branch.tail_computed
        draft.fill(branch.tail[at : at + rows], part(branch.runs, at, at + rows))
        branch.tail_computed += rows
        branch.reserve -= rows

    def _reserve(self, branch: Branch) -> int:
        """Slots to take ahead: in a large pool as many as the gen may need, so that its text lies in one run."""
        most = 0 if branch.job is None else branch.job.most()
        return max(TAIL_RESERVE, min(most, self.pool.available // (PLENTY * self.options.max_running)))

    def _chain_span(self, branch: Branch, chain: Chain, budget: int, draft: Draft) -> int:
        rows = min(chain.rows - chain.computed, budget)
        self._room(rows, branch)
        job = branch.job
        assert job is not None
        job.account_chain(rows)
        context = (branch.context(chain.depth) if chain.depth else ()) + chain.before()
        at = chain.computed
        vertices, taken = chain.vertices[at : at + rows], self.pool.take(rows)
        for run in taken:
            append_run(chain.runs, run)
        chain.computed += rows
        draft.fill([vertex.token for vertex in vertices], taken)
        want = [i for i, vertex in enumerate(vertices) if vertex.children]
        draft.add(Span(branch, chain.start + at, want, chain), context)
        return rows

    # -- room
    def _room(self, slots: int, branch: Branch) -> None:
        """Make `slots` slots available for `branch`, or raise NoRoom."""
        if slots <= self.pool.available:
            return
        self.tree.evict(slots - self.pool.available)
        while slots > self.pool.available:
            victim = self._victim(branch)
            if victim is None:
                raise NoRoom(slots)
            self.preemptions += victim.job is not None
            victim.park(self.number)
            self.evicted.append(victim)
            self.tree.evict(slots - self.pool.available)

    def _victim(self, branch: Branch) -> Branch | None:
        """Who gives up its KV for `branch`: the last of those that wait (for their program, or to be let in), else the
        last behind it."""
        free = [b for b in self.attached if b is not branch and not b.pinned and b.planned_in != self.number]
        idle = [b for b in free if b.job is None or b.waiting]
        if idle:
            return max(idle, key=lambda b: b.order)
        later = [b for b in free if b.order > branch.order]
        return max(later, key=lambda b: b.order) if later else None


def undo(spans: list[Span]) -> None:
    """Take back the watermarks that a plan raised: its step did not happen."""
    for span in reversed(spans):
        if span.chain is None:
            span.branch.lower(span.start)
        else:
            keep = span.start - span.chain.start
            assert size(span.chain.runs) == span.chain.computed
            lost = part(span.chain.runs, keep, span.chain.computed)
            span.chain.runs = part(span.chain.runs, 0, keep)
            span.chain.computed = keep
            span.branch.tree.pool.give(lost)
