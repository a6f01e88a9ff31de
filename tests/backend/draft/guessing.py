"""A source of drafts that is often right and often wrong, at random. For the tests of speculation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sgl.backend.runtime.draft.proposer import Guess, Proposer, Terms
from sgl.backend.runtime.job.gen import GenJob
from sgl.backend.runtime.runtime import Runtime


class RandomDrafts(Proposer):
    """Guesses from `paths`, the tokens that a branch had in the end (by its order), each wrong with probability
    `wrong`. `raises_at`: the call that raises."""

    name = "random"

    def __init__(self, seed: int, vocab_size: int, paths: dict[Any, list[int]], wrong: float = 0.2) -> None:
        self._random, self._vocab_size, self._paths, self._wrong = random.Random(seed), vocab_size, paths, wrong
        self.calls = 0
        self.raises_at: int | None = None

    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        self.calls += 1
        if self.calls == self.raises_at:
            raise ValueError("no more ideas")
        return [self._guesses(job, most) for job in jobs]

    def _guesses(self, job: GenJob, most: int) -> list[Guess]:
        cursor, chance = job.cursor, self._random
        length = cursor.length - cursor.runs_ahead
        future = self._paths.get(job.branch.order, [])[length:]
        future += [chance.randrange(self._vocab_size) for _ in range(3)]
        count = min(most, chance.choice([0, 1, 2, 4, 9]))
        return [
            Guess(chance.randrange(self._vocab_size) if chance.random() < self._wrong else token, 3)
            for token in future[:count]
        ]


def speculate(runtime: Runtime, source: Any) -> Runtime:
    """Let a runtime take all drafts of one source, however unlikely they are."""
    speculation = runtime.engine.speculation
    speculation.proposers = [source]
    speculation.trials.drafting = lambda branches: True  # type: ignore[method-assign]
    speculation.most_branches = 1 << 16
    speculation.cost.share = lambda rows: 0.0  # type: ignore[method-assign]
    return runtime
