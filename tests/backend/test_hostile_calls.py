"""Calls with hostile options: each fails alone, with a typed error that names the option, and holds nobody up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import sgl
from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.sampler import Recipe, Request, sample
from sgl.backend.runtime.text.stop import StopMatcher
from sgl.lang.choices import ChoicesDecision
from sgl.lang.errors import BackendError, ConstraintError, OptionError, SglError
from sgl.lang.sampling import LONGEST_STOP_PATTERN, MOST_STOP_CHARACTERS, MOST_STOPS, OPTIONS, Sampling, normalise

FREE = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime.toy()


def fails_alone(runtime: Runtime, error: type[SglError], match: str, sampling: Sampling, **options: Any) -> None:
    """A call fails with `error`, one beside it does not, and the runtime goes on."""
    bad, good = runtime.open(seed=1), runtime.open(seed=2)
    for branch in (bad, good):
        branch.append("a text: ")
    failing, free = bad.gen(GenRequest(sampling, **options)), good.gen(GenRequest(FREE))
    runtime.wait(failing)
    runtime.wait(free)
    with pytest.raises(error, match=match):
        failing.value()
    assert len(free.value()[0].token_ids) == 4
    for branch in (bad, good):
        branch.close()
    runtime.check()


# ---------------------------------------------------------------------------------------------------- stop regexes
EVIL = [r"(a|aa)+$b", r"(?:a|b|ab)*?$c", r"(?:(?:a|a)+)+\d", r"(.*a){25}b", r"(a+)+\1x"]


@pytest.mark.parametrize("pattern", EVIL)
def test_a_stop_regex_that_backtracks_is_its_gens_error(pattern: str) -> None:
    matcher = StopMatcher((), (pattern,), "gen('x')")
    with pytest.raises(ConstraintError, match=r"gen\('x'\): stop_regex .* backtracks"):
        for _ in range(5000):
            matcher.push(b"aaaaaaaa")


def test_a_stop_regex_that_backtracks_fails_its_gen_alone(runtime: Runtime) -> None:
    letter = next(i for i, data in enumerate(runtime.tokenizer.token_bytes) if data == b"a")
    written = Sampling.of(
        "gen", max_tokens=200, temperature=0.0, ignore_eos=True, stop_regex=EVIL[0], logit_bias={letter: 100}
    )
    fails_alone(runtime, ConstraintError, "stop_regex .* backtracks", written)


def test_fast_searches_may_be_as_many_as_the_text_is_long() -> None:
    matcher = StopMatcher((), (r"[0-9]{3}x", "END"))
    for _ in range(20_000):
        matcher.push(b"12 ab ")
    matcher.push(b" END")
    assert matcher.matched == "END"


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("a" * (LONGEST_STOP_PATTERN + 1), "at most 512"),
        ("(" * 250 + ")" * 250, "empty text|cannot be read"),
        ("a{99999999999999999999}", "valid regular expression"),
        ("(?R)", "takes too long|empty text|cannot be read"),
    ],
)
def test_stop_regexes_are_read_in_bounded_time(pattern: str, match: str) -> None:
    with pytest.raises(ConstraintError, match=match):
        sgl.gen("x", stop_regex=pattern)


# --------------------------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    "stop",
    [
        ["x"] * (MOST_STOPS + 1),
        ["y" * (MOST_STOP_CHARACTERS + 1)],
        range(10**12),
        ["a", "\ud800"],
        "b\udfff",
        [b"a"],
        {"a"},
    ],
    ids=["many", "long", "endless", "surrogate", "surrogate in one", "bytes", "set"],
)
def test_stops_that_cannot_be(stop: Any) -> None:
    with pytest.raises(OptionError, match=r"gen\('x'\): stop"):
        sgl.gen("x", stop=stop)


def test_as_many_stops_as_are_allowed_stop_where_they_should(runtime: Runtime) -> None:
    stops = [f"z{i:03}q" for i in range(MOST_STOPS)]
    matcher = StopMatcher(tuple(stops))
    matcher.push(b"abc z01")
    assert matcher.text == "abc "
    matcher.push(b"7q")
    assert matcher.matched == "z017q" and matcher.text == "abc "


HOSTILE = [
    True, "1", b"1", math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**5000, 2**63, -1, -0.5, [1], {}, (),
    object(), np.bool_(True), np.float32("nan"), np.array([1, 2]), 1j, "\ud800", "x" * 10**6, "²", range(10**12),
    {"a": 1}, {-1: 0}, {1: math.nan}, {"1" * 5000: 1}, {2**70: 1}, {"²": 1}, [True], [1.5], [None], float,
]  # fmt: skip


@pytest.mark.parametrize("option", [option.name for option in OPTIONS])
def test_an_option_takes_a_value_or_refuses_it_by_name(option: str) -> None:
    for value in HOSTILE:
        try:
            Sampling(**normalise("gen", {option: value}))
        except (OptionError, ConstraintError) as error:
            assert option in str(error) and len(str(error)) < 400, value


@pytest.mark.parametrize("value", [np.int64(3), np.int32(3), np.array(3), 3])
def test_whole_numbers_of_numpy_are_numbers(value: Any) -> None:
    sampling = Sampling.of("gen", max_tokens=value, top_k=value, temperature=np.float32(0.5), top_p=np.float64(0.5))
    assert (sampling.max_tokens, sampling.top_k, sampling.temperature, sampling.top_p) == (3, 3, 0.5, 0.5)
    assert type(sampling.max_tokens) is int and type(sampling.temperature) is float


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan, 10**400, "1", True])
def test_timeouts_that_are_none(timeout: Any) -> None:
    with pytest.raises(OptionError, match="timeout"):
        sgl.gen("x", timeout=timeout)


@pytest.mark.parametrize("huge", [2**63, 2**64, 10**30])
def test_huge_counts_mean_as_many_as_there_are(runtime: Runtime, huge: int) -> None:
    branch = runtime.open(seed=1)
    branch.append("a text: ")
    options = {"max_tokens": huge, "min_tokens": 0, "top_k": huge, "top_logprobs_num": huge, "logprob_start_len": huge}
    asked = Sampling.of("gen", **options, return_logprob=True, stop_regex=".", temperature=1.0)
    handle = branch.gen(GenRequest(asked))
    runtime.wait(handle)
    assert handle.value()[0].text == ""


def test_a_bias_on_every_token_is_added(runtime: Runtime) -> None:
    size = runtime.tokenizer.vocab_size
    logits = np.zeros((1, size), np.float32)
    bias = tuple((i, -100.0 if i != 5 else -99.0) for i in range(size))
    recipe = Recipe.of(Sampling(temperature=0.0, logit_bias=bias), 1, [])
    assert sample(logits, [Request(recipe, 0)], size)[0].token == 5


# ------------------------------------------------------------------------------------------------------------ bans
def test_min_tokens_with_every_token_banned_is_an_error(runtime: Runtime) -> None:
    every = tuple(range(runtime.tokenizer.vocab_size))
    fails_alone(runtime, OptionError, "min_tokens=1 bans", Sampling(max_tokens=4, min_tokens=1, stop_token_ids=every))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}])
def test_a_banned_token_is_never_written(runtime: Runtime, options: dict[str, Any]) -> None:
    """All tokens but one are banned, and the one is the least likely: filters come after bans."""
    size, kept = runtime.tokenizer.vocab_size, 7
    every = tuple(i for i in range(size) if i != kept)
    branch = runtime.open(seed=1)
    branch.append("a text: ")
    asked = Sampling.of("gen", max_tokens=3, min_tokens=3, stop_token_ids=every, logit_bias={kept: -100}, **options)
    handle = branch.gen(GenRequest(asked))
    runtime.wait(handle)
    if kept in runtime.tokenizer.eos_ids:
        pytest.skip("the toy's end")
    assert handle.value()[0].token_ids == [kept] * 3


def test_logits_that_leave_only_banned_tokens_are_an_error() -> None:
    logits = np.full((2, 8), -np.inf, np.float32)
    logits[:, 3] = 1.0
    recipe = Recipe.of(Sampling(), 1, [])
    with pytest.raises(BackendError, match="banned"):
        sample(logits, [Request(recipe, 0, (3,))], 8)
    assert sample(logits, [Request(recipe, 0, ())], 8)[0].token == 3


def test_min_tokens_keeps_no_text_from_ending_that_can_only_end(runtime: Runtime) -> None:
    branch = runtime.open(seed=1)
    branch.append("a text: ")
    asked = Sampling.of("gen", max_tokens=9, min_tokens=9)
    handle = branch.gen(GenRequest(asked, constraint=sgl.choice(["ab"])))
    runtime.wait(handle)
    assert handle.value()[0].text == "ab"


# ------------------------------------------------------------------------------------------------- choice methods
@pytest.mark.parametrize(
    "decision",
    [
        ChoicesDecision("a", scores=[]),
        ChoicesDecision("a", scores=[1.0]),
        ChoicesDecision("a", scores=[1.0, 2.0, 3.0]),
        ChoicesDecision("a", scores=[math.nan, 0.0]),
        ChoicesDecision("a", scores=[math.inf, 0.0]),
        ChoicesDecision("a", scores=[-math.inf, -math.inf]),
        ChoicesDecision("a", scores=["x", "y"]),
        ChoicesDecision("a", scores=[None, 1.0]),
        ChoicesDecision("a", scores=[[1.0], [2.0]]),
        ChoicesDecision("a", scores=7),  # type: ignore[arg-type]
        ChoicesDecision("c"),
        ChoicesDecision(0),  # type: ignore[arg-type]
        ChoicesDecision(None),  # type: ignore[arg-type]
        ChoicesDecision(np.array(["a", "b"])),  # type: ignore[arg-type]
        ChoicesDecision("a", meta_info=[1]),  # type: ignore[arg-type]
        "a",
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_choice_method_may_not_return(runtime: Runtime, decision: Any, temperature: float) -> None:
    def method(**_: Any) -> Any:
        return decision

    method.requires_unconditional_logprobs = False  # type: ignore[attr-defined]
    bad, good = runtime.open(seed=1), runtime.open(seed=2)
    for branch in (bad, good):
        branch.append("a text: ")
    chosen = bad.score(ScoreRequest(("a", "b"), method, temperature, where="select('v')"))  # type: ignore[arg-type]
    free = good.gen(GenRequest(FREE))
    runtime.wait(chosen)
    runtime.wait(free)
    with pytest.raises(ConstraintError, match=r"select\('v'\): the choice method"):
        chosen.value()
    assert len(free.value()[0].token_ids) == 4
    runtime.check()


def test_scores_of_minus_infinity_are_never_drawn(runtime: Runtime) -> None:
    def method(**_: Any) -> Any:
        return ChoicesDecision("a", scores=[-math.inf, np.float32(0.0)])

    method.requires_unconditional_logprobs = False  # type: ignore[attr-defined]
    for seed in range(20):
        branch = runtime.open(seed=seed)
        branch.append("a text: ")
        chosen = branch.score(ScoreRequest(("a", "b"), method, 1.0))  # type: ignore[arg-type]
        runtime.wait(chosen)
        assert chosen.value().text == "b"


# ------------------------------------------------------------------------------------------------ lone surrogates
def said(program: Any, runtime: Runtime) -> Any:
    return sgl.function(program).run(backend=runtime).text()


def in_text(s: Any) -> None:
    s += "x\ud800" + sgl.gen("a", max_tokens=2)


def in_a_role(s: Any) -> None:
    s += sgl.user("x\ud800")
    s += sgl.assistant(sgl.gen("a", max_tokens=2))


def in_a_choice(s: Any) -> None:
    s += "x" + sgl.select("a", ["a", "\ud800"])


def in_a_choice_constraint(s: Any) -> None:
    s += "x" + sgl.gen("a", constraint=sgl.choice(["a", "\ud800"]))


def in_a_joined_text(s: Any) -> None:
    s += "x" + sgl.gen("a", constraint=sgl.regex("a") + "\ud800")


def in_a_regex(s: Any) -> None:
    s += "x" + sgl.gen("a", regex="a\ud800")


def in_a_key(s: Any) -> None:
    s += "x" + sgl.gen("a", json_schema={"properties": {"\ud800": {}}})


def in_an_enum(s: Any) -> None:
    s += "x" + sgl.gen("a", json_schema='{"enum": ["\\\\ud800"]}'.replace("\\\\", "\\"))


PLACES = [
    (in_text, "gen"), (in_a_role, "gen"), (in_a_choice, "select"), (in_a_choice_constraint, "choice 1"),
    (in_a_joined_text, "joined"), (in_a_regex, "regex"), (in_a_key, "schema"), (in_an_enum, "schema"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "place"), PLACES, ids=lambda value: getattr(value, "__name__", value))
def test_a_lone_surrogate_is_named_with_its_place(runtime: Runtime, program: Any, place: str) -> None:
    with pytest.raises(SglError, match=f"(?s){place}.*lone surrogate"):
        said(program, runtime)


def test_a_lone_surrogate_without_a_program(runtime: Runtime) -> None:
    for call in (
        lambda: sgl.special("\ud800"),
        lambda: runtime.tokenizer.encode("\ud800"),
        lambda: runtime.tokenizer.apply_chat_template([{"role": "user", "content": "\ud800"}]),
        lambda: sgl.gen(stop_regex="\ud800"),
        lambda: runtime.generate("a\ud800", {"max_new_tokens": 2}),
        lambda: runtime.generate(["a", "\ud800"], {"max_new_tokens": 2}),
        lambda: runtime.cache_prefix("a\ud800"),
        lambda: runtime.generate("a", {"stop": "\ud800"}),
    ):
        with pytest.raises(OptionError, match="lone surrogate"):
            call()
    assert runtime.generate("a", {"max_new_tokens": 2})["text"] is not None


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, 2**63, 10**400, True, "1"])
def test_a_batch_timeout_that_is_none(runtime: Runtime, seconds: Any) -> None:
    with pytest.raises(OptionError, match="batch_timeout"):
        sgl.function(in_a_row).run_batch([{"q": "a"}], backend=runtime, batch_timeout=seconds)


def in_a_row(s: Any, q: str) -> None:
    s += q + sgl.gen("a", max_tokens=2)


def test_a_lone_surrogate_in_a_row_is_that_rows(runtime: Runtime) -> None:
    rows = [{"q": "a"}, {"q": "\ud800"}, {"q": "b"}]
    states = sgl.function(in_a_row).run_batch(rows, backend=runtime, on_error="keep")
    assert [state.error() is None for state in states] == [True, False, True]


@pytest.mark.parametrize("size", [2**16 + 1, 10**9, pytest.param(10**5000, id="huge"), -1, 2.0, True, "2", None])
def test_a_fork_of_a_size_that_is_none(runtime: Runtime, size: Any) -> None:
    state = sgl.function(lambda s: s.user("x")).run(backend=runtime)
    with pytest.raises(OptionError, match="fork: size must be"):
        state.fork(size)
    assert len(state.fork(0)) == 0 and len(state.fork(3)) == 3
