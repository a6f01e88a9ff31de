"""The protocol between the interpreter and a backend. Knows nothing of programs, models or KV.

A backend is *stateful*: it opens a **branch**, on which text is appended, generated, scored, forked and closed.

1. Every call on a branch enqueues an op and returns at once; a gen or a score gives back a **handle** to wait on. So a
   backend sees what comes next (the constant after a gen, a coming fork) and may use it.
2. The waiter drives: `Backend.wait` makes progress on the calling thread until its handle is ready.
3. A failing op stores its exception in its handle and its branch. Every later op of the branch, and of branches forked
   from it, fails with the same exception. Nothing hangs, nothing is lost.
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
from ..lang.expr import Gen, Sampling, Select
from .contain import is_interruption

T = TypeVar("T")
log = logging.getLogger("sgl")


@dataclass(slots=True)
class Usage:
    """Token counts of one call, one branch or one program (sums of its calls). `a + b` adds them up.

    `str(usage)` says in one line what matters; `repr(usage)` has every field.

    Attributes:
        calls: Gens and selects.
        prompt: Tokens of context that the calls started from: what a runtime that re-sends the text would process.
        reused: Of `prompt`, the tokens whose KV this branch did not have to compute.
        computed: Rows that this branch sent through the model, for prompts and for generation.
        generated: Tokens of output.
        recomputed: Of `computed`, the rows computed again after a preemption.
        forced: Of `generated`, the tokens that a grammar left no choice about; the model was not asked for them.
        drafted: Tokens that speculation guessed.
        accepted: Of `drafted`, the tokens that were right.
        steps: Steps of the model that the calls took part in.
        queued: Seconds between a call's turn in its program and its first step.
        running: Seconds from a call's first step to its end. Calls that ran side by side count twice.

    A service over HTTP tells `prompt`, `reused` and `generated`; `computed` is what follows from them, and `queued` the
    time before its request was sent.

    Example:
        >>> (Usage(calls=1, generated=3) + Usage(calls=1)).calls
        2
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

    def __str__(self) -> str:
        text = (
            f"{self.calls} calls, {self.prompt} prompt ({self.reused} reused), {self.computed} computed, "
            f"{self.generated} generated"
        )
        text += f" ({self.forced} forced)" if self.forced else ""
        text += f", {self.accepted} of {self.drafted} drafted accepted" if self.drafted else ""
        text += f", {self.steps} steps"
        return text + (f", {self.recomputed} recomputed" if self.recomputed else "")


@dataclass(slots=True)
class CallTrace:
    """What one traced call (or one of its n samples) did, token by token.

    `prompt`: the context that no earlier traced call of this line told of, as runs of (text, was its KV reused,
    tokens). The lists after it have one entry a generated token (of a select: of the winner). `texts` are whole
    characters: a token that ends within a character has "", and the next token has all of it. `logprobs` are under the
    model's own distribution, None where no model was asked. `steps`: the step that committed the token (0: none did).
    Times are `time.monotonic()` seconds; `began`: the first step (None: it needed none).
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
    """One step of a backend. Times are `time.monotonic()` seconds; `rows` went through the model for `branches`
    branches, and `prompt_rows` of them were not sampled from."""

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
    """One finished generation. `text` is without the stop that ended it. `token_ids` spell exactly `text`; there are
    none where a service does not tell them.

    `finish_reason`: {"type": "stop", "matched": str | int | None} (None: the constraint was complete) or
    {"type": "length", "length": int}; empty while the gen runs (`Handle.so_far`). For a constrained gen, `value` is the
    value of the checked text, and `receipt` says how the constraint was enforced. `pieces`: the text cut at its control
    tokens, each piece with whether it is one; None: it has none.
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
    pieces: list[tuple[str, bool]] | None = None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The log-probability of each token of each choice: what a choice method decides on."""

    token_logprobs: list[list[TokenLogprob]]
    unconditional: list[list[TokenLogprob]] | None = None


@dataclass(slots=True)
class ScoreResult:
    """A finished select: the winner, the method's remarks (`meta`), and the scores that it decided on."""

    index: int
    text: str
    scores: ChoiceScores
    meta: dict[str, Any]
    usage: Usage
    trace: CallTrace | None = None


@dataclass(frozen=True, slots=True)
class GenRequest:
    """One gen. `where` names op and program line for error messages.

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
    name: str | None = None  # of the variable


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One select; fields as of `GenRequest`."""

    choices: tuple[str, ...]
    method: ChoiceMethod
    temperature: float = 0.0
    seed: int | None = None
    where: str = "select"
    gate: Callable[[], None] | None = None
    trace: bool = False
    name: str | None = None


_completing = threading.RLock()
"""Held while a handle is completed or listened to. One lock for all handles: they are many, and hold it briefly."""


class Handle(Generic[T]):
    """The future of one op. Thread-safe; written by the backend, read by anyone.

    `text` (of a gen) only grows, holds whole characters, and is always a prefix of the final text. For n > 1 it is the
    text of the first sample.
    """

    __slots__ = ("_listeners", "_traceback", "done", "error", "result", "so_far", "text", "usage", "where")

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.done = False
        self.error: BaseException | None = None
        self.result: T | None = None
        self.text = ""
        self.so_far: Callable[[], GenResult] | None = None  # of a gen that runs, if the backend can say
        self.usage: Usage | None = None  # of a call that failed; the results of any other have it
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
        """Complete the handle. Whether this was the first completion, which counts."""
        with _completing:
            if self.done:
                return False
            if error is not None:
                self._traceback = error.__traceback__
            self.result, self.error, self.done = result, error, True
            self.so_far = None
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
        """Call `callback` no more."""
        with _completing:
            if self._listeners and callback in self._listeners:
                self._listeners.remove(callback)

    def ready(self, seen: int | None = None) -> bool:
        """Whether the op is over or, with `seen`, has more than `seen` characters of text."""
        return self.done or (seen is not None and len(self.text) > seen)

    def value(self) -> T:
        """The result. Raises the original error. To be called only after `done`."""
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)  # as it was: reads do not add to it
        assert self.done, "value() before the handle is done; wait for it first"
        return cast(T, self.result)


def _tell(listeners: Iterable[Callable[[], None]]) -> None:
    """Call listeners. An error of one is logged and stops neither the others nor the backend."""
    for listener in listeners:
        try:
            listener()
        except BaseException as error:
            if is_interruption(error):
                raise
            log.exception("a listener of a handle raised")


class BackendBranch(Protocol):
    """One text that grows on a backend. Every method enqueues and returns at once; none raises for an earlier failure.

    `seed`: the seed with which `Backend.open(seed=)` repeats this program (None: this backend cannot).
    """

    usage: Usage
    error: BaseException | None

    @property
    def seed(self) -> int | None: ...

    def append(self, text: str, *, markup: bool = False) -> None:
        """Append constant text. Only `markup` (a chat template's own text) may spell control tokens."""

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        """Generate text here. With n > 1 there are n results; the branch continues after the first."""

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        """Score choices here and continue after the winner."""

    def fork(self, n: int) -> Sequence[BackendBranch]:
        """Open n branches that continue from here. Their usage starts at zero."""

    def hold(self, until: Handle[Any]) -> None:
        """Let the ops after this one wait for `until`. An error of `until` is the branch's."""

    def sync(self) -> Handle[None]:
        """A handle that completes when every op enqueued so far has completed, or carries the branch's error."""

    def rest(self) -> None:
        """Let the KV become ordinary cache after the queued ops: nothing follows for now. Appending ends the rest."""

    def cancel(self, error: BaseException | None = None) -> None:
        """Fail the branch now (`Cancelled` by default): pending handles complete with the error, KV is freed."""

    def saved(self) -> Handle[dict[str, Any]]:
        """The text so far and its noise as JSON data, for `restore`. Only where `capabilities.saves`."""

    def restore(self, data: dict[str, Any]) -> None:
        """Put back what `saved` gave, of the same model, on a branch without text: it goes on as that one would."""

    def close(self) -> None:
        """Drop the branch and its queued ops. Idempotent, safe from a finaliser."""

    def closer(self) -> Callable[[], None]:
        """A function for a finaliser to call in place of `close`.

        It holds no branch that has failed: the frames in the traceback of a branch's error may hold the owner.
        """


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do. An op that it cannot do is refused before anything of it is enqueued.

    `control_tokens`: the texts of the tokens that only markup may spell. `call_syntax`: the family whose syntax of tool
    calls the model writes (`lang/syntax/`); None: it follows from the chat template.
    `turns`: it takes the messages of a chat, not text. A call is then in a turn of the assistant, and no text stands
    outside of turns. `continues`: of such a backend, whether a call may follow text in its turn. `check` raises
    `CapabilityError` for a call (its options resolved; where it is) that the backend cannot carry out as it is said.
    `saves` gives a text that tells its model and vocabulary from others, for branches that are saved; None: they cannot
    be.
    """

    name: str
    score: bool = True
    logprobs: bool = True
    constraints: frozenset[str] = field(default_factory=frozenset)
    modalities: frozenset[str] = field(default_factory=frozenset)
    control_tokens: frozenset[str] = field(default_factory=frozenset)
    call_syntax: str | None = None
    turns: bool = False
    continues: bool = True
    check: Callable[[Gen | Select, str], None] | None = None
    saves: Callable[[], str] | None = None


class Backend(Protocol):
    """Where text comes from."""

    capabilities: Capabilities
    chat_template: ChatTemplate | None

    def prepare(self, constraint: Constraint, where: str) -> None:
        """Compile a constraint on the calling thread, before a gen with it is enqueued.

        Called only for kinds in `capabilities.constraints`. Raises `ConstraintError` for what cannot be enforced.
        """

    def prepared(self, constraint: Constraint) -> bool:
        """Whether `prepare` would return at once."""

    def open(
        self, *, seed: int | None = None, timeout: float | None = None, caller: BackendBranch | None = None
    ) -> BackendBranch:
        """Open an empty branch.

        With `seed`, its samples depend on (seed, text) alone. After `timeout` seconds the branch and everything forked
        from it fail with `ProgramTimeout`. `caller` is a branch of the program whose body starts this one, if any.
        """

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        """Compute the KV of a leading text and keep it until `flush_cache()`.

        `pieces` are pairs (text, is it markup). Gives the length in tokens; 0 for a backend without a cache of its own.
        """

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        """Call `listener` after each step, on the thread that drives. Gives a function that ends this."""

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Make progress until `handle.ready(seen)`. False if `timeout` seconds passed first.

        The handle may be the caller's own. A caller that waits for any of several completes one from their listeners.
        """

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        """Wait until `handle.ready(seen)`, without blocking the running event loop."""

    def flush_cache(self) -> bool:
        """Drop cached KV; False if the backend was busy and kept it."""

    def get_server_info(self) -> dict[str, Any]:
        """What runs, and how full it is."""

    def shutdown(self) -> None:
        """Fail what still runs and free everything. Idempotent."""
