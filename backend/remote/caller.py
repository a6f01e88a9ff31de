"""One request to a service, from its turn to its answer: concurrency, streams, and asking again after a failure.

Knows nothing of branches or constraints. A request is sent again only when nothing of its answer was streamed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...lang.errors import SglError
from ..base import TokenLogprob, Usage
from .failures import failure, seconds_to_wait
from .service import Ask, Delta, Garbled, Scored, Service

T = TypeVar("T")


@dataclass(slots=True)
class Sample:
    """One sample of an answer, as far as it has come. `generated`: its tokens, if the service tells."""

    parts: list[str] = field(default_factory=list)
    finish: dict[str, Any] | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    input_logprobs: list[TokenLogprob] | None = None
    generated: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(slots=True)
class Answer:
    """What came of one request. `pieces` counts the pieces of text: about one a token."""

    samples: list[Sample]
    prompt: int = 0
    cached: int = 0
    generated: int | None = None
    pieces: int = 0
    queued: float = 0.0
    running: float = 0.0

    def add(self, delta: Delta) -> None:
        if not 0 <= delta.index < len(self.samples):
            raise Garbled(f"it told of sample {delta.index} of {len(self.samples)}")
        sample = self.samples[delta.index]
        if delta.text:
            sample.parts.append(delta.text)
            self.pieces += 1
        sample.finish = delta.finish or sample.finish
        sample.token_ids += delta.token_ids
        sample.logprobs += delta.logprobs
        if delta.input_logprobs is not None:
            sample.input_logprobs = list(delta.input_logprobs)
        self.prompt = self.prompt if delta.prompt is None else delta.prompt
        self.cached = self.cached if delta.cached is None else delta.cached
        if delta.generated is not None and delta.of_sample:
            sample.generated = delta.generated
            self.generated = sum(each.generated or 0 for each in self.samples)
        elif delta.generated is not None:
            self.generated = delta.generated

    def check_whole(self) -> None:
        """Raise `Garbled` if the stream ended before a sample did."""
        if any(sample.finish is None for sample in self.samples):
            raise Garbled("the stream ended before the answer did")

    def usage(self) -> Usage:
        """Tokens of this request. A service that does not count its tokens is taken to send one a piece."""
        generated = self.pieces if self.generated is None else self.generated
        computed = max(0, self.prompt - self.cached) + generated
        return Usage(0, self.prompt, self.cached, computed, generated, queued=self.queued, running=self.running)


class Caller:
    """Sends requests to one service: at most `most` at a time, each at most `1 + retries` times."""

    def __init__(self, service: Service, retries: int, most: int) -> None:
        self.service = service
        self.retries = retries
        self.sent = self.running = 0  # requests
        self._slots = asyncio.Semaphore(most)

    async def ask(self, ask: Ask, where: str, grow: Callable[[str], None] | None = None) -> Answer:
        """Send a request and read its answer. `grow` hears of each piece of the first sample.

        Raises `ServiceError`, or what the service's own code raises as an `SglError`.
        """
        answer = Answer([])
        asked = time.monotonic()

        async def once() -> None:
            began = time.monotonic()
            answer.samples = [Sample() for _ in range(ask.n)]
            answer.pieces, answer.queued = 0, began - asked
            async with aclosing(self.service.deltas(ask)) as deltas:
                async for delta in deltas:
                    answer.add(delta)
                    if grow is not None and delta.text and delta.index == 0:
                        grow(delta.text)
            answer.check_whole()
            answer.running = time.monotonic() - began

        await self._tried(once, where, lambda: answer.pieces > 0)
        return answer

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool, where: str) -> Scored:
        """Score choices; errors as of `ask`."""
        return await self._tried(lambda: self.service.scores(prompt, choices, alone), where, lambda: False)

    async def _tried(self, once: Callable[[], Awaitable[T]], where: str, begun: Callable[[], bool]) -> T:
        tries = 0
        async with self._slots:
            while True:
                tries += 1
                self.sent += 1
                self.running += 1
                try:
                    return await once()
                except SglError:
                    raise
                except Exception as error:
                    again = None if begun() or tries > self.retries else seconds_to_wait(self.service, error, tries)
                    if again is None:
                        raise failure(self.service, error, where) from error
                finally:
                    self.running -= 1
                await asyncio.sleep(again)
