"""Which programs may hold KV at the same time, when not all can.

Owns: `Program` (what all branches of one `open()` share) and the decision to let a program's calls in. Knows nothing of
spans or steps.

Without it, a thousand programs that start together each take some of the pool, and then take it from each other: what
was computed is given up and computed again. So a program is *admitted* when the KV it is expected to need fits beside
what the admitted ones hold and are expected to take yet; until then its calls wait, and so do later programs. The
expectation is its own new text, and what programs before it computed after theirs: mean plus mean deviation (Jacobson's
estimator of round-trip times, 1988). Before any has ended only the calls that are in the queue are known; programs that
may make many more are taken to need a multiple. A program that was preempted was let in too early: it is admitted anew,
when it fits.

An expectation is no promise: the scheduler still preempts when it was wrong. Nor may it hold anything up: where the
admitted programs are all silent for a while, the next one is let in whatever it needs (they may be waiting for it).
"""

from __future__ import annotations

import time
from bisect import insort
from typing import TYPE_CHECKING

from ....lang.errors import ProgramTimeout
from ..kv.tree import Tree
from ..sample.noise import mix

if TYPE_CHECKING:
    from .branch import Branch

WEIGHT = 0.25
"""Of the newest program in the running mean and deviation."""
UNKNOWN = 16
"""While no program has ended, each is taken to generate so many times what its queued calls may, or a whole context."""


GRACE = 0.1
"""Seconds in which the admitted programs must all be silent before one that does not fit is let in: they may just be
about to make their next call."""


class Account:
    """What one program needs, with every program that its body runs: those are let in with it. `over`: its body has
    ended, so it leaves as soon as none of its `calls` is left; branches may outlive the body."""

    __slots__ = ("admitted", "calls", "computed", "given", "goal", "over", "rows")

    def __init__(self) -> None:
        self.calls = 0
        self.over = False
        self.rows = 0  # of KV that went through the model, in all branches
        self.computed = 0  # of them, those that were not computed before
        self.given: int | None = None  # of them, the text before its first call, as far as it was new then
        self.admitted = False
        self.goal = 0  # what `rows` was expected to come to when it was admitted

    @property
    def grown(self) -> int:
        """Rows since its first call began: what programs have in common (the text before it may be a long prefix that
        the first of them computes for all)."""
        return max(0, self.computed - (self.given or 0))


class Program:
    """What the branches of one program share. `timeout` in seconds from now; `seed` is what would repeat it; `caller`:
    the program whose body runs this one."""

    __slots__ = ("account", "deadline", "inner", "noise", "number", "seed", "timeout")

    def __init__(self, number: int, seed: int, timeout: float | None = None, caller: Program | None = None) -> None:
        self.number = number
        self.seed, self.noise = seed, mix(seed)
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.inner = caller is not None
        self.account: Account = Account() if caller is None else caller.account

    def timeout_error(self, where: str) -> ProgramTimeout:
        return ProgramTimeout(f"{where}: the program's timeout={self.timeout:g} s passed before it finished")


class Admission:
    """`waiting`: branches with a call whose program is not admitted, sorted by order."""

    def __init__(self, tree: Tree, context_length: int) -> None:
        self.tree = tree
        self.context_length = context_length
        self.waiting: list[Branch] = []
        self.admitted: dict[Account, None] = {}
        self.grace = GRACE
        self._leaving: dict[Account, bool] = {}  # of programs that are over, and whether they ended well
        self._mean = self._deviation = 0.0  # of the rows that programs computed; 0: none has ended yet
        self._full = False  # the first in line was refused, and nothing has changed since

    def add(self, branch: Branch) -> None:
        branch.waiting = True
        insort(self.waiting, branch, key=by_order)
        self._full &= self.waiting[0] is not branch

    def remove(self, branch: Branch) -> None:
        if branch.waiting:
            branch.waiting = self._full = False
            self.waiting.remove(branch)

    def admit(self, idle: bool) -> list[Branch]:
        """The branches that may run now. `idle`: nobody has run for a while, so whoever is first must be let in."""
        found: list[Branch] = []
        owed: int | None = None  # rows that the admitted programs are expected to compute yet
        while self.waiting and not (self._full and not idle):
            branch = self.waiting[0]
            account = branch.program.account
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
            idle = branch.waiting = False
            found.append(branch)
            del self.waiting[0]
        if found:  # other branches of the programs that were let in
            for branch in self.waiting:
                if branch.program.account.admitted:
                    branch.waiting = False
                    found.append(branch)
            self.waiting = [branch for branch in self.waiting if branch.waiting]
        return found

    # -- programs come and go
    def call_begins(self, branch: Branch) -> None:
        branch.program.account.calls += 1

    def call_ends(self, branch: Branch) -> None:
        account = branch.program.account
        account.calls -= 1
        if account.over:
            self._leaving.setdefault(account, True)

    def over(self, branch: Branch, well: bool | None = None) -> None:
        """The branch rests, is closed or has failed. Where that is the program's own, the program is over."""
        program = branch.program
        if len(branch.order) == 1 and not program.inner:
            program.account.over = True
            self._leaving[program.account] = branch.error is None if well is None else well

    def let_go(self) -> None:
        """Programs that are over and have no call any more make room for others (they may come back). Others like those
        that ended well will need as much."""
        if not self._leaving:
            return
        for account, well in list(self._leaving.items()):
            if not account.calls:
                del self._leaving[account]
                if account.admitted:
                    self.revoke(account)
                    if well and account.computed:
                        self._learn(max(1, account.grown))

    def _learn(self, rows: int) -> None:
        off = rows - self._mean
        self._deviation += WEIGHT * (abs(off) - self._deviation) if self._mean else 0.0
        self._mean += WEIGHT * off if self._mean else off

    def revoke(self, account: Account) -> None:
        """Its calls are to wait until they fit again."""
        account.admitted = self._full = False
        del self.admitted[account]

    def _need(self, branch: Branch) -> int:
        """Rows that the program is expected to compute from here on."""
        account = branch.program.account
        new = branch.length - self.tree.known(branch.path_tokens())
        if account.given is None:
            account.given = new
        if not self._mean:
            most = branch.may_generate()
            if branch.is_all():
                return new + max(most, 1)
            return new + max(most, min(UNKNOWN * most, self.context_length - branch.length), 1)
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
