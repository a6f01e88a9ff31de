"""How long a gen may get that does not say it, and what its author is told."""

from __future__ import annotations

import logging

import pytest

import sgl
from sgl.backend.runtime.job.constrained_gen import LONG_TOKENS
from sgl.lang.budget import REGEX_TOKENS, default_budget

DIGITS = sgl.regex("[0-9]+")


@pytest.mark.parametrize(
    ("constraint", "budget"),
    [
        (None, 128),
        (DIGITS, 512),
        (sgl.regex(r".*"), 512),
        (sgl.regex("a{1000}b*"), 4000),
        (sgl.regex("a{1000}"), None),
        (sgl.regex("yes|no"), None),
        ("Total: " + DIGITS, 512),
        (DIGITS | sgl.choice(["none"]), 512),
        (sgl.choice(["a", "b"]) + "!", None),
        (sgl.json_schema({"type": "string"}), None),
        (DIGITS + sgl.json_schema({"type": "string"}), 512),
        (sgl.ebnf('root ::= "a"'), None),
    ],
)
def test_the_default_budget(constraint: sgl.Constraint | None, budget: int | None) -> None:
    assert default_budget(constraint) == budget


def test_min_tokens_raises_the_default_budget() -> None:
    assert default_budget(None, 300) == 300
    assert default_budget(DIGITS, 900) == 900


def endless() -> sgl.Runtime:
    """A model that never ends a text by itself."""
    return sgl.Runtime.toy(favour=dict.fromkeys(sgl.Runtime.toy().tokenizer.eos_ids, -200.0))


@pytest.mark.parametrize(("regex", "ends"), [("[0-9]+", "length"), ("([0-9]+,)*[0-9]+;", "stop")])
def test_a_regex_without_max_tokens_is_steered_to_close(regex: str, ends: str) -> None:
    ask = sgl.function(lambda s: s.user("n: " + sgl.gen("n", regex=regex)))
    runtime = endless()
    state = ask.run(backend=runtime)
    assert state.get_meta_info("n")["finish_reason"]["type"] == ends
    assert len(state.get_meta_info("n")["token_ids"]) <= REGEX_TOKENS
    assert sgl.regex(regex).parse(state["n"]) == state["n"]
    result = runtime.generate("n: ", {"regex": regex})
    assert len(result["output_ids"]) <= REGEX_TOKENS


def test_a_run_says_the_budget_of_a_regex() -> None:
    ask = sgl.function(lambda s: s.user("n: " + sgl.gen("n", regex="[0-9]+")))
    assert len(ask.run(backend=endless(), max_new_tokens=7).get_meta_info("n")["token_ids"]) <= 7


def test_a_long_gen_without_max_tokens_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LONG_TOKENS == 2048
    monkeypatch.setattr("sgl.backend.runtime.job.constrained_gen.LONG_TOKENS", 20)
    ask = sgl.function(lambda s, most: s.user("n: " + sgl.gen("n", regex="[a-z]{60,61}", max_tokens=most)))
    runtime = endless()
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        ask.run(100, backend=runtime).sync()
        assert not caplog.records, "the author has said max_tokens="
        for _ in range(2):
            ask.run(None, backend=runtime).sync()
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("gen('n') at test_budgets.py") and "more than 20 tokens and has no max_tokens=" in said


@pytest.mark.parametrize("options", [{"regex": "a{60}"}, {"json_schema": {"const": 60 * "a"}}])
def test_a_long_text_that_is_forced_throughout_is_told_of(
    options: dict[str, object], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one of its tokens is sampled, so all of them come at once."""
    monkeypatch.setattr("sgl.backend.runtime.job.constrained_gen.LONG_TOKENS", 20)
    ask = sgl.function(lambda s: s.user("n: " + sgl.gen("n", **options)))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        ask.run(backend=sgl.Runtime.toy()).sync()
    [said] = [record.getMessage() for record in caplog.records]
    assert "more than 20 tokens and has no max_tokens=" in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"regex": "a{3}", "min_tokens": 5}, True),
        ({"json_schema": {"type": "boolean"}, "min_tokens": 50}, True),
        ({"regex": "a{3,9}", "min_tokens": 5}, False),
        ({"regex": "a{3}", "min_tokens": 1}, False),
        ({"regex": "[a-z]+", "min_tokens": 9, "max_tokens": 12}, False),
    ],
)
def test_a_text_that_must_end_before_min_tokens_is_told_of(
    options: dict[str, object], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ask = sgl.function(lambda s: s.user("n: " + sgl.gen("n", **options)))  # type: ignore[arg-type]
    runtime = sgl.Runtime.toy()
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        for _ in range(2):
            ask.run(backend=runtime).sync()
    assert [f"before min_tokens={options['min_tokens']}" in r.getMessage() for r in caplog.records] == [True] * told


def test_the_token_that_would_come() -> None:
    runtime = sgl.Runtime.toy()

    @sgl.function
    def peek(s: sgl.ProgramState) -> None:
        s += "The answer is" + sgl.gen("next", max_tokens=0, return_logprob=True, top_logprobs_num=4, temperature=0)
        s += sgl.gen("one", max_tokens=1, return_logprob=True, top_logprobs_num=4, temperature=0)

    state = peek.run(backend=runtime)
    peeked, one = state.get_meta_info("next"), state.get_meta_info("one")
    assert state["next"] == "" and peeked["token_ids"] == [] and peeked["completion_tokens"] == 0
    assert peeked["output_token_logprobs"] == one["output_token_logprobs"]
    assert peeked["output_top_logprobs"] == one["output_top_logprobs"] and len(peeked["output_top_logprobs"][0]) == 4
    assert peeked["finish_reason"] == {"type": "length", "length": 0}
    assert state.text() == "The answer is" + state["one"]
    result = runtime.generate(
        "The answer is", {"max_new_tokens": 0, "temperature": 0}, return_logprob=True, top_logprobs_num=4
    )
    assert result["meta_info"]["output_top_logprobs"] == peeked["output_top_logprobs"] and result["text"] == ""


def test_no_tokens_and_no_logprobs_ask_the_model_nothing() -> None:
    runtime = sgl.Runtime.toy()
    assert runtime.generate("The answer is", {"max_new_tokens": 0})["text"] == ""


@pytest.mark.parametrize("options", [{"max_tokens": 8}, {"stop": "\n", "n": 2}, {"return_logprob": True}])
def test_options_without_meaning_beside_choices_are_told_of_once(
    options: dict[str, object], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgl.lang.api.advice", type(sgl.lang.api.advice)())
    with caplog.at_level(logging.WARNING, "sgl.advice"):
        for _ in range(2):
            picked = sgl.gen("tool", choices=["a", "b"], **options)
    assert list(picked.choices) == ["a", "b"]
    assert len(caplog.records) == 1
    assert all(f"{name}=" in caplog.records[0].getMessage() for name in options)
