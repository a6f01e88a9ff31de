"""How often guesses of one kind were right, for each gen of a program. Knows nothing of where guesses come from."""

from __future__ import annotations

from collections.abc import Sequence

from .proposer import KINDS, PLACE_KIND, Guess, Kind

FIRST_CHANCES = (
    *(0.1, 0.3, 0.5, 0.7) * 8,  # the tree's, by how sure it is
    *(0.1, 0.25, 0.4, 0.55, 0.7, 0.82, 0.92, 0.97) * 2,  # a model's, by its probability
    *(0.6,) * 16,  # a model's, by the place
    0.9,  # a grammar's
)
"""What is assumed of each kind before anything is known."""
PRIOR_GUESSES = 3.0
"""Guesses that the assumption counts as, and for one gen what is known of all gens."""
MEMORY_GUESSES = 60.0
"""Of so many guesses of a kind the mean is taken; older ones fade."""
MOST_SITES = 1024


class Chances:
    """Of each kind of guess, the share that was right."""

    def __init__(self, parent: Chances | None = None) -> None:
        self._parent = parent
        self._right = [0.0] * KINDS
        self._of = [0.0] * KINDS

    def learn(self, kind: Kind, right: bool) -> None:
        if self._of[kind] >= MEMORY_GUESSES:
            self._right[kind] *= 0.5
            self._of[kind] *= 0.5
        self._right[kind] += right
        self._of[kind] += 1
        if self._parent is not None:
            self._parent.learn(kind, right)

    def of(self, kind: Kind) -> float:
        """The probability that a guess of this kind is right."""
        before = FIRST_CHANCES[kind] if self._parent is None else self._parent.of(kind)
        return (self._right[kind] + PRIOR_GUESSES * before) / (self._of[kind] + PRIOR_GUESSES)

    def judge(self, guesses: Sequence[Guess], tail: Sequence[int]) -> None:
        """Learn which guesses of a model's chain were right: `tail` is what was written in their place."""
        for place, (guess, token) in enumerate(zip(guesses, tail)):
            right = guess.token == token
            self.learn(guess.kind, right)
            self.learn(PLACE_KIND + place, right)
            if not right:
                break

    def worth(self, most: int, share: float, first: float, further: float) -> tuple[int, float]:
        """How long a model's chain should be, at most `most`, and the tokens that it is expected to bring, less what it
        costs: `share` a row (`StepCost`), and the time of its `first` draft and of each `further` one, in tokens."""
        best, gain, whole, so_far = 0, 0.0, 1.0, -first
        for place in range(most):
            whole *= self.of(PLACE_KIND + place)
            so_far += whole - share - (further if place else 0.0)
            if so_far > gain:
                best, gain = place + 1, so_far
        return best, gain


class Sites:
    """The chances of each gen of the programs, by its name (`site`)."""

    def __init__(self) -> None:
        self._all = Chances()
        self._sites: dict[str, Chances] = {}

    def __getitem__(self, site: str) -> Chances:
        found = self._sites.get(site)
        if found is None:
            if len(self._sites) >= MOST_SITES:
                self._sites.clear()
            found = self._sites[site] = Chances(self._all)
        return found
