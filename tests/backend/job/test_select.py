"""A select over choices that begin alike: as the naive oracle has it, and without a square.

Choices of which each is the beginning of the next have few tokens in the trie and many in all.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.base import ScoreRequest
from sgl.backend.runtime.kv.chain import Trie
from sgl.backend.runtime.kv.pool import SlotPool
from sgl.backend.runtime.runtime import Runtime

from ..naive import Naive, NaiveBranch

NAIVE = Naive()
METHODS = [
    sgl.token_length_normalized,
    sgl.sequence_likelihood,
    sgl.greedy_token_selection,
    sgl.unconditional_likelihood_normalized,
]


@st.composite
def alike(draw: st.DrawFn) -> tuple[str, ...]:
    """Choices grown from each other: nested ones, and such that part in the middle."""
    made = [draw(st.text("ab ", min_size=1, max_size=4))]
    for _ in range(draw(st.integers(1, 12))):
        stem = draw(st.sampled_from(made))
        made.append(stem[: draw(st.integers(0, len(stem)))] + draw(st.text("ab ", min_size=1, max_size=3)))
    return tuple(dict.fromkeys(draw(st.permutations(made))))


@settings(max_examples=60, deadline=None)
@given(alike(), st.sampled_from(METHODS), st.sampled_from(["", "It is ", "a"]), st.sampled_from([1, 3, 64]))
def test_choices_that_begin_alike_equal_the_oracle(
    choices: tuple[str, ...], method: Any, before: str, chunk: int
) -> None:
    runtime, oracle = Runtime.toy(chunked_prefill_size=chunk), NaiveBranch.open(NAIVE, 1)
    branch = runtime.open(seed=1)
    for each in (branch, oracle):
        each.append(before)
    handle = branch.score(ScoreRequest(choices, method))
    text, scores = oracle.select(choices, method)
    runtime.wait(handle)
    result = handle.value()
    assert result.text == text
    assert [[t.logprob for t in c] for c in result.scores.token_logprobs] == scores
    runtime.check()


def test_choices_share_what_is_told_of_their_common_tokens() -> None:
    """985 nested choices have 485,605 tokens, and 985 in the trie: each of these is described once."""
    choices = tuple("a" * (i + 1) for i in range(985))
    runtime = Runtime.toy()
    branch = runtime.open()
    branch.append("x")
    handle = branch.score(ScoreRequest(choices, sgl.token_length_normalized))
    runtime.wait(handle)
    told = handle.value().scores.token_logprobs
    assert sum(map(len, told)) == 985 * 986 // 2
    assert len({id(token) for choice in told for token in choice}) == 985


@pytest.mark.parametrize("method", METHODS)
def test_a_method_cannot_change_what_choices_share(method: Any) -> None:
    def spoil(**given: Any) -> sgl.ChoicesDecision:
        given["input_token_logprobs"][0][0][0] = 0.0
        return method(**given)  # type: ignore[no-any-return]

    spoil.requires_unconditional_logprobs = method.requires_unconditional_logprobs  # type: ignore[attr-defined]

    @sgl.function
    def pick(s: Any) -> None:
        s += "x" + sgl.select("c", choices=["a", "ab"], choices_method=spoil)

    with pytest.raises(TypeError, match="tuple"):
        pick.run(backend=Runtime.toy())["c"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_trie_has_the_paths_of_its_sequences(sequences: list[list[int]]) -> None:
    trie = Trie(0, sequences, SlotPool(8))
    assert [[vertex.token for vertex in path] for path in trie.paths] == sequences
    beginnings = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert len({id(vertex) for path in trie.paths for vertex in path}) == len(beginnings)
