"""Branches: live cursors in the tree, and their queues of ops.

Owns: one branch's tokens and watermark, and the ops still to run. The public methods (the protocol of
`backend/base.py`) only enqueue and may be called from any thread; everything else is called by the engine, under its
lock.

A branch is a frozen path of nodes (ending in `node`, `base` tokens deep) and a private growing `tail`. Its watermark:
`computed` of `length` tokens have KV. An *attached* branch holds its path; a *parked* one (new, resting, preempted)
holds only its token list, with node = root: its KV, if any, is ordinary cache that a later match finds again.

Invariants: 0 <= computed <= length; tail_computed > 0 only if the whole path is full; `runs` hold the first
`tail_computed` tokens of the tail, and a reserve to grow into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....lang.errors import Cancelled
from ...base import GenRequest, GenResult, Handle, ScoreRequest, ScoreResult, Usage
from ..kv.pool import cut
from ..kv.tree import Node, Tree
from ..sample.noise import mix
from ..step.packed import Run
from .lease import Lease

if TYPE_CHECKING:
    from ..engine import Engine
    from ..job.gen import Samples
    from ..job.job import Job
    from .admission import Program

Piece = tuple[str, bool]
"""Constant text and whether it is markup (a template's own text, which may spell control tokens)."""


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


class RestOp:
    pass


@dataclass(frozen=True, slots=True)
class HoldOp:
    until: Handle[Any]


class Held:
    """A branch waits for something outside the engine."""

    def fail(self, error: BaseException) -> None:
        """What it waits for is not its own to fail."""


Op = Any  # a Piece, or one of the above


class Branch:
    """A live cursor; see the module. `order` fixes its place among all branches (depth first by program)."""

    def __init__(self, engine: Engine, tree: Tree, program: Program, order: tuple[int, ...], path: int) -> None:
        self.engine = engine
        self.program = program
        self.order = order
        self.path = path  # which branch of the program this is: forks get noise of their own
        self.usage = Usage()
        self.error: BaseException | None = None
        # ops, oldest first; `pending` is constant text already taken from it but not yet tokenised
        self.ops: deque[Op] = deque()
        self.pending: list[Piece] = []
        self.job: Job | None = None
        self.born = True  # a forked child is born when its parent reaches the fork
        self.waiting = False  # it has a job, but its program is not admitted
        self.newborn = False  # forked, and nothing computed here yet
        self.forks = 0
        self.queued = False  # in the engine's inbox
        self.closing = False
        self.closed = False
        # the cursor
        self.tree = tree
        self.node: Node = tree.root
        self.base = 0
        self.tail: list[int] = []
        self.runs: list[Run] = []
        self.reserve = 0  # slots in runs beyond tail_computed
        self.tail_computed = 0
        self.attached = False
        self.high = 0  # deepest position ever computed here: rows below it are recomputation
        self.planned_in = -1  # number of the last step this branch has a span in
        self.asked_in = 0  # number of the step in flight that will answer its job; 0: none
        self.ahead = False  # the last token only stands for the one that the step in flight will sample
        self.waits_for: Samples | Held | None = None  # no op follows yet: other samples of a gen, or a hold
        self.told = 0  # tokens that the traces of calls have told of
        self.pinned = False  # its KV is never given up for others (a cached prefix)
        self.below: tuple[Node, int, tuple[Run, ...]] | None = None  # a full node and the runs of its path
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
        return self._enqueue(WarmOp(Handle("cache_prefix"))).handle  # type: ignore[no-any-return]

    def sync(self) -> Handle[None]:
        return self._enqueue(SyncOp(Handle("sync"))).handle  # type: ignore[no-any-return]

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
        self.engine.poke()

    def doom(self, error: BaseException) -> None:
        """Fail as soon as the engine takes notice."""
        self.error = self.error or error
        self.engine.notify(self)

    def close(self) -> None:
        # May run in a finaliser, in the middle of anything: no lock may be taken here, so nobody is woken.
        self.closing = True
        self.engine.notify(self, wake=False)

    def closer(self) -> Callable[[], None]:
        return self._lease.end

    def _enqueue(self, op: Op) -> Any:
        if self.closing:
            refuse(op, Cancelled("the branch is closed; nothing can be added to it"))
        else:
            self.ops.append(op)
            self.engine.notify(self)
        return op

    def child(self, fork: int, i: int) -> Branch:
        """Child i of fork number `fork`, not yet born. Its noise is its own: the path says which branch it is."""
        child = Branch(
            self.engine,
            self.tree,
            self.program,
            (*self.order, fork, i),
            mix(mix(self.path, fork + 1), i + 1),
        )
        child.born = False
        return child

    @property
    def seed(self) -> int:
        return self.program.seed

    def may_generate(self) -> int:
        """Most tokens that its job and the gens in its queue could write."""
        queued = sum((op.request.sampling.max_tokens or 0) * op.request.n for op in self.ops if isinstance(op, GenOp))
        return queued + (self.job.most() if self.job is not None else 0)

    def is_all(self) -> bool:
        """Whether its queue says that nothing follows: the body has ended."""
        return any(isinstance(op, RestOp) for op in self.ops)

    # -- the cursor
    @property
    def length(self) -> int:
        return self.base + len(self.tail)

    @property
    def computed(self) -> int:
        """The watermark: tokens 0 .. computed-1 have KV."""
        if self.node.full:
            return self.base + self.tail_computed
        for node in self.node.path():
            if node.computed or node.parent is None:
                return node.start + node.computed
        raise AssertionError("a path ends in the root")

    def unfilled(self) -> list[Node]:
        """The nodes of the path that are not full, from the top; usually none."""
        if self.node.full:
            return []
        nodes = []
        for node in self.node.path():
            if node.full:
                break
            nodes.append(node)
        return nodes[::-1]

    def path_tokens(self) -> list[int]:
        """All tokens, root to end."""
        tokens: list[int] = []
        for node in [*self.node.path()][::-1]:
            tokens += node.tokens
        return tokens + self.tail

    def context(self, depth: int) -> tuple[Run, ...]:
        """The runs that hold the KV of tokens 0 .. depth-1 (depth <= computed)."""
        nodes = [node.runs for node in self.node.path()][::-1]
        if depth >= self.base:
            runs = [run for part in nodes for run in part]
            need = depth - self.base
            for start, length in self.runs:
                if need <= 0:
                    break
                runs.append((start, min(length, need)))
                need -= length
            return tuple(runs)
        return tuple(cut([run for part in nodes for run in part], depth)[0])

    def extend(self, tokens: list[int]) -> None:
        self.tail.extend(tokens)

    def run_ahead(self, token: int) -> None:
        """Go on before the sampled token is known: `token` stands for it in the next step."""
        self.tail.append(token)
        self.ahead = True

    def commit(self, token: int) -> None:
        """A token that was sampled, or forced, is the branch's next."""
        if self.ahead:
            self.tail[-1] = token
            self.ahead = False
        else:
            self.tail.append(token)

    def fall_back(self) -> None:
        """The text has ended: what ran ahead of that counts for nothing. A step in flight may still write its slot;
        the step of whoever owns the slot next comes after that one."""
        self.asked_in = 0
        if self.ahead:
            self._drop_ahead()
            self.high = min(self.high, self.length)

    def _drop_ahead(self) -> None:
        self.ahead = False
        self.truncate(self.length - 1)

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on and lower the watermark: a stop, a rejected draft."""
        if self.base and length <= self.base:  # they went into the tree meanwhile (a preemption): leave it
            self.park()
        keep = length - self.base
        assert 0 <= keep <= len(self.tail), "cut beyond the end"
        del self.tail[keep:]
        if self.tail_computed > keep:
            self.reserve += self.tail_computed - keep
            self.tail_computed = keep

    def want_logits(self) -> None:
        """Make sure the last token is still to be computed: its row gives the next token's logits."""
        if self.tail_computed == len(self.tail):
            assert self.tail, "a branch without a private token has no row to want"
            self.tail_computed -= 1
            self.reserve += 1

    # -- moving between tail and tree
    def settle(self, keep: int = 1) -> None:
        """Freeze the tail except its last `keep` tokens into the tree, and attach there."""
        count = max(0, len(self.tail) - keep)
        target = self.node
        if count:
            have = min(self.tail_computed, count)
            frozen, rest = cut(self.runs, have)
            target = self.tree.plant(self.node, self.tail[:count], frozen, have)
            self.runs, self.tail = rest, self.tail[count:]
            self.tail_computed -= have
            if not self.tail_computed:
                self.drop_reserve()
        if target is not self.node or not self.attached:
            self.tree.attach(target)  # the new path first: it shares the old one, which must not look abandoned
            if self.attached:
                self.tree.detach(self.node)
            self.attached = True
            self.node, self.base = target, target.end
            self.engine.attached[self] = None

    def drop_reserve(self) -> None:
        kept, reserve = cut(self.runs, self.tail_computed)
        self.tree.pool.give(reserve)
        self.runs, self.reserve = kept, 0

    def park(self, step: int = 0) -> None:
        """Hold no KV: what is computed becomes cache, only the token list stays. The watermark is 0 again. `step`: the
        number of the step being planned, if one is."""
        if self.job is not None:
            self.job.park(self)
        if self.ahead:  # the token itself, when it is there, joins the list as usual
            self._drop_ahead()
        if not self.attached:
            return
        tokens = self.path_tokens()
        self.drop_reserve()
        node = self.node
        if self.tail_computed:
            frozen = self.tail[: self.tail_computed]
            node = self.tree.plant(node, frozen, self.runs, self.tail_computed, step)
            self.tree.attach(node)
            self.tree.detach(self.node)
        self.runs, self.tail_computed = [], 0
        self.tree.detach(node)
        self.attached = False
        self.node, self.base, self.tail = self.tree.root, 0, tokens
        self.engine.attached.pop(self, None)

    def lower(self, depth: int) -> None:
        """Undo: only the first `depth` tokens count as computed (a step that did not happen)."""
        if depth >= self.base:
            lost = max(0, self.tail_computed - (depth - self.base))
            self.tail_computed -= lost
            self.reserve += lost
            return
        self.reserve += self.tail_computed
        self.tail_computed = 0
        self.tree.undone += 1
        for node in self.node.path():
            keep = max(0, min(len(node.tokens), depth - node.start))
            if node.computed > keep:
                node.runs, lost_runs = cut(node.runs, keep)
                self.tree.pool.give(lost_runs)
                node.computed = keep
            if node.start <= depth:
                break

    def inherit(self, parent: Branch) -> None:
        """Be born: continue from where `parent` (settled) is. The last token is this branch's own to compute."""
        self.born = self.newborn = True
        self.told = parent.told
        self.pending = list(parent.pending)
        if parent.length:
            assert len(parent.tail) == 1, "fork settles the parent down to its last token"
            self.node, self.base, self.tail = parent.node, parent.base, list(parent.tail)
            self.tree.attach(self.node)
            self.attached = True
            self.engine.attached[self] = None

    # -- failure
    def hold_for(self, until: Handle[Any]) -> None:
        """Let no op follow before `until` is done; its error is the branch's."""
        self.waits_for = Held()

        def go_on() -> None:
            if until.done and isinstance(self.waits_for, Held):
                self.waits_for = None
                if until.error is not None:
                    self.doom(until.error)
                else:
                    self.engine.notify(self)

        until.listen(go_on)

    def fail(self, error: BaseException) -> None:
        """Everything pending completes with `error`; everything later will. Children not yet born fail with it."""
        self.error = self.error or error
        self._lease.branch = None
        job, self.job = self.job, None
        if job is not None:
            job.abandon(self, self.error)
        waits_for, self.waits_for = self.waits_for, None
        if waits_for is not None:
            waits_for.fail(self.error)
        while self.ops:
            refuse(self.ops.popleft(), self.error)
        self.pending = []
        self.park()


def refuse(op: Op, error: BaseException) -> None:
    """This op will not be carried out: its handle completes with `error`, its children fail with it."""
    if isinstance(op, ForkOp):
        for child in op.children:
            child.born = True
            child.doom(error)
    elif isinstance(op, (GenOp, ScoreOp, SyncOp, WarmOp)):
        op.handle.finish(None, error)
