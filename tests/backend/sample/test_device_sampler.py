"""The sampler on the device answers as the sampler on the host does, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..cuda.interpreted import DEVICE, torch
from .asking import KINDS, asks, mask_of, request, rows_of

from sgl.backend.runtime.sample.device import DeviceSampler  # isort: skip
from sgl.backend.runtime.sample.ask import Looked, Lookup
from sgl.backend.runtime.sample.noise import uniform
from sgl.backend.runtime.sample.sampler import Sampled, look, sample
from sgl.lang.errors import BackendError

PADDING = 7  # columns beyond the vocabulary


@lru_cache
def sampler(vocab: int, tile: int) -> DeviceSampler:
    return DeviceSampler(vocab, vocab + PADDING, torch.device(DEVICE), 8, tile=tile)


def answers(
    logits_WV: np.ndarray, asks: Sequence[Any], tile: int = 64, dtype: Any = torch.float32
) -> tuple[list[Any], list[int]]:
    """The device's answers and the tokens it leaves for the next step; the columns beyond the vocabulary are huge."""
    rows, vocab = logits_WV.shape
    wide = np.concatenate([logits_WV, np.full((rows, PADDING), 1e4, np.float32)], axis=1)
    sampled_S = torch.full((rows,), -9, dtype=torch.int32, device=DEVICE)
    pending = sampler(vocab, tile).launch(torch.from_numpy(wide).to(DEVICE, dtype), asks, sampled_S)
    return pending.answers(), sampled_S.tolist()


def oracle(row: np.ndarray, ask: Any) -> Any:
    try:
        return look(row, ask) if isinstance(ask, Lookup) else sample(row[None], [ask], len(row))[0]
    except BackendError as error:
        return error


def check(logits_WV: np.ndarray, asks: Sequence[Any], tile: int = 64, dtype: Any = torch.float32) -> list[Any]:
    got, left = answers(logits_WV, asks, tile, dtype)
    assert len(got) == len(asks)
    for row, ask, answer, token in zip(logits_WV, asks, got, left):
        want = oracle(row, ask)
        assert type(answer) is type(want), (ask, answer, want)
        if isinstance(want, Exception):
            assert str(answer) == str(want) and token == (-9 if isinstance(ask, Lookup) else 0)
        elif isinstance(want, Looked):
            assert answer.logprobs == pytest.approx(want.logprobs, abs=1e-5, rel=1e-5) and token == -9
            same_top(answer.top, want.top)
        else:
            assert answer.token == want.token == token, ask
            assert (answer.logprob is None) == (want.logprob is None)
            assert want.logprob is None or answer.logprob == pytest.approx(want.logprob, abs=1e-5, rel=1e-5)
            assert answer.forbidden == pytest.approx(want.forbidden, abs=1e-5)
            same_top(answer.top, want.top)
    return got


def same_top(got: Any, want: Any) -> None:
    assert [token for _, token in got] == [token for _, token in want]
    assert [lp for lp, _ in got] == pytest.approx([lp for lp, _ in want], abs=1e-5, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 999), asks(90)), min_size=1, max_size=3))
def test_every_mix_of_options_is_answered_as_on_the_host(rows: list[tuple[str, int, Any]]) -> None:
    logits_WV = np.stack([rows_of(kind, seed, 90) for kind, seed, _ in rows])
    check(logits_WV, [ask for _, _, ask in rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.0}, {"top_k": 40, "top_p": 0.8}, {"temperature": 3.0, "top_p": 0.3}]
)
def test_a_larger_vocabulary(sampling: dict[str, Any], dtype: Any) -> None:
    logits_WV = torch.randn(2, 5000, generator=torch.Generator().manual_seed(3)).mul(2).to(dtype).float().numpy()
    check(logits_WV, [request(7 + i, i, **sampling) for i in range(2)], tile=2048, dtype=dtype)


FILTERS: list[dict[str, Any]] = [
    {"top_k": 2},
    {"top_k": 30},
    {"top_p": 0.5},
    {"min_p": 0.55},
    {"top_k": 9, "top_p": 0.1},
    {"top_k": 9, "min_p": 0.75},
    {"top_p": 0.3, "min_p": 0.6},
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_filters_keep_exactly_what_they_say(sampling: dict[str, Any]) -> None:
    row = np.linspace(-1, 1, 40, dtype=np.float32)[np.random.default_rng(1).permutation(40)]
    row[[3, 13, 33]] = 1.1
    seen: set[int] = set()
    for step in range(3):
        got = check(np.stack([row] * 8), [request(5, 8 * step + i, **sampling) for i in range(8)], tile=32)
        seen |= {answer.token for answer in got}
    assert len(seen) > 1


@pytest.mark.parametrize("top_p", [0.005, 0.2])
def test_a_row_whose_draws_are_refused_again_and_again_is_settled(top_p: float) -> None:
    flat = np.zeros((3, 700), np.float32)
    got = check(flat, [request(key, 5, top_p=top_p) for key in range(3)], tile=256)
    assert all(answer.token < 700 * top_p for answer in got)  # of equals the lowest ids survive
    flat[:, 500:] = -np.inf
    check(flat, [request(0, 0, mask=mask_of([600, 601], 700), top_p=top_p)], tile=256)  # no draw is left over


def test_scores_that_float32_does_not_tell_apart_are_compared_exactly() -> None:
    u = np.stack([uniform(key, 4, np.arange(90, dtype=np.uint32)) for key in range(3)])
    logits_WV = np.log(-np.log(u)).astype(np.float32)  # cancels the Gumbel noise but for its rounding
    got, _ = answers(logits_WV, [request(key, 4) for key in range(3)])
    want = (logits_WV.astype(np.float64) - np.log(-np.log(u))).argmax(axis=1)
    assert [answer.token for answer in got] == list(want)


def test_of_equals_the_lowest_id() -> None:
    row = np.zeros((3, 200), np.float32)
    row[:, [70, 71, 130]] = 2.0
    row[1, 70] = -0.0
    row[2] = -0.0
    row[2, 1::2] = 0.0
    got = check(row, [request(temperature=0.0), request(temperature=0.0), Lookup((), 5)])
    assert [got[0].token, got[1].token] == [70, 71]
    assert [token for _, token in got[2].top] == [0, 1, 2, 3, 4]


def test_a_bad_row_fails_alone_and_in_the_hosts_words() -> None:
    logits_WV = np.stack([rows_of(kind, 5, 90) for kind in ("normal", "nan", "normal", "nan", "nan")])
    nothing = np.zeros(3, np.int32)
    got = check(logits_WV, [request(), request(temperature=0.0), request(mask=nothing), Lookup((1,)), Lookup(())])
    assert [type(answer) for answer in got] == [Sampled, BackendError, BackendError, BackendError, Looked]
    plain, _ = answers(logits_WV[:2], [request(temperature=0.0), request(temperature=0.0)])
    assert isinstance(plain[0], Sampled) and "not numbers" in str(plain[1])


def test_an_id_that_the_model_does_not_have_fails_its_row() -> None:
    got, _ = answers(np.zeros((2, 90), np.float32), [request(banned=(90,)), request()])
    assert "token id 90" in str(got[0]) and isinstance(got[1], Sampled)


@pytest.mark.parametrize("best", [np.inf, -np.inf])
def test_a_row_without_a_finite_best_is_its_argmax(best: float) -> None:
    row = np.full((2, 90), -np.inf, np.float32)
    row[:, 66] = best
    got, _ = answers(row, [request(), request(top_p=0.5)])
    assert {answer.token for answer in got} == {66 if best > 0 else 0}


def test_log_probabilities_are_the_models_own() -> None:
    row = rows_of("normal", 2, 90)[None]
    mask = mask_of(range(45), 90)
    (got,) = check(row, [request(logit_bias=((3, 50.0),), mask=mask, return_logprob=True, top_logprobs_num=90)])
    assert got.token == 3 and got.logprob < -1 and 0 < got.forbidden < 1 and len(got.top) == 90
    assert check(row, [request(return_logprob=True, top_logprobs_num=200)])[0].top == got.top


def test_steps_may_be_launched_before_earlier_ones_are_read() -> None:
    device = DeviceSampler(90, 90, torch.device(DEVICE), 4, tile=128)
    logits_WV = np.stack([rows_of("normal", seed, 90) for seed in range(4)])
    on_device = torch.from_numpy(logits_WV).to(DEVICE)
    long = tuple(range(90)) * 200  # more words than the buffers hold at first
    steps = [[request(i, at) for i in range(4)] for at in range(3)]
    steps.insert(1, [Lookup(long), request(return_logprob=True)])
    pending = [device.launch(on_device, step, torch.zeros(4, dtype=torch.int32, device=DEVICE)) for step in steps]
    for step, answered in zip(steps, [p.answers() for p in pending]):
        for row, ask, answer in zip(logits_WV, step, answered):
            want = oracle(row, ask)
            if isinstance(want, Looked):
                assert answer.logprobs == pytest.approx(want.logprobs, abs=1e-5)
            else:
                assert answer.token == want.token


def test_nothing_asked_and_too_much_asked() -> None:
    device = sampler(90, 64)
    sampled_S = torch.zeros(9, dtype=torch.int32, device=DEVICE)
    logits_WV = torch.zeros(9, 97, device=DEVICE)
    assert device.launch(logits_WV[:0], [], sampled_S).answers() == []
    with pytest.raises(ValueError, match="9 asks do not fit"):
        device.launch(logits_WV, [request()] * 9, sampled_S)


def test_warming_up_changes_nothing() -> None:
    row = rows_of("normal", 4, 90)
    device = DeviceSampler(90, 90, torch.device(DEVICE), 2, tile=128)
    sampled_S = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    device.warm(torch.from_numpy(row[None]).to(DEVICE), sampled_S)
    (got,) = device.launch(torch.from_numpy(row[None]).to(DEVICE), [request(5)], sampled_S).answers()
    assert got == oracle(row, request(5))
