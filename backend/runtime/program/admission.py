"""Admission: which programs may hold KV at the same time, when not all can.

Knows nothing of spans or steps. Without admission, a thousand programs that start together each take some of the pool,
and then take it from each other: KV is given up and computed again. So a program is *admitted* when the KV that it is
expected to need fits beside that of the admitted ones. Until then its calls wait, and so do later programs. A preempted
program was admitted too early: it is admitted anew when it fits.

A program without any call *rests*: its body computes, or waits for something outside. It keeps its place for a while,
since most bodies call again at once. When others wait for room, a program that rests longer lends its place: its KV
becomes cache, and its next call is admitted like a new one, with what is left of that KV.

The expectation is the program's new text, and what programs before it computed after theirs until they ended or lent
their place: mean plus mean deviation (Jacobson's estimator of round-trip times, 1988). Until then, only the calls in
its queue are known. An expectation is no promise: when it was wrong, the scheduler still preempts. When the admitted
programs are silent for a while, the next one is admitted in any case, since they may be waiting for it.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..kv.tree import Tree, common_prefix
from .branch import Branch, Life
from .program import Account

NEWEST_WEIGHT = 0.25
"""Weight of the newest value in a running mean and deviation."""
UNKNOWN_PROGRAM_CALLS = 16
"""While no program has ended, each is expected to generate this many times what its queued calls may, at most a whole
context."""
SILENCE_SECONDS = 0.1
"""How long all admitted programs are silent before one that does not fit is admitted, and the most that is learnt of
how soon bodies call again. A shorter silence may end with their next call."""
SHORTEST_PATIENCE_SECONDS = 0.02
"""How long a rest is at least before its place is lent. Bodies that go on by themselves call again within some
milliseconds, also where many threads or coroutines want the interpreter."""
LONGEST_CALL_SECONDS = 1.0
"""A body that has not run for so long since its value was there (its event loop is blocked, say) is not waited for."""
MOST_PASSED = 512
"""A program that waits longest is next after so many others went before it: the line is ordered by age of program."""


@dataclass(slots=True)
class Typical:
    """A running mean, and a running mean deviation from it."""

    mean: float = 0.0
    deviation: float = 0.0

    def learn(self, value: float) -> None:
        """Move towards `value`; the first one is taken as it is."""
        off = value - self.mean
        self.deviation += NEWEST_WEIGHT * (abs(off) - self.deviation) if self.mean else 0.0
        self.mean += NEWEST_WEIGHT * off if self.mean else off


class Admission:
    """Admits programs to one tree's pool.

    `line`: the programs that wait, by number. `resting`: the programs that hold a place or KV and have no call, longest
    rest first. `leaving`: those that are over, and whether they ended well.
    """

    def __init__(self, tree: Tree, context_length: int) -> None:
        self.tree = tree
        self.context_length = context_length
        self.line: list[Account] = []
        self.admitted: dict[Account, None] = {}
        self.resting: dict[Account, None] = {}
        self.leaving: dict[Account, bool] = {}
        self.grace = SILENCE_SECONDS
        self.patience = SHORTEST_PATIENCE_SECONDS  # how long a rest is before its place is lent
        self._rows = Typical()  # rows that programs computed while they were admitted; a mean of 0: none has left yet
        self._gaps = Typical()  # seconds of the rests that ended soon
        self._since: dict[Account, None] = {}  # the programs that wait, first come first
        self._passed = 0  # how many went before the first of them
        self._refused: Account | None = None  # did not fit, and nothing has changed since
        self.called_since: Callable[[], float | None] = lambda: None  # see `Drive.called_since`

    def waiting(self) -> Iterator[Branch]:
        """The branches with a job whose program is not admitted."""
        for account in self.line:
            yield from account.waiting

    def add(self, branch: Branch) -> None:
        """Let a branch with a job wait for the admission of its program."""
        branch.life = Life.WAITING
        account = branch.account
        if not account.waiting:
            insort(self.line, account, key=_by_number)
            self._since[account] = None
        insort(account.waiting, branch, key=by_order)
        if self._refused is account:
            self._refused = None

    def remove(self, branch: Branch) -> None:
        """Take a branch out of the line: its job is over."""
        self._refused = None
        account = branch.account
        account.waiting.remove(branch)
        if not account.waiting:
            self._leave_line(account)

    def _leave_line(self, account: Account) -> None:
        self.line.remove(account)
        first = next(iter(self._since))
        self._passed = 0 if first is account else self._passed + 1
        del self._since[account]

    def admit(self, now: float, idle: bool) -> list[Branch]:
        """Take out the branches that may run now. `idle`: no branch has run for a while, so the first must be let
        in."""
        found: list[Branch] = []
        owed: int | None = None  # rows that the admitted programs are expected to compute yet
        while self.line:
            account = self.line[0] if self._passed < MOST_PASSED else next(iter(self._since))
            if account is self._refused and not idle and not self._may_lend(now):
                break
            owed = self._owed() if owed is None else owed
            rows, cached = self._need(account)
            while not self._fits(owed + rows + cached, self._room()) and self._may_lend(now):
                owed -= self._lend()
                rows, cached = self._need(account)
            if not idle and self.admitted and not self._fits(owed + rows + cached, self._room()):
                self._refused = account
                break
            owed += self._let_in(account, rows)
            found += account.waiting
            account.waiting = []
            self._leave_line(account)
            idle = False
        return found

    def _let_in(self, account: Account, rows: int) -> int:
        """Admit a program that is expected to compute `rows`. Its branches take hold of their KV now, so that the next
        program does not count on it. Gives `rows`."""
        if account.start is None:
            branch = account.waiting[0]
            known, _ = self.tree.known(branch.cursor.path_tokens())
            account.start = account.computed + max(0, branch.cursor.length - max(known, branch.cursor.high))
        account.admitted, account.goal = True, account.rows + rows
        self.admitted[account] = None
        for branch in account.waiting:
            if not branch.cursor.attached:
                branch.settle()
        return rows

    # -- programs come and go
    def call_begins(self, branch: Branch, now: float) -> None:
        """Count a call of the branch's program, which rests no longer."""
        account = branch.account
        account.calls += 1
        self.resting.pop(account, None)
        if account.rested is not None:
            gap, account.rested = now - account.rested, None
            if gap < self.grace:  # the body went on by itself; longer rests are waits for something outside
                gaps = self._gaps
                gaps.learn(gap)
                wanted = gaps.mean + 4 * gaps.deviation  # as for a retransmission timer
                self.patience = min(SILENCE_SECONDS, max(SHORTEST_PATIENCE_SECONDS, wanted))

    def call_ends(self, branch: Branch) -> None:
        """Count a call less. A program without calls rests; if it is over, it makes room for others."""
        account = branch.account
        account.calls -= 1
        if account.over:
            self.leaving.setdefault(account, True)
        elif not account.calls:
            self.rests(account)

    def rests(self, account: Account) -> None:
        """Note that a program with a place or with KV has no call."""
        account.rested = time.monotonic()
        self.resting[account] = None

    def over(self, branch: Branch, well: bool | None = None) -> None:
        """Note that the branch rests, is closed or has failed. If it is its program's first, the program is over;
        `well` says how (by default: without error)."""
        program, account = branch.program, branch.account
        if len(branch.order) == 1 and not program.inner:
            account.over = True
            self.leaving[account] = branch.error is None if well is None else well
        elif not account.attached and not account.admitted:
            self.resting.pop(account, None)

    def let_go(self) -> None:
        """Make room where programs are over and have no call any more (they may come back). What those computed that
        ended well is expected of the next ones."""
        for account, well in list(self.leaving.items()):
            if not account.calls:
                del self.leaving[account]
                if account.admitted:
                    self.revoke(account)
                    if well:
                        self._learn(account)
                self.resting.pop(account, None)
                if account.attached:  # branches may outlive the body
                    self.rests(account)

    def _may_lend(self, now: float) -> bool:
        """Whether a program has rested for so long that it lends its place."""
        account = next(iter(self.resting), None)
        if account is None or account.rested is None or now - account.rested < self.patience:
            return False
        called = self.called_since()
        return called is None or called > account.rested or now - account.rested > LONGEST_CALL_SECONDS

    def _lend(self) -> int:
        """Take back the place of the program that has rested longest: its KV becomes cache. Gives the rows that are no
        longer owed."""
        account = next(iter(self.resting))
        del self.resting[account]
        owed = 0
        if account.admitted:
            owed = self._owes(account)
            self.revoke(account)
            self._learn(account)
            account.start = None
        for branch in list(account.attached):
            if not branch.cursor.pinned:
                branch.park()
        return owed

    def _learn(self, account: Account) -> None:
        if account.computed:
            self._rows.learn(max(1, account.grown))

    def revoke(self, account: Account) -> None:
        """Let the program's next calls wait until they fit again."""
        account.admitted, self._refused = False, None
        del self.admitted[account]

    # -- what is expected
    def _need(self, account: Account) -> tuple[int, int]:
        """What admitting a program takes of the room: rows that it is expected to compute, and tokens of cache that its
        branches hold from then on."""
        rows = cached = 0
        before: list[int] = []
        for branch in account.waiting:
            cursor = branch.cursor
            if cursor.attached:
                rows += cursor.length - cursor.computed
                continue
            tokens = cursor.path_tokens()
            known, live = self.tree.known(tokens)
            shared = common_prefix(before, tokens, 0) if before else 0  # with a branch that is counted already
            rows += len(tokens) - max(known, shared)
            cached += max(0, known - max(live, shared))
            before = tokens
        if self._rows.mean:
            return rows + max(1, self._typical() - account.grown), cached
        first = account.waiting[0]
        most = sum([branch.may_generate() for branch in account.waiting])
        if not first.is_all():
            most = max(most, min(UNKNOWN_PROGRAM_CALLS * most, self.context_length - first.cursor.length))
        return rows + max(1, most), cached

    def _typical(self) -> int:
        return int(self._rows.mean + self._rows.deviation)

    def _owed(self) -> int:
        typical = self._typical()
        return sum([max(0, a.goal - a.rows, typical - a.grown) for a in self.admitted])

    def _owes(self, account: Account) -> int:
        return max(0, account.goal - account.rows, self._typical() - account.grown)

    def _room(self) -> int:
        return self.tree.pool.available + self.tree.cached

    @staticmethod
    def _fits(rows: int, room: int) -> bool:
        return rows <= room


def by_order(branch: Branch) -> tuple[int, ...]:
    return branch.order


def _by_number(account: Account) -> int:
    return account.number
