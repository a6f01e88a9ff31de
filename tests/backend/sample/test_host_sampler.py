"""The compiled sampler has the bits of the one in numpy, at every level of instructions of this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.model.cpu import native
from sgl.backend.runtime.sample.ask import Looked, Lookup
from sgl.backend.runtime.sample.host import HostSampler
from sgl.backend.runtime.sample.mass import UNITS, log_sum_exp, masses
from sgl.backend.runtime.sample.noise import uniform
from sgl.backend.runtime.sample.sampler import Sampled
from sgl.lang.errors import BackendError

from .asking import KINDS, asks, mask_of, request, rows_of


def levels() -> list[int]:
    try:
        has = native.library().sgl_has_level
    except native.MissingLibrary:
        return []
    return [level for level in range(len(native.LEVELS)) if has(level)]


LEVELS = levels()
NUMPY = -1
needs_library = pytest.mark.skipif(not LEVELS, reason="the kernels were not built: no C++ compiler")


def check(logits_WV: np.ndarray, asks: Sequence[Any]) -> list[Any]:
    """The answers in numpy, after those of every level were found to be the same."""
    rows, vocab = logits_WV.shape
    wide = np.concatenate([logits_WV, np.full((rows, 7), 1e4, np.float32)], axis=1)  # padding is never sampled
    wanted = HostSampler(vocab, NUMPY).answers(wide, asks)
    for level in LEVELS:
        got = HostSampler(vocab, level).answers(wide, asks)
        assert [_comparable(answer) for answer in got] == [_comparable(answer) for answer in wanted], level
    return wanted


def _comparable(answer: Any) -> Any:
    """An answer with its bits; NaN is equal to itself."""
    return (type(answer), repr(answer))


@needs_library
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 999), asks(150)), min_size=1, max_size=4))
def test_every_mix_of_options_is_answered_as_in_numpy(rows: list[tuple[str, int, Any]]) -> None:
    check(np.stack([rows_of(kind, seed, 150) for kind, seed, _ in rows]), [ask for _, _, ask in rows])


@needs_library
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 999), KINDS, st.data())
def test_a_vocabulary_of_any_size(vocab: int, seed: int, kind: str, data: st.DataObject) -> None:
    check(rows_of(kind, seed, vocab)[None], [data.draw(asks(vocab))])


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 30.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 3.0, "top_p": 0.3},
    {"temperature": 1.5, "top_k": 40},
    {"temperature": 1.0, "top_k": 5000},
    {"temperature": 1.0, "top_k": 200, "top_p": 0.5},
    {"temperature": 2.0, "min_p": 0.02},
    {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.0, "return_logprob": True, "top_logprobs_num": 20},
]


@needs_library
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_large_vocabulary(sampling: dict[str, Any], scale: float) -> None:
    rng = np.random.default_rng(7)
    logits_WV = rng.normal(0, scale, (8, 49_152)).astype(np.float32)
    masks = [None, mask_of(rng.choice(49_152, 20_000, replace=False), 49_152), mask_of([7, 40_000], 49_152)]
    got = check(logits_WV, [request(11, i, mask=masks[i % 3], **sampling) for i in range(8)])
    assert all(isinstance(answer, Sampled) for answer in got)


@needs_library
def test_equal_scores_fall_to_the_lowest_id() -> None:
    u = uniform(3, 4, np.arange(300, dtype=np.uint32))
    row = np.log(-np.log(u)).astype(np.float32)  # cancels the Gumbel noise but for its rounding
    check(np.stack([row, np.zeros(300, np.float32)]), [request(3, 4), request(3, 4, top_p=0.1)])
    huge = np.full(300, -3e38, np.float32)
    huge[[70, 131, 250]] = 3e38  # so large that noise does not count
    (token,) = {answer.token for answer in check(huge[None], [request(5, 1, temperature=0.5)])}
    assert token == 70


@needs_library
def test_signs_of_zero_are_equal() -> None:
    row = np.full(200, -1.0, np.float32)
    row[[10, 70, 150]] = 0.0
    row[[5, 90]] = -0.0
    for k in range(1, 6):
        check(np.stack([row] * 6), [request(key, 2, top_k=k) for key in range(6)])
    check(np.stack([row] * 6), [request(key, 2, temperature=0.1, top_p=0.5) for key in range(6)])


@pytest.mark.parametrize("best", [np.inf, -np.inf])
def test_a_row_without_a_finite_best_is_its_argmax(best: float) -> None:
    row = np.full((3, 90), -np.inf, np.float32)
    row[:, 66] = best
    got = check(row, [request(), request(top_p=0.5), request(mask=mask_of([70, 66, 68], 90))])
    assert [answer.token for answer in got] == ([66, 66, 66] if best > 0 else [0, 0, 66])


def test_a_bad_row_fails_alone() -> None:
    logits_WV = np.stack([rows_of(kind, 5, 90) for kind in ("normal", "nan", "normal", "nan", "nan")])
    nothing = np.zeros(3, np.int32)
    got = check(logits_WV, [request(), request(temperature=0.0), request(mask=nothing), Lookup((1,)), Lookup(())])
    assert [type(answer) for answer in got] == [Sampled, BackendError, BackendError, BackendError, Looked]


def test_a_mask_that_is_too_short_forbids_the_rest() -> None:
    row = np.linspace(0, 1, 100, dtype=np.float32)[None]
    (answer,) = check(row, [request(temperature=0.0, mask=mask_of(range(32), 32))])
    assert answer.token == 31


@needs_library
def test_a_model_whose_logits_are_no_rows_of_float32_is_sampled_in_numpy() -> None:
    logits_WV = np.random.default_rng(0).normal(0, 3, (300, 2)).astype(np.float32).T
    asks = [request(1, 2), request(2, 2)]
    assert HostSampler(300).answers(logits_WV, asks) == HostSampler(300).answers(np.ascontiguousarray(logits_WV), asks)


@given(st.integers(0, 999), st.sampled_from([0.05, 0.7, 1.0, 20.0]))
def test_masses_are_the_exponentials(seed: int, temperature: float) -> None:
    row = rows_of("normal", seed, 500)
    exact = np.exp((row.astype(np.float64) - row.max()) / temperature)
    assert np.abs(masses(row, float(row.max()), temperature) / UNITS - exact).max() < 2.0**-44
    assert log_sum_exp(row) == pytest.approx(math.log(np.exp(row.astype(np.float64)).sum()), abs=1e-10)
