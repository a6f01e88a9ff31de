"""`GrammarSource`: drafts from what a constraint forces as text, but not as tokens.

Where a constraint leaves one text, but tokens may spell it in more than one way or reach beyond it, the model is asked.
It nearly always spells as the tokenizer does. So the quote that opens a value is not worth a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..job.constrained_gen import ConstrainedGenJob
from ..job.gen import GenJob
from ..kv.tree import common_prefix
from ..step.step import Step
from .chances import Sites
from .proposer import GRAMMAR_KIND, Guess, Proposer, Terms


class GrammarSource(Proposer):
    """Drafts from constraints."""

    name = "grammar"

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        return [
            [Guess(token, GRAMMAR_KIND) for token in job.likely()[:most]] if isinstance(job, ConstrainedGenJob) else ()
            for job in jobs
        ]

    def learn(self, step: Step) -> None:
        for span in step.spans:
            if span.draft and isinstance(span.job, GenJob) and span.job.source == self.name:
                draft = list(span.draft)
                right = common_prefix(draft, span.job.cursor.path_tokens(span.start + span.want[0] + 1), 0)
                for place in range(min(len(draft), right + 1)):
                    self._sites[span.job.where].learn(GRAMMAR_KIND, place < right)
