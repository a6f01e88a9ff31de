"""`sgl.first(group)`: the first branch to finish wins, the others are cancelled."""

from __future__ import annotations

from typing import Any

from ..backend.base import Handle
from ..lang.errors import Cancelled, OptionError
from .awaited import Awaited
from .join import ProgramStateGroup
from .state import ProgramState


def first(group: ProgramStateGroup) -> Any:
    """The branch of `group` that is first done with everything said on it, without an error; its siblings are
    cancelled, and their KV is free at the next step. It goes on as any branch does. In an async program:
    `await sgl.first(group)`.

    Raises the error of the first branch if all of them fail, and `OptionError` for an empty group.
    """
    if not isinstance(group, ProgramStateGroup):
        raise OptionError(f"first: a group of branches is needed, such as s.fork(3), got {group!r:.60}")
    if not len(group):
        raise OptionError("first: the group has no branches")
    race = _Race(group)
    if group.src_state._is_awaited():
        return Awaited("sgl.first(group)", race.run_async)
    return race.run()


class _Race:
    def __init__(self, group: ProgramStateGroup) -> None:
        self._states = list(group)
        self._backend = group.src_state._line.backend
        self._over: Handle[ProgramState] = Handle("sgl.first")
        self._failed: dict[int, BaseException] = {}
        for i, state in enumerate(self._states):
            barrier = state._line.barrier()
            barrier.listen(lambda i=i, barrier=barrier: self._ended(i, barrier))  # type: ignore[misc]

    def _ended(self, i: int, barrier: Handle[None]) -> None:
        """A branch is done (told by whoever drives): losers are cancelled here, before the next step."""
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

    def run(self) -> ProgramState:
        self._backend.wait(self._over)
        return self._over.value()

    async def run_async(self) -> ProgramState:
        await self._backend.wait_async(self._over)
        return self._over.value()
