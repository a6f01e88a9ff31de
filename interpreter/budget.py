"""`budget=`: what a program may cost before its next call is refused.

Owns: reading a budget and checking it against what was spent. Calls that are running already finish, so a program may
end above its budget by what ran side by side when it was reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..backend.base import Usage
from ..lang.errors import BudgetExceeded, OptionError, suggest

COUNTS = tuple(f.name for f in fields(Usage))


class Budget:
    """`asked`: a number (of generated tokens), or a dict from counts of `Usage` to the most there may be of each, such
    as `{"generated": 2000, "calls": 20, "computed": 50_000}`."""

    __slots__ = ("limits",)

    def __init__(self, where: str, asked: Any) -> None:
        limits = {"generated": asked} if not isinstance(asked, Mapping) else dict(asked)
        if not limits:
            raise OptionError(f"{where}: budget is empty; say at least one of {', '.join(COUNTS)}")
        for name, most in limits.items():
            if name not in COUNTS:
                raise OptionError(f"{where}: budget has no count {name!r}{suggest(str(name), COUNTS)}")
            if isinstance(most, bool) or not isinstance(most, (int, float)) or not most >= 0:
                raise OptionError(f"{where}: budget of {name} must be a number of at least 0, got {most!r:.60}")
        self.limits: dict[str, float] = limits

    def check(self, spent: Usage, label: str) -> None:
        """Raise `BudgetExceeded` if there is nothing left of some count."""
        for name, most in self.limits.items():
            so_far = getattr(spent, name)
            if so_far >= most:
                said = (
                    f"{so_far:.3g} s of {name}" if isinstance(so_far, float) else f"{so_far} {_NOUNS.get(name, name)}"
                )
                raise BudgetExceeded(
                    f"program {label} has spent {said}, and its budget is {most:g}; raise budget={{{name!r}: ...}}",
                    spent + Usage(),
                )


_NOUNS = {"generated": "generated tokens", "prompt": "prompt tokens", "computed": "computed tokens"}
