"""Branches of one fork, and how they come together again.

Owns: the group, and what a variable gathered from branches is. Knows nothing of tokens: a concatenating join is honest
text.

Rules of `join("gather_variable")`: a name defined in a branch since the fork becomes a list in the parent, in branch
order, and overwrites what the parent had. It waits for nothing. Branches that never said the name have no place in its
list; a *failed* branch always has one: reading it raises that branch's own error, while its siblings stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..backend.base import Handle
from ..lang.errors import OptionError, suggest
from ..lang.expr import Appendable, Expr, as_expr
from .colour import html_of_group, parts_of, since_fork
from .line import Line
from .transcript import Segment
from .variables import Variable

if TYPE_CHECKING:
    from .state import ProgramState

Modes = ("gather_variable", "concate_and_append")
Broadcast = Appendable | Sequence[Appendable] | Callable[[int], Appendable]


class Hole:
    """Where a failed branch's value would be."""

    __slots__ = ("_traceback", "error")

    def __init__(self, error: BaseException) -> None:
        self.error, self._traceback = error, error.__traceback__

    def fail(self) -> NoReturn:
        raise self.error.with_traceback(self._traceback)  # as it was: reads do not add to it

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

    def __radd__(self, other: object) -> list[Any]:
        return [*other, *self] if isinstance(other, list) else NotImplemented

    __hash__ = None


def _on_whole(name: str) -> Callable[..., Any]:
    """A list's method, for a list without holes: it would compare or copy one as if it were a value."""

    def method(self: PartialList, *args: Any, **kwargs: Any) -> Any:
        for hole in list.__iter__(self):
            if isinstance(hole, Hole):
                hole.fail()
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
        value.fail()
    return value


class Gathered(Variable):
    """A name as it was in the branches of a group when they were joined; None in a branch that never said it.

    Such a branch has a place if it failed (it may have failed on its way to the name), and none if it did not.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[tuple[Line, Variable | None]]) -> None:
        self._parts = tuple(parts)
        for line, variable in self._parts:
            if variable is None:
                line.barrier()  # asked for now, while it can still tell what became of the branch

    def handles(self) -> Sequence[Handle[Any]]:
        found: list[Handle[Any]] = []
        for line, variable in self._parts:
            if variable is not None:
                found += variable.handles()
            elif not (barrier := line.barrier()).done:
                found.append(barrier)
        return found

    def value(self) -> Any:
        return self._each(lambda variable: variable.value())

    def typed(self) -> Any:
        return self._each(lambda variable: variable.typed())

    def meta(self) -> Any:
        return self._each(lambda variable: variable.meta())

    def _each(self, read: Callable[[Variable], Any]) -> list[Any]:
        """A fresh list: what a caller does to it is not seen by the next read."""
        found = []
        for line, variable in self._parts:
            try:
                if variable is not None:
                    found.append(read(variable))
                else:
                    line.barrier().value()
            except Exception as error:
                found.append(Hole(line.explain(error)))
        return _values(found)


class ProgramStateGroup:
    """The branches of one `fork(n)`: indexable, iterable, `len`; `+=` appends to each of them."""

    def __init__(self, states: Sequence[ProgramState], src_state: ProgramState) -> None:
        self.states = list(states)
        self.src_state = src_state
        self._appended = False  # its texts are in the parent

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
        "concate_and_append": their new texts are appended to the parent in order, once; turns that they began or ended
        are turns of the parent. Waits, and raises a branch's error.
        """
        if mode != "gather_variable":
            self.src_state._refuse_to_wait(f"group.join({mode!r})", f"await group.ajoin({mode!r})")
        self._join(mode)

    def _join(self, mode: str) -> None:
        if mode not in Modes:
            raise OptionError(f"join: unknown mode {mode!r}{suggest(str(mode), Modes)}; there are {', '.join(Modes)}")
        parent, children = self.src_state._line, [state._line for state in self.states]
        for child in children:
            child.seal("was joined")
            if child.record is not None:
                child.record.joined = mode
        if mode == "gather_variable":
            _gather(parent, children)
        else:
            if self._appended:
                raise OptionError("join: the texts of these branches were already joined to their parent")
            said = _finished(children)
            self._appended = True
            parent.graft(said)
            for child in children:
                child.close(child.barrier())

    async def ajoin(self, mode: str = "gather_variable") -> None:
        """`join` after waiting for the branches without blocking the event loop."""
        for state in self.states:
            await state._finish_async()
        self._join(mode)

    async def __aenter__(self) -> ProgramStateGroup:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """`async with s.fork(n) as group`: joined at the end of the block; a block that raises cancels its branches."""
        if error is None:
            await self.ajoin()
        else:
            self.cancel()

    def cancel(self) -> None:
        """Cancel every branch. What is finished stays readable."""
        for state in self.states:
            state.cancel()

    def __repr__(self) -> str:
        return f"ProgramStateGroup({len(self)} branches)"

    def _repr_html_(self) -> str:
        """For a notebook: what each branch said since the fork."""
        parent, found = self.src_state._line.segments, []
        for i, state in enumerate(self.states):
            if not state._body.is_on_its_loop():
                state._finish()
            found.append((f"branch {i} of {len(self)}", parts_of(since_fork(state._line.segments, parent))))
        return html_of_group(found)


def _gather(parent: Line, children: Sequence[Line]) -> None:
    parent.joined += children
    for name in dict.fromkeys(name for child in children for name in child.own):
        parent.define(name, Gathered([(child, child.own.get(name)) for child in children]))


def _finished(children: Sequence[Line]) -> list[Expr | Segment]:
    """What was said on `children`, in order; waits, and raises a branch's error."""
    barriers = [child.barrier() for child in children]
    for child, barrier in zip(children, barriers):
        child.backend.wait(barrier)
        if barrier.error is not None:
            child.explain(barrier.error)
            barrier.value()
    return [part for child in children for part in child.log or ()]
