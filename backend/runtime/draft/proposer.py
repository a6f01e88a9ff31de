"""What every source of drafts is asked: the protocol `Proposer`. Knows nothing of steps or of costs.

A source guesses the tokens that follow a text, and says for each guess which *kind* of guess it is. How often guesses
of a kind are right is measured (`chances.py`), so a source need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..job.gen import GenJob

Kind = int
"""A number below `KINDS`."""
KINDS = 32


class Guess(NamedTuple):
    """One token that may come next, if all guesses before it are right."""

    token: int
    kind: Kind


class Proposer(Protocol):
    """A source of drafts."""

    name: str

    def propose(self, jobs: Sequence[GenJob], most: int) -> list[Sequence[Guess]]:
        """Guess up to `most` tokens for each job, whose text is all that its cursor has."""
