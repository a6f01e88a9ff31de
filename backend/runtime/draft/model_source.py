"""`DraftModelSource`: drafts from a second, smaller model, which shares the slots of the first one.

Owns: which slots hold KV of the draft model, and for which text. Knows nothing of how models are loaded
(`draft_model.py`), nor of how they compute.

1. The KV of the draft model for a token lies at the slot that the target's KV of that token has, or will have, in
   arrays of its own. So forks, shared prefixes and eviction are the tree's alone.
2. Each slot keeps the name of the text up to its token (`path_names.py`). A slot with another name was given
   to another text, or a draft was wrong. It holds nothing, and its row is computed when a branch drafts.
3. A draft is sampled as its token will be: the recipe, the noise of the position and the grammar's mask are the job's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...contain import is_interruption
from ..job.constrained_gen import ConstrainedGenJob
from ..job.gen import GenJob
from ..program.branch import Branch
from ..sample.ask import Lookup
from ..sample.sampler import Answer, Ask, Request, Sampled
from ..step.executor import Executor
from ..step.packed import Batch, SpanLayout
from ..step.step import Step
from .chances import Chances, Sites
from .cost import StepCost
from .path_names import Names, PathNames, names_after
from .proposer import PLACE_KIND, Guess, Proposer, Terms, kind_of

LATE_ROWS = 64
"""A branch whose target has more rows than this to compute does not draft yet."""
CATCH_UP_SHARE = 0.25
"""Of what drafts may bring to the rest of a gen, the share that reading its text may cost."""
FREE_ROWS = 32
"""Rows that are read whatever that brings."""
SPARE_SLOTS = 8
"""Slots that a tail takes ahead where its reserve is too small for a draft."""
PROBE_ROUNDS = 200
"""After so many rounds without a draft one is made all the same, to learn from it."""
_WARM_ROWS, _WARM_TURNS = (1, 8, 64), 3
"""Rows of the steps that are timed at the start, and how often; the fastest counts."""


@dataclass(slots=True)
class DraftedText:
    """What is known of one branch: its text, and the guesses that followed its first `guessed_at` tokens."""

    path: PathNames = field(default_factory=PathNames)
    guesses: Sequence[Guess] = ()
    guessed_at: int = 0
    cuts: int = 0
    idle: int = 0


@dataclass(slots=True)
class ModelChain:
    """A draft at work: up to `most` tokens behind the text of `job`.

    `slots` and `names` are those of the text's positions and of the draft's. The draft model has the KV of the first
    `at` positions. `least`: a chain that is less likely than this is not made longer.
    """

    job: GenJob
    text: DraftedText
    length: int
    most: int
    slots: npt.NDArray[np.int64]
    names: Names
    chances: Chances
    least: float
    at: int = 0
    draft: list[int] = field(default_factory=list)
    guesses: list[Guess] = field(default_factory=list)
    likely: float = 1.0
    over: bool = False

    def tokens(self, rows: int) -> list[int]:
        """The tokens of the next rows."""
        known = self.text.path.tokens[self.at : self.at + rows]
        first = max(0, self.at - self.length)
        return known + self.draft[first : first + rows - len(known)]

    def ask(self) -> Request | None:
        """What the target will be asked in this place; None where that cannot be said, and the chain ends."""
        job, draft = self.job, self.draft
        try:
            if draft and isinstance(job, ConstrainedGenJob):
                job.look_ahead(draft)
            asks = job.ask_drafted(draft)
        except BaseException as error:  # a grammar engine's: it is met again, and told, where the text comes here
            if is_interruption(error):
                raise
            return None
        if len(asks) <= len(draft):
            return None  # the grammar takes no such token
        return asks[len(draft)]._replace(recipe=replace(asks[len(draft)].recipe, traced=True))

    def take(self, sampled: Sampled) -> None:
        """Take the token of the row that was asked about."""
        job, token, place = self.job, sampled.token, len(self.draft)
        if token in job.ends and len(job.tokens) + place >= job.min_tokens:
            self.over = True  # nothing follows
            return
        guess = Guess(token, kind_of(math.exp(min(0.0, sampled.logprob or 0.0)), place))
        self.guesses.append(guess)
        self.draft.append(token)
        at = self.length + place
        if at < len(self.names):
            self.names[at] = names_after(self.names[at - 1 : at], [token], at)[0]
        self.likely *= self.chances.of(guess.kind)
        self.over = len(self.draft) >= self.most or self.likely < self.least


class DraftModelSource(Proposer):
    """A draft model drafts for the branches of one engine.

    Args:
        executor: what computes and samples the draft model's steps; it does not run ahead.
        sites: how often guesses were right.
        slots: slots of the pool, the scratch one included.
        steps: drafts of the longest chain.
        step_tokens: most rows of a step.
        slope: what a row adds to a step of one row, of its time, until it is measured.
        kv_bytes: bytes of the draft model's KV for a slot.
    """

    name = "standalone"

    def __init__(
        self, executor: Executor, sites: Sites, slots: int, *, steps: int, step_tokens: int, slope: float, kv_bytes: int
    ) -> None:
        self._executor, self._sites, self._steps, self._step_tokens = executor, sites, steps, step_tokens
        self._kv_bytes = kv_bytes
        self._held: Names = np.zeros(slots, np.uint64)  # the name of what each slot holds
        self._texts: WeakKeyDictionary[Branch, DraftedText] = WeakKeyDictionary()
        self.cost = StepCost(slope)
        for rows in sorted({min(rows, step_tokens) for rows in _WARM_ROWS}):
            self.cost.learn(rows, min(self._warm_up(rows) for _ in range(_WARM_TURNS)))

    def _warm_up(self, rows: int) -> float:
        """Compute a step of rows that read and write the scratch slot alone; the seconds that it takes."""
        zeros, spans = np.zeros(rows, np.int64), [SpanLayout(i, 1, (), 0) for i in range(rows)]
        return self._compute(Batch(zeros, zeros, zeros, spans, np.arange(rows)), [Lookup((0,))] * rows)[1]

    # -- whether to draft
    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        found: dict[GenJob, Sequence[Guess]] = {}
        chains: list[ModelChain] = []
        each = self.cost.seconds(len(jobs)) / max(1, len(jobs))
        for job in jobs:
            longest = min(most, self._steps, job.most() - 1)
            if longest < 1 or not terms.pace:
                continue
            text = self._texts.get(job.branch)
            if text is None:
                text = self._texts[job.branch] = DraftedText()
            if job.branch.asked_in:
                found[job] = self._promised(job, longest, terms, each)
            elif text.guesses and text.guessed_at == job.cursor.length and text.cuts == job.cursor.cuts:
                found[job] = text.guesses
            elif chain := self._begin(job, text, longest, terms, each):
                chains.append(chain)
        self._draft(chains)
        for chain in chains:
            text = chain.text
            text.guesses, text.guessed_at, text.cuts = chain.guesses, chain.length, chain.job.cursor.cuts
            found[chain.job] = chain.guesses
        return [found.get(job, ()) for job in jobs]

    def _promised(self, job: GenJob, most: int, terms: Terms, each: float) -> Sequence[Guess]:
        """Guesses without tokens behind one that is in flight: only how likely they are to be right is asked for."""
        drafts, _ = self._sites[job.where].worth(most, terms.share, each / terms.pace, each / terms.pace)
        return [Guess(0, PLACE_KIND + place) for place in range(drafts)]

    def _begin(self, job: GenJob, text: DraftedText, most: int, terms: Terms, each: float) -> ModelChain | None:
        """A chain for this job, if one pays. `each`: seconds of a row of the draft model."""
        cursor, chances = job.cursor, self._sites[job.where]
        late = cursor.length - 1 - cursor.computed
        if not cursor.attached or not cursor.node.full or late > LATE_ROWS:
            return None
        drafts, gain = chances.worth(most, terms.share, each / terms.pace, each / terms.pace)
        if gain <= terms.gains.get(job, 0.0):
            text.idle += 1
            if text.idle < PROBE_ROUNDS:
                return None
            drafts, gain = 1, 0.0
        text.idle = 0
        drafts = cursor.reserve_for(late + drafts, SPARE_SLOTS) - late
        if drafts < 1:
            return None
        text.path.follow(cursor)
        slots = np.concatenate([np.arange(start, start + n) for start, n in cursor.context(cursor.length - 1 + drafts)])
        names = np.concatenate([text.path.names, np.zeros(drafts - 1, np.uint64)])
        least = terms.share + each / terms.pace
        chain = ModelChain(job, text, cursor.length, drafts, slots, names, chances, least)
        chain.at = self._known(chain)
        missing = cursor.length - chain.at
        if missing > FREE_ROWS and self._reading(missing) > CATCH_UP_SHARE * gain * job.most() * terms.pace:
            return None
        return chain

    def _reading(self, rows: int) -> float:
        """Seconds that reading so many rows takes."""
        once = min(rows, self._step_tokens)
        return self.cost.seconds(once) * rows / once

    def _known(self, chain: ModelChain) -> int:
        """How many positions of the text the draft model has KV of. The last one is computed again, for its logits."""
        length = chain.length
        strange = self._held[chain.slots[:length]] != chain.names[:length]
        return min(int(strange.argmax()) if strange.any() else length, length - 1)

    # -- the drafts
    def _draft(self, chains: list[ModelChain]) -> None:
        """Compute the chains, all together: each step carries of each chain what the draft model lacks."""
        try:
            while chains:
                self._advance(chains)
                chains = [chain for chain in chains if not chain.over]
        except BaseException:
            self.forget()  # slots were given names, and their KV may not be there
            raise

    def _advance(self, chains: Sequence[ModelChain]) -> None:
        room = self._step_tokens
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[npt.NDArray[np.int64]] = []
        spans: list[SpanLayout] = []
        want: list[int] = []
        asked: list[tuple[ModelChain, Request]] = []
        for chain in chains:
            if chain.at < chain.length - 1:  # another chain of this step may compute rows of both
                chain.at = max(chain.at, self._known(chain))
            missing = chain.length + len(chain.draft) - chain.at
            rows = min(room, missing)
            if not rows:
                break
            if rows == missing:
                ask = chain.ask()
                if ask is None:
                    chain.over = True
                    continue
                asked.append((chain, ask))
                want.append(len(tokens) + rows - 1)
            at, end = chain.at, chain.at + rows
            spans.append(SpanLayout(len(tokens), rows, chain.job.cursor.context(at), at))
            tokens += chain.tokens(rows)
            positions += range(at, end)
            slots.append(chain.slots[at:end])
            self._held[chain.slots[at:end]] = chain.names[at:end]
            chain.at = end
            room -= rows
        if not spans:
            return
        batch = Batch(
            np.array(tokens, np.int64),
            np.array(positions, np.int64),
            np.concatenate(slots),
            spans,
            np.array(want, np.int64),
        )
        answers, seconds = self._compute(batch, [ask for _, ask in asked])
        self.cost.learn(len(tokens), seconds)
        for (chain, _), answer in zip(asked, answers):
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Sampled)
            chain.take(answer)

    def _compute(self, batch: Batch, asks: Sequence[Ask]) -> tuple[list[Answer], float]:
        """Carry out a step of the draft model; its answers, and the seconds that it took."""
        began = time.perf_counter()
        flight = self._executor.launch(batch)
        flight.ask(asks)
        return flight.answers(), time.perf_counter() - began

    # -- what came of them
    def learn(self, step: Step) -> None:
        for span in step.spans:
            text = self._texts.get(span.branch)
            if span.chain is not None or text is None or not text.guesses or not isinstance(span.job, GenJob):
                continue
            cursor = span.branch.cursor
            tail = cursor.path_tokens(text.guessed_at) if text.cuts == cursor.cuts else []
            if tail and span.job.start <= text.guessed_at:  # of this very gen
                self._sites[span.job.where].judge(text.guesses, tail)
            if tail or text.cuts != cursor.cuts:
                text.guesses = ()

    def forget(self) -> None:
        self._held.fill(0)
        self._texts.clear()

    def memory(self) -> tuple[int, int, int]:
        held = int(np.count_nonzero(self._held))
        return held * self._kv_bytes, len(self._held) * self._kv_bytes, held
