"""What the branches of one program share: its seed, its deadline, and the account of what it computes.

Knows nothing of the pool. A *program* here is one `open()` of a backend: one row of a batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ....lang.errors import ProgramTimeout
from ..sample.noise import mix

if TYPE_CHECKING:
    from .branch import Branch  # an account lists its branches, and a branch has its account


class Account:
    """What one program needs, together with every program that its body runs: all of them are admitted at once.

    `over`: the body has ended, so the program leaves when its last call ends. Branches may outlive the body.
    `attached`: its branches that hold KV. `waiting`: its branches with a job that waits until the program is admitted,
    by order.
    """

    __slots__ = (
        "admitted", "attached", "calls", "computed", "goal", "number", "over", "rested", "rows", "start", "waiting",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number  # of its outermost program
        self.attached: dict[Branch, None] = {}
        self.waiting: list[Branch] = []
        self.calls = 0
        self.rested: float | None = None  # since when it has no call, in seconds on the monotonic clock
        self.over = False
        self.rows = 0  # of KV that went through the model, in all branches
        self.computed = 0  # of them, those that were not computed before
        self.start: int | None = None  # what `computed` comes to with the new text before the first call; None: unknown
        self.admitted = False
        self.goal = 0  # what `rows` was expected to come to when the program was admitted

    @property
    def grown(self) -> int:
        """Rows computed since the program was admitted, less the new text before its call. This number is similar from
        program to program; that text may be a long prefix that one program computes for all."""
        return max(0, self.computed - (self.start or 0))


class Program:
    """Program number `number`. `timeout` counts in seconds from now; `seed` repeats the program's noise;
    `caller` is the program whose body runs this one."""

    __slots__ = ("account", "deadline", "inner", "noise", "seed", "timeout")

    def __init__(self, number: int, seed: int, timeout: float | None = None, caller: Program | None = None) -> None:
        self.seed, self.noise = seed, mix(seed)
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.inner = caller is not None
        self.account: Account = Account(number) if caller is None else caller.account

    def repeat(self, seed: int) -> None:
        """Take the noise of another program, which goes on here."""
        self.seed, self.noise = seed, mix(seed)

    def is_overdue(self, now: float) -> bool:
        return self.deadline is not None and now > self.deadline

    def timeout_error(self, where: str) -> ProgramTimeout:
        """The error of a call (`where`) that the program's timeout ended."""
        return ProgramTimeout(f"{where}: the program's timeout={self.timeout:g} s passed before it finished")
