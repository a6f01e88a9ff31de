"""Programs that wait for something outside lend their place; texts do not depend on it, and nothing starves."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl import Runtime
from sgl.backend.base import GenRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.program import admission
from sgl.backend.runtime.program.branch import Life
from sgl.lang.expr import Sampling

from ..naive import impatient

ROOMY = 100_000


def gen(branch, most):
    return branch.gen(GenRequest(Sampling(max_tokens=most, ignore_eos=True)))


def finish(runtime, handles):
    while not all(handle.done for handle in handles):
        assert runtime.engine.step(), "nothing runs, and something waits"
        invariants.check(runtime.engine)


def turns(runtime, programs, wait):
    """The steps of so many programs with two calls each; every one waits outside until all have made the first."""
    branches, texts = [runtime.open(seed=i) for i in range(programs)], []
    for turn in range(2):
        handles = []
        for i, branch in enumerate(branches):
            branch.append(f"program {i}, turn {turn}, and more of it: ")
            handles.append(gen(branch, 10))
        wait(runtime, handles)
        texts += [handle.value()[0].text for handle in handles]
    for branch in branches:
        branch.close()
    runtime.check()
    return runtime.engine.steps, texts


def test_a_program_that_waits_outside_makes_room(monkeypatch):
    """Each needs some 50 tokens in its first turn and 100 in its second; the pool has room for a few."""
    roomy = Runtime.toy(max_total_tokens=ROOMY)
    _, alone = turns(roomy, 30, finish)
    lending = Runtime.toy(max_total_tokens=600)
    impatient(lending)
    steps, texts = turns(lending, 30, finish)
    assert texts == alone
    monkeypatch.setattr(admission.Admission, "_may_lend", lambda self, now: False)
    keeping = Runtime.toy(max_total_tokens=600)
    impatient(keeping)
    steps_without, texts = turns(keeping, 30, finish)
    assert texts == alone
    assert steps < 0.6 * steps_without
    invariants.idle_and_whole(lending.engine)


def test_a_program_that_calls_again_at_once_keeps_its_place():
    runtime = Runtime.toy(max_total_tokens=700)
    runtime.engine.branches.admission.patience = 3600.0
    first, second = runtime.open(seed=1), runtime.open(seed=2)
    first.append("x" * 200)
    finish(runtime, [gen(first, 5)])
    second.append("y" * 200)
    waits = gen(second, 400)
    runtime.engine.step()
    assert second.life is Life.WAITING and first.account.admitted
    finish(runtime, [handle := gen(first, 5)])
    assert handle.value()[0].usage.recomputed == 0 and not waits.done
    runtime.engine.branches.admission.patience = -1.0  # and now it is away for long
    finish(runtime, [waits])
    first.close(), second.close()
    runtime.check()


def test_patience_follows_how_soon_bodies_call_again():
    line = Runtime.toy().engine.branches.admission
    branch = Runtime.toy().open(seed=1)

    def returns_after(seconds):
        line.rests(branch.account)
        began = branch.account.rested
        line.call_begins(branch, began + seconds)
        branch.account.calls = 0

    for _ in range(50):
        returns_after(0.002)
    assert line.patience == admission.SHORTEST_PATIENCE_SECONDS
    for seconds in [0.02, 0.04] * 25:
        returns_after(seconds)
    assert 0.04 < line.patience <= admission.SILENCE_SECONDS
    before = line.patience
    returns_after(5.0)  # a tool, not the body
    assert line.patience == before


def test_async_programs_that_wait_for_each_other():
    """Each goes on when all have made their first call: without lending, one is let in after each silence."""
    n, arrived, go = 40, [], asyncio.Event()

    @sgl.function
    async def meets(s, i):
        s += f"program {i}: " + "x" * 60 + sgl.gen("a", max_tokens=8, ignore_eos=True)
        await s["a"]
        arrived.append(i)
        if len(arrived) == n:
            go.set()
        await go.wait()
        s += " and " + sgl.gen("b", max_tokens=8, ignore_eos=True)
        await s["b"]

    runtime = Runtime.toy(max_total_tokens=1_000)
    runtime.engine.branches.admission.grace = 3600.0  # nobody is let in for silence alone
    states = meets.run_batch([(i,) for i in range(n)], num_threads=n, backend=runtime)
    texts = [state.text() for state in states]
    go, arrived = asyncio.Event(), []
    roomy = Runtime.toy(max_total_tokens=ROOMY)
    assert texts == [state.text() for state in meets.run_batch([(i,) for i in range(n)], num_threads=n, backend=roomy)]
    runtime.check()
    invariants.idle_and_whole(runtime.engine)
    assert not runtime.engine.drive._called


def test_threads_that_wait_for_each_other():
    n = 24
    barrier = threading.Barrier(n)

    @sgl.function
    def meets(s, i):
        s += f"program {i}: " + "x" * 60 + sgl.gen("a", max_tokens=8, ignore_eos=True)
        s["a"]
        barrier.wait(timeout=60)
        s += " and " + sgl.gen("b", max_tokens=8, ignore_eos=True)

    runtime = Runtime.toy(max_total_tokens=1_000)
    runtime.engine.branches.admission.grace = 3600.0
    states = meets.run_batch([(i,) for i in range(n)], num_threads=n, backend=runtime)
    assert [state.error() for state in states] == [None] * n
    assert not runtime.engine.drive._called
    runtime.check()
    invariants.idle_and_whole(runtime.engine)


def test_forks_of_a_program_that_lent_its_place():
    """The parent forks after its rest; the children find what is left of its KV, or compute it again."""

    def texts(pool):
        runtime = Runtime.toy(max_total_tokens=pool)
        impatient(runtime)
        parents = [runtime.open(seed=i) for i in range(6)]
        for i, parent in enumerate(parents):
            parent.append(f"parent {i} " + "x" * 80)
        finish(runtime, [gen(parent, 4) for parent in parents])
        children = [child for parent in parents for child in parent.fork(3)]
        runtime.engine.branches.take_news()
        for i, child in enumerate(children):
            child.append(f" child {i}")
        finish(runtime, handles := [gen(child, 6) for child in children])
        more = [gen(parent, 3) for parent in parents]  # the parents go on as well
        finish(runtime, more)
        for branch in [*children, *parents]:
            branch.close()
        runtime.check()
        invariants.idle_and_whole(runtime.engine)
        assert not runtime.engine.branches.admission.resting
        return [handle.value()[0].text for handle in handles + more]

    assert texts(420) == texts(ROOMY)


def test_a_stream_that_nobody_reads_holds_nobody_up():
    @sgl.function
    def story(s, i):
        s += f"story {i}: " + "x" * 100 + sgl.gen("a", max_tokens=40, ignore_eos=True)

    runtime = Runtime.toy(max_total_tokens=400, random_seed=3)
    slow = story.run(0, backend=runtime, stream=True, seed=5)
    pieces = slow.text_iter()
    read = [next(pieces), next(pieces)]
    others = story.run_batch([(i,) for i in range(1, 12)], backend=runtime)
    assert all(len(state["a"]) for state in others)
    roomy = Runtime.toy(max_total_tokens=ROOMY)
    assert "".join([*read, *pieces]) == story.run(0, backend=roomy, seed=5).text()
    runtime.check()


@pytest.mark.parametrize("most, served", [(6, True), (10_000, False)])
def test_no_program_is_passed_for_ever(monkeypatch, most, served):
    """Old programs call again and again and leave no room; a new one has its turn."""
    monkeypatch.setattr(admission, "MOST_PASSED", most)
    runtime = Runtime.toy(max_total_tokens=360)
    impatient(runtime)
    old = [runtime.open(seed=i) for i in range(8)]
    for i, branch in enumerate(old):
        branch.append(f"{i}" * 100)
    handles = [gen(branch, 3) for branch in old]
    new = runtime.open(seed=9)
    new.append("n" * 100)
    wanted = gen(new, 3)
    for _ in range(120):
        away = [i for i, handle in enumerate(handles) if handle.done]  # they wait outside for a step
        runtime.engine.step()
        for i in away:
            handles[i] = gen(old[i], 1)
        if wanted.done:
            break
    assert wanted.done is served
    for branch in [*old, new]:
        branch.close()
    runtime.check()


def test_thousands_of_programs_leave_nothing_behind():
    runtime = Runtime.toy(max_total_tokens=5_000)
    impatient(runtime)
    line = runtime.engine.branches.admission
    for start in range(0, 2_000, 100):
        branches = [runtime.open(seed=start + i) for i in range(100)]
        for i, branch in enumerate(branches):
            branch.append(f"{start + i} " * 10)
        finish_quietly(runtime, [gen(branch, 2) for branch in branches])
        for i, branch in enumerate(branches):
            (branch.close, branch.cancel)[i % 2]()
    runtime.check()
    assert not (line.resting or line.leaving or line.admitted or line.line or line._since)


def finish_quietly(runtime, handles):
    while not all(handle.done for handle in handles):
        assert runtime.engine.step()


@pytest.mark.parametrize("reuse", [True, False])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_texts_do_not_depend_on_who_rests_when(reuse, data):
    """Calls, rests, forks, cancellations and ends in any order, in a tight pool and in a roomy one."""
    runtime = Runtime.toy(max_total_tokens=data.draw(st.sampled_from([160, 300, 700])), disable_radix_cache=not reuse)
    roomy = Runtime.toy(max_total_tokens=ROOMY)
    impatient(runtime)
    engine = runtime.engine
    pairs = [(runtime.open(seed=i), roomy.open(seed=i)) for i in range(data.draw(st.integers(2, 6)))]
    calls = []
    for number in range(data.draw(st.integers(5, 30))):
        i = data.draw(st.integers(0, len(pairs) - 1))
        action = data.draw(st.sampled_from(["call", "call", "call", "step", "step", "fork", "rest", "close"]))
        if action == "call":
            text, most = "ab"[number % 2] * data.draw(st.integers(1, 20)), data.draw(st.integers(1, 8))
            handles = []
            for branch in pairs[i]:
                branch.append(text)
                handles.append(gen(branch, most))
            calls.append(handles)
        elif action == "step":
            for _ in range(data.draw(st.integers(1, 12))):
                engine.step()
                invariants.check(engine)
        elif action == "fork" and len(pairs) < 12:
            pairs += list(zip(*[branch.fork(2) for branch in pairs[i]]))
        elif action == "rest":
            for branch in pairs[i]:
                branch.rest()
        elif action == "close" and len(pairs) > 1:
            for branch in pairs.pop(i):
                branch.sync()
                branch.close()
    for each, done in ((runtime, 0), (roomy, 1)):
        while each.engine.step():
            invariants.check(each.engine)
        assert all(handles[done].done for handles in calls)
    for tight, wide in calls:
        if tight.error is None and wide.error is None:
            assert tight.value()[0].token_ids == wide.value()[0].token_ids
        else:  # closed early; or too long for the tight pool, by itself
            assert isinstance(tight.error or wide.error, (sgl.Cancelled, sgl.OutOfMemory))
    for pair in pairs:
        for branch in pair:
            branch.close()
    engine.step()
    invariants.idle_and_whole(engine)
    assert not engine.branches.admission.admitted and not engine.branches.admission.resting
