"""Branches of one fork, and how they come together again: the group, gathered variables, and `sgl.first`.

Knows nothing of tokens: a concatenating join says the branches' text again on the parent.

Rules of `join("gather_variable")`
1. A name defined in a branch since the fork becomes a list in the parent, in branch order, and overwrites what the
   parent had. The join waits for nothing.
2. A branch that never said the name has no place in the list. A *failed* branch always has one: reading that place
   raises the branch's own error, while its siblings stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..backend.base import Handle
from ..backend.waiting import AtHandle, Flow, block_on, suspend_on, through
from ..lang.errors import Cancelled, OptionError, suggest
from ..lang.expr import Appendable, Expr, as_expr
from .colour import html_of_group, parts_of, since_fork
from .line import Line
from .transcript import Segment
from .variables import Variable

if TYPE_CHECKING:  # states make groups of states
    from .live import LiveState
    from .state import ProgramState

JOIN_MODES = ("gather_variable", "concate_and_append")
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
    *("__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__mul__", "__rmul__"),
    *("index", "count", "copy", "sort"),
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
        todo = list(self._parts)
        while todo:  # groups are joined to groups, deeper than Python recurses
            line, variable = todo.pop()
            if isinstance(variable, Gathered):
                todo += variable._parts
            elif variable is not None:
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
        stack: list[tuple[Iterator[tuple[Line, Variable | None]], list[Any]]] = [(iter(self._parts), [])]
        while True:
            parts, values = stack[-1]
            for line, variable in parts:
                try:
                    if isinstance(variable, Gathered):
                        stack.append((iter(variable._parts), []))
                        break
                    if variable is not None:
                        values.append(read(variable))
                    else:
                        line.barrier().value()
                except Exception as error:
                    values.append(Hole(line.explain(error)))
            else:
                stack.pop()
                if not stack:
                    return _values(values)
                stack[-1][1].append(_values(values))


class ProgramStateGroup:
    """The branches of one `fork(n)`: indexable, iterable, with a `len`; `+=` appends to each of them.

    `group += x` appends text or an expression to every branch, a list's items one each, or `x(i)` to branch i if `x` is
    a function. As `async with s.fork(n) as group:` the branches are joined at the end of the block, and cancelled if
    the block raises.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def moods(s):
        ...     s += "I am"
        ...     group = s.fork(2)
        ...     group += lambda i: (" glad", " sad")[i] + sgl.gen("why", max_tokens=2)
        ...     group.join()
        ...     return len(group)
        >>> state = moods.run(backend=sgl.Runtime.toy())
        >>> state.ret_value, len(state["why"])
        (2, 2)
    """

    def __init__(self, states: Sequence[LiveState], src_state: ProgramState) -> None:
        self.states = list(states)
        self.src_state = src_state
        self._appended = False  # the branches' texts are in the parent

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
        for state, expr in zip(self, self._each(other)):
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

        Args:
            mode: "gather_variable" (default): the branches' variables become lists in the parent. Waits for nothing.
                "concate_and_append": the branches' new texts are appended to the parent in order, once. Turns of a chat
                that a branch began or ended are turns of the parent. Waits.

        Raises:
            OptionError: An unknown mode, or texts that were appended before.
            Exception: With "concate_and_append", the error of a branch.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def tips(s):
            ...     branches = s.fork(2)
            ...     branches += ["Sleep. ", "Eat."]
            ...     branches.join("concate_and_append")
            >>> tips.run(backend=sgl.Runtime.toy()).text()
            'Sleep. Eat.'
        """
        if mode != "gather_variable":
            self.src_state._refuse_to_wait(f"group.join({mode!r})", f"await group.ajoin({mode!r})")
        block_on(self._join(mode))

    async def ajoin(self, mode: str = "gather_variable") -> None:
        """Wait for the branches without blocking the event loop, and then `join` them, with its argument and errors.

        Example:
            >>> import asyncio, sgl
            >>> @sgl.function
            ... async def tips(s):
            ...     branches = s.fork(2)
            ...     branches += sgl.gen("tip", max_tokens=4)
            ...     await branches.ajoin()
            ...     return len(await s["tip"])
            >>> asyncio.run(tips.arun(backend=sgl.Runtime.toy())).ret_value
            2
        """
        await suspend_on(self._join_finished(mode))

    def _join_finished(self, mode: str) -> Flow[None]:
        for state in self.states:
            yield from state._finish(deep=True)
        yield from self._join(mode)

    def _join(self, mode: str) -> Flow[None]:
        if mode not in JOIN_MODES:
            there_are = f"there are {', '.join(JOIN_MODES)}"
            raise OptionError(f"join: unknown mode {mode!r}{suggest(str(mode), JOIN_MODES)}; {there_are}")
        parent, children = self.src_state._line, [state._line for state in self.states]
        for child in children:
            child.seal("was joined")
            if child.record is not None:
                child.record.joined = mode
        if mode == "gather_variable":
            _gather(parent, children)
            return
        if self._appended:
            raise OptionError("join: the texts of these branches were already joined to their parent")
        said = yield from _said_on(children)
        self._appended = True
        parent.graft(said)
        for child in children:
            child.close(child.barrier())

    async def __aenter__(self) -> ProgramStateGroup:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self.ajoin()
        else:
            self.cancel()

    def cancel(self) -> None:
        """Cancel every branch. What is finished stays readable.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def stop(s):
            ...     branches = s.fork(2)
            ...     branches.cancel()
            ...     return branches[1].error()
            >>> stop.run(backend=sgl.Runtime.toy()).ret_value
            Cancelled('the branch was cancelled')
        """
        for state in self.states:
            state.cancel()

    def __repr__(self) -> str:
        return f"ProgramStateGroup({len(self)} branches)"

    def _repr_html_(self) -> str:
        """Show in a notebook what each branch said since the fork."""
        parent, found = self.src_state._line.segments, []
        for i, state in enumerate(self.states):
            state._settle()
            found.append((f"branch {i} of {len(self)}", parts_of(since_fork(state._line.segments, parent))))
        return html_of_group(found)


def _gather(parent: Line, children: Sequence[Line]) -> None:
    parent.joined += children
    for name in dict.fromkeys(name for child in children for name in child.own):
        parent.define(name, Gathered([(child, child.own.get(name)) for child in children]))


def _said_on(children: Sequence[Line]) -> Flow[list[Expr | Segment]]:
    """Wait for `children`; what was said on them, in order. Raises a branch's error."""
    barriers = [child.barrier() for child in children]
    for child, barrier in zip(children, barriers):
        yield AtHandle(child.backend, barrier)
        if barrier.error is not None:
            child.explain(barrier.error)
            through(barrier.value)
    return [part for child in children for part in child.log or ()]


def first(group: ProgramStateGroup) -> Any:
    """Wait for the branch that is first done with everything said on it; its siblings are cancelled.

    The KV of the cancelled siblings is free at the next step; the winner goes on as any branch does. In an async
    program: `await sgl.first(group)`.

    Args:
        group: The branches of a fork, at least one.

    Returns:
        The first branch that is done without an error.

    Raises:
        OptionError: `group` is no group, or is empty.
        Exception: The error of the first branch, if all of them fail.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def race(s):
        ...     group = s.fork(2)
        ...     group += [sgl.gen("a", max_tokens=64, ignore_eos=True), sgl.gen("a", max_tokens=2)]
        ...     return sgl.first(group) is group[1]
        >>> race.run(backend=sgl.Runtime.toy()).ret_value
        True
    """
    if not isinstance(group, ProgramStateGroup):
        raise OptionError(f"first: a group of branches is needed, such as s.fork(3), got {group!r:.60}")
    if not len(group):
        raise OptionError("first: the group has no branches")
    race = _Race(group)
    return group.src_state._run("sgl.first(group)", race.run)


class _Race:
    def __init__(self, group: ProgramStateGroup) -> None:
        self._states = group.states
        self._backend = group.src_state._line.backend
        self._over: Handle[ProgramState] = Handle("sgl.first")
        self._failed: dict[int, BaseException] = {}
        for i, state in enumerate(self._states):
            barrier = state._line.barrier()
            barrier.listen(lambda i=i, barrier=barrier: self._ended(i, barrier))  # type: ignore[misc]

    def _ended(self, i: int, barrier: Handle[None]) -> None:
        """Note that a branch is done. Runs in the thread that drives, so losers are cancelled before the next step."""
        if barrier.error is None:
            if not self._over.finish(self._states[i]):
                return
            for state in self._states:
                if state is not self._states[i]:
                    state._line.cancel(Cancelled("another branch of the group finished first"))
            return
        self._failed[i] = self._states[i]._line.explain(barrier.error)
        if len(self._failed) == len(self._states):
            self._over.finish(None, self._failed[0])

    def run(self) -> Flow[ProgramState]:
        yield AtHandle(self._backend, self._over)
        return through(self._over.value)
