"""Whether drafting pays at all, found by trying, and with a bound on what trying costs. Knows nothing of drafts.

For each number of branches the seconds of a token without drafts are known from steps without. So each step with
drafts gained or lost a known time, and an account of it is kept: its *credit*. Losses are paid from it, gains and a
small part of all time are added to it. Without credit nothing is drafted. So drafts never cost more than that part of
the time, beside the credit of the beginning, whatever costs it: rows, guessing, masks, steps that cannot overlap.
Credit has a greatest value, so drafts that paid for long and no longer do are soon given up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

ALLOWANCE = 0.012
"""The part of all time that drafts may lose."""
FIRST_CREDIT, TRIAL_CREDIT, MOST_CREDIT = 6.0, 2.0, 24.0
"""Credit at the start, before drafts that lost are tried again, and at most; in steps without drafts. The first two are
of one branch. They are divided by the root of the branches: the tokens of many vary less, so fewer steps tell."""
LEAST_GAIN = 0.02
"""Drafts that are not faster by this lose."""
MOST_LOSS = 1.5
"""What one step with drafts may lose, in steps without; and how many times their median one without may take. More is a
disturbance of the machine."""
PACE_STEPS, AGAIN_STEPS, KEPT_STEPS = 6, 3, 16
"""Steps without drafts before drafts begin, each time their pace is looked at again, and the latest that it is of."""
FIRST_BLOCK, MOST_BLOCK = 16, 128
"""Steps with drafts before the pace is looked at again: twice as many each time, where they win."""
UNSETTLED_STEPS = 1
"""Steps after drafts stop that do not count: on a device they were begun with drafts."""


@dataclass(slots=True)
class _Class:
    """What is known of one number of branches. `left`: steps until drafts may begin, or until they pause. `plain`:
    tokens and seconds of the latest steps without drafts; `step` and `pace`: seconds of one of them, and of a token.
    `needed`: the credit with which drafts begin; `trial`: that after they lost. `won`: whether they had the most credit
    since they last paused."""

    drafting: bool = False
    left: int = PACE_STEPS
    unsettled: int = 0
    plain: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    step: float = 0.0
    pace: float = 0.0
    credit: float = FIRST_CREDIT
    trial: float = TRIAL_CREDIT
    needed: float = 0.0
    won: bool = False
    block: int = FIRST_BLOCK


class Trials:
    """Says of each step whether it may draft, and learns from what came of it."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def drafting(self, branches: int) -> bool:
        """Whether the next step of so many branches may draft."""
        return self._class(branches).drafting

    def learn(self, branches: int, tokens: int, seconds: float, drafted: bool) -> None:
        """Learn from a step that generated `tokens` in so many seconds. `drafted`: whether it was one that might."""
        one = self._class(branches)
        if one.unsettled:
            one.unsettled -= 1
        elif drafted:
            self._learn_drafted(one, tokens, seconds)
        else:
            self._learn_plain(one, tokens, seconds)

    def _class(self, branches: int) -> _Class:
        """The class of a number of branches: 1, 2, ... 7, 8-9, 10-11, ... 16-19, ... A new one takes over what its
        nearest neighbour found, but for the pace."""
        shift = max(0, branches.bit_length() - 3)
        at = 4 * shift + (branches >> shift)
        found = self._classes.get(at)
        if found is None:
            trial = TRIAL_CREDIT / branches**0.5
            found = self._classes[at] = _Class(credit=FIRST_CREDIT / branches**0.5, trial=trial)
            near = min((other for other in self._classes if other != at), key=lambda other: abs(other - at), default=at)
            other = self._classes[near]
            found.credit, found.needed = min(found.credit, other.credit), trial if other.needed else 0.0
        return found

    def _learn_plain(self, one: _Class, tokens: int, seconds: float) -> None:
        one.plain.append((tokens, seconds))
        one.credit = min(MOST_CREDIT, one.credit + ALLOWANCE)
        one.left -= 1
        if one.left <= 0 and one.credit >= one.needed:
            most = MOST_LOSS * median(seconds for _, seconds in one.plain)
            whole = sum(min(most, seconds) for _, seconds in one.plain)
            one.step, one.pace = whole / len(one.plain), whole / max(1, sum(tokens for tokens, _ in one.plain))
            one.drafting, one.left = True, one.block

    def _learn_drafted(self, one: _Class, tokens: int, seconds: float) -> None:
        if not one.step:
            return
        gain = (tokens * one.pace * (1 - LEAST_GAIN) - seconds) / one.step
        one.credit += max(-MOST_LOSS, gain) + ALLOWANCE
        one.left -= 1
        if one.credit <= 0:
            one.needed, one.block = one.trial, FIRST_BLOCK
            self._pause(one)
            return
        if one.credit >= MOST_CREDIT:
            one.credit, one.needed, one.won = MOST_CREDIT, 0.0, True
        if one.left <= 0:
            one.block = min(MOST_BLOCK, 2 * one.block) if one.won else FIRST_BLOCK
            one.won = False
            self._pause(one)

    def _pause(self, one: _Class) -> None:
        one.drafting, one.left, one.unsettled = False, AGAIN_STEPS, UNSETTLED_STEPS
