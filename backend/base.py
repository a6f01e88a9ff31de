"""The seam: what the interpreter asks of a backend, and what it gets back.

A backend is *stateful*. It opens a **branch** that text is appended to, generated on, scored on, forked and closed.
Every call enqueues an op and returns at once; a gen or a score gives back a **handle** to wait on. Because ops are
queued, a backend sees what comes next (the constant after a gen, a coming fork) and may use it.

Whoever waits drives: `Backend.wait` makes progress on the calling thread until its handle is ready.

Errors: a failing op stores its exception in its handle and in its branch; every later op of the branch (and of
branches forked from it) fails with the same exception. Nothing hangs, nothing is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

from ..lang.chat import ChatTemplate
from ..lang.choices import ChoiceMethod
from ..lang.constraint import Constraint
from ..lang.expr import Sampling

T = TypeVar("T")
log = logging.getLogger("sgl")


@dataclass(slots=True)
class Usage:
    """Token counts of one call, one branch or one program (sums of its calls).

    `prompt`: tokens of context the calls started from: what a runtime that re-sends the text would process.
    `reused`: of those, tokens whose KV this branch did not have to compute.
    `computed`: rows this branch sent through the model, for prompts and for generation.
    `generated`: tokens of output. `forced`: of those, tokens that a grammar left no choice about, appended without
    asking the model. `recomputed`: rows computed again after a preemption (within `computed`). `drafted`, `accepted`:
    tokens that speculation guessed, and of those the ones that were right.
    `calls`: gens and selects. `steps`: steps they took part in. `queued`: seconds between a call's turn in its
    program and its first step; `running`: seconds from there to its end. (Sums: calls that ran side by side count
    twice.)
    """

    calls: int = 0
    prompt: int = 0
    reused: int = 0
    computed: int = 0
    generated: int = 0
    recomputed: int = 0
    forced: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    queued: float = 0.0
    running: float = 0.0

    def add(self, other: Usage) -> None:
        self.calls += other.calls
        self.prompt += other.prompt
        self.reused += other.reused
        self.computed += other.computed
        self.generated += other.generated
        self.recomputed += other.recomputed
        self.forced += other.forced
        self.drafted += other.drafted
        self.accepted += other.accepted
        self.steps += other.steps
        self.queued += other.queued
        self.running += other.running

    def __add__(self, other: Usage) -> Usage:
        total = Usage()
        total.add(self)
        total.add(other)
        return total


@dataclass(slots=True)
class CallTrace:
    """What one traced call (or one of its n samples) did, token by token.

    `prompt`: the context that no earlier traced call of this line of the program told of, as runs of (text, was its KV
    reused, tokens). The lists after it have one entry a generated token (of a select: of the winner). `texts` are whole
    characters: a token that ends within one has "" and the next has it all. `logprobs`: under the model's own
    distribution, None where no model was asked. `steps`: the step that committed the token (0: none did). Times are
    `time.monotonic()` seconds; `began`: its first step (None: it needed none).
    """

    prompt: list[tuple[str, bool, int]]
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    began: float | None = None
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a backend: when (`time.monotonic()` seconds), how many rows went through the model, how many of them
    were not sampled from (prompts), and of how many branches."""

    number: int
    began: float
    ended: float
    rows: int
    prompt_rows: int
    branches: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one token under the model's own distribution (before temperature and filters)."""

    logprob: float | None
    token_id: int
    text: str | None
    top: tuple[tuple[float, int, str | None], ...] = ()


@dataclass(slots=True)
class GenResult:
    """One finished generation. `text` is without the stop that ended it; `token_ids` spell exactly `text`.

    `finish_reason`: {"type": "stop", "matched": str | int | None} (None: the constraint was complete) or
    {"type": "length", "length": int}. Of a constrained gen: `value` is what the checked text says, `receipt` how the
    constraint was enforced.
    """

    text: str
    token_ids: list[int]
    finish_reason: dict[str, Any]
    usage: Usage
    logprobs: list[TokenLogprob] | None = None
    input_logprobs: list[TokenLogprob] | None = None
    value: Any = None
    receipt: dict[str, Any] | None = None
    trace: CallTrace | None = None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """What a choice method decides on: per choice, the log-probability of each of its tokens."""

    token_logprobs: list[list[TokenLogprob]]
    unconditional: list[list[TokenLogprob]] | None = None


@dataclass(slots=True)
class ScoreResult:
    """A finished select: the winner, what the method said of it, and the scores it saw."""

    index: int
    text: str
    scores: ChoiceScores
    meta: dict[str, Any]
    usage: Usage
    trace: CallTrace | None = None


@dataclass(frozen=True, slots=True)
class GenRequest:
    """One gen as a backend sees it. `where` names op and program line for error messages.

    `gate` is called when the op's turn comes, before anything is done for it; what it raises fails the op. `trace` asks
    for a `CallTrace` with each result.
    """

    sampling: Sampling  # resolved: run-level defaults already under it
    n: int = 1
    where: str = "gen"
    constraint: Constraint | None = None
    on_budget: str = "close"
    follow: str = ""  # the constant text that the program says right after this gen, if it says so in one expression
    gate: Callable[[], None] | None = None
    trace: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    choices: tuple[str, ...]
    method: ChoiceMethod
    temperature: float = 0.0
    seed: int | None = None
    where: str = "select"
    gate: Callable[[], None] | None = None
    trace: bool = False


_completing = threading.RLock()
"""Held for a moment while a handle is completed or listened to. One for all handles: there are many of them, and such
a moment is short."""


class Handle(Generic[T]):
    """The future of one op. Thread-safe; written by the backend, read by anyone.

    `text` (of a gen) only grows, holds whole characters, and is always a prefix of the final text (invariant 7).
    For n > 1 it is the text of the first sample.
    """

    __slots__ = ("_listeners", "_traceback", "done", "error", "result", "text", "usage", "where")

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.done = False
        self.error: BaseException | None = None
        self.result: T | None = None
        self.text = ""
        self.usage: Usage | None = None  # what a call that failed has cost; of one that succeeded its results tell
        self._traceback: TracebackType | None = None
        self._listeners: list[Callable[[], None]] | None = None

    # -- written by the backend
    def grow(self, piece: str) -> None:
        """Add streamed text and wake listeners."""
        if piece:
            self.text += piece
            if listeners := self._listeners:
                _tell(tuple(listeners))

    def finish(self, result: T | None, error: BaseException | None = None) -> bool:
        """Complete the handle; the first completion wins. Whether this was it."""
        with _completing:
            if self.done:
                return False
            if error is not None:
                self._traceback = error.__traceback__
            self.result, self.error, self.done = result, error, True
            listeners, self._listeners = self._listeners, None
        if listeners:
            _tell(listeners)
        return True

    # -- read by waiters
    def listen(self, callback: Callable[[], None]) -> None:
        """Call `callback` (from any thread) at every growth and at completion; at once if already complete."""
        with _completing:
            if not self.done:
                if self._listeners is None:
                    self._listeners = []
                self._listeners.append(callback)
                return
        callback()

    def unlisten(self, callback: Callable[[], None]) -> None:
        with _completing:
            if self._listeners and callback in self._listeners:
                self._listeners.remove(callback)

    def ready(self, seen: int | None = None) -> bool:
        """Complete, or (with `seen`) streamed beyond `seen` characters."""
        return self.done or (seen is not None and len(self.text) > seen)

    def value(self) -> T:
        """The result, or the original error raised here, at the read. Only after `done`."""
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)  # as it was: reads do not add to it
        assert self.done, "value() before the handle is done; wait for it first"
        return cast(T, self.result)


def _tell(listeners: Iterable[Callable[[], None]]) -> None:
    """Call listeners; one that raises is logged, and keeps neither the others nor the backend from going on."""
    for listener in listeners:
        try:
            listener()
        except Exception:
            log.exception("a listener of a handle raised")


class BackendBranch(Protocol):
    """A live cursor. Every method enqueues and returns at once; none raises for an earlier failure. `seed` is what
    `Backend.open(seed=)` would repeat this program with (None: this backend cannot)."""

    usage: Usage
    error: BaseException | None
    seed: int | None

    def append(self, text: str, *, markup: bool = False) -> None:
        """Add constant text. Only `markup` (a chat template's own text) may spell control tokens."""

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        """Generate here. n > 1 gives n results; the branch continues after the first."""

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        """Score choices here and continue after the winner."""

    def fork(self, n: int) -> Sequence[BackendBranch]:
        """n branches that continue from here. Their usage starts at zero."""

    def hold(self, until: Handle[Any]) -> None:
        """Ops after this one wait for `until`; its error is the branch's."""

    def sync(self) -> Handle[None]:
        """A handle that completes when every op enqueued so far has, or raises the branch's error."""

    def rest(self) -> None:
        """Nothing follows for now: after the queued ops the KV becomes ordinary cache. Appending wakes the branch."""

    def cancel(self, error: BaseException | None = None) -> None:
        """Fail the branch now (`Cancelled` by default): pending handles complete with the error, KV is freed."""

    def close(self) -> None:
        """The branch will never be used again. Queued ops are dropped. Idempotent, safe from a finaliser."""

    def closer(self) -> Callable[[], None]:
        """What a finaliser calls in place of `close`: it lets go of a branch that has failed, since the frames in its
        error's traceback may hold the owner."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do. Programs are checked against it when they are bound, not in mid-run."""

    name: str
    score: bool = True
    logprobs: bool = True
    constraints: frozenset[str] = field(default_factory=frozenset)
    modalities: frozenset[str] = field(default_factory=frozenset)


class Backend(Protocol):
    """Where text comes from."""

    capabilities: Capabilities
    chat_template: ChatTemplate | None

    def prepare(self, constraint: Constraint, where: str) -> None:
        """Get a constraint ready before a gen with it is enqueued; on the caller's thread. Raises `ConstraintError` for
        what cannot be enforced. Called only for kinds that `capabilities.constraints` has."""

    def prepared(self, constraint: Constraint) -> bool:
        """Whether `prepare` would return at once."""

    def open(
        self, *, seed: int | None = None, timeout: float | None = None, caller: BackendBranch | None = None
    ) -> BackendBranch:
        """A new empty branch. With `seed`, what it samples depends on (seed, text) alone; `timeout` in seconds is for
        the branch and everything forked from it (`ProgramTimeout`); `caller` is a branch of the program whose body runs
        this one, if one does."""

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        """Compute the KV of a beginning (pieces of text, each with whether it is markup) and keep it until
        `flush_cache()`; its length in tokens, 0 for a backend without a cache of its own."""

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        """Call `listener` after each step, from whichever thread drives; gives what ends that."""

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Make progress until `handle.ready(seen)`. False if `timeout` seconds passed first. The handle may be
        anybody's: a caller can complete one of its own, from a listener, to be woken by several."""

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        """The same, without blocking the running event loop."""

    def flush_cache(self) -> bool: ...

    def get_server_info(self) -> dict[str, Any]: ...

    def shutdown(self) -> None: ...
