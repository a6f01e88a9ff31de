"""Which programs may hold KV at the same time, when not all can.

Owns: `Program` (what all branches of one `open()` share) and the decision to let a program's first call in. Knows
nothing of spans or steps.

Without it, a thousand programs that start together each take some of the pool, and then take it from each other: what
was computed is given up and computed again. So a program is *admitted* when the KV it is expected to need fits beside
what the admitted ones hold and are expected to take yet; until then its calls wait, and those of later programs behind
them. The expectation: of a program that is like those before it, what they computed, mean plus mean deviation
(Jacobson's estimator of round-trip times, 1988); before any has ended, what its queued calls may generate at most.

An expectation is no promise: the scheduler still preempts when it was wrong. Nor may it hold anything up: where no
admitted program has a call, the next one is let in whatever it needs (its caller may be waiting for it).
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from ...lang.errors import ProgramTimeout
from .noise import mix
from .tree import Tree

if TYPE_CHECKING:
    from .branch import Branch

WEIGHT = 0.25
"""Of the newest program in the running mean and deviation."""


class Program:
    """What the branches of one program share. `timeout` in seconds from now; `seed` is what would repeat it."""

    __slots__ = ("admitted", "computed", "deadline", "expected", "noise", "number", "seed", "timeout")

    def __init__(self, number: int, seed: int, timeout: float | None = None) -> None:
        self.number = number
        self.seed, self.noise = seed, mix(seed)
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.computed = 0  # rows of KV, in all its branches
        self.admitted = False
        self.expected = 0  # rows it was expected to compute when it was admitted, while nothing was known of others

    def timeout_error(self, where: str) -> ProgramTimeout:
        return ProgramTimeout(f"{where}: the program's timeout={self.timeout:g} s passed before it finished")


class Admission:
    """`waiting`: branches with a call whose program is not admitted, in the order they came."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.waiting: deque[Branch] = deque()
        self.admitted: dict[Program, None] = {}
        self._mean = self._deviation = 0.0  # of the rows that programs computed; 0: none has ended yet
        self._full = False  # the first in line was refused, and no program has left since

    def add(self, branch: Branch) -> None:
        branch.waiting = True
        self.waiting.append(branch)

    def remove(self, branch: Branch) -> None:
        if branch.waiting:
            branch.waiting = False
            self.waiting.remove(branch)
            self._full = False

    def next(self, idle: bool) -> Branch | None:
        """The next branch that may run now. `idle`: nobody runs, so whoever is first must be let in."""
        if not self.waiting or (self._full and not idle):
            return None
        branch = self.waiting[0]
        program = branch.program
        if not program.admitted:
            need = self._need(branch)
            if not idle and not self._fits(need):
                self._full = True
                return None
            program.admitted, program.expected = True, program.computed + need
            self.admitted[program] = None
        branch.waiting = False
        return self.waiting.popleft()

    def leave(self, program: Program, ended: bool = True) -> None:
        """The program holds nothing any more (it may come back). `ended` well: others like it will need as much."""
        if not program.admitted:
            return
        program.admitted = self._full = False
        del self.admitted[program]
        if ended and program.computed:
            off = program.computed - self._mean
            self._deviation += WEIGHT * (abs(off) - self._deviation) if self._mean else 0.0
            self._mean += WEIGHT * off if self._mean else off

    def _need(self, branch: Branch) -> int:
        """Rows that the program is expected to compute from here on."""
        new = branch.length - self.tree.known(branch.path_tokens())
        return max(new + 1, self._typical() if self._mean else new + branch.may_generate())

    def _typical(self) -> int:
        return int(self._mean + self._deviation)

    def _fits(self, need: int) -> bool:
        pool = self.tree.pool
        room = pool.available + self.tree.cached - need
        if room < 0:
            return False
        typical = self._typical()
        if len(self.admitted) * typical <= room and typical:
            return True  # even if none of them had computed anything yet
        return sum(max(0, (typical or p.expected) - p.computed) for p in self.admitted) <= room
