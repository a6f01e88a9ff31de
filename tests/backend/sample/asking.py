"""Rows of logits and what may be asked of them, for the tests of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sgl.backend.runtime.sample.ask import Lookup
from sgl.backend.runtime.sample.sampler import Recipe, Request
from sgl.lang.expr import Sampling


def request(
    key: int = 1, position: int = 0, banned: tuple[int, ...] = (), mask: Any = None, traced: bool = False,
    prompt: Sequence[int] = (), counts: Any = None, **sampling: Any,
) -> Request:  # fmt: skip
    recipe = Recipe.of(Sampling(**sampling), key, list(prompt), traced)
    recipe.counts = dict(counts or {})
    return Request(recipe, position, banned, mask)


def mask_of(ids: Sequence[int], vocab: int) -> np.ndarray:
    bits = np.zeros((vocab + 31) // 32 * 32, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def rows_of(kind: str, seed: int, vocab: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 3, vocab).astype(np.float32)
    if kind == "ties":
        row = np.round(row)
    elif kind == "forbidding":
        row[rng.random(vocab) < 0.7] = -np.inf
        row[vocab // 2] = 1.0
    elif kind == "huge":
        row *= np.float32(1e37)
    elif kind == "flat":
        row[:] = 0.25
    elif kind == "nan":
        row[rng.integers(vocab)] = np.nan
    return row


def options(vocab: int) -> st.SearchStrategy[dict[str, Any]]:
    ids = st.integers(0, vocab - 1)
    return st.fixed_dictionaries(
        {"temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7])},
        optional={
            "top_k": st.integers(1, 2 * vocab),
            "top_p": st.floats(0.02, 1.0),
            "min_p": st.sampled_from([0.003, 0.11, 1.0]),
            "frequency_penalty": st.floats(-2, 2, width=16),
            "presence_penalty": st.floats(-2, 2, width=16),
            "repetition_penalty": st.floats(0.5, 4, width=16),
            "logit_bias": st.dictionaries(ids, st.floats(-9, 9, width=16), max_size=3).map(lambda d: tuple(d.items())),
            "return_logprob": st.just(True),
            "top_logprobs_num": st.integers(0, 5),
            "prompt": st.lists(ids, max_size=5),
            "counts": st.dictionaries(ids, st.integers(1, 5), max_size=4),
            "banned": st.tuples(st.integers(0, 2)),
            "mask": st.sets(ids, max_size=8).map(lambda found: mask_of(sorted(found), vocab)),
            "traced": st.just(True),
        },
    )


def asks(vocab: int) -> st.SearchStrategy[Any]:
    ids = st.integers(0, vocab - 1)
    place = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**20))
    requests = st.builds(lambda at, more: request(*at, **more), place, options(vocab))
    lookups = st.builds(Lookup, st.lists(ids, max_size=4).map(tuple), st.integers(0, 4))
    return st.one_of(requests, requests, requests, lookups)


KINDS = st.sampled_from(["normal", "ties", "forbidding", "huge", "flat", "nan"])
