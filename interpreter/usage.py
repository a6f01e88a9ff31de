"""What a program cost: a tree of program, branches and calls, with token counts.

Owns: the tree and its printing. Counting is the backend's (`Branch.usage`, and the usage of each result).

`Ledger` grows while a program runs and holds no state of it, so a dropped branch is freed although its costs are kept;
`UsageTree` is a snapshot for the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..backend.base import Branch, Handle, Usage
from .budget import Budget


@dataclass(frozen=True)
class Call:
    """One finished gen or select: what it was and where (`gen('answer') at prog.py:12`)."""

    where: str
    usage: Usage


@dataclass(frozen=True)
class UsageTree:
    """`own`: this branch alone. `total`: with every branch forked from it, and every program that its body ran."""

    label: str
    own: Usage
    calls: list[Call] = field(default_factory=list)
    branches: list[UsageTree] = field(default_factory=list)

    @property
    def total(self) -> Usage:
        total = self.own + Usage()
        for branch in self.branches:
            total.add(branch.total)
        return total

    @staticmethod
    def of_batch(label: str, rows: list[UsageTree]) -> UsageTree:
        return UsageTree(label, Usage(), [], rows)

    def walk(self) -> Iterator[UsageTree]:
        yield self
        for branch in self.branches:
            yield from branch.walk()

    def __repr__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        yield f"{indent}{self.label}: {_counts(self.total)}"
        for call in self.calls:
            yield f"{indent}  {call.where}: {_counts(call.usage)}"
        for branch in self.branches:
            yield from branch._lines(indent + "  ")


def _counts(usage: Usage) -> str:
    text = (
        f"{usage.calls} calls, {usage.prompt} prompt ({usage.reused} reused), {usage.computed} computed, "
        f"{usage.generated} generated"
    )
    text += f" ({usage.forced} forced)" if usage.forced else ""
    text += f", {usage.accepted} of {usage.drafted} drafted accepted" if usage.drafted else ""
    text += f", {usage.steps} steps"
    return text + (f", {usage.recomputed} recomputed" if usage.recomputed else "")


class Ledger:
    """The growing side of one branch."""

    __slots__ = ("_branch", "_budget", "_caller", "_calls", "_children", "_label")

    def __init__(self, label: str, branch: Branch, budget: Budget | None = None) -> None:
        self._label, self._branch = label, branch
        self._budget = budget
        self._caller: Ledger | None = None  # whose costs these are part of
        self._calls: list[tuple[str, Handle[Any]]] = []
        self._children: list[Ledger] = []

    def call(self, where: str, handle: Handle[Any]) -> None:
        self._calls.append((where, handle))

    def fork(self, child: Ledger) -> None:
        child._caller = self
        self._children.append(child)

    def gate(self) -> Callable[[], None] | None:
        """What refuses a call once a budget here or above is spent; None where there is none."""
        limited = [each for each in self._upwards() if each._budget is not None]
        if not limited:
            return None

        def check() -> None:
            for each in limited:
                assert each._budget is not None
                each._budget.check(each.total(), each._label)

        return check

    def _upwards(self) -> Iterator[Ledger]:
        at: Ledger | None = self
        while at is not None:
            yield at
            at = at._caller

    def total(self) -> Usage:
        """What this branch and all beneath it cost so far."""
        total = self._branch.usage + Usage()
        for child in list(self._children):
            total.add(child.total())
        return total

    def tree(self) -> UsageTree:
        """A snapshot; calls that failed or are not finished are left out."""
        calls = [Call(where, _used(h.result)) for where, h in list(self._calls) if h.done and h.error is None]
        return UsageTree(self._label, self._branch.usage + Usage(), calls, [c.tree() for c in list(self._children)])


def _used(result: Any) -> Usage:
    total = Usage()
    for one in result if isinstance(result, list) else [result]:
        total.add(one.usage)
    return total
