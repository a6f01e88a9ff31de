"""Admission: which programs may hold KV at the same time, when not all can.

Knows nothing of spans or steps. Without admission, a thousand programs that start together each take some of the pool,
and then take it from each other: KV is given up and computed again. So a program is *admitted* when the KV that it is
expected to need fits beside that of the admitted ones. Until then its calls wait, and so do later programs. A preempted
program was admitted too early: it is admitted anew when it fits.

The expectation is the program's new text, and what programs before it computed after theirs: mean plus mean deviation
(Jacobson's estimator of round-trip times, 1988). Until a program has ended, only the calls in its queue are known. An
expectation is no promise: when it was wrong, the scheduler still preempts. When the admitted programs are silent for a
while, the next one is admitted in any case, since they may be waiting for it.
"""

from __future__ import annotations

from bisect import insort

from ..kv.tree import Tree
from .branch import Branch, Life
from .program import Account

NEWEST_WEIGHT = 0.25
"""Weight of the newest program in the running mean and deviation."""
UNKNOWN_PROGRAM_CALLS = 16
"""While no program has ended, each is expected to generate this many times what its queued calls may, at most a whole
context."""
SILENCE_SECONDS = 0.1
"""How long all admitted programs are silent before one that does not fit is admitted. A shorter silence may end with
their next call."""


class Admission:
    """Admits programs to one tree's pool. `waiting`: the branches with a job whose program is not admitted, by
    order."""

    def __init__(self, tree: Tree, context_length: int) -> None:
        self.tree = tree
        self.context_length = context_length
        self.waiting: list[Branch] = []
        self.admitted: dict[Account, None] = {}
        self.grace = SILENCE_SECONDS
        self.leaving: dict[Account, bool] = {}  # of programs that are over, and whether they ended well
        self._mean = self._deviation = 0.0  # of the rows that programs computed; 0: none has ended yet
        self._full = False  # the first in line was refused, and nothing has changed since

    def add(self, branch: Branch) -> None:
        """Let a branch with a job wait for the admission of its program."""
        branch.life = Life.WAITING
        insort(self.waiting, branch, key=by_order)
        self._full &= self.waiting[0] is not branch

    def remove(self, branch: Branch) -> None:
        """Take a branch out of the line: its job is over."""
        self._full = False
        self.waiting.remove(branch)

    def admit(self, idle: bool) -> list[Branch]:
        """Take out the branches that may run now. `idle`: no branch has run for a while, so the first must be let
        in."""
        found: list[Branch] = []
        owed: int | None = None  # rows that the admitted programs are expected to compute yet
        while self.waiting and not (self._full and not idle):
            branch = self.waiting[0]
            account = branch.account
            if not account.admitted:
                need = self._need(branch)
                owed = self._owed() if owed is None else owed
                room = self.tree.pool.available + self.tree.cached
                if not idle and self.admitted and not self._fits(owed + need, room):
                    self._full = True
                    break
                account.admitted, account.goal = True, account.rows + need
                self.admitted[account] = None
                owed += need
            idle = False
            found.append(branch)
            del self.waiting[0]
        if found:  # other branches of the programs that were let in
            found += [branch for branch in self.waiting if branch.account.admitted]
            self.waiting = [branch for branch in self.waiting if not branch.account.admitted]
        return found

    # -- programs come and go
    def call_begins(self, branch: Branch) -> None:
        """Count a call of the branch's program."""
        branch.account.calls += 1

    def call_ends(self, branch: Branch) -> None:
        """Count a call less; the last call of a program that is over makes room for others."""
        account = branch.account
        account.calls -= 1
        if account.over:
            self.leaving.setdefault(account, True)

    def over(self, branch: Branch, well: bool | None = None) -> None:
        """Note that the branch rests, is closed or has failed. If it is its program's first, the program is over;
        `well` says how (by default: without error)."""
        program = branch.program
        if len(branch.order) == 1 and not program.inner:
            program.account.over = True
            self.leaving[program.account] = branch.error is None if well is None else well

    def let_go(self) -> None:
        """Make room where programs are over and have no call any more (they may come back). What those computed that
        ended well is expected of the next ones."""
        for account, well in list(self.leaving.items()):
            if not account.calls:
                del self.leaving[account]
                if account.admitted:
                    self.revoke(account)
                    if well and account.computed:
                        self._learn(max(1, account.grown))

    def _learn(self, rows: int) -> None:
        off = rows - self._mean
        self._deviation += NEWEST_WEIGHT * (abs(off) - self._deviation) if self._mean else 0.0
        self._mean += NEWEST_WEIGHT * off if self._mean else off

    def revoke(self, account: Account) -> None:
        """Let the program's next calls wait until they fit again."""
        account.admitted = self._full = False
        del self.admitted[account]

    def _need(self, branch: Branch) -> int:
        """Rows that the program is expected to compute from here on."""
        account = branch.account
        length = branch.cursor.length
        new = length - self.tree.known(branch.cursor.path_tokens())
        if account.given is None:
            account.given = new
        if not self._mean:
            most = branch.may_generate()
            if branch.is_all():
                return new + max(most, 1)
            return new + max(most, min(UNKNOWN_PROGRAM_CALLS * most, self.context_length - length), 1)
        return new + max(1, self._typical() - account.grown)

    def _typical(self) -> int:
        return int(self._mean + self._deviation)

    def _owed(self) -> int:
        typical = self._typical()
        return sum([max(0, a.goal - a.rows, typical - a.grown) for a in self.admitted])

    @staticmethod
    def _fits(rows: int, room: int) -> bool:
        return rows <= room


def by_order(branch: Branch) -> tuple[int, ...]:
    return branch.order
