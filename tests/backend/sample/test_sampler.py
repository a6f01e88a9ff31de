"""Sampling: the right distribution, independent of everything but (key, position)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl.backend.runtime.sample.noise import mix, uniform
from sgl.backend.runtime.sample.sampler import Recipe, Request, log_softmax, sample
from sgl.lang.expr import Sampling

RNG = np.random.default_rng(0)


def draw(logits: np.ndarray, sampling: Sampling, positions: range, key: int = 1, **request: object) -> list[int]:
    recipe = Recipe.of(sampling, key, [])
    rows = np.repeat(logits[None].astype(np.float32), len(positions), 0)
    requests = [Request(recipe, p, **request) for p in positions]  # type: ignore[arg-type]
    return [s.token for s in sample(rows, requests, logits.shape[-1])]


def gumbel_argmax(logits: np.ndarray, temperature: float, key: int, position: int) -> int:
    """The definition, in the form of the paper: argmax(logits / T + Gumbel)."""
    u = uniform(key, position, np.arange(len(logits), dtype=np.uint32))
    return int(np.argmax(logits.astype(np.float64) / temperature - np.log(-np.log(u))))


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 2.0]))
def test_the_fast_draw_is_gumbel_argmax(key: int, position: int, temperature: float) -> None:
    logits = np.random.default_rng(key % 1000).normal(0, 3, 300).astype(np.float32)
    (got,) = draw(logits, Sampling(temperature=temperature), range(position, position + 1), key)
    assert got == gumbel_argmax(logits, temperature, key, position)


def test_frequencies_are_the_softmax() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, -50.0])
    got = np.bincount(draw(logits, Sampling(temperature=1.0), range(40000)), minlength=5) / 40000
    want = np.exp(log_softmax(logits.astype(np.float32)))
    assert np.abs(got - want).max() < 0.01 and got[4] == 0


def test_noise_differs_between_keys_and_positions_but_repeats_for_the_same() -> None:
    ids = np.arange(1000, dtype=np.uint32)
    a, b, c = uniform(1, 5, ids), uniform(1, 6, ids), uniform(2, 5, ids)
    assert np.array_equal(a, uniform(1, 5, ids))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1 and abs(np.corrcoef(a, c)[0, 1]) < 0.1
    assert a.min() > 0 and a.max() < 1 and abs(a.mean() - 0.5) < 0.05
    assert len({mix(i, j) for i in range(100) for j in range(100)}) == 10000


def test_noise_of_a_subset_is_the_subset_of_the_noise() -> None:
    ids = np.arange(500, dtype=np.uint32)
    assert np.array_equal(uniform(3, 9, ids)[[7, 77, 477]], uniform(3, 9, ids[[7, 77, 477]]))


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_k=1), {0}),
        (Sampling(temperature=1.0, top_p=0.6), {0}),
        (Sampling(temperature=1.0, top_p=0.7), {0, 1}),
        (Sampling(temperature=1.0, min_p=0.3), {0, 1}),
        (Sampling(temperature=1.0, min_p=0.3, top_k=1), {0}),
        (Sampling(temperature=0.0), {0}),
        (Sampling(temperature=0.0, logit_bias=((3, 50.0),)), {3}),
    ],
)
def test_filters_keep_exactly_what_they_say(sampling: Sampling, allowed: set[int]) -> None:
    logits = np.log(np.array([0.61, 0.24, 0.1, 0.05]))
    assert set(draw(logits, sampling, range(600))) == allowed


@given(st.integers(1, 2000), st.floats(0.05, 1.0))
def test_top_k_and_top_p_equal_a_full_sort(k: int, p: float) -> None:
    from sgl.backend.runtime.sample.sampler import _survivors

    row = RNG.normal(0, 2, 2000).astype(np.float32)
    row[::7] = row[0]  # ties
    got = _survivors(row, Recipe.of(Sampling(top_k=k, top_p=p), 0, []))
    weights = np.exp(row.astype(np.float64))
    order = np.argsort(-row, kind="stable")[:k]
    mass = np.cumsum(weights[order]) - weights[order]
    assert sorted(order[mass < p * weights.sum()]) == list(got)


def test_penalties() -> None:
    logits = np.array([2.0, 1.9, -1.0, 0.0])
    recipe = Recipe.of(Sampling(temperature=0.0, frequency_penalty=0.2), 0, [])
    row = logits[None].astype(np.float32)
    first = sample(row, [Request(recipe, 0)], 4)[0].token
    recipe.note(first)
    assert (first, sample(row, [Request(recipe, 1)], 4)[0].token) == (0, 1)
    recipe = Recipe.of(Sampling(temperature=0.0, repetition_penalty=1.5), 0, [0, 2])  # seen in the prompt
    assert sample(row, [Request(recipe, 0)], 4)[0].token == 1


def test_banned_and_padded_ids_are_never_sampled() -> None:
    logits = np.array([0.0, 9.0, 0.0, 50.0])
    recipe = Recipe.of(Sampling(temperature=1.0), 3, [])
    rows = np.repeat(logits[None].astype(np.float32), 300, 0)
    got = {s.token for s in sample(rows, [Request(recipe, i, (1,)) for i in range(300)], 3)}
    assert got == {0, 2}


def test_logprobs_are_the_models_own() -> None:
    logits = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    recipe = Recipe.of(
        Sampling(temperature=0.0, logit_bias=((0, 90.0),), return_logprob=True, top_logprobs_num=2), 0, []
    )
    (s,) = sample(logits[None], [Request(recipe, 0)], 3)
    want = log_softmax(logits)
    assert s.token == 0 and s.logprob == pytest.approx(want[0])
    assert s.top == ((pytest.approx(want[2]), 2), (pytest.approx(want[1]), 1))
