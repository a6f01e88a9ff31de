"""What every source of drafts is asked: `Proposer`. Knows nothing of steps or of costs.

A source guesses the tokens that follow a text, and says for each guess which *kind* of guess it is. How often guesses
of a kind are right is measured (`chances.py`), so a source need not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..job.gen import GenJob
from ..step.step import Step

Kind = int
"""A number below `KINDS`: first those of the tree, then those of a model by its probability, then by the place, then
the one of a grammar."""
MODEL_KIND, PLACE_KIND, GRAMMAR_KIND, KINDS = 32, 48, 64, 65
_CLASSES = (0.2, 0.35, 0.5, 0.65, 0.77, 0.88, 0.95)


def kind_of(probability: float, place: int) -> Kind:
    """The kind of a guess that a head or a draft model gives this probability, at this place of its chain."""
    return MODEL_KIND + 8 * (place > 0) + sum(probability > edge for edge in _CLASSES)


class Guess(NamedTuple):
    """One token that may come next, if all guesses before it are right."""

    token: int
    kind: Kind


class Terms(NamedTuple):
    """What a draft must bring. `share`: the least probability with which a row pays. `pace`: seconds of a token without
    drafts; 0 if it is not known yet. `gains`: what the drafts of other sources bring, tokens."""

    share: float
    pace: float
    gains: Mapping[GenJob, float]


class Proposer:
    """A source of drafts."""

    name = ""

    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        """Guess up to `most` tokens for each job, whose text is all that its cursor has. A source whose guesses take
        time guesses only where they are worth it."""
        raise NotImplementedError

    def learn(self, step: Step) -> None:
        """Take notice of a step whose answers were handed out."""

    def forget(self) -> None:
        """Forget the texts."""

    def leave(self) -> None:
        """Give up what it holds and asks of others: it is asked no more."""
        self.forget()

    def memory(self) -> tuple[int, int, int]:
        """Bytes that it holds, bytes that it may hold, and of how many entries; estimated."""
        return 0, 0, 0
