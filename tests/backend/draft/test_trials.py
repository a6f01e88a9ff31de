"""What trying drafts costs, in a simulation: no clock, costs are given numbers with seeded noise.

The noise is seen by `Trials` alone. The totals that are compared are sums of expected seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from sgl.backend.runtime.draft.trials import Trials

MOST = 1.03
"""What the promise allows: the time beside that of the same tokens without drafts."""
BURST = 6
"""Tokens that a right draft brings."""


@dataclass
class Machine:
    """Steps whose drafts make `gain` times the tokens a second. `pace`: seconds of a step without drafts."""

    seed: int
    noise: float = 0.15
    pace: float = 0.01
    total: float = 0.0
    never: float = 0.0
    best: float = 0.0
    drafted: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def step(self, trials: Trials, branches: int, gain: float) -> None:
        """A step; its tokens come in bursts, and one step in a hundred is disturbed."""
        chance, drafting = self._random, trials.drafting(branches)
        tokens, seconds = branches, self.pace
        if drafting:
            rows = max(1.15, 1.1 / gain)  # what the rows of drafts cost
            right = (gain * rows - 1) / BURST
            tokens += BURST * sum(chance.random() < right for _ in range(branches))
            seconds *= rows
        self.drafted += drafting
        self.total += seconds
        self.never += self.pace * tokens / branches
        self.best += self.pace * tokens / branches / max(1.0, gain)
        seen = seconds * chance.lognormvariate(0, self.noise) * (5 if chance.random() < 0.01 else 1)
        trials.learn(branches, tokens, seen, drafting)


def simulate(trials: Trials, seed: int, steps: int, gain: Callable[[int], float], branches: Sequence[int]) -> Machine:
    machine = Machine(seed)
    for i in range(steps):
        machine.step(trials, branches[i % len(branches)], gain(i))
    return machine


SEEDS = range(8)


@pytest.mark.parametrize("branches", [1, 2, 8, 64])
@pytest.mark.parametrize("gain", [0.5, 1 / 1.1, 0.97, 1.0])
def test_what_loses_costs_almost_nothing(gain: float, branches: int) -> None:
    for seed in SEEDS:
        found = simulate(Trials(), seed, 1500, lambda i: gain, [branches])
        assert found.total <= MOST * found.never, seed


@pytest.mark.parametrize("gain", [0.5, 0.8, 1 / 1.1, 0.97, 1.0])
def test_a_large_batch_loses_little_from_the_beginning(gain: float) -> None:
    """A run of 64 branches has few steps, and they are long ones. In 100 noisy steps a loss of a tenth is not always
    seen: the bound holds for the mean, and no run is far from it."""
    runs = [simulate(Trials(), seed, 100, lambda i: gain, [64]) for seed in range(24)]
    lost = [run.total / run.never for run in runs]
    assert sum(lost) / len(lost) <= MOST and max(lost) <= 1.06


@pytest.mark.parametrize("branches", [1, 2, 8, 64])
@pytest.mark.parametrize(("gain", "near"), [(1.2, 1.08), (2.0, 1.08)])
def test_what_wins_goes_on(gain: float, near: float, branches: int) -> None:
    runs = [simulate(Trials(), seed, 1500, lambda i: gain, [branches]) for seed in SEEDS]
    assert all(run.total <= MOST * run.never for run in runs)
    assert sum(run.total / run.best for run in runs) / len(runs) <= near


@pytest.mark.parametrize("branches", [1, 8, 64])
@pytest.mark.parametrize("gains", [(2.0, 0.5), (0.5, 2.0), (1.2, 1 / 1.1), (1 / 1.1, 1.2), (2.0, 0.97), (0.97, 2.0)])
def test_what_changes_is_noticed(gains: tuple[float, float], branches: int) -> None:
    for seed in SEEDS:
        found = simulate(Trials(), seed, 6000, lambda i: gains[i // 1500 % 2], [branches])
        assert found.total <= MOST * found.never, seed
        assert found.total <= 1.15 * found.best, seed


@pytest.mark.parametrize("gain", [0.5, 0.97, 1.2])
def test_a_machine_that_becomes_slower_and_faster(gain: float) -> None:
    for seed in SEEDS:
        trials, machine = Trials(), Machine(seed)
        for i in range(6000):
            machine.pace = (0.01, 0.016, 0.008)[i // 500 % 3]
            machine.step(trials, 8, gain)
        assert machine.total <= MOST * machine.never, seed
        assert machine.total <= 1.12 * machine.best, seed


@pytest.mark.parametrize("gain", [0.5, 0.97, 1.5])
def test_a_neighbour_that_takes_half_of_the_machine_now_and_then(gain: float) -> None:
    for seed in SEEDS:
        trials, machine, chance, busy = Trials(), Machine(seed, noise=0.2), random.Random(seed), 0
        for _ in range(3000):
            busy = busy - 1 if busy else chance.randrange(10, 150) if chance.random() < 1 / 300 else 0
            machine.pace = 0.02 if busy else 0.01
            machine.step(trials, 8, gain)
        assert machine.total <= MOST * machine.never, seed
        assert machine.total <= 1.3 * machine.best, seed


@pytest.mark.parametrize("gain", [0.5, 1 / 1.1, 1.2])
def test_a_batch_that_becomes_smaller(gain: float) -> None:
    """Each number of branches is met for a short time, again and again."""
    branches = [n for n in (64, 60, 55, 47, 40, 31, 23, 16, 12, 9, 7, 5, 4, 3, 2, 1) for _ in range(10)]
    for seed in SEEDS:
        found = simulate(Trials(), seed, 20 * len(branches), lambda i: gain, branches)
        assert found.total <= MOST * found.never, seed
        assert found.total <= 1.12 * found.best, seed


def test_numbers_of_branches_are_told_apart() -> None:
    trials = Trials()
    machine = Machine(1)
    for _ in range(600):
        machine.step(trials, 64, 0.5)
    for _ in range(600):
        machine.step(trials, 4, 2.0)
    machine.drafted = 0
    for _ in range(200):
        machine.step(trials, 64, 0.5)
    assert machine.drafted < 20
    for _ in range(200):
        machine.step(trials, 4, 2.0)
    assert machine.drafted > 170


def test_drafts_that_were_never_wanted_are_not_blamed() -> None:
    """Steps in which nothing was drafted count as such, whatever was allowed."""
    trials = Trials()
    for _ in range(200):
        trials.learn(8, 8, 0.01, False)
    machine = Machine(1)
    for _ in range(100):
        machine.step(trials, 8, 2.0)
    assert machine.drafted > 70
