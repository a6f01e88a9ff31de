"""`HeadSource`: drafts from an EAGLE-3 head, where they are worth the seconds that the head takes.

Owns: the head's KV of each branch, and what a draft costs. Knows nothing of how a head is loaded (`build.py`), nor of
what else drafts.

1. After each step the features of the rows that became text are taken from the model. They wait, as they are, until the
   branch is drafted for: a branch that never is costs a copy.
2. Features may be missing: of a cached prefix, or of a text that was cut. Then the head attends to those there are.
3. The expected tokens of a chain are known from how often the drafts of each place were right. The head is asked only
   where they are worth more than the rows, the head's own time, and what another source found.

A branch that was forked copies what the head has of its parent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from ..job.gen import GenJob
from ..kv.cursor import Cursor
from ..kv.tree import common_prefix
from ..program.branch import Branch, Life
from ..step.step import Span, Step
from .chances import Sites
from .eagle.propose import Drafter, HeadKv
from .proposer import Guess, Proposer, Terms, kind_of

MOST_WAITING = 512
"""Positions of a branch whose features are kept until the head reads them: the last ones."""
MOST_BYTES = 256 << 20
"""Of all branches together. Beyond it all is forgotten, and begun anew."""
CATCH_UP_SHARE = 0.25
"""Of what drafts may bring to the rest of a gen, the share that reading what waits may cost."""
LEAST_WAITING = 8
PROBE_ROUNDS = 200
"""After so many rounds without a draft one is made all the same, to learn from it."""
_WARM_POSITIONS, _WARM_TURNS = 64, 3


class FeatureModel(Protocol):
    """A model that keeps features: `features` are those of the last forward's rows [T, 3E]."""

    features: npt.NDArray[np.float32] | None

    def capture_layers(self, layers: Sequence[int]) -> None:
        """Keep the features after these layers from now on."""


@dataclass(slots=True)
class HeadText:
    """What the head has of one branch: `text`, the tokens whose rows are accounted for; `at`, the positions of the KV's
    entries; and features that `wait`, by position. `cuts`: those of the cursor that were seen."""

    kv: HeadKv
    text: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    waiting: list[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=list)
    cuts: int = 0
    guesses: Sequence[Guess] = ()
    guessed_at: int = 0
    idle: int = 0

    def fork(self) -> HeadText:
        return HeadText(self.kv.fork(), list(self.text), list(self.at), list(self.waiting), -1)

    def look(self, cursor: Cursor) -> None:
        """Forget what is no longer the branch's text."""
        if self.cuts == cursor.cuts:
            return
        self.cuts = cursor.cuts
        self.text = self.text[: common_prefix(self.text, cursor.path_tokens(), 0)]
        while self.at and self.at[-1] > len(self.text) - 2:  # an entry holds the token one position on, too
            self.at.pop()
        self.kv.truncate(len(self.at))
        while self.waiting and self.waiting[-1][0] >= len(self.text):
            self.waiting.pop()
        self.guesses = ()

    def take(self, cursor: Cursor, start: int, tokens: Sequence[int], features_TF: npt.NDArray[np.float32]) -> None:
        """Take the features of rows at `start` on, as far as their tokens are the branch's text."""
        known = len(self.text)
        if start > known:
            self.text += cursor.path_tokens(known)[: start - known]
            known = start
        tail = cursor.path_tokens(known)
        mine = tokens[known - start :]
        count = common_prefix(tail, list(mine), 0)
        if count > 0:
            self.text += tail[:count]
            kept_TF = features_TF[known - start : known - start + count].copy()
            self.waiting += zip(range(known, known + count), kept_TF)
            del self.waiting[:-MOST_WAITING]

    @property
    def bytes(self) -> int:
        rows = len(self.waiting) * self.waiting[0][1].nbytes if self.waiting else 0
        return self.kv.bytes + rows + 8 * (len(self.text) + len(self.at))


class HeadSource(Proposer):
    """A head drafts for the branches of one engine.

    Args:
        drafter: the head.
        model: what computes the steps, with its features.
        sites: how often guesses were right.
        steps: drafts of the longest chain.
        vocab_size: tokens that the tokenizer has; others are not drafted.
    """

    name = "eagle3"

    def __init__(self, drafter: Drafter, model: FeatureModel, sites: Sites, steps: int, vocab_size: int) -> None:
        self._drafter, self._model, self._sites = drafter, model, sites
        self._steps, self._vocab_size = steps, vocab_size
        self._texts: WeakKeyDictionary[Branch, HeadText] = WeakKeyDictionary()
        self.cost = HeadCost(self._warm_up)

    def _warm_up(self, positions: int, drafts: int) -> None:
        features = torch.zeros(positions, self._drafter.head.fc.in_features)
        self._drafter.propose(HeadKv(self._drafter.head), [0] * positions, features, drafts)

    # -- the text
    def learn(self, step: Step) -> None:
        features_TF = self._model.features
        assert features_TF is not None and len(features_TF) == step.rows, "features are of the step's rows"
        for span, layout in zip(step.spans, step.layout):
            if span.chain is None:
                rows = slice(layout.first_row, layout.first_row + layout.rows)
                self._take(span, step.tokens[rows], features_TF[rows])
        for branch in [each for each in self._texts if each.life in (Life.CLOSED, Life.FAILED)]:
            del self._texts[branch]
        if self.memory()[0] > MOST_BYTES:
            self.forget()

    def _take(self, span: Span, tokens: Sequence[int], features_TF: npt.NDArray[np.float32]) -> None:
        branch, cursor = span.branch, span.branch.cursor
        known = self._texts.get(branch)
        if known is None:
            parent = next((self._texts[each] for each in self._texts if each.order == branch.order[:-2]), None)
            known = self._texts[branch] = HeadText(HeadKv(self._drafter.head)) if parent is None else parent.fork()
        known.look(cursor)
        if known.guesses and isinstance(span.job, GenJob) and span.job.start <= known.guessed_at:  # of this very gen
            self._judge(known, span.job.where, cursor.path_tokens(known.guessed_at))
        known.take(cursor, span.start, tokens, features_TF)

    def _judge(self, known: HeadText, where: str, tail: Sequence[int]) -> None:
        """Learn which guesses were right."""
        self._sites[where].judge(known.guesses, tail)
        if tail:
            known.guesses = ()

    # -- the drafts
    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        return [self._propose(job, min(most, self._steps, job.most() - 1), terms) for job in jobs]

    def _propose(self, job: GenJob, most: int, terms: Terms) -> Sequence[Guess]:
        known, cursor = self._texts.get(job.branch), job.cursor
        if known is None or job.branch.asked_in or most < 1:
            return ()
        known.look(cursor)
        if len(known.text) != cursor.length - 1:
            return ()  # rows of the text are still to be computed
        if known.guesses and known.guessed_at == cursor.length:
            return known.guesses
        if not known.waiting:
            return ()
        drafts, gain = self._worth(job, most, terms)
        if gain <= terms.gains.get(job, 0.0):
            known.idle += terms.pace > 0
            if known.idle < PROBE_ROUNDS:
                return ()
            drafts, gain = 1, 0.0
        known.idle = 0
        return self._draft(known, cursor, drafts, gain * job.most() * terms.pace, terms)

    def _worth(self, job: GenJob, most: int, terms: Terms) -> tuple[int, float]:
        """How long a chain should be, and the tokens that it is expected to bring, less what it costs."""
        if not terms.pace:
            return 0, 0.0
        pace = terms.pace
        return self._sites[job.where].worth(most, terms.share, self.cost.first / pace, self.cost.further / pace)

    def _draft(self, known: HeadText, cursor: Cursor, drafts: int, worth: float, terms: Terms) -> Sequence[Guess]:
        """`worth`: seconds that drafts may save in the rest of the gen."""
        readable = max(LEAST_WAITING, int(min(MOST_WAITING, CATCH_UP_SHARE * worth / self.cost.position)))
        waiting, known.waiting = known.waiting[-readable:], []
        at = [position for position, _ in waiting]
        path = cursor.path_tokens(at[0] + 1)
        began = time.perf_counter()
        chain = self._drafter.propose(
            known.kv,
            [path[position - at[0]] for position in at],
            torch.from_numpy(np.stack([feature_F for _, feature_F in waiting])),
            drafts,
            at=at,
            least=terms.share + self.cost.further / terms.pace,
        )
        self.cost.learn(len(at), len(chain.tokens), time.perf_counter() - began)
        known.at += at
        known.guesses = [
            Guess(token, kind_of(probability, place))
            for place, (token, probability) in enumerate(zip(chain.tokens, chain.probabilities))
        ]
        for place, token in enumerate(chain.tokens):
            if token >= self._vocab_size:
                known.guesses = known.guesses[:place]
                break
        known.guessed_at = cursor.length
        return known.guesses

    def forget(self) -> None:
        self._texts.clear()

    def leave(self) -> None:
        self.forget()
        self._model.capture_layers(())
        self._model.features = None

    def memory(self) -> tuple[int, int, int]:
        texts = list(self._texts.values())
        return sum(text.bytes for text in texts), MOST_BYTES, sum(len(text.at) for text in texts)


class HeadCost:
    """Seconds: of a chain's `first` draft, of each `further` one, and of each new `position` that the head reads.

    Measured once by `run(positions, drafts)`. Later chains say by which factor the machine is slower or faster now.
    """

    def __init__(self, run: Callable[[int, int], None]) -> None:
        one, two, many = (_least_seconds(run, *what) for what in ((2, 1), (2, 4), (_WARM_POSITIONS, 1)))
        self._first = one
        self._further = max(0.05 * one, (two - one) / 3)
        self._position = max(0.001 * one, (many - one) / _WARM_POSITIONS)
        self._factor = 1.0

    @property
    def first(self) -> float:
        return self._first * self._factor

    @property
    def further(self) -> float:
        return self._further * self._factor

    @property
    def position(self) -> float:
        return self._position * self._factor

    def learn(self, positions: int, drafts: int, seconds: float) -> None:
        expected = self._first + self._further * max(0, drafts - 1) + self._position * max(0, positions - 2)
        self._factor += 0.05 * (min(3.0, seconds / expected) - self._factor)


def _least_seconds(run: Callable[[int, int], None], positions: int, drafts: int) -> float:
    times = []
    for _ in range(_WARM_TURNS):
        began = time.perf_counter()
        run(positions, drafts)
        times.append(time.perf_counter() - began)
    return min(times)
