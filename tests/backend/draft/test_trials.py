"""Drafting stops where it does not pay, and begins where it does."""

from __future__ import annotations

import pytest

from sgl.backend.runtime.draft.trials import Trials


def steps_with_drafts(trials: Trials, branches: int, steps: int, gain: float) -> int:
    """How many of some steps drafted, where a step with drafts makes `gain` times the tokens in the same time."""
    count = 0
    for _ in range(steps):
        drafting = trials.drafting(branches)
        count += drafting
        trials.learn(branches, round(100 * (gain if drafting else 1.0)), 0.01)
    return count


@pytest.mark.parametrize("likely", [0, 64])
@pytest.mark.parametrize(("gain", "least", "most"), [(0.5, 0, 60), (0.9, 0, 60), (1.5, 930, 1000)])
def test_the_faster_way_goes_on(likely: int, gain: float, least: int, most: int) -> None:
    trials = Trials(sure=0, likely=likely)
    steps_with_drafts(trials, 8, 200, gain)
    assert least <= steps_with_drafts(trials, 8, 1000, gain) <= most


def test_what_changes_is_noticed() -> None:
    trials = Trials(sure=0, likely=0)
    steps_with_drafts(trials, 8, 2000, 0.5)
    steps_with_drafts(trials, 8, 2000, 2.0)
    assert steps_with_drafts(trials, 8, 500, 2.0) > 450


def test_numbers_of_branches_are_told_apart() -> None:
    trials = Trials(sure=1, likely=1)
    assert trials.drafting(1) and not trials.drafting(2)
    steps_with_drafts(trials, 64, 400, 0.5)
    steps_with_drafts(trials, 4, 400, 2.0)
    steps_with_drafts(trials, 1, 400, 0.1)
    assert trials.drafting(1), "of few branches it is sure"
    assert steps_with_drafts(trials, 4, 200, 2.0) > 150 and steps_with_drafts(trials, 64, 200, 0.5) < 50
