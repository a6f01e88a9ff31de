"""Speculation changes no text, no log-probability and no error, whatever is drafted.

On the toy model, whose logits change with every wrong slot, mask or position: against a runtime that drafts nothing.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.draft.speculation import Speculation
from sgl.backend.runtime.grammar.sharing.mask_cache import CachedMatcher
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import ConstraintError, OutOfMemory
from sgl.lang.expr import Sampling

from ..job.test_constrained import CONSTRAINTS, RANKINGS, favouring
from ..naive import rush
from ..step.lagging import lagging
from ..step.overlapping import CONFIGS, ENDING, SAMPLINGS, Run, look, outcome, programs, start, step_to_the_end, whole
from .guessing import RandomDrafts, speculate


def without(runtime: Runtime) -> Runtime:
    runtime.engine.speculation.proposers = []
    return runtime


def everything(runtime: Runtime, batch: list[list[Any]]) -> list[Run]:
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    step_to_the_end(runtime)
    return [each for run in runs for each in run.everything()]


def paths_of(runs: list[Run]) -> dict[Any, list[int]]:
    return {run.branch.order: run.branch.cursor.path_tokens() for run in runs}


# -- (a) random programs
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(programs(2), min_size=1, max_size=4),
    CONFIGS,
    st.integers(0, 1 << 30),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.booleans(),
)
def test_random_programs_are_the_same_with_random_drafts(
    batch: list[list[Any]], config: dict[str, Any], seed: int, wrong: float, device: bool
) -> None:
    plain = everything(without(Runtime.toy(favour=ENDING)), batch)
    runtime = lagging(ENDING, **config) if device else Runtime.toy(favour=ENDING, **config)
    speculate(runtime, RandomDrafts(seed, runtime.tokenizer.vocab_size, paths_of(plain), wrong))
    if seed % 2:
        rush(runtime)
    for mine, theirs in zip(everything(runtime, batch), plain):
        if isinstance(mine.branch.error, OutOfMemory):
            assert 2 * theirs.branch.cursor.length + 80 > config["max_total_tokens"]
        else:
            assert list(map(outcome, mine.handles)) == list(map(outcome, theirs.handles))
            assert mine.branch.cursor.path_tokens() == theirs.branch.cursor.path_tokens()
    whole(runtime)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(programs(2), min_size=2, max_size=4), CONFIGS, st.integers(0, 1 << 30), st.data())
def test_others_do_not_notice_that_one_is_cancelled(
    batch: list[list[Any]], config: dict[str, Any], seed: int, data: st.DataObject
) -> None:
    config = {**config, "max_total_tokens": 20000}
    plain = everything(without(Runtime.toy(favour=ENDING)), batch)
    runtime = lagging(ENDING, **config) if data.draw(st.booleans()) else Runtime.toy(favour=ENDING, **config)
    speculate(runtime, RandomDrafts(seed, runtime.tokenizer.vocab_size, paths_of(plain)))
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    at = data.draw(st.integers(0, 12))
    for _ in range(at):
        runtime.engine.step()
        look(runtime)
    for each in runs[0].everything():
        each.branch.cancel()
    step_to_the_end(runtime)
    mine = [each for run in runs for each in run.everything()]
    for one, other in list(zip(mine, plain))[len(runs[0].everything()) :]:
        assert list(map(outcome, one.handles)) == list(map(outcome, other.handles))
    whole(runtime)


# -- (b) every kind of constraint
@pytest.mark.parametrize("ranking", ["none", "quotes", "digits", "words"])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constrained_texts_are_the_same(kind: str, ranking: str) -> None:
    samplings = [
        Sampling(max_tokens=40, temperature=0.0),
        Sampling(max_tokens=60, temperature=1.0, top_p=0.9),
        Sampling(max_tokens=30, temperature=1.0, min_tokens=4, return_logprob=True, top_logprobs_num=1),
        Sampling(max_tokens=50, temperature=1.0, frequency_penalty=0.7),
    ]

    def run(runtime: Runtime) -> tuple[list[Any], dict[Any, list[int]]]:
        handles, branches = [], []
        for seed in range(8):
            branch = runtime.open(seed=seed)
            branch.append(f"{seed}: ")
            for sampling in samplings[seed % 4 :: 2]:
                request = GenRequest(sampling, constraint=CONSTRAINTS[kind], on_budget="close" if seed < 6 else "error")
                handles.append(branch.gen(request))
                branch.append(" and ")
            branches.append(branch)
        step_to_the_end(runtime)
        return [outcome(handle) for handle in handles], {b.order: b.cursor.path_tokens() for b in branches}

    texts, paths = run(without(favouring(RANKINGS[ranking])))
    runtime = favouring(RANKINGS[ranking])
    assert run(speculate(runtime, RandomDrafts(3, runtime.tokenizer.vocab_size, paths)))[0] == texts
    free = favouring(RANKINGS[ranking])
    assert run(free)[0] == texts
    runtime.check()
    free.check()


# -- (c) fewer steps, and what is told of it
def test_right_drafts_save_steps_and_are_counted() -> None:
    batch = [[("text", "ab"), ("gen", Sampling(max_tokens=30, temperature=1.0, ignore_eos=True), 1)]]
    plain = without(Runtime.toy())
    runs = everything(plain, batch)
    runtime = Runtime.toy()
    speculate(runtime, RandomDrafts(1, 200, paths_of(runs), wrong=0.0))
    (run,) = everything(runtime, batch)
    usage = run.handles[0].value()[0].usage
    assert runtime.engine.steps < plain.engine.steps * 2 / 3
    assert usage.generated == 30 and 10 < usage.accepted <= usage.drafted
    assert usage.steps + usage.accepted >= 30  # a step gives its own token and those accepted
    assert usage.computed == 30 - 1 + usage.prompt + usage.drafted - usage.accepted
    assert runs[0].handles[0].value()[0].usage.drafted == 0


def test_a_repeated_text_is_drafted_without_being_told() -> None:
    """A row of a batch that writes what the row before wrote takes a few steps."""
    runtime = Runtime.toy()
    runtime.engine.speculation.trials.drafting = lambda branches: True  # type: ignore[method-assign]  # by no clock
    steps = []
    for _ in range(3):
        before = runtime.engine.steps
        result = runtime.generate("Say it: ", {"max_new_tokens": 60, "temperature": 0, "ignore_eos": True})
        steps.append(runtime.engine.steps - before)
        assert result["meta_info"]["completion_tokens"] == 60
    assert steps[0] > 40 and steps[2] < 12, steps


@pytest.mark.parametrize("spelling", ["th", "t"])
def test_what_a_grammar_forces_as_text_takes_no_step_of_its_own(spelling: str) -> None:
    """Behind each `-` the text `th` is forced, and could begin `the`. A model that spells it as the tokenizer does
    is drafted for; one that does not is left alone after some guesses."""
    table = Runtime.toy().tokenizer.token_bytes
    favour = {table.index(spelling.encode()): 40.0}
    request = GenRequest(Sampling(max_tokens=200, temperature=0.0), constraint=sgl.regex("(-th[ex]){24}"))
    texts, steps = [], []
    for names in ((), ("grammar",)):
        runtime = Runtime.toy(favour=favour)
        speculation = runtime.engine.speculation
        speculation.proposers = [source for source in speculation.proposers if source.name in names]
        speculation.trials.drafting = lambda branches: True  # type: ignore[method-assign]  # by no clock
        speculation.cost.share = lambda rows: 0.5  # type: ignore[method-assign]
        branch = runtime.open(seed=1)
        branch.append("ab")
        handle = branch.gen(request)
        runtime.wait(handle)
        runtime.check()
        texts.append(outcome(handle))
        steps.append(runtime.engine.steps)
    assert texts[0] == texts[1]
    count = runtime.engine.speculation.counts["grammar"]
    if spelling == "th":
        assert steps[1] <= steps[0] - 22 and count.accepted == count.drafted >= 22
    else:
        assert count.drafted <= 6 and steps[1] >= steps[0] - 2


def test_what_follows_a_stop_keeps_its_kv() -> None:
    """The text is cut at a stop, and the constant that follows begins with the same tokens: they are not computed
    again."""

    def run(stop: str, follow: str) -> tuple[str, int]:
        runtime = without(favouring("0123456789"))
        branch = runtime.open(seed=3)
        branch.append("ab")
        sampling = Sampling(max_tokens=12, temperature=0.0, ignore_eos=True, stop=(stop,) if stop else ())
        handle = branch.gen(GenRequest(sampling))
        branch.append(follow)
        last = branch.gen(GenRequest(Sampling(max_tokens=1, temperature=0.0)))
        runtime.wait(last)
        runtime.check()
        return handle.value()[0].text, runtime.engine.rows - branch.cursor.length

    text, _ = run("", "")
    stop = text[5:9]
    assert len(stop) == 4 and run(stop, stop)[0] == text[: text.index(stop)]
    assert run(stop, stop)[1] < run(stop, "#" + stop)[1]


# -- (d) what goes wrong
def test_a_source_that_raises_is_switched_off_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    batch = [[("text", "ab"), ("gen", SAMPLINGS[1], 3)], [("text", "x"), ("gen", SAMPLINGS[0], 1)]]
    plain = everything(without(Runtime.toy()), batch)
    runtime = Runtime.toy()
    source = RandomDrafts(1, 200, paths_of(plain))
    source.raises_at = 4
    speculate(runtime, source)
    with caplog.at_level(logging.WARNING, logger="sgl"):
        found = everything(runtime, batch)
    assert [list(map(outcome, run.handles)) for run in found] == [list(map(outcome, run.handles)) for run in plain]
    assert runtime.engine.speculation.proposers == [] and "no more ideas" in caplog.text and source.calls == 4


class _Failing:
    """A matcher whose limit is met as soon as it is asked."""

    def accept(self, token: int) -> bool:
        raise ConstraintError("the engine met a limit")


def test_an_engine_that_fails_at_a_draft_fails_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(max_tokens=20, temperature=1.0)
    request = GenRequest(sampling, constraint=sgl.regex("[a-z]{30,40}"), on_budget="partial")

    def run(runtime: Runtime) -> Any:
        branch = runtime.open(seed=1)
        branch.append("x")
        handle = branch.gen(request)
        runtime.wait(handle)
        return outcome(handle), {branch.order: branch.cursor.path_tokens()}

    expected, paths = run(without(Runtime.toy()))
    runtime = Runtime.toy()
    runtime.accepts(sgl.regex("[a-z]{30,40}"), "x")  # prepared: from here on only drafts fork a matcher
    monkeypatch.setattr(CachedMatcher, "fork", lambda self: _Failing())
    assert run(speculate(runtime, RandomDrafts(1, runtime.tokenizer.vocab_size, paths)))[0] == expected
    assert runtime.engine.closed is None and runtime.engine.speculation.proposers


def test_many_branches_draft_less_than_one() -> None:
    speculation = Speculation(slope=0.3)
    for rows in (1, 2, 4, 8, 16, 32, 64) * 20:
        speculation.cost.learn(rows, 0.005 + 0.001 * rows)
    shares = [speculation.cost.share(rows) for rows in (1, 8, 64)]
    assert shares[0] < 0.3 < shares[1] < 0.75 < shares[2], shares


def test_no_draft_is_longer_than_the_context_that_is_left() -> None:
    runtime = Runtime.toy(context_length=40)
    speculate(runtime, RandomDrafts(5, 200, {}, wrong=1.0))
    branch = runtime.open(seed=1)
    branch.append("a b c d e f g h")
    handle = branch.gen(GenRequest(Sampling(temperature=1.0, ignore_eos=True)))
    while runtime.engine.step():
        assert branch.cursor.length + len(branch.cursor.written) <= 40
    assert handle.value()[0].finish_reason["type"] == "length" and branch.cursor.length == 40


def test_drafts_take_no_room_from_others() -> None:
    """With a pool that just holds the text, a draft is cut, and nobody is parked for it."""
    runtime = Runtime.toy(max_total_tokens=40, favour=ENDING)
    plain = without(Runtime.toy(max_total_tokens=40, favour=ENDING))
    batch = [[("text", "x y "), ("gen", Sampling(max_tokens=14, temperature=1.0), 1)] for _ in range(2)]
    runs = everything(plain, batch)
    speculate(runtime, RandomDrafts(2, 200, paths_of(runs)))
    found = everything(runtime, batch)
    assert [list(map(outcome, r.handles)) for r in found] == [list(map(outcome, r.handles)) for r in runs]
    assert runtime.engine.scheduler.preemptions <= plain.engine.scheduler.preemptions
    whole(runtime)


def test_a_program_with_drafts_in_words() -> None:
    @sgl.function
    def twice(s: Any) -> None:
        s += "The list: "
        s += sgl.gen("first", max_tokens=20, temperature=0.0)
        s += "\nThe list: "
        s += sgl.gen("second", max_tokens=20, temperature=0.0)

    found = [twice.run(backend=runtime)["second"] for runtime in (Runtime.toy(), without(Runtime.toy()))]
    assert found[0] == found[1]
