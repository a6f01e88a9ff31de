"""`Speculation`: who gets a draft in a step, and how long it is. Knows nothing of how drafts are computed.

A row is drafted where it is more likely to be right than `StepCost.share` asks for. So with one branch long drafts
pay, and with many branches, whose rows fill the step anyway, hardly any. A source that raises is switched off, with a
warning, and the run goes on without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...contain import is_interruption, said
from ..job.gen import GenJob
from ..kv.tree import common_prefix
from ..options import DRAFT_TOKENS
from ..program.branch import Branch
from ..step.step import Step
from .chances import Sites
from .cost import StepCost
from .proposer import Guess, Proposer, Terms
from .trials import Trials

log = logging.getLogger("sgl")

AHEAD_TOKENS = 1.0
"""Tokens a step that running ahead is worth, on a device."""
DEVICE_BRANCHES = 4
"""With more branches nothing is drafted on a device: steps of a millisecond do not hide what that costs the host."""
HOST_BRANCHES = 32
"""On the CPU. A step of more is bound by arithmetic, so a drafted row costs as much as a branch's own: no program that
was measured gained at 64."""
PROMPT_ROWS = 4
"""Steps of more rows a span, drafts aside, say nothing about generating."""
LATEST_SHARE = 0.9
"""Where a row must be right with a higher probability than this, nothing is drafted, nor read."""


class Speculation:
    """Drafts for the jobs of one engine. `slope`: what a row costs more, of a step of one row, until it is measured.
    `device`: whether steps overlap, so that a draft costs that too."""

    def __init__(self, slope: float, most: int = DRAFT_TOKENS, device: bool = False) -> None:
        self.most_branches = DEVICE_BRANCHES if device else HOST_BRANCHES
        self.trials = Trials()
        self.sites = Sites()
        self.proposers: list[Proposer] = []
        self.cost = StepCost(slope)
        self.counts: dict[str, Count] = {}
        self.most = most
        self._last = 0.0
        self._tokens = 0
        self._drafting = False
        self._guessing = 0.0
        self._running = 0

    def propose(self, running: Sequence[Branch]) -> None:
        """Give drafts to the jobs of these branches, for the next plan."""
        began = time.monotonic()
        self._propose(running)
        self._guessing, self._running = time.monotonic() - began, len(running)

    def _propose(self, running: Sequence[Branch]) -> None:
        if not self.proposers or not self.most:
            return
        share = self.cost.share(len(running))
        if share > LATEST_SHARE or len(running) > self.most_branches or not self.trials.drafting(len(running)):
            if self._drafting:
                self._drafting = False
                for branch in running:
                    if isinstance(branch.job, GenJob):
                        branch.job.draft, branch.job.drafts_next = (), False
            return
        self._drafting = True
        jobs = [job for branch in running if (job := branch.job) and isinstance(job, GenJob) and job.wants_last()]
        for job in jobs:
            job.draft, job.drafts_next = (), False
        gains = dict.fromkeys(jobs, 0.0)
        terms = Terms(share, self.cost.seconds(len(running)) / len(running), gains)
        for proposer in list(self.proposers):
            for job, guesses in zip(jobs, self._asked(proposer, proposer.propose, jobs, self.most, terms) or ()):
                gain = self._draft(job, guesses, share, gains[job])
                if gain > gains[job]:
                    gains[job], job.source = gain, proposer.name

    def _asked(self, proposer: Proposer, what: Callable[..., Any], *arguments: Any) -> Any:
        """What a source says; None if it raised, and then it is asked no more."""
        try:
            return what(*arguments)
        except BaseException as error:
            if is_interruption(error):
                raise
            log.warning("the drafts of %r are switched off: %s", proposer.name, said(error))
            self.proposers = [other for other in self.proposers if other is not proposer]
            proposer.leave()
            return None

    def _draft(self, job: GenJob, guesses: Sequence[Guess], share: float, least: float) -> float:
        """Take as many of the guesses as are likely enough, if they bring more than `least` tokens; what they bring.
        A job whose next token is in flight runs ahead of it, and has no draft. If the guesses behind that token are
        worth more than running ahead, the job stops it, and has one in the next plan."""
        chances, likely = self.sites[job.where], list[float]()
        for guess in guesses:
            likely.append(chances.of(guess.kind) * (likely[-1] if likely else 1.0))
            if likely[-1] < share:
                likely.pop()
                break
        gain = sum(likely) - share * len(likely)
        if gain <= least:
            return gain
        if job.branch.asked_in:
            job.drafts_next = sum(likely[1:]) - share * len(likely[1:]) > AHEAD_TOKENS
            return gain
        draft = job.legal([guess.token for guess in guesses[: len(likely)]])
        job.draft = draft or job.draft
        job.drafts_next = bool(job.draft)
        return gain if draft else 0.0

    def learn(self, step: Step, tokens: int) -> None:
        """Learn from a step whose answers were handed out. `tokens`: generated since the start."""
        now, drafted = time.monotonic(), 0
        if all(len(span.want) and span.chain is None for span in step.spans):
            drafted = sum(len(span.draft) for span in step.spans)
            self.cost.learn(step.rows, now - max(step.began, self._last))
            if step.rows - drafted <= PROMPT_ROWS * len(step.spans):
                whole = now - max(step.began - self._guessing, self._last)
                self.trials.learn(self._running, tokens - self._tokens, whole, self._drafting)
        self._last, self._tokens = now, tokens
        if self._drafting:
            for proposer in list(self.proposers):
                self._asked(proposer, proposer.learn, step)
        for span in step.spans:
            if span.draft and isinstance(span.job, GenJob):
                text = span.job.cursor.path_tokens(span.start + span.want[0] + 1)
                accepted = common_prefix(list(span.draft), text, 0)
                span.job.usage.accepted += accepted
                count = self.counts.setdefault(span.job.source, Count())
                count.rounds += 1
                count.drafted += len(span.draft)
                count.accepted += accepted

    def forget(self) -> None:
        """Forget the texts that drafts come from."""
        for source in self.proposers:
            source.forget()

    def told(self) -> dict[str, Any]:
        """What speculation did, by source, for `get_server_info()`."""
        return {name: count.told() for name, count in self.counts.items()}

    def memory(self) -> dict[str, int | None]:
        """What the sources hold, estimated, and may hold."""
        held = [source.memory() for source in self.proposers]
        return dict(zip(("bytes", "most_bytes", "entries"), map(sum, zip(*held)) if held else (0, 0, 0)))


@dataclass(slots=True)
class Count:
    """What the drafts of one source came to."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0

    def told(self) -> dict[str, float]:
        return {
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "accept_length": round(1 + self.accepted / max(1, self.rounds), 3),
            "accept_rate": round(self.accepted / max(1, self.drafted), 3),
        }
