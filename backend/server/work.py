"""The gens of one request: branches that are opened, read while they grow, and cancelled. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...lang.constraint import Constraint
from ...lang.sampling import Sampling
from ..base import GenRequest, GenResult, Handle
from ..runtime.local import LocalBackend
from ..runtime.program.branch import Branch
from .turns import Pieces


@dataclass(frozen=True)
class PromptRequest:
    """One prompt, as pieces (text, whether it is markup) or as token ids, and what is asked of it.

    `head`: tokens that the prompt begins with, before these; `head_text`: what they spell.
    """

    prompt: Pieces | list[int]
    sampling: Sampling
    n: int = 1
    constraint: Constraint | None = None
    head: tuple[int, ...] = ()
    head_text: str = ""


@dataclass(slots=True)
class Growth:
    """What was written since the last one. `result` is there at the end; `so_far`, if log-probabilities are wanted."""

    index: int
    text: str
    so_far: GenResult | None = None
    result: GenResult | None = None


class RequestWork:
    """The gens of one request, under way from the moment the object is made.

    `first`: when the first text was there. `finished` is told each result, before it is
    answered. `owner`: what closes the branches when it is collected, and so is kept. `asks`: what it was made of, if
    it was made of asks.
    """

    def __init__(
        self, backend: LocalBackend, calls: Sequence[tuple[Branch, Handle[list[GenResult]]]], owner: object = None
    ) -> None:
        self.backend = backend
        self._owner = owner
        self.calls = list(calls)
        self.asks: Sequence[PromptRequest] = ()
        self.first: float | None = None
        self.finished: Callable[[GenResult], None] | None = None
        self._branches = [branch for branch, _ in calls]

    @classmethod
    def of(cls, backend: LocalBackend, asks: Sequence[PromptRequest], where: str, timeout: float | None) -> RequestWork:
        """Open a branch for each ask, and fork it for n samples. Constraints are prepared before.

        n samples are forks, not one gen, so that each can be streamed. The first is what n=1 gives.
        """
        work = cls(backend, [])
        work.asks = asks
        try:
            for ask in asks:
                branch = backend.open(seed=ask.sampling.seed, timeout=timeout)
                work._branches.append(branch)
                if ask.head:
                    branch.append_tokens(list(ask.head))
                if ask.prompt and isinstance(ask.prompt[0], int):
                    branch.append_tokens(list(ask.prompt))
                else:
                    for text, markup in ask.prompt:  # type: ignore[misc]
                        branch.append(text, markup=markup)
                others = list(branch.fork(ask.n - 1)) if ask.n > 1 else []
                work._branches += others
                for one in (branch, *others):
                    work.calls.append((one, one.gen(GenRequest(ask.sampling, 1, where, ask.constraint))))
                    one.rest()
        except BaseException:
            work.close()
            raise
        return work

    def close(self, error: BaseException | None = None) -> None:
        """End what still runs; the next step frees its KV. Idempotent."""
        branches, self._branches = self._branches, []
        for branch in branches:
            if any(not handle.done for _, handle in self.calls):
                branch.cancel(error)
            branch.close()

    def abort(self, error: BaseException) -> None:
        """Fail what still runs with `error`; its readers hear of it."""
        for branch in self._branches:
            branch.cancel(error)

    def _finish(self, results: list[GenResult]) -> list[GenResult]:
        """Tell of results before they are answered."""
        if self.finished is not None:
            for result in results:
                self.finished(result)
        return results

    async def results(self) -> list[GenResult]:
        """The results of all gens, in order. Raises the error of the first that failed."""
        found: list[GenResult] = []
        for _, handle in self.calls:
            await self.backend.wait_async(handle)
            found += self._finish(handle.value())
            self.first = self.first or time.monotonic()
        return found

    async def growths(self, details: bool = False) -> AsyncIterator[Growth]:
        """What all gens write, as it comes. With `details`, each growth has the result so far."""
        if len(self.calls) == 1:
            async for growth in self._growths(0, details):
                yield growth
            return
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def follow(index: int) -> None:
            try:
                async for growth in self._growths(index, details):
                    queue.put_nowait(growth)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(follow(i)) for i in range(len(self.calls))]
        try:
            left = len(tasks)
            while left:
                growth = await queue.get()
                if isinstance(growth, Exception):
                    raise growth
                left -= growth.result is not None
                yield growth
        finally:
            for task in tasks:
                task.cancel()

    async def _growths(self, index: int, details: bool) -> AsyncIterator[Growth]:
        handle = self.calls[index][1]
        seen = 0
        while True:
            await self.backend.wait_async(handle, seen)
            done = handle.done  # before the text, which is whole then
            result = self._finish(handle.value())[0] if done else None
            text = result.text if result is not None else handle.text
            so_far = handle.so_far if details else None  # after the text: it has all tokens of it
            self.first = self.first or time.monotonic()
            piece, seen = text[seen:], len(text)
            yield Growth(index, piece, so_far() if so_far is not None else None, result)
            if done:
                return
