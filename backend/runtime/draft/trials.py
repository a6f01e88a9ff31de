"""Whether drafting pays at all, found by trying. Knows nothing of drafts.

For each number of branches (by its power of two) the tokens a second are measured with drafts and without, some steps
at a time. The better way goes on, and the other one is tried again now and then, the more rarely the more often it
lost. So whatever drafting costs beside rows (guessing, masks, steps that cannot overlap) is counted too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BLOCK_STEPS, TRIAL_STEPS = 16, 8
"""Steps of the better way before it is looked at again, and of a trial of the other way."""
MOST_BLOCKS = 32
"""Blocks between two trials, at most."""
UNSETTLED_STEPS = 2
"""Steps after a change that do not count: they were begun in the other way."""
MARGIN = 1.03
"""How much faster the way without drafts must be to be taken."""
KEPT = 0.5
"""What an older measurement counts beside a new one."""


@dataclass(slots=True)
class _Way:
    tokens: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Class:
    """What is known of one number of branches. `left`: steps until the next decision."""

    drafting: bool
    with_drafts: _Way = field(default_factory=_Way)
    without: _Way = field(default_factory=_Way)
    now: _Way = field(default_factory=_Way)
    left: int = BLOCK_STEPS
    unsettled: int = 0
    trying: bool = False
    wait: int = 1
    blocks: int = 0


class Trials:
    """`sure`: with up to so many branches drafts always pay. `likely`: with up to so many they are tried first."""

    def __init__(self, sure: int, likely: int) -> None:
        self._sure, self._likely = sure, likely
        self._classes: dict[int, _Class] = {}

    def drafting(self, branches: int) -> bool:
        """Whether the next step of so many branches may draft."""
        return branches <= self._sure or self._class(branches).drafting

    def _class(self, branches: int) -> _Class:
        at = branches.bit_length()
        found = self._classes.get(at)
        if found is None:
            found = self._classes[at] = _Class(branches <= self._likely)
        return found

    def learn(self, branches: int, tokens: int, seconds: float) -> None:
        """Learn from a step that generated `tokens` in so many seconds."""
        if branches <= self._sure:
            return
        one = self._class(branches)
        if one.unsettled:
            one.unsettled -= 1
            return
        one.now.tokens += tokens
        one.now.seconds += seconds
        one.left -= 1
        if not one.left:
            self._decide(one)

    def _decide(self, one: _Class) -> None:
        way = one.with_drafts if one.drafting else one.without
        way.tokens = KEPT * way.tokens + one.now.tokens
        way.seconds = KEPT * way.seconds + one.now.seconds
        one.now = _Way()
        one.blocks += 1
        before, best = one.drafting, one.without.rate < MARGIN * one.with_drafts.rate
        if one.trying:  # back to the better way, which may be this one
            one.wait = 1 if best == before else min(MOST_BLOCKS, 2 * one.wait)
            one.trying, one.blocks, one.drafting = False, 0, best
        elif one.blocks >= one.wait:
            one.trying, one.drafting = True, not before
        one.left = TRIAL_STEPS if one.trying else BLOCK_STEPS
        one.unsettled = UNSETTLED_STEPS if before and not one.drafting else 0  # what beginning costs does count
