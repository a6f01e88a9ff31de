"""What a program cost, as a tree of program, branches and calls; and what it may cost (`budget=`).

Counts nothing itself: that is the backend's (`BackendBranch.usage`, and the usage of each result).

`Ledger` grows while a program runs. It holds no state of the program, so a dropped branch is freed although its costs
are kept. `UsageTree` is a snapshot for the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..backend.base import BackendBranch, Handle, Usage
from ..lang.errors import BudgetExceeded, OptionError, suggest

_COUNTS = tuple(f.name for f in fields(Usage))
_NOUNS = {"generated": "generated tokens", "prompt": "prompt tokens", "computed": "computed tokens"}


class Budget:
    """What a program may cost before its next call is refused.

    Calls that run already finish, so the total may exceed the budget by what ran side by side when it was reached.
    `asked`: a number of generated tokens, or a dict from counts of `Usage` to the most there may be of each, such as
    `{"generated": 2000, "calls": 20, "computed": 50_000}`.
    """

    __slots__ = ("limits",)

    def __init__(self, where: str, asked: Any) -> None:
        limits = {"generated": asked} if not isinstance(asked, Mapping) else dict(asked)
        if not limits:
            raise OptionError(f"{where}: budget is empty; say at least one of {', '.join(_COUNTS)}")
        for name, most in limits.items():
            if name not in _COUNTS:
                raise OptionError(f"{where}: budget has no count {name!r}{suggest(str(name), _COUNTS)}")
            if isinstance(most, bool) or not isinstance(most, (int, float)) or not most >= 0:
                raise OptionError(f"{where}: budget of {name} must be a number of at least 0, got {most!r:.60}")
        self.limits: dict[str, float] = limits

    def check(self, spent: Usage, label: str) -> None:
        """Raise `BudgetExceeded` if nothing is left of some count."""
        for name, most in self.limits.items():
            so_far = getattr(spent, name)
            if so_far >= most:
                noun = _NOUNS.get(name, name)
                said = f"{so_far:.3g} s of {name}" if isinstance(so_far, float) else f"{so_far} {noun}"
                raise BudgetExceeded(
                    f"program {label} has spent {said}, and its budget is {most:g}; raise budget={{{name!r}: ...}}",
                    spent + Usage(),
                )


@dataclass(frozen=True)
class Call:
    """One finished gen or select: what it was and where (`gen('answer') at prog.py:12`)."""

    where: str
    usage: Usage


@dataclass(frozen=True, eq=False)
class UsageTree:
    """Token counts of a branch and of everything beneath it. It prints as an indented list.

    Attributes:
        label: The name of the program, or which branch it is.
        own: The counts of this branch alone.
        calls: Its finished gens and selects.
        branches: The branches forked from it, and the programs that its body ran.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def qa(s):
        ...     s += "Why?" + sgl.gen("answer", max_tokens=2)
        >>> usage = qa.run(backend=sgl.Runtime.toy()).usage
        >>> usage.label, usage.total.calls, usage.total.generated <= 2
        ('qa', 1, True)
    """

    label: str
    own: Usage
    calls: list[Call] = field(default_factory=list)
    branches: list[UsageTree] = field(default_factory=list)

    @property
    def total(self) -> Usage:
        """The counts of this branch and of all beneath it."""
        total = Usage()
        for tree in self.walk():
            total.add(tree.own)
        return total

    def walk(self) -> Iterator[UsageTree]:
        """Give this tree and all beneath it, parents first.

        Example:
            >>> import sgl
            >>> state = sgl.function(lambda s: s.fork(2).join()).run(backend=sgl.Runtime.toy())
            >>> [tree.label for tree in state.usage.walk()]
            ['<lambda>', 'branch 0 of 2', 'branch 1 of 2']
        """
        return (tree for tree, _ in self._walk())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UsageTree):
            return NotImplemented
        return [*self._flat()] == [*other._flat()]

    def __reduce__(self) -> tuple[Any, ...]:
        return _grown, (list(self._flat()),)

    def _flat(self) -> Iterator[tuple[int, str, Usage, list[Call]]]:
        return ((depth, tree.label, tree.own, tree.calls) for tree, depth in self._walk())

    def _walk(self) -> Iterator[tuple[UsageTree, int]]:
        stack = [(self, 0)]  # programs may be forked deeper than Python recurses
        while stack:
            tree, depth = stack.pop()
            yield tree, depth
            stack += [(branch, depth + 1) for branch in reversed(tree.branches)]

    def __repr__(self) -> str:
        lines = []
        for tree, depth in self._walk():
            indent = "  " * depth
            lines.append(f"{indent}{tree.label}: {tree.total}")
            lines += [f"{indent}  {call.where}: {call.usage}" for call in tree.calls]
        return "\n".join(lines)


def _grown(flat: list[tuple[int, str, Usage, list[Call]]]) -> UsageTree:
    """The tree of which `flat` is the walk, parents first."""
    path: list[UsageTree] = []
    for depth, label, own, calls in flat:
        tree = UsageTree(label, own, calls, [])
        del path[depth:]
        if path:
            path[-1].branches.append(tree)
        path.append(tree)
    return path[0]


class Ledger:
    """The growing side of one branch. A ledger with a budget counts what the calls here and beneath it cost."""

    __slots__ = ("_branch", "_budget", "_calls", "_children", "_label", "_limited", "_spent")

    def __init__(self, label: str, branch: BackendBranch, budget: Budget | None = None) -> None:
        self._label, self._branch = label, branch
        self._budget = budget
        self._spent = Usage()  # of finished calls; only counted with a budget
        self._limited: tuple[Ledger, ...] = () if budget is None else (self,)  # those with a budget, here and above
        self._calls: list[tuple[str, Handle[Any]]] = []
        self._children: list[Ledger] = []

    def call(self, where: str, handle: Handle[Any]) -> None:
        self._calls.append((where, handle))
        if self._limited:
            handle.listen(lambda: self._count(handle))

    def _count(self, handle: Handle[Any]) -> None:
        if handle.done:
            for each in self._limited:
                each._spent.add(spent(handle))

    def fork(self, child: Ledger) -> None:
        """Make the costs of `child` a part of these."""
        child._limited = (*self._limited, *child._limited)
        self._children.append(child)

    def gate(self) -> Callable[[], None] | None:
        """The check that refuses a call once a budget here or above is spent; None without a budget."""
        return self._check if self._limited else None

    def _check(self) -> None:
        for each in self._limited:
            assert each._budget is not None
            each._budget.check(each._spent, each._label)

    def total(self) -> Usage:
        """The costs so far of this branch and all beneath it."""
        return self.tree(calls=False).total

    def tree(self, calls: bool = True) -> UsageTree:
        """A snapshot; calls that are not finished are left out."""
        root = self._snapshot(calls)
        stack = [(self, root)]
        while stack:
            ledger, tree = stack.pop()
            for child in list(ledger._children):
                branch = child._snapshot(calls)
                tree.branches.append(branch)
                stack.append((child, branch))
        return root

    def _snapshot(self, calls: bool) -> UsageTree:
        found = [Call(where, spent(h)) for where, h in list(self._calls) if h.done] if calls else []
        return UsageTree(self._label, self._branch.usage + Usage(), found)


def spent(handle: Handle[Any]) -> Usage:
    """Return what a finished call has cost."""
    if handle.error is not None:
        return Usage() if handle.usage is None else handle.usage
    total, result = Usage(), handle.result
    assert result is not None
    for one in result if isinstance(result, list) else [result]:
        total.add(one.usage)
    return total
