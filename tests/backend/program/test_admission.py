"""Programs are let in by the KV they are expected to need; what the runtime tells of its steps."""

from __future__ import annotations

import logging
import random
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl import Runtime
from sgl.backend.base import GenRequest, StepRecord, Usage
from sgl.backend.runtime import invariants, meter
from sgl.backend.runtime.program.branch import Life
from sgl.lang.expr import Sampling

from ..naive import impatient, rush


@sgl.function
def eight(s, i, length):
    """Eight calls, each after some text, as an agent's turns are."""
    for k in range(8):
        s += f"row {i}, turn {k}: " + sgl.gen(f"a{k}", max_tokens=length, ignore_eos=True) + "\n"
        s[f"a{k}"]


@sgl.function
async def eight_async(s, i, length):
    for k in range(8):
        s += f"row {i}, turn {k}: " + sgl.gen(f"a{k}", max_tokens=length, ignore_eos=True) + "\n"
        await s[f"a{k}"]


@pytest.mark.parametrize("program", [eight, eight_async])
@pytest.mark.parametrize("pool", [1500, 4000])
def test_a_batch_larger_than_the_pool_flows(program, pool):
    """Each program needs about 300 tokens; 64 of them are many times the pool."""
    runtime = Runtime.toy(max_total_tokens=pool)
    sizes = random.Random(1)
    states = program.run_batch([(i, sizes.randint(10, 25)) for i in range(64)], backend=runtime)
    total = states.usage.total
    assert total.generated > 64 * 8 * 10 and total.computed > 4 * pool
    assert total.recomputed < 0.02 * total.computed, f"{total.recomputed} of {total.computed} computed twice"
    runtime.check()  # takes the last news
    invariants.idle_and_whole(runtime.engine)


def test_without_admission_the_same_batch_thrashes():
    """(The test above could fail.)"""
    runtime = Runtime.toy(max_total_tokens=1500)
    rush(runtime)
    total = eight_async.run_batch([(i, 20) for i in range(64)], backend=runtime).usage.total
    assert total.recomputed > 0.2 * total.computed


def test_a_program_that_waits_for_an_inner_one_is_not_in_its_way():
    """Every admitted program waits for a program that is not: the first in line is let in."""
    runtime = Runtime.toy(max_total_tokens=300)

    @sgl.function
    def inner(s, i):
        s += f"inner {i} " * 5 + sgl.gen("x", max_tokens=40, ignore_eos=True)

    @sgl.function
    def outer(s, i):
        s += f"outer {i} " * 5 + sgl.gen("x", max_tokens=20, ignore_eos=True)
        s["x"]
        s += inner.run(i, backend=runtime)["x"] + sgl.gen("y", max_tokens=20, ignore_eos=True)

    states = outer.run_batch([(i,) for i in range(20)], num_threads=20, backend=runtime)
    assert all(len(s["y"]) for s in states)
    runtime.check()  # takes the last news
    invariants.idle_and_whole(runtime.engine)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_programs_that_come_wait_fail_and_go_in_any_order(data):
    """Nothing is forgotten in the queue, whatever ends while it waits there."""
    runtime = Runtime.toy(max_total_tokens=data.draw(st.sampled_from([120, 300])), chunked_prefill_size=32)
    impatient(runtime)
    engine = runtime.engine
    branches = []
    for i in range(data.draw(st.integers(2, 9))):
        branch = runtime.open(seed=i)
        branch.append("ab" * data.draw(st.integers(1, 20)))
        handle = branch.gen(GenRequest(Sampling(max_tokens=data.draw(st.integers(1, 40)), ignore_eos=True)))
        branches.append((branch, handle))
    while engine.step():
        invariants.check(engine)
        event = data.draw(st.sampled_from(["", "", "cancel", "close", "rest"]))
        branch, _ = data.draw(st.sampled_from(branches))
        if event == "cancel":
            branch.cancel()
        elif event == "close":
            branch.close()
        elif event == "rest":
            branch.rest()
    assert all(handle.done for _, handle in branches)
    for branch, _ in branches:
        branch.close()
    engine.step()
    invariants.idle_and_whole(engine)
    assert not engine.branches.admission.admitted


def test_usage_adds_every_count():
    one = Usage(*[i + 1 for i in range(len(fields(Usage)))])
    assert one + one == Usage(*[2 * (i + 1) for i in range(len(fields(Usage)))])


def test_steps_and_seconds_of_a_call():
    runtime = Runtime.toy(speculative_num_draft_tokens=0)
    seen: list[StepRecord] = []
    end = runtime.watch(seen.append)

    @sgl.function
    def program(s):
        s += "abc " + sgl.gen("a", max_tokens=5, ignore_eos=True) + sgl.gen("b", max_tokens=3, ignore_eos=True)
        s += sgl.select("c", ["x", "y"])

    state = program.run(backend=runtime)
    tree = state.usage
    assert [call.usage.steps for call in tree.calls[:2]] == [5, 3] and tree.total.steps >= 9
    assert all(call.usage.running > 0 and call.usage.queued >= 0 for call in tree.calls)
    assert state.get_meta_info("a")["steps"] == 5
    assert [record.number for record in seen] == sorted({record.number for record in seen})
    assert sum(record.rows for record in seen) == runtime.engine.rows == tree.total.computed
    assert all(record.began <= record.ended and record.branches == 1 for record in seen)
    assert sum(record.rows - record.prompt_rows for record in seen) == 8
    end()
    program.run(backend=runtime).sync()
    assert seen[-1].number < runtime.engine.clock.planned


def test_a_failed_call_is_counted():
    runtime = Runtime.toy()

    @sgl.function
    def program(s):
        s += "abc " + sgl.gen("a", max_tokens=3900, ignore_eos=True, timeout=0.05)

    state = program.run(backend=runtime)
    assert isinstance(state.error(), sgl.ProgramTimeout)
    assert state.usage.total.generated > 0 and state.usage.total.calls == 1


def test_a_line_a_second(caplog, monkeypatch):
    monkeypatch.setattr(meter, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="sgl"):
        runtime = Runtime.toy()
        eight.run(1, 5, backend=runtime)
    lines = [record.message for record in caplog.records if record.message.startswith("#running")]
    assert len(lines) > 10
    for word in (
        "#running: 1",
        "#queue: 0",
        "token usage: 0.0",
        "gen throughput (token/s): ",
        "cached: ",
        "accept len: 1",
    ):
        assert any(word in line for line in lines), word
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sgl"):
        eight.run(1, 5, backend=runtime)
    assert not caplog.records


def test_log_level_info_shows_lines_without_any_set_up(capfd):
    import subprocess
    import sys

    code = (
        "import sgl, logging\n"
        "from sgl.backend.runtime.options import show_log\n"
        "from sgl.backend.runtime import meter\n"
        "show_log('INFO'); meter.LINE_SECONDS = 0.0\n"
        "f = sgl.function(lambda s: s.__iadd__('a' + sgl.gen('x', max_tokens=3, ignore_eos=True)).sync())\n"
        "f.run(backend=sgl.Runtime.toy())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "sgl: #running: 1, #queue: 0, token usage" in done.stderr, done.stderr


def test_programs_that_are_over_leave_although_their_states_are_kept():
    """Branches may outlive the body (a join waits for nothing), and a pinned prefix wants nothing more."""
    runtime = Runtime.toy(max_total_tokens=2000)
    runtime.cache_prefix("the rules ")

    @sgl.function
    def forks(s, i):
        s += f"row {i}: "
        group = s.fork(3)
        group += sgl.gen("a", max_tokens=10, ignore_eos=True) + " and " + sgl.gen("b", max_tokens=10, ignore_eos=True)
        group.join()

    states = forks.run_batch([(i,) for i in range(40)], backend=runtime)
    states[0] += "more" + sgl.gen("c", max_tokens=3)
    states[0].sync()
    runtime.engine.step()
    runtime.check()
    assert not runtime.engine.branches.admission.admitted and not runtime.engine.branches.admission.leaving


def asks(runtime, text, most, rest=False, caller=None):
    branch = runtime.open(seed=1, caller=caller)
    branch.append(text)
    handle = branch.gen(GenRequest(Sampling(max_tokens=most, ignore_eos=True)))
    if rest:
        branch.rest()
    return branch, handle


def test_calls_of_admitted_programs_do_not_queue_behind_others():
    runtime = Runtime.toy(max_total_tokens=600)
    engine = runtime.engine
    late = runtime.open(seed=0)  # opened first, so first in the order; it speaks later
    first, done = asks(runtime, "the first", 5)
    while not done.done:
        engine.step()
    late.append("this one needs more than there is " * 10)
    late.gen(GenRequest(Sampling(max_tokens=300, ignore_eos=True)))
    first.gen(GenRequest(Sampling(max_tokens=5, ignore_eos=True)))
    inner, _ = asks(runtime, "an inner program", 5, caller=first)
    engine.step()
    assert late.life is Life.WAITING and first.life is inner.life is Life.RUNNING and len(engine.branches.running) == 2
    for branch in (late, first, inner):
        branch.close()
    engine.step()
    runtime.check()


def test_a_long_common_prefix_is_not_expected_of_each_program():
    runtime = Runtime.toy(max_total_tokens=3000)

    @sgl.function
    def row(s, i):
        s += "x" * 1500 + f" {i} " + sgl.gen("a", max_tokens=20, ignore_eos=True)

    row.run_batch([(i,) for i in range(100)], backend=runtime)
    assert runtime.engine.steps < 100, "they run side by side"


def test_programs_whose_queue_is_all_there_is_are_known():
    """Before any program has ended, one that may go on is expected to need more than one that cannot."""
    for rest, least, most in ((True, 14, 20), (False, 1, 3)):
        runtime = Runtime.toy(max_total_tokens=1000)
        branches = [asks(runtime, f"row {i}: ", 40, rest)[0] for i in range(20)]
        runtime.engine.step()
        assert least <= len(runtime.engine.branches.running) <= most
        for branch in branches:
            branch.close()


def test_generate_over_many_times_the_pool_computes_nothing_twice() -> None:
    """A prompt that is finished leaves at once, although the call waits for all of them."""
    runtime = Runtime.toy(max_total_tokens=6_000, speculative_num_draft_tokens=0)
    rng = random.Random(0)
    prompts = [[rng.randint(10, 200) for _ in range(90)] for _ in range(150)]
    out = runtime.generate(input_ids=prompts, sampling_params={"max_new_tokens": 20, "ignore_eos": True})
    assert [len(each["output_ids"]) for each in out] == [20] * 150
    engine = runtime.engine
    assert engine.rows <= 1.02 * 150 * (90 + 19), "computed twice"
    assert engine.steps < 120, "prompts run side by side"
    runtime.flush_cache()
    assert invariants.idle_and_whole(engine) is None
