"""`Lease`: what a state's finaliser holds of its branch.

Owns: nothing but the reference. Knows nothing of either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .branch import Branch


class Lease:
    """What closes a branch when its owner is dropped, for a finaliser to hold: it lets go of a branch that failed,
    whose error has a traceback, whose frames hold the owner."""

    __slots__ = ("branch",)

    def __init__(self, branch: Branch) -> None:
        self.branch: Branch | None = branch

    def end(self) -> None:
        if (branch := self.branch) is not None:
            branch.close()
