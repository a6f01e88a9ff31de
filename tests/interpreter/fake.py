"""A backend in memory, for tests of the interpreter: deterministic text, failures on demand, and (with `manual`)
nothing happens until the test says `step()`.

It is faithful to `backend/base.py`: ops queue a branch, one unit of work a branch and step (one character of a gen),
children are born when their parent reaches the fork, and an error fails everything after it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sgl.backend.base import (
    Capabilities,
    ChoiceScores,
    GenRequest,
    GenResult,
    Handle,
    ScoreRequest,
    ScoreResult,
    TokenLogprob,
    Usage,
)
from sgl.lang.chat import CHATML, ChatTemplate
from sgl.lang.errors import BackendError, Cancelled

Reply = Callable[[str, GenRequest], "str | BaseException"]


class Branch:
    def __init__(self, backend: FakeBackend, text: str = "", born: bool = True) -> None:
        self.backend, self.text, self.born = backend, text, born
        self.ops: deque[tuple[Any, ...]] = deque()
        self.usage = Usage()
        self.error: BaseException | None = None
        self.closed = self.resting = False
        self.seed: int | None = None
        self.timeout: float | None = None
        backend.branches.append(self)

    def _put(self, *op: Any) -> Any:
        with self.backend.lock:
            self.resting = op[0] == "rest"
            self.ops.append(op)
            if self.closed or self.error is not None:
                self.fail(Cancelled("the branch is closed"))
        return op[-1]

    def append(self, text: str, *, markup: bool = False) -> None:
        self._put("text", text)
        self.backend.appended.append((text, markup))

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        self.backend.requests.append(request)
        return self._put("gen", request, Handle(request.where))

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        return self._put("score", request, Handle(request.where))

    def sync(self) -> Handle[None]:
        return self._put("sync", Handle("sync"))

    def rest(self) -> None:
        self._put("rest", None)

    def fork(self, n: int) -> list[Branch]:
        return self._put("fork", [Branch(self.backend, born=False) for _ in range(n)])

    def cancel(self, error: BaseException | None = None) -> None:
        with self.backend.lock:
            self.fail(error or Cancelled("the branch was cancelled"))

    def close(self) -> None:
        self.closed = True

    def closer(self) -> Callable[[], None]:
        return self.close

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        while self.ops:
            op = self.ops.popleft()
            if isinstance(op[-1], Handle):
                op[-1].finish(None, self.error)
            elif op[0] == "fork":
                for child in op[1]:
                    child.born = True
                    child.fail(self.error)

    def unit(self) -> bool:
        """One unit of work; False if there was none."""
        if not self.ops or not self.born:
            return False
        if self.error is not None or self.closed:
            self.fail(self.error or Cancelled("the branch is closed"))
            return True
        kind, *rest = self.ops[0]
        if kind in ("gen", "score") and rest[0].gate is not None and not rest[1].text:
            try:
                rest[0].gate()
            except Exception as error:
                self.fail(error)
                return True
        if kind == "gen" and not self._write(*rest):
            return True
        if self.ops:  # a failing gen empties them
            self.ops.popleft()
        if kind == "text":
            self.text += rest[0]
            self.usage.computed += 1
        elif kind == "score":
            self._pick(*rest)
        elif kind == "fork":
            for child in rest[0]:
                child.text, child.born = self.text, True
        elif kind == "sync":
            rest[0].finish(None)
        return True

    def _write(self, request: GenRequest, handle: Handle[Any]) -> bool:
        """One character more; True when the gen is over."""
        reply = self.backend.reply_to(handle, self.text, request)
        if len(handle.text) < (len(reply) if isinstance(reply, str) else self.backend.fails_after):
            handle.grow((reply if isinstance(reply, str) else "~" * 99)[len(handle.text)])
            return False
        if isinstance(reply, BaseException):
            self.fail(reply)
            return True
        usage = Usage(1, len(self.text), 0, len(reply), len(reply))
        tokens = [TokenLogprob(-1.0, ord(c), c, ((-1.0, ord(c), c),)) for c in reply]
        texts = [reply, *(f"{reply}#{i}" for i in range(1, request.n))]
        self.usage.add(usage)
        self.text += reply
        reason = {"type": "stop", "matched": "."}
        handle.finish([GenResult(t, [ord(c) for c in t], reason, usage, tokens) for t in texts])
        return True

    def _pick(self, request: ScoreRequest, handle: Handle[ScoreResult]) -> None:
        best = self.backend.pick(self.text, request)
        rows = [
            [TokenLogprob(0.0 if i == best else -1.0, ord(c), c) for c in choice]
            for i, choice in enumerate(request.choices)
        ]
        plain = [[[t.logprob, t.token_id, t.text] for t in row] for row in rows]
        decision = request.method(
            choices=request.choices,
            normalized_prompt_logprobs=[sum(t[0] for t in row) / len(row) for row in plain],
            input_token_logprobs=plain,
            output_token_logprobs=[[] for _ in plain],
            unconditional_token_logprobs=plain,
        )
        self.text += decision.decision
        usage = Usage(1, len(self.text), 0, 1, 0)
        self.usage.add(usage)
        handle.finish(
            ScoreResult(
                request.choices.index(decision.decision),
                decision.decision,
                ChoiceScores(rows),
                dict(decision.meta_info or {}),
                usage,
            )
        )


class FakeBackend:
    """`reply(text so far, request)` gives a gen's text, or an exception to fail with after `fails_after` characters."""

    def __init__(
        self,
        reply: Reply | list[Any] | str = "ok",
        *,
        manual: bool = False,
        can_score: bool = True,
        can_logprobs: bool = True,
        template: bool = True,
        fails_after: int = 0,
        pick: Callable[[str, ScoreRequest], int] = lambda text, request: 0,
    ) -> None:
        self.capabilities = Capabilities("fake", score=can_score, logprobs=can_logprobs)
        self.chat_template = ChatTemplate(CHATML, name="fake") if template else None
        self.manual, self.fails_after, self.pick = manual, fails_after, pick
        self.lock = threading.RLock()
        self.branches: list[Branch] = []
        self.requests: list[GenRequest] = []
        self.appended: list[tuple[str, bool]] = []
        self.flushed = 0
        self._reply = reply
        self._replies: dict[int, Any] = {}
        self._handles: list[Any] = []

    def reply_to(self, handle: Handle[Any], text: str, request: GenRequest) -> Any:
        if id(handle) not in self._replies:
            self._handles.append(handle)  # so that the id stays its own
            scripted = self._reply
            self._replies[id(handle)] = (
                scripted
                if isinstance(scripted, str)
                else scripted.pop(0)
                if isinstance(scripted, list)
                else scripted(text, request)
            )
        return self._replies[id(handle)]

    def open(self, *, seed: int | None = None, timeout: float | None = None, caller: Any = None) -> Branch:
        branch = Branch(self)
        branch.seed, branch.timeout = seed, timeout
        return branch

    def step(self) -> bool:
        with self.lock:
            worked = [branch.unit() for branch in self.branches]
            if len(self.branches) > 1000:  # what is closed and empty will do no more
                self.branches = [b for b in self.branches if b.ops or not b.closed]
        time.sleep(0)  # let those in who wait for the lock
        return any(worked)

    def steps(self) -> None:
        while self.step():
            pass

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        end = time.monotonic() + (60 if timeout is None else timeout)
        wake = threading.Event()
        handle.listen(wake.set)
        while not handle.ready(seen):
            if time.monotonic() >= end:
                if timeout is None:
                    raise BackendError(f"fake: waited a minute for {handle.where}")
                return False
            if self.manual or not self.step():
                wake.wait(0.005)
                wake.clear()
        handle.unlisten(wake.set)
        return True

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        while not handle.ready(seen):
            worked = not self.manual and self.step()
            await asyncio.sleep(0 if worked else 0.001)

    def flush_cache(self) -> bool:
        self.flushed += 1
        return True

    def get_server_info(self) -> dict[str, Any]:
        return {"name": "fake"}

    def shutdown(self) -> None:
        pass
