"""`sgl.FakeBackend`: programs run in unit tests without a model; what the model would write is given.

Every op is done at once, when it is said. Knows nothing of tokens: a word with the space before it counts as one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..lang.chat import CHATML, ChatTemplate
from ..lang.checking.check import Mismatch, check
from ..lang.constant import constant_pieces
from ..lang.constraint import KINDS, Constraint
from ..lang.errors import BackendError, Cancelled, ConstraintError, OptionError, suggest
from ..lang.expr import Appendable, as_expr
from .base import (
    CallTrace,
    Capabilities,
    ChoiceScores,
    GenRequest,
    GenResult,
    Handle,
    ScoreRequest,
    ScoreResult,
    StepRecord,
    TokenLogprob,
    Usage,
)
from .shapes import misfit
from .waiting import sleep_until, sleep_until_async

_WORD = re.compile(r"\s*\S+|\s+")
FAKE_TEMPLATE = ChatTemplate(CHATML, name="fake")


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One gen or select that a program made: its name, the text before it, and what it was answered."""

    name: str | None
    prompt: str
    reply: str


class FakeBackend:
    """A backend for unit tests: it answers gens and selects with given texts, and needs no model.

    A reply is a text, or an exception that the call fails with. A gen is cut at its `stop`, and its reply is checked
    against its constraint; the reply of a select is one of its choices. `max_tokens` and sampling options have no
    effect. Log-probabilities are refused (`CapabilityError`).

    Args:
        replies: A list: each call takes the next one, in the order in which calls are made. Or a dict, by the names of
            calls: a text for every call of that name, or a list to take one after the other; a select that it does not
            name picks its first choice. Or a function of the text before the call.
        chat_template: How roles are written. Default: ChatML; None: roles raise.

    Attributes:
        calls: What the program asked, in order: a `name`, the `prompt` before it, and the `reply`.

    Raises:
        OptionError: `replies` is none of these.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def triage(s, mail):
        ...     s += sgl.user(mail) + sgl.assistant(sgl.gen("kind", choices=["bug", "billing"]))
        ...     if s["kind"] == "bug":
        ...         s += sgl.user("How bad, 1 to 5?") + sgl.assistant(sgl.gen("level", dtype=int))
        >>> backend = sgl.FakeBackend(["bug", "4"])
        >>> triage.run("It crashes.", backend=backend).value("level")
        4
        >>> "It crashes." in backend.calls[0].prompt
        True
    """

    def __init__(
        self,
        replies: Sequence[Any] | Mapping[str, Any] | Callable[[str], Any],
        *,
        chat_template: ChatTemplate | None = FAKE_TEMPLATE,
    ) -> None:
        if isinstance(replies, str) or not (callable(replies) or isinstance(replies, (Sequence, Mapping))):
            raise OptionError(
                f"FakeBackend: replies must be a list of texts, a dict by name, or a function, got {replies!r:.60}"
            )
        self.chat_template = chat_template
        self.capabilities = Capabilities("FakeBackend", logprobs=False, constraints=KINDS, saves=lambda: "text")
        self.calls: list[FakeCall] = []
        self._replies = replies
        self._next: dict[str | None, int] = {}  # how many replies were taken, of a name or (None) of the list
        self._lock = threading.Lock()  # rows of a batch run on threads

    # -- replies
    def _reply(self, request: GenRequest | ScoreRequest, prompt: str) -> Any:
        """The reply to one call. Raises `BackendError` where there is none."""
        replies, name = self._replies, request.name
        if callable(replies):
            return replies(prompt)
        if isinstance(replies, Mapping):
            if name is None or name not in replies:
                if isinstance(request, ScoreRequest):
                    return request.choices[0]
                hint = "it has no name" if name is None else f"there is none for {name!r}{suggest(name, replies)}"
                raise BackendError(f"{request.where}: FakeBackend has no reply for this call: {hint}")
            found = replies[name]
            return self._take(name, found, request) if isinstance(found, (list, tuple)) else found
        return self._take(None, replies, request)

    def _take(self, name: str | None, replies: Sequence[Any], request: GenRequest | ScoreRequest) -> Any:
        with self._lock:
            at = self._next.get(name, 0)
            self._next[name] = at + 1
        if at >= len(replies):
            of = "" if name is None else f" for {name!r}"
            raise BackendError(
                f"{request.where}: this is call number {at + 1}{of}, and FakeBackend was given {len(replies)} replies"
            )
        return replies[at]

    def text_for(self, request: GenRequest | ScoreRequest, prompt: str) -> str:
        """The text of one call, noted in `calls`. Raises a reply that is an exception."""
        reply = self._reply(request, prompt)
        if isinstance(reply, BaseException):
            raise reply
        if not isinstance(reply, str):
            raise BackendError(f"{request.where}: a reply of FakeBackend must be a text or an error, got {reply!r:.60}")
        self.calls.append(FakeCall(request.name, prompt, reply))
        return reply

    # -- the protocol of a backend
    def prepare(self, constraint: Constraint, where: str) -> None:
        """Compile nothing: replies are checked when they are there."""

    def prepared(self, constraint: Constraint) -> bool:
        return True

    def open(self, *, seed: int | None = None, timeout: float | None = None, caller: Any = None) -> FakeBranch:
        return FakeBranch(self, "", seed)

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        return len(_words("".join(text for text, _ in pieces)))

    def cache_prefix(self, prefix: Appendable) -> int:
        """Say how many words a leading text has: nothing is cached here. The same errors as `Runtime.cache_prefix`.

        Example:
            >>> import sgl
            >>> sgl.FakeBackend([]).cache_prefix("The rules are:")
            3
        """
        return self.pin(constant_pieces("cache_prefix", as_expr(prefix), self.chat_template))

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        return lambda: None

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Every op is done; what is not is another's handle, such as that of a tool."""
        return sleep_until(handle, seen, timeout)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        await sleep_until_async(handle, seen)

    def flush_cache(self) -> bool:
        """Say that the cache, which is not there, is empty. See `get_server_info`."""
        return True

    def get_server_info(self) -> dict[str, Any]:
        """What runs, and how many calls it has answered.

        Example:
            >>> import sgl
            >>> backend = sgl.FakeBackend([])
            >>> backend.flush_cache(), backend.get_server_info()
            (True, {'model': 'fake', 'calls': 0})
        """
        return {"model": "fake", "calls": len(self.calls)}

    def shutdown(self) -> None: ...

    def __enter__(self) -> FakeBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<sgl.FakeBackend, {len(self.calls)} calls>"


class FakeBranch:
    """A text that grows. An error of one op is the error of all that come after it."""

    def __init__(self, backend: FakeBackend, text: str, seed: int | None) -> None:
        self.backend, self.text, self.seed = backend, text, seed
        self.usage = Usage()
        self.error: BaseException | None = None

    def append(self, text: str, *, markup: bool = False) -> None:
        self.text += text

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        def write() -> list[GenResult]:
            results = [self._sample(request) for _ in range(request.n)]
            self.text += results[0].text
            return results

        return self._do(request, write)

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        def pick() -> ScoreResult:
            prompt, choices = self.text, request.choices
            picked = self.backend.text_for(request, prompt)
            if picked not in choices:
                raise ConstraintError(f"{request.where}: the reply {picked!r:.60} is none of the choices {choices!r}")
            self.text += picked
            scores = ChoiceScores([[TokenLogprob(-0.1 if c == picked else -5.0, i, c)] for i, c in enumerate(choices)])
            usage = self._count(prompt, picked)
            return ScoreResult(choices.index(picked), picked, scores, {}, usage, _traced(request, prompt, picked))

        return self._do(request, pick)

    def _sample(self, request: GenRequest) -> GenResult:
        prompt = self.text
        text, reason = _cut(self.backend.text_for(request, prompt), request)
        value = receipt = None
        if request.constraint is not None:
            try:
                value = check(request.constraint, text)
            except Mismatch as mismatch:
                raise ConstraintError(f"{request.where}: the reply breaks its constraint: {mismatch}") from mismatch
            receipt = {"engine": "fake", "complete": True}
        usage = self._count(prompt, text)
        ids = list(range(usage.generated))
        traced = _traced(request, prompt, text)
        return GenResult(text, ids, reason, usage, value=value, receipt=receipt, trace=traced)

    def _count(self, prompt: str, text: str) -> Usage:
        before, written = len(_words(prompt)), len(_words(text))
        usage = Usage(calls=1, prompt=before, computed=before + written, generated=written)
        self.usage.add(usage)
        return usage

    def _do(self, request: GenRequest | ScoreRequest, work: Callable[[], Any]) -> Handle[Any]:
        handle: Handle[Any] = Handle(request.where)
        if self.error is None:
            try:
                if request.gate is not None:
                    request.gate()
                result = work()
            except BaseException as error:
                self.error = error
            else:
                handle.grow(result.text if isinstance(result, ScoreResult) else result[0].text)
                handle.finish(result)
                return handle
        handle.finish(None, self.error)
        return handle

    def fork(self, n: int) -> list[FakeBranch]:
        children = [FakeBranch(self.backend, self.text, self.seed) for _ in range(n)]
        for child in children:
            child.error = self.error
        return children

    def hold(self, until: Handle[Any]) -> None:
        self.error = self.error or until.error

    def sync(self) -> Handle[None]:
        handle: Handle[None] = Handle("sync")
        handle.finish(None, self.error)
        return handle

    def saved(self) -> Handle[dict[str, Any]]:
        handle: Handle[dict[str, Any]] = Handle("save")
        handle.finish({"text": self.text}, self.error)
        return handle

    def restore(self, data: dict[str, Any]) -> None:
        if (wrong := misfit(data, {"text": str})) is not None:
            raise OptionError(f"restore: this is not what a branch has saved ({wrong}); keep the data as they were")
        self.text = data["text"]

    def cancel(self, error: BaseException | None = None) -> None:
        self.error = self.error or error or Cancelled("the branch was cancelled")

    def rest(self) -> None: ...
    def close(self) -> None: ...

    def closer(self) -> Callable[[], None]:
        return lambda: None


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _cut(text: str, request: GenRequest) -> tuple[str, dict[str, Any]]:
    """The text before the first stop in it, and why it ended."""
    patterns = [*map(re.escape, request.sampling.stop or ()), *(request.sampling.stop_regex or ())]
    found = [match for pattern in patterns if (match := re.search(pattern, text))]
    if not found:
        return text, {"type": "stop", "matched": None}
    first = min(found, key=lambda match: match.start())
    return text[: first.start()], {"type": "stop", "matched": first[0]}


def _traced(request: GenRequest | ScoreRequest, prompt: str, text: str) -> CallTrace | None:
    if not request.trace:
        return None
    words, count = _words(text), len(_words(text))
    before = [(prompt, False, len(_words(prompt)))]
    return CallTrace(before, words, list(range(count)), [None] * count, [False] * count, [0] * count)
