"""What the branches of one program share: its seed, its deadline, and the account of what it computes.

Knows nothing of branches or of the pool. A *program* here is one `open()` of a backend: one row of a batch.
"""

from __future__ import annotations

import time

from ....lang.errors import ProgramTimeout
from ..sample.noise import mix


class Account:
    """What one program needs, together with every program that its body runs: all of them are admitted at once.

    `over`: the body has ended, so the program leaves when its last call ends. Branches may outlive the body.
    """

    __slots__ = ("admitted", "calls", "computed", "given", "goal", "over", "rows")

    def __init__(self) -> None:
        self.calls = 0
        self.over = False
        self.rows = 0  # of KV that went through the model, in all branches
        self.computed = 0  # of them, those that were not computed before
        self.given: int | None = None  # of them, the text before the first call, as far as that text was new then
        self.admitted = False
        self.goal = 0  # what `rows` was expected to come to when the program was admitted

    @property
    def grown(self) -> int:
        """Rows computed since the first call began. This number is similar from program to program; the text before the
        first call may be a long prefix that one program computes for all."""
        return max(0, self.computed - (self.given or 0))


class Program:
    """One program. `timeout` counts in seconds from now; `seed` repeats the program's noise; `caller` is the program
    whose body runs this one."""

    __slots__ = ("account", "deadline", "inner", "noise", "seed", "timeout")

    def __init__(self, seed: int, timeout: float | None = None, caller: Program | None = None) -> None:
        self.seed, self.noise = seed, mix(seed)
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.inner = caller is not None
        self.account: Account = Account() if caller is None else caller.account

    def is_overdue(self, now: float) -> bool:
        return self.deadline is not None and now > self.deadline

    def timeout_error(self, where: str) -> ProgramTimeout:
        """The error of a call (`where`) that the program's timeout ended."""
        return ProgramTimeout(f"{where}: the program's timeout={self.timeout:g} s passed before it finished")
