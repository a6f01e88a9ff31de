"""Branches: what a backend gives to one line of a program, and its queue of ops.

Knows nothing of steps, nor of what an op does. The public methods are the protocol of `backend/base.py`: they only
enqueue, and any thread may call them. Everything else is called under the engine's lock. Where the branch stands in the
tree is its `cursor`'s to know; what its op at work wants is its `job`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ....lang.errors import Cancelled, OptionError
from ...base import GenRequest, GenResult, Handle, ScoreRequest, ScoreResult, Usage
from ...shapes import misfit
from ..kv.cursor import Cursor
from ..kv.tree import Tree
from ..sample.noise import mix
from .program import Program

if TYPE_CHECKING:
    from ..job.job import Job  # a branch holds its job, and a job works on its branch: two halves of one call

Piece = tuple[str, bool]
"""Constant text and whether it is markup (a chat template's own text, which may spell control tokens)."""
_SAVED = {"seed": int, "path": int, "forks": int, "tokens": [int], "pieces": [(str, bool)]}


@dataclass(frozen=True, slots=True)
class TokensOp:
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenOp:
    request: GenRequest
    handle: Handle[list[GenResult]]


@dataclass(frozen=True, slots=True)
class ScoreOp:
    request: ScoreRequest
    handle: Handle[ScoreResult]


@dataclass(frozen=True, slots=True)
class ForkOp:
    children: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class WarmOp:
    """Compute the KV of everything so far, without wanting logits."""

    handle: Handle[Any]


@dataclass(frozen=True, slots=True)
class SyncOp:
    handle: Handle[None]


@dataclass(frozen=True, slots=True)
class SaveOp:
    """Give the text so far as data."""

    handle: Handle[dict[str, Any]]


class RestOp:
    pass


@dataclass(frozen=True, slots=True)
class HoldOp:
    until: Handle[Any]


Op = Any  # a Piece, or one of the above


class Life(Enum):
    """Where a branch is in its life. Changed under the engine's lock (`branch.py`, `branches.py`, `admission.py`)."""

    UNBORN = "the child of a fork that its parent has not reached"
    IDLE = "no op is at work"
    WAITING = "its job waits until the program is admitted"
    RUNNING = "its job takes part in steps"
    HELD = "no op may follow yet: other samples of its gen run, or something outside the engine"
    FAILED = "it has failed, and so does every op that comes"
    CLOSED = "it will never be used again"


class Hold(Protocol):
    """What a HELD branch waits for."""

    def fail(self, error: BaseException) -> None:
        """The branch failed meanwhile."""


@dataclass(frozen=True, slots=True)
class OutsideHold:
    """A hold on something outside the engine, which does not fail with the branch."""

    until: Handle[Any]

    def fail(self, error: BaseException) -> None:
        pass


@dataclass(slots=True)
class Registry:
    """What all branches of one engine share: the tree, the branches that hold KV, and the inbox of branches with news.

    `wake` is called after news. `look` takes notice of the inbox at once, if no thread drives.
    """

    tree: Tree
    wake: Callable[[], None]
    look: Callable[[], None]
    attached: dict[Branch, None]
    inbox: deque[Branch]

    def notify(self, branch: Branch, wake: bool = True) -> None:
        """Put a branch with news (ops, a failure, an end) into the inbox; `wake` lets a sleeping thread look."""
        if not branch.queued:
            branch.queued = True
            self.inbox.append(branch)
            if wake:
                self.wake()


class Branch:
    """One branch. `order` is its place among all branches (depth first by program); `path` says which branch of its
    program it is, so that forks get noise of their own."""

    def __init__(
        self, registry: Registry, program: Program, order: tuple[int, ...], path: int, life: Life = Life.IDLE
    ) -> None:
        self.registry = registry
        self.program = program
        self.account = program.account
        self.order = order
        self.path = path
        self.life = life
        self.cursor = Cursor(registry.tree)
        self.usage = Usage()
        self.error: BaseException | None = None
        # ops, oldest first; `pending` is constant text already taken from them but not yet tokenised
        self.ops: deque[Op] = deque()
        self.pending: list[Piece] = []
        self.job: Job | None = None
        self.hold_on: Hold | None = None  # what it waits for when it is HELD
        self.forks = 0
        self.told = 0  # tokens that the traces of calls have told of
        # any thread may write these, and `ops`, `forks` and `error`
        self.queued = False  # in the inbox
        self.closing = False  # asked to close
        # its part in steps
        self.planned_in = -1  # number of the last step it has a span in
        self.asked_in = 0  # number of the step in flight that will answer its job; 0: none
        self._lease = Lease(self)

    # -- the protocol: enqueue and return
    def append(self, text: str, *, markup: bool = False) -> None:
        if text:
            self._enqueue((text, markup))

    def append_tokens(self, tokens: list[int]) -> None:
        """Add constant text that is already tokenised."""
        self._enqueue(TokensOp(tuple(tokens)))

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        return self._enqueue(GenOp(request, Handle(request.where))).handle  # type: ignore[no-any-return]

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        return self._enqueue(ScoreOp(request, Handle(request.where))).handle  # type: ignore[no-any-return]

    def warm(self) -> Handle[Any]:
        """Compute the KV of the text so far; a handle that completes when it is there."""
        return self._enqueue(WarmOp(Handle("cache_prefix"))).handle  # type: ignore[no-any-return]

    def sync(self) -> Handle[None]:
        return self._enqueue(SyncOp(Handle("sync"))).handle  # type: ignore[no-any-return]

    def saved(self) -> Handle[dict[str, Any]]:
        return self._enqueue(SaveOp(Handle("save"))).handle  # type: ignore[no-any-return]

    def restore(self, data: dict[str, Any]) -> None:
        if (wrong := misfit(data, _SAVED)) is not None:
            raise OptionError(f"restore: this is not what a branch has saved ({wrong}); keep the data as they were")
        self.program.repeat(data["seed"])
        self.path, self.forks = data["path"], data["forks"]
        if data["tokens"]:
            self.append_tokens(data["tokens"])
        for text, markup in data["pieces"]:
            self.append(text, markup=markup)

    def rest(self) -> None:
        self._enqueue(RestOp())

    def hold(self, until: Handle[Any]) -> None:
        self._enqueue(HoldOp(until))

    def fork(self, n: int) -> Sequence[Branch]:
        children = tuple(self.child(self.forks, i) for i in range(n))
        self.forks += 1
        self._enqueue(ForkOp(children))
        return children

    def cancel(self, error: BaseException | None = None) -> None:
        self.doom(error or Cancelled("the branch was cancelled"))
        self.registry.look()

    def doom(self, error: BaseException) -> None:
        """Make the branch fail as soon as the engine takes notice."""
        self.error = self.error or error
        self.registry.notify(self)

    def close(self) -> None:
        # May run in a finaliser, in the middle of anything, so it does as little as it can: the next step takes notice.
        self.closing = True
        self.registry.notify(self, wake=False)

    def closer(self) -> Callable[[], None]:
        return self._lease.end

    def _enqueue(self, op: Op) -> Any:
        if self.closing:
            refuse(op, Cancelled("the branch is closed; nothing can be added to it"))
        else:
            self.ops.append(op)
            self.registry.notify(self)
        return op

    @property
    def seed(self) -> int:
        return self.program.seed

    def child(self, fork: int, i: int) -> Branch:
        """Child i of fork number `fork`, not yet born, with noise of its own."""
        path = mix(mix(self.path, fork + 1), i + 1)
        return Branch(self.registry, self.program, (*self.order, fork, i), path, Life.UNBORN)

    # -- questions about the queue
    def may_generate(self) -> int:
        """Most tokens that its job and the gens in its queue could write."""
        gens = [
            op.request for op in self.ops.copy() if isinstance(op, GenOp)
        ]  # a copy: any thread may add ops meanwhile
        queued = sum((request.sampling.max_tokens or 0) * request.n for request in gens)
        return queued + (self.job.most() if self.job is not None else 0)

    def is_all(self) -> bool:
        """Whether its queue says that nothing follows: the body has ended."""
        return any(isinstance(op, RestOp) for op in self.ops.copy())

    # -- its life
    def be_born(self, parent: Branch) -> None:
        """Continue from where `parent` (settled) is."""
        self.life = Life.IDLE
        self.told = parent.told
        self.pending = list(parent.pending)
        self.cursor.follow(parent.cursor)
        self._register()

    @property
    def is_busy(self) -> bool:
        """Whether something must end before the branch can go: its birth, its job, or what holds it."""
        return self.life in _BUSY

    def finish_job(self) -> None:
        """Let the job go: it is over without error."""
        self.job = None
        self.life = Life.IDLE if self.hold_on is None else Life.HELD

    def wait_for(self, hold: Hold) -> None:
        """Let no op follow before `release`."""
        self.hold_on = hold
        if self.job is None:
            self.life = Life.HELD

    def release(self) -> None:
        """Let ops follow again."""
        self.hold_on = None
        if self.life is Life.HELD:
            self.life = Life.IDLE

    def wait_outside(self, until: Handle[Any]) -> None:
        """Let no op follow before `until` is done. Its error becomes the branch's."""
        self.wait_for(OutsideHold(until))
        until.listen(lambda: self.registry.notify(self) if until.done else None)

    def look_outside(self) -> None:
        """Let ops follow again if what the branch waits for outside the engine is done."""
        hold = self.hold_on
        if isinstance(hold, OutsideHold) and hold.until.done:
            self.release()
            self.error = self.error or hold.until.error

    def fail(self, error: BaseException) -> None:
        """End everything pending with `error`, and everything that comes later. Unborn children fail with it."""
        self.error = self.error or error
        if self.life is not Life.CLOSED:
            self.life = Life.FAILED
        self._lease.branch = None
        job, self.job = self.job, None
        if job is not None:
            job.abandon(self.error)
        hold, self.hold_on = self.hold_on, None
        if hold is not None:
            hold.fail(self.error)
        while self.ops:
            refuse(self.ops.popleft(), self.error)
        self.pending = []
        self.park()

    # -- where it holds KV
    def settle(self) -> None:
        """Freeze the tail except its last token into the tree, and hold the path."""
        self.cursor.settle()
        self._register()

    def park(self, step: int = 0) -> None:
        """Hold no KV (see `Cursor.park`), nor slots of side chains."""
        if self.job is not None:
            self.job.park()
        self.cursor.park(step)
        self._register()

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; their rows count as never computed."""
        self.cursor.truncate(length)
        self.cursor.high = min(self.cursor.high, length)
        self._register()

    def fall_back(self) -> None:
        """The text has ended, or the answer is lost: expect no answer, and drop what ran ahead of it."""
        self.asked_in = 0
        cursor = self.cursor
        if cursor.runs_ahead and cursor.base and len(cursor.tail) == 1:
            self.park()  # without a token of its own it could want no row
        else:
            cursor.fall_back()

    def _register(self) -> None:
        if self.cursor.attached:
            self.registry.attached[self] = self.account.attached[self] = None
        else:
            self.registry.attached.pop(self, None)
            self.account.attached.pop(self, None)


_BUSY = frozenset({Life.UNBORN, Life.WAITING, Life.RUNNING, Life.HELD})


class Lease:
    """What the finaliser of a branch's owner holds in place of the branch.

    A lease lets go of a branch that failed, since the frames in the traceback of the branch's error may hold the owner.
    """

    __slots__ = ("branch",)

    def __init__(self, branch: Branch) -> None:
        self.branch: Branch | None = branch

    def end(self) -> None:
        """Close the branch, if there still is one."""
        if (branch := self.branch) is not None:
            branch.close()


def refuse(op: Op, error: BaseException) -> None:
    """Carry out no part of this op: its handle completes with `error`, and its children fail with it."""
    if isinstance(op, ForkOp):
        for child in op.children:
            if child.life is Life.UNBORN:
                child.life = Life.IDLE
            child.doom(error)
    elif isinstance(op, (GenOp, ScoreOp, SyncOp, WarmOp, SaveOp)):
        op.handle.finish(None, error)
