"""Branches over a service: what was said, as pieces of text, and a queue of ops that is worked off on the loop.

Knows nothing of how a service is asked (`policy.py`). The public methods are the protocol of `backend/base.py`: any
thread may call them, and they only enqueue. Everything else runs on the loop of `loop.py`, so it needs no locks.

1. The ops of a branch are done one after the other, by one task at a time. Branches go on side by side.
2. A branch that failed completes every handle that it has or gets with its error. Its open stream is closed.
3. The child of a fork is born when its parent comes to the fork, with a copy of the pieces.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ...lang.errors import Cancelled, ProgramTimeout
from ..base import GenRequest, GenResult, Handle, ScoreRequest, ScoreResult, Usage
from .caller import Caller
from .loop import soon
from .policy import Place, Policy, pick, write
from .service import Messages, WrittenText

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Say:
    text: str
    markup: bool


@dataclass(frozen=True, slots=True)
class RemoteCall:
    request: GenRequest | ScoreRequest
    handle: Handle[Any]


@dataclass(frozen=True, slots=True)
class Split:
    children: tuple[RemoteBranch, ...]

    def is_needed(self) -> bool:
        return not all(child.is_over() for child in self.children)


@dataclass(frozen=True, slots=True)
class RemoteHold:
    until: Handle[Any]


@dataclass(frozen=True, slots=True)
class Sync:
    handle: Handle[None]


RemoteOp = Say | RemoteCall | Split | RemoteHold | Sync


class Host(Protocol):
    """What a branch asks of its backend."""

    caller: Caller
    policy: Policy

    def enlist(self, branch: RemoteBranch) -> None:
        """Note a branch, to be cancelled when the backend is shut down."""

    def read(self, pieces: Sequence[tuple[str, bool]]) -> tuple[str | Messages, bool]:
        """The prompt that the pieces say, and whether a call goes on with an open turn."""


class RemoteBranch:
    """One line of text on a service. `timeout`: seconds that its program may take; forks share what is left of them."""

    def __init__(self, host: Host, seed: int | None, timeout: float | None = None, parent: RemoteBranch | None = None):
        self.usage = Usage()
        self.error: BaseException | None = None
        self._host = host
        self._given_seed = seed
        self._limit: tuple[float, float] | None = None  # seconds of the program, and when they have passed
        if parent is not None:
            self._limit = parent._limit
        elif timeout is not None:
            self._limit = timeout, time.monotonic() + timeout
        self._ops: deque[RemoteOp] = deque()
        self._at: RemoteOp | None = None  # the op at work
        self._pieces: list[tuple[str, bool]] = []
        self._told = 0  # pieces that traces of calls have told of
        self._calls = self._forks = 0
        self._task: asyncio.Task[None] | None = None
        self._born = parent is None
        self._closing = False  # asked to close
        self._gone = False  # closed, and no child waits for its birth any more
        self._mine = [self]  # for `closer`: empty once the branch has failed
        host.enlist(self)

    @property
    def seed(self) -> None:
        """None: no service promises to repeat a program."""
        return None

    # -- the protocol: enqueue and return
    def append(self, text: str, *, markup: bool = False) -> None:
        if text:
            self._ops.append(Say(text, markup))  # done when an op comes that needs it

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        return self._enqueue(RemoteCall(request, Handle(request.where))).handle  # type: ignore[no-any-return]

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        return self._enqueue(RemoteCall(request, Handle(request.where))).handle  # type: ignore[no-any-return]

    def sync(self) -> Handle[None]:
        return self._enqueue(Sync(Handle("sync"))).handle  # type: ignore[no-any-return]

    def hold(self, until: Handle[Any]) -> None:
        self._enqueue(RemoteHold(until))

    def fork(self, n: int) -> Sequence[RemoteBranch]:
        own, self._forks = self._given_seed, self._forks + 1
        seeds = [None if own is None else _mixed(own, self._forks, i + 1) for i in range(n)]
        children = tuple(RemoteBranch(self._host, seed, parent=self) for seed in seeds)
        self._enqueue(Split(children))
        return children

    def rest(self) -> None: ...

    def cancel(self, error: BaseException | None = None) -> None:
        self.error = self.error or error or Cancelled("the branch was cancelled")
        soon(self._fail)

    def close(self) -> None:
        self._closing = True
        soon(self._wake)

    def closer(self) -> Callable[[], None]:
        mine = self._mine

        def close() -> None:
            for branch in mine:
                branch.close()

        return close

    def _enqueue(self, op: Any) -> Any:
        self._ops.append(op)
        soon(self._wake)
        return op

    # -- on the loop
    def _wake(self) -> None:
        """Go on with the ops, if no task does."""
        if self._closing:
            self._drop()
        if self._end() is not None:
            self._fail()
        elif self._ops and self._born and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _drop(self) -> None:
        """Refuse the ops of a closing branch after its last fork: children still need what is before it."""
        while self._ops and not (isinstance(self._ops[-1], Split) and self._ops[-1].is_needed()):
            _refuse(self._ops.pop(), _closed())
        self._gone = not self._ops and not isinstance(self._at, Split)

    def is_over(self) -> bool:
        """Whether nothing more will be done on the branch."""
        return self._closing or self.error is not None

    def _end(self) -> BaseException | None:
        """What pending ops end with, if the branch has failed or is gone."""
        return self.error or (_closed() if self._gone else None)

    def _fail(self) -> None:
        """Complete everything pending with the branch's end, and close its stream."""
        end = self._end()
        assert end is not None
        self._mine.clear()
        if self._at is not None:
            _refuse(self._at, end)
        while self._ops:
            _refuse(self._ops.popleft(), end)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _work(self) -> None:
        """Do the ops one after the other, until there are none or one fails."""
        try:
            while self._ops and self._end() is None:
                self._at = op = self._ops.popleft()
                await self._do(op)
        except BaseException as error:  # of a gate, a choice method or a validator too, whatever its type
            if not self._gone:
                self.error = self.error or error
        finally:
            if self._closing:
                self._drop()
            if self._end() is not None:
                self._fail()
            self._task = self._at = None

    async def _do(self, op: RemoteOp) -> None:
        if isinstance(op, Say):
            self._pieces.append((op.text, op.markup))
        elif isinstance(op, RemoteCall):
            await self._limited(self._call(op), op.request)
        elif isinstance(op, Split):
            for child in op.children:
                child._be_born(self)
        elif isinstance(op, RemoteHold):
            await self._limited(_held(op.until), None)
        else:
            op.handle.finish(None)

    def _be_born(self, parent: RemoteBranch) -> None:
        self._pieces, self._told, self._born = list(parent._pieces), parent._told, True
        self._wake()

    async def _limited(self, work: Awaitable[T], request: GenRequest | ScoreRequest | None) -> T:
        """Await `work` for as long as the call and the program may take."""
        limits: list[tuple[float, str]] = []
        if isinstance(request, GenRequest) and (own := request.sampling.timeout) is not None:
            limits.append((own, f"{request.where}: timeout={own:g} s passed"))
        if self._limit is not None:
            where = "the program" if request is None else request.where
            seconds, end = self._limit
            limits.append((end - time.monotonic(), f"{where}: timeout={seconds:g} s of the program passed"))
        if not limits:
            return await work
        seconds, late = min(limits)
        task = asyncio.ensure_future(_contained(work))
        try:
            if (await asyncio.wait([task], timeout=max(0.0, seconds)))[0]:
                value, error = task.result()
                if error is not None:
                    raise error
                return value  # type: ignore[return-value]
            raise ProgramTimeout(late)
        finally:
            task.cancel()

    async def _call(self, op: RemoteCall) -> None:
        request, host = op.request, self._host
        if request.gate is not None:
            request.gate()
        prompt, continues = host.read(self._pieces)
        untold = "".join(text for text, _ in self._pieces[self._told :])
        place = Place(prompt, continues, self._seed_of(request), (untold, 0))
        spent = Usage(calls=1)
        result: Any
        try:
            if isinstance(request, GenRequest):
                result = await write(host.caller, host.policy, place, request, op.handle.grow, spent)
                text = result[0].text
            else:
                result = await pick(host.caller, host.policy, place, request, spent)
                text = result.text
                result.usage = replace(spent)
                op.handle.grow(text)
        except BaseException:
            op.handle.usage = spent
            raise
        finally:
            self.usage.add(spent)
        if text:
            self._pieces.append((_written(text, result), False))
        if request.trace:
            self._told = len(self._pieces)
        op.handle.finish(result)

    def _seed_of(self, request: GenRequest | ScoreRequest) -> int | None:
        """The seed of one call: its own, or one that follows from the program's and the call's place."""
        self._calls += 1
        own = request.sampling.seed if isinstance(request, GenRequest) else request.seed
        if own is not None or self._given_seed is None:
            return own
        return _mixed(self._given_seed, self._calls, 0)


def _mixed(seed: int, *places: int) -> int:
    """A seed of 31 bits, which every service takes."""
    for place in places:
        seed = (seed * 0x9E3779B97F4A7C15 + place * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & (2**64 - 1)
        seed = ((seed ^ (seed >> 31)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    return seed >> 33


def _written(text: str, result: Any) -> str:
    """The text of a result, with its tokens where the service told them."""
    ids = result[0].token_ids if isinstance(result, list) else ()
    if not ids:
        return text
    written = WrittenText(text)
    written.token_ids = tuple(ids)
    return written


def _closed() -> Cancelled:
    return Cancelled("the branch is closed; nothing can be added to it")


async def _contained(work: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    """Await `work` as (value, error): an interruption raised by a task would end the whole loop."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


async def _held(until: Handle[Any]) -> None:
    """Wait for a handle. Raises its error."""
    over = asyncio.Event()
    until.listen(lambda: soon(over.set) if until.done else None)
    await over.wait()
    if until.error is not None:
        raise until.error


def _refuse(op: RemoteOp, error: BaseException) -> None:
    """Carry out no part of this op: its handle completes with `error`, and its children fail with it."""
    if isinstance(op, Split):
        for child in op.children:
            if not child._born:
                child.error = child.error or error
                child._fail()
    elif isinstance(op, (RemoteCall, Sync)):
        op.handle.finish(None, error)
