"""Steps that overlap: the next is launched before the last one's answers are there, and nothing shows of it.

On a toy device (`lagging.py`), against the runtime that does one thing after the other, and against the naive oracle.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import OutOfMemory
from sgl.lang.expr import Sampling

from ..naive import NaiveBranch, impatient, rush
from ..test_invariants import programs as free_programs
from ..test_invariants import start as start_both
from ..test_invariants import verify
from .lagging import lagging
from .overlapping import (
    CHOICES,
    CONFIGS,
    ENDING,
    EOS,
    METHODS,
    MIXED,
    NAIVE,
    PATIENCE,
    PATTERNS,
    SAMPLINGS,
    executor_of,
    expected,
    look,
    outcome,
    programs,
    start,
    step_to_the_end,
    whole,
)


# -- (a) the same texts, whatever overlaps
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(programs(2), min_size=1, max_size=4), CONFIGS, st.data())
def test_random_programs_equal_a_runtime_without_overlap(
    batch: list[list[Any]], config: dict[str, Any], data: st.DataObject
) -> None:
    plain = expected(batch)
    runtime = lagging(ENDING, **config)
    engine = runtime.engine
    impatient(runtime)
    if data.draw(st.booleans()):
        rush(runtime)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    cancelled: set[int] = set()
    steps = 0
    while engine.step():
        look(runtime)
        steps += 1
        assert steps < PATIENCE, "somebody hangs"
        event = data.draw(st.sampled_from(["go"] * 12 + ["check", "flush", "info", "cancel", "close"]))
        if event == "check":
            runtime.check()
        elif event == "flush":
            runtime.flush_cache()
        elif event == "info":
            assert runtime.get_server_info()["steps"] == engine.steps and runtime.draw()
        elif event in ("cancel", "close") and len(runs) > 1:
            for each in runs[0].everything():
                each.branch.cancel() if event == "cancel" else each.branch.close()
            cancelled.add(0)
    assert engine.executor.wrong == []  # type: ignore[attr-defined]
    for i, (run, same) in enumerate(zip(runs, plain)):
        for mine, theirs in zip(run.everything(), same):
            if isinstance(mine.branch.error, OutOfMemory):  # only where the branch alone is too big for the pool
                assert 2 * theirs.branch.cursor.length + 80 > config["max_total_tokens"]
            elif i not in cancelled:
                assert list(map(outcome, mine.handles)) == list(map(outcome, theirs.handles))
            assert all(handle.done for handle in mine.handles)
    whole(runtime)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(free_programs(2), min_size=1, max_size=3), CONFIGS)
def test_random_programs_equal_the_oracle(batch: list[list[Any]], config: dict[str, Any]) -> None:
    runtime = lagging(ENDING, **config)
    rush(runtime)
    runs = [start_both(runtime.open(seed=i % 2), NaiveBranch.open(NAIVE, i % 2), p) for i, p in enumerate(batch)]
    step_to_the_end(runtime)
    for run in runs:
        verify(run, config["max_total_tokens"])
    whole(runtime)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty", "repetition_penalty"])
def test_penalties_count_the_last_token_too(penalty: str) -> None:
    """Two tokens that take turns only because each is penalised at once."""
    favour = {ord("a") - ord("!"): 30.0, ord("b") - ord("!"): 29.5}
    sampling = Sampling(max_tokens=12, temperature=0.0, ignore_eos=True, **{penalty: 1.9})  # type: ignore[arg-type]
    batch: list[list[Any]] = [[("text", "x"), ("gen", sampling, 1)], [("text", "x y"), ("gen", SAMPLINGS[1], 1)]]
    found = []
    for runtime in (lagging(favour), Runtime.toy(favour=favour)):
        runs = [start(runtime.open(seed=i), program) for i, program in enumerate(batch)]
        step_to_the_end(runtime)
        found.append([outcome(run.handles[0]) for run in runs])
    assert found[0] == found[1] and len(set(found[0][0][0][0])) > 1


@pytest.mark.parametrize("pool", range(11, 40))
def test_a_row_ahead_of_its_answer_never_costs_a_text_its_place(pool: int) -> None:
    """Where the text ends with the token that is in flight, there need not be a slot for it."""

    def run(runtime: Runtime) -> Any:
        found = []
        for seed in range(4):
            branch = runtime.open(seed=seed)
            branch.append("x" * 10)
            handle = branch.gen(GenRequest(Sampling(max_tokens=30, temperature=1.0)))
            step_to_the_end(runtime)
            found.append(type(handle.error) if handle.error else outcome(handle))
            branch.close()
        return found

    overlapped = lagging({EOS: 5.5}, max_total_tokens=pool)
    assert run(overlapped) == run(Runtime.toy(favour={EOS: 5.5}, max_total_tokens=pool))
    overlapped.check()
    invariants.idle_and_whole(overlapped.engine)


# -- (c) a text that ended while it ran ahead
def test_a_row_computed_in_vain_shows_in_what_was_computed_alone() -> None:
    batch: list[list[Any]] = [[("text", f"{i} the "), ("gen", SAMPLINGS[1], 1)] for i in range(24)]
    runtime = lagging(ENDING, speculative_num_draft_tokens=0)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    step_to_the_end(runtime)
    vain = 0
    for run, same in zip(runs, expected(batch)):
        (mine,), (theirs,) = run.handles[0].value(), same[0].handles[0].value()
        assert (mine.text, mine.finish_reason) == (theirs.text, theirs.finish_reason)
        over = mine.usage.computed - theirs.usage.computed
        early = mine.finish_reason["type"] == "stop" and len(mine.token_ids) + 1 < SAMPLINGS[1].max_tokens  # type: ignore[operator]
        assert over == early
        assert mine.usage.steps - theirs.usage.steps == over  # it took part in that step
        for name in ("prompt", "reused", "generated", "recomputed", "forced"):
            assert getattr(mine.usage, name) == getattr(theirs.usage, name), name
        vain += over
    assert 0 < vain < len(batch)
    whole(runtime)


def test_the_slot_of_a_row_computed_in_vain_is_used_again() -> None:
    """In the next step, by the same branch and by others, with no slot to spare."""
    batch: list[list[Any]] = [[("text", "ab"), *[("gen", SAMPLINGS[1], 1), ("text", " x")] * 4] for _ in range(3)]
    same = expected(batch)
    for pool in range(60, 100, 3):
        runtime = lagging(ENDING, max_total_tokens=pool, disable_radix_cache=bool(pool % 2))
        rush(runtime)
        runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
        step_to_the_end(runtime)
        for run, plain in zip(runs, same):
            assert isinstance(run.branch.error, OutOfMemory) or (
                [outcome(h) for h in run.handles] == [outcome(h) for h in plain[0].handles]
            )
        whole(runtime)


# -- (d) who may go on, and who waits
GRAMMAR: list[Any] = [("text", "Answer: "), ("grammar", r"[ab]{30,40}", 1.0)]
FREE: list[Any] = [("text", "Answer: "), ("gen", Sampling(max_tokens=30, temperature=1.0, ignore_eos=True), 1)]


def test_constrained_batches_take_no_turns() -> None:
    batch = [GRAMMAR] * 6
    plain = Runtime.toy(favour=ENDING, speculative_num_draft_tokens=0)
    runtime = lagging(ENDING, speculative_num_draft_tokens=0)
    for each in (plain, runtime):
        for i, program in enumerate(batch):
            start(each.open(seed=i), program)
        step_to_the_end(each)
    assert runtime.engine.steps == plain.engine.steps and runtime.engine.rows == plain.engine.rows
    assert executor_of(runtime).ran_ahead == 0
    whole(runtime)


def test_free_batches_go_on_in_every_step() -> None:
    plain = Runtime.toy(favour=ENDING, speculative_num_draft_tokens=0)
    runtime = lagging(ENDING, speculative_num_draft_tokens=0)
    for each in (plain, runtime):
        for i in range(6):
            start(each.open(seed=i), FREE)
        step_to_the_end(each)
    assert runtime.engine.steps == plain.engine.steps and runtime.engine.rows == plain.engine.rows
    assert executor_of(runtime).ran_ahead == 6 * 29 and executor_of(runtime).alongside == plain.engine.steps - 1
    whole(runtime)


@pytest.mark.parametrize(("free", "bound"), [(1, 5), (3, 3), (5, 1)])
def test_mixed_batches_make_progress_for_both(free: int, bound: int) -> None:
    runtime = lagging(ENDING)
    runs = [start(runtime.open(seed=i), FREE if i < free else GRAMMAR) for i in range(free + bound)]
    for _ in range(30):
        runtime.engine.step()
        look(runtime)
    for run in runs:
        handle = run.handles[0]
        made = len(handle.value()[0].token_ids) if handle.done else len(run.branch.job.tokens)
        assert made >= 12, "somebody stands still"
    step_to_the_end(runtime)
    if free < bound:  # most wait for their token: nobody goes on before, so all are in every step
        plain = Runtime.toy(favour=ENDING)
        for i in range(free + bound):
            start(plain.open(seed=i), FREE if i < free else GRAMMAR)
        step_to_the_end(plain)
        assert runtime.engine.steps == plain.engine.steps
    whole(runtime)


# -- (f) what is told of it
def test_traces_and_steps_agree() -> None:
    runtime = lagging(ENDING, speculative_num_draft_tokens=0)
    records: list[Any] = []
    runtime.watch(records.append)
    runs = [start(runtime.open(seed=i % 2), program, trace=True) for i, program in enumerate(MIXED)]
    step_to_the_end(runtime)
    same = expected(MIXED)
    numbers = [record.number for record in records]
    assert numbers == sorted(set(numbers)) and len(records) == runtime.engine.steps
    assert sum(record.rows for record in records) == runtime.engine.rows
    for run, plain in zip(runs, same):
        for mine, theirs in zip(run.everything(), plain):
            for handle, other in zip(mine.handles, theirs.handles):
                told(handle, other, set(numbers))
    whole(runtime)


def told(handle: Any, other: Any, numbers: set[int]) -> None:
    got, want = handle.value(), other.value()
    for result, plain in zip(got, want) if isinstance(got, list) else [(got, want)]:
        assert result.text == plain.text
        trace = result.trace
        assert "".join(trace.texts) == result.text and set(trace.steps) <= numbers | {0}
        assert trace.steps == sorted(trace.steps)
        if isinstance(got, list):
            free = [step for step, forced in zip(trace.steps, trace.forced) if not forced]
            assert len(set(free)) == len(free), "two samples in one step"
            assert len(free) <= result.usage.steps


def test_a_trace_is_the_one_without_overlap() -> None:
    program: list[Any] = [("text", "the "), ("gen", SAMPLINGS[1], 1), ("text", ", "), ("grammar", PATTERNS[1], 1.0)]
    program += [("select", CHOICES[2], METHODS[0]), ("gen", SAMPLINGS[2], 1)]
    for seed in range(8):
        traces = []
        for runtime in (lagging(ENDING), Runtime.toy(favour=ENDING)):
            run = start(runtime.open(seed=seed), program, trace=True)
            step_to_the_end(runtime)
            found = [handle.value() for handle in run.handles]
            found = [value[0] if isinstance(value, list) else value for value in found]
            steps = found[0].trace.steps
            assert steps == list(range(1, len(steps) + 1))  # each token is the step's that sampled it
            traces.append([(v.trace.prompt, v.trace.texts, v.trace.logprobs, v.trace.forced) for v in found])
        assert traces[0] == traces[1]


@sgl.function
def story(s: Any, i: int) -> None:
    s += f"Row {i}: " + sgl.gen("a", max_tokens=12, temperature=1.0)
    forks = s.fork(2)
    forks += sgl.gen("b", max_tokens=6, temperature=0.7, stop="e")
    forks += sgl.select("c", ["yes", "no"])
    forks.join()
    s += sgl.gen("d", regex="[a-c]{2,9}")


def told_by(states: Any) -> list[Any]:
    return [(s["a"], s["b"], s["c"], s["d"]) for s in states]


def test_threads_and_coroutines() -> None:
    rows = [{"i": i} for i in range(12)]
    same = told_by(story.run_batch(rows, seed=5, backend=Runtime.toy(favour=ENDING)))
    runtime = lagging(ENDING, max_total_tokens=400)
    assert told_by(story.run_batch(rows, seed=5, backend=runtime, num_threads=6)) == same
    again = lagging(ENDING)
    found: dict[int, Any] = {}

    def one(i: int) -> None:
        found[i] = told_by([story.run(i=i, seed=i, backend=again)])[0]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()

    async def some() -> list[Any]:
        states = await asyncio.gather(*[story.arun(i=i, seed=i, backend=again) for i in range(8)])
        return [(await s.aget("a"), await s.aget("b"), await s.aget("c"), await s.aget("d")) for s in states]

    both = asyncio.run(some())
    for thread in threads:
        thread.join(60)
    alone = Runtime.toy(favour=ENDING)
    assert both == told_by([story.run(i=i, seed=i, backend=alone) for i in range(8)])
    assert [found[i] for i in range(8)] == both
    for each in (runtime, again):
        assert executor_of(each).wrong == []
        each.check()
