"""Branches of one fork, and how they come together again.

Owns: the group, and what a variable gathered from branches is. Knows nothing of tokens: a concatenating join is honest
text.

Rules of `join("gather_variable")`: a name defined in a branch since the fork becomes a list in the parent, in branch
order, and overwrites what the parent had. It waits for nothing. Branches that never said the name have no place in its
list; a *failed* branch has one: reading it raises that branch's own error, while its siblings stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..backend.base import Handle
from ..lang.errors import OptionError, suggest
from ..lang.expr import Appendable, Expr, as_expr
from .cursor import Cursor
from .variables import Variable

if TYPE_CHECKING:
    from .state import ProgramState

Modes = ("gather_variable", "concate_and_append")
Broadcast = Appendable | Sequence[Appendable] | Callable[[int], Appendable]


class Hole:
    """Where a failed branch's value would be."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<failed: {self.error!r}>"


class PartialList(list[Any]):
    """The values of a group in which some branches failed: a list whose failed places raise when they are read.

    `errors` maps places to errors; `succeeded` is a plain list of the values that are there.
    """

    @property
    def errors(self) -> dict[int, BaseException]:
        return {i: v.error for i, v in enumerate(super().__iter__()) if isinstance(v, Hole)}

    @property
    def succeeded(self) -> list[Any]:
        return [v for v in super().__iter__() if not isinstance(v, Hole)]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            return _values(found)
        return _filled(found)

    def __iter__(self) -> Iterator[Any]:
        return map(_filled, super().__iter__())

    def __reversed__(self) -> Iterator[Any]:
        return map(_filled, super().__reversed__())

    def pop(self, index: Any = -1) -> Any:
        return _filled(super().pop(index))

    __hash__ = None


def _on_whole(name: str) -> Callable[..., Any]:
    """A list's method, for a list without holes: it would compare or copy one as if it were a value."""

    def method(self: PartialList, *args: Any, **kwargs: Any) -> Any:
        for error in self.errors.values():
            raise error
        return getattr(list, name)(self, *args, **kwargs)

    return method


for _name in (
    "__contains__",
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__add__",
    "__mul__",
    "__rmul__",
    "index",
    "count",
    "copy",
    "sort",
):
    setattr(PartialList, _name, _on_whole(_name))


def _values(found: list[Any]) -> list[Any]:
    return PartialList(found) if any(isinstance(v, Hole) for v in found) else found


def _filled(value: Any) -> Any:
    if isinstance(value, Hole):
        raise value.error
    return value


class Gathered(Variable):
    """A name as it was in several branches when they were joined."""

    __slots__ = ("_parts", "_value")

    def __init__(self, parts: Sequence[tuple[Cursor, Variable]]) -> None:
        self._parts = tuple(parts)
        self._value: list[Any] | None = None

    def handles(self) -> Sequence[Handle[Any]]:
        return [handle for _, variable in self._parts for handle in variable.handles()]

    def value(self) -> Any:
        if self._value is None:
            self._value = _values([_or_hole(cursor, variable.value) for cursor, variable in self._parts])
        return self._value

    def meta(self) -> Any:
        return _values([_or_hole(cursor, variable.meta) for cursor, variable in self._parts])


def _or_hole(cursor: Cursor, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        return Hole(cursor.explain(error))


class ProgramStateGroup:
    """The branches of one `fork(n)`: indexable, iterable, `len`; `+=` appends to each of them."""

    def __init__(self, states: Sequence[ProgramState], src_state: ProgramState) -> None:
        self.states = list(states)
        self.src_state = src_state

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self.states)

    def __getitem__(self, i: int) -> ProgramState:
        return self.states[i]

    def __setitem__(self, i: int, state: ProgramState) -> None:
        """Only what `group[i] += x` needs: the state that is there already."""
        if self.states[i] is not state:
            raise OptionError("the branches of a group cannot be replaced; append to them with `group[i] += ...`")

    def __iadd__(self, other: Broadcast) -> ProgramStateGroup:
        """Append text or an expression to every branch, a list's items one each, or `other(i)` to branch i."""
        for state, expr in zip(self.states, self._each(other)):
            state += expr
        return self

    def _each(self, other: Broadcast) -> list[Expr]:
        if isinstance(other, (str, Expr)):
            return [as_expr(other)] * len(self)
        if callable(other):
            return [as_expr(other(i)) for i in range(len(self))]
        if isinstance(other, (list, tuple)):
            if len(other) != len(self):
                raise OptionError(f"the group has {len(self)} branches, and the list has {len(other)} items for them")
            return [as_expr(item) for item in other]
        return [as_expr(other)]  # raises, and says what can be appended

    def join(self, mode: str = "gather_variable") -> None:
        """Bring the branches together; they can only be read afterwards.

        "gather_variable": their variables become lists in the parent. Waits for nothing.
        "concate_and_append": their new texts are appended to the parent in order. Waits, and raises a branch's error.
        """
        if mode not in Modes:
            raise OptionError(f"join: unknown mode {mode!r}{suggest(str(mode), Modes)}; there are {', '.join(Modes)}")
        parent, children = self.src_state._cursor, [state._cursor for state in self.states]
        for child in children:
            child.seal("was joined")
        if mode == "gather_variable":
            _gather(parent, children)
        else:
            _concatenate(parent, children)

    async def ajoin(self, mode: str = "gather_variable") -> None:
        """`join` after waiting for the branches without blocking the event loop."""
        for state in self.states:
            await state._finish_async()
        self.join(mode)

    async def __aenter__(self) -> ProgramStateGroup:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """`async with s.fork(n) as group`: joined at the end of the block, unless the block raised."""
        if error is None:
            await self.ajoin()

    def __repr__(self) -> str:
        return f"ProgramStateGroup({len(self)} branches)"


def _gather(parent: Cursor, children: Iterable[Cursor]) -> None:
    found: dict[str, list[tuple[Cursor, Variable]]] = {}
    for child in children:
        parent.joined.append(child)
        for name, variable in child.own.items():
            found.setdefault(name, []).append((child, variable))
    for name, parts in found.items():
        parent.define(name, Gathered(parts))


def _concatenate(parent: Cursor, children: Sequence[Cursor]) -> None:
    barriers = [child.barrier() for child in children]
    for child, barrier in zip(children, barriers):
        child.backend.wait(barrier)
        if barrier.error is not None:
            raise child.explain(barrier.error)
    for child, barrier in zip(children, barriers):
        parent.graft(child.segments[child.forked_at :])
        child.close(barrier)
