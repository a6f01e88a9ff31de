"""Bad input and faults, on whole programs over the toy runtime: a clear error where it belongs, the KV given back, and
everything else exactly as if nothing had happened.

What is particular to batches, coroutines, roles or the engine is tested where those are; here is what holds across all.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sgl
from sgl.backend.runtime import invariants

from .watchdog import rest, watch, within

TEST_SECONDS = 60


@pytest.fixture(autouse=True)
def no_hangs(request: pytest.FixtureRequest) -> Iterator[None]:
    watch(request.config, TEST_SECONDS)
    yield
    rest()


@pytest.fixture
def runtime() -> Iterator[Any]:
    runtime = sgl.Runtime.toy(max_total_tokens=6000)
    yield runtime
    runtime.check()


def whole(runtime: Any) -> bool:
    info = runtime.get_server_info()
    return bool(info["free_tokens"] + info["cached_tokens"] == info["max_total_tokens"])


def assert_empty(runtime: Any) -> None:
    """Nobody holds anything, one look later."""
    gc.collect()
    assert not runtime.engine.step(), "there was something left to do"
    runtime.check()
    invariants.idle_and_whole(runtime.engine)
    assert whole(runtime) and not runtime.engine.branches.attached and not runtime.engine.branches.admission.admitted


@sgl.function
def bystander(s: Any, i: int = 0) -> None:
    """Somebody else's program: with a seed, its text is what it is."""
    s += f"Bystander {i}: " + sgl.gen("a", max_tokens=12, temperature=1.0)
    group = s.fork(2)
    group += "and" + sgl.gen("b", max_tokens=6, temperature=1.0, n=2)
    group.join()
    s += sgl.select("c", ["yes", "no"], temperature=1.0)


def said(state: Any) -> tuple[Any, ...]:
    return state.text(), list(state["b"])


def alone(i: int = 0) -> tuple[Any, ...]:
    return said(bystander.run(i, seed=5, backend=sgl.Runtime.toy()))


# -- KV is free at the next step


@sgl.function
def endless(s: Any, gen_timeout: float | None = None) -> Any:
    """Four branches that hold KV and want to go on for long."""
    s += "endless words " * 5 + sgl.gen("x", max_tokens=3, ignore_eos=True)
    group = s.fork(4)
    group += lambda i: f"{i}" * 5 + sgl.gen("a", max_tokens=3000, ignore_eos=True, timeout=gen_timeout)
    return group


def fail_once(runtime: Any) -> None:
    model = runtime.engine.model
    forward = type(model).forward

    def fails(batch: Any) -> Any:
        del model.forward
        raise RuntimeError("the device is on fire")

    model.forward = fails
    assert forward


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "state.cancel": lambda runtime, state: state.cancel(),
    "group.cancel": lambda runtime, state: state.ret_value.cancel(),
    "gen timeout": lambda runtime, state: time.sleep(0.55),
    "program timeout": lambda runtime, state: time.sleep(0.55),
    "forward fails": lambda runtime, state: fail_once(runtime),
}
KINDS = {
    "gen timeout": sgl.ProgramTimeout,
    "program timeout": sgl.ProgramTimeout,
    "forward fails": sgl.BackendError,
}


@pytest.mark.parametrize("way", WAYS)
def test_kv_is_free_at_the_next_step(runtime: Any, way: str) -> None:
    limit = 0.5 if "timeout" in way else None
    state = endless.run(
        gen_timeout=limit if way == "gen timeout" else None,
        timeout=limit if way == "program timeout" else None,
        backend=runtime,
    )
    branches = [branch._line.branch for branch in state.ret_value]
    engine = runtime.engine
    for _ in range(8):
        engine.step()
    assert all(branch in engine.branches.attached for branch in branches) and not whole(runtime)
    late = way != "forward fails"
    other = bystander.run(seed=5, backend=runtime) if late else None  # a failing step fails all that are in it
    WAYS[way](runtime, state)
    engine.step()
    assert not any(branch in engine.branches.attached for branch in branches), "held after the next step"
    kind = KINDS.get(way, sgl.Cancelled)
    assert all(isinstance(branch.error(), kind) for branch in state.ret_value)
    runtime.check()
    assert said(other or bystander.run(seed=5, backend=runtime)) == alone()
    del other, state, branches
    assert_empty(runtime)


def test_a_dropped_state_gives_its_kv_back_at_the_next_step(runtime: Any) -> None:
    state = endless.run(backend=runtime)
    for _ in range(8):
        runtime.engine.step()
    other = bystander.run(seed=5, backend=runtime)
    assert len(runtime.engine.branches.attached) >= 4
    del state
    gc.collect()
    runtime.engine.step()
    assert len(runtime.engine.branches.attached) == 1 and said(other) == alone()
    del other
    assert_empty(runtime)


def test_a_cancelled_task_gives_its_kv_back_and_harms_nobody(runtime: Any) -> None:
    @sgl.function
    async def coroutine(s: Any) -> None:
        s += "coroutine " * 10
        async with s.fork(3) as group:
            group += sgl.gen("a", max_tokens=3000, ignore_eos=True)

    async def main() -> Any:
        task = asyncio.create_task(coroutine.arun(backend=runtime))
        other = asyncio.create_task(bystander.arun(seed=5, backend=runtime))
        while len(runtime.engine.branches.attached) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        found = await asyncio.gather(task, other, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        return said(found[1])

    assert asyncio.run(main()) == alone()
    assert_empty(runtime)


@pytest.mark.parametrize("native", [True, False])
def test_a_batch_out_of_time_gives_its_kv_back(runtime: Any, native: bool) -> None:
    @sgl.function
    async def coroutine(s: Any, i: int) -> None:
        s += f"row {i} " + sgl.gen("a", max_tokens=3000, ignore_eos=True)
        await s["a"]

    plain = sgl.function(lambda s, i: s.__iadd__(f"row {i} " + sgl.gen("a", max_tokens=3000, ignore_eos=True)).sync())
    states = (coroutine if native else plain).run_batch(
        [(i,) for i in range(6)], batch_timeout=0.15, on_error="keep", backend=runtime
    )
    assert [type(state.error()) for state in states] == [sgl.ProgramTimeout] * 6
    runtime.check()
    assert (
        whole(runtime)
        and not runtime.engine.branches.attached
        and said(bystander.run(seed=5, backend=runtime)) == alone()
    )
    del states
    assert_empty(runtime)


def test_losers_of_a_race_and_their_branches_give_their_kv_back(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> Any:
        s += "race " * 10
        group = s.fork(3)
        for i, branch in enumerate(group):
            below = branch.fork(2)
            below += sgl.gen("a", max_tokens=3 if i == 1 else 3000, ignore_eos=True)
            below.join()
            if i != 1:
                branch += sgl.gen("b", max_tokens=3000, ignore_eos=True)
        winner = sgl.first(group)
        runtime.engine.step()
        losers = [branch._line for branch in group if branch is not winner]
        held = [c for c in losers if c.branch in runtime.engine.branches.attached]
        held += [c for loser in losers for c in loser.joined if c.branch in runtime.engine.branches.attached]
        return group.states.index(winner), held, len(winner["a"])

    assert program.run(backend=runtime).ret_value == (1, [], 2)
    assert_empty(runtime)


# -- states and forks that nobody cares for


def test_a_fork_of_10_000() -> None:
    @sgl.function
    def program(s: Any) -> Any:
        s += "A prefix that all share: "
        group = s.fork(10_000)
        group += lambda i: f"{i};" + sgl.gen("x", max_tokens=2, temperature=0, ignore_eos=True)
        group.join()
        return s["x"]

    runtime = sgl.Runtime.toy()
    with within(40):
        state = program.run(backend=runtime, seed=1)
        found = state.ret_value
    assert len(found) == 10_000 and state.error() is None

    @sgl.function
    def one(s: Any, i: int) -> None:
        s += f"A prefix that all share: {i};" + sgl.gen("x", max_tokens=2, temperature=0, ignore_eos=True)

    for i in (0, 1, 17, 5000, 9999):
        assert found[i] == one.run(i, backend=runtime)["x"], "a branch's value is not at its place"
    assert state.usage.total.calls == 10_000
    del state, found
    assert_empty(runtime)


@pytest.mark.parametrize("ending", ["unread", "closed", "raises"])
def test_a_forgotten_fork(runtime: Any, ending: str) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "forgetful " * 5 + sgl.gen("a", max_tokens=3, ignore_eos=True)
        group = s.fork(3)
        group += sgl.gen("b", max_tokens=500, ignore_eos=True)
        s["a"]
        if ending == "raises":
            raise LookupError("mine")

    if ending == "raises":
        with pytest.raises(LookupError):
            program.run(backend=runtime)
    else:
        state = program.run(backend=runtime)
        if ending == "closed":
            assert state.error() is None and len(state["a"])
        del state
    assert_empty(runtime)
    assert runtime.engine.rows < 200, "what nobody can read was generated all the same"


def test_a_dropped_state_with_a_fork_to_come_gives_its_kv_back(runtime: Any) -> None:
    """Its children will never be: what was to come before the fork is for nobody."""

    @sgl.function
    def program(s: Any) -> None:
        s += "words " * 5 + sgl.gen("a", max_tokens=3000, ignore_eos=True)
        group = s.fork(2)
        group += sgl.gen("b", max_tokens=3000, ignore_eos=True)
        below = group[0].fork(2)
        below += sgl.gen("c", max_tokens=3000, ignore_eos=True)

    state = program.run(backend=runtime)
    for _ in range(5):
        runtime.engine.step()
    del state
    gc.collect()
    runtime.engine.step()
    assert not runtime.engine.branches.attached
    assert_empty(runtime)


def test_states_collected_in_another_thread_while_they_run(runtime: Any) -> None:
    expected = [alone(i) for i in range(4)]
    over = threading.Event()
    ring: list[Any] = []

    def collect() -> None:
        while not over.is_set() or ring:
            if ring:
                cycle: list[Any] = [ring.pop()]
                cycle.append(cycle)  # only the collector finds it
                del cycle
            gc.collect()
            over.wait(0.005)

    reaper = threading.Thread(target=collect)
    gc.freeze()  # else the collector goes through all that other tests left, and holds the interpreter's lock meanwhile
    reaper.start()
    try:
        for i in range(12):
            state = endless.run(backend=runtime)
            streamed = endless.run(backend=runtime, stream=True)
            other = bystander.run(i % 4, seed=5, backend=runtime)
            if i % 2:
                for _ in range(5):
                    runtime.engine.drive._drive(lambda: False, time.monotonic() + 0.001)
            ring += [state, streamed]
            del state, streamed
            assert said(other) == expected[i % 4]
    finally:
        over.set()
        reaper.join()
        gc.unfreeze()
    del other
    time.sleep(0.05)  # bodies on threads end
    assert_empty(runtime)


def reads_a_failure(s: Any) -> None:
    s += sgl.gen("b", max_tokens=3000, ignore_eos=True, timeout=1e-6)
    s["b"]


def reads_and_goes_on(s: Any) -> None:
    group = s.fork(2)
    group[0] += sgl.gen("b", max_tokens=3, ignore_eos=True)
    group[1] += sgl.gen("b", max_tokens=3000, ignore_eos=True, timeout=1e-6)
    assert len(group[0]["b"])
    with pytest.raises(sgl.ProgramTimeout):
        group[1]["b"]


def reads_a_cancelled_branch(s: Any) -> None:
    with s.copy() as other:
        other += sgl.gen("b", max_tokens=3)
        other.cancel()
        other["b"]


def over_budget(s: Any) -> None:
    s["a"]
    s += sgl.gen("b", max_tokens=3)
    s["b"]


@pytest.mark.parametrize("ending", [reads_a_failure, reads_and_goes_on, reads_a_cancelled_branch, over_budget])
def test_an_error_that_was_read_keeps_nothing_alive(runtime: Any, ending: Callable[[Any], None]) -> None:
    """An error's traceback has frames, and those hold the states: nothing global may hold the error."""
    seen: list[weakref.ref[Any]] = []

    @sgl.function
    def program(s: Any) -> None:
        seen.append(weakref.ref(s._line))
        s += "words " * 10 + sgl.gen("a", max_tokens=3, ignore_eos=True)
        ending(s)

    for _ in range(3):
        try:
            program.run(backend=runtime, budget={"calls": 1} if ending is over_budget else None)
        except sgl.SglError:
            assert ending is not reads_and_goes_on
    assert_empty(runtime)
    assert not any(ref() for ref in seen), "a program that is over is still there"


# -- who failed, and where

LINES: dict[str, int] = {}


def here(name: str) -> None:
    """Note the line after this call."""
    LINES[name] = sys._getframe(1).f_lineno + 1


@sgl.function
def broken_gen(s: Any, i: int = 0) -> None:
    s += f"row {i}"
    here("gen")
    s += sgl.gen("a", max_tokens=5, stop_token_ids=[10**9] if i == 1 else None)
    here("read")
    s["a"]


@sgl.function
async def broken_gen_async(s: Any, i: int = 0) -> None:
    s += f"row {i}"
    here("gen")
    s += sgl.gen("a", max_tokens=5, stop_token_ids=[10**9] if i == 1 else None)
    here("read")
    await s["a"]


@sgl.function
def broken_body(s: Any, i: int = 0) -> None:
    s += f"row {i}" + sgl.gen("a", max_tokens=5)
    if i == 1:
        here("read")
        raise LookupError("mine")


@pytest.mark.parametrize("program", [broken_gen, broken_gen_async, broken_body])
@pytest.mark.parametrize("how", ["run", "stream", "arun", "batch", "keep", "abatch"])
def test_the_traceback_has_the_programs_lines(runtime: Any, program: Any, how: str) -> None:
    rows = [(i,) for i in range(3)]
    with pytest.raises((sgl.OptionError, LookupError)) as caught:
        if how == "run":
            program.run(1, backend=runtime)
        elif how == "stream":
            _ = program.run(1, stream=True, backend=runtime).ret_value
        elif how == "arun":
            asyncio.run(program.arun(1, backend=runtime))
        elif how == "batch":
            program.run_batch(rows, backend=runtime)
        elif how == "keep":
            states = program.run_batch(rows, on_error="keep", backend=runtime)
            assert list(states.errors) == [1] and states[0]["a"] is not None and states[2].error() is None
            raise states[1].error()
        else:
            asyncio.run(program.arun_batch(rows, backend=runtime))
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert (__file__, LINES["read"]) in frames, frames
    if program is not broken_body and sys.version_info >= (3, 11):
        assert f"gen('a') at test_faults.py:{LINES['gen']}" in "".join(caught.value.__notes__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_a_failing_branch_says_which_line_and_the_parent_knows(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> Any:
        s += "p "
        group = s.fork(3)
        for i, branch in enumerate(group):
            here("gen")
            branch += f"{i}" + sgl.gen("a", max_tokens=5, stop_token_ids=[10**9] if i == 1 else None)
        group.join()
        return s["a"]

    state = program.run(backend=runtime)
    error = state.error()
    assert isinstance(error, sgl.OptionError) and state.ret_value.errors == {1: error}
    assert f"gen('a') at test_faults.py:{LINES['gen']}" in "".join(error.__notes__)
    state += "the parent goes on" + sgl.gen("z", max_tokens=3, ignore_eos=True)
    assert len(state["z"]) and len(state["a"].succeeded) == 2


@pytest.mark.parametrize("policy", ["spare", "cancel"])
@pytest.mark.parametrize("fault", ["timeout", "option", "truncated"])
def test_a_failure_stops_its_siblings_or_does_not(runtime: Any, policy: Any, fault: str) -> None:
    """At the step after the failure, KV of siblings is free ("cancel") or theirs ("spare")."""
    broken: dict[str, dict[str, Any]] = {
        "timeout": {"max_tokens": 3000, "timeout": 0.01},
        "option": {"stop_token_ids": [10**9]},
        "truncated": {"regex": "[a-z]{40}", "max_tokens": 5, "on_budget": "error"},
    }

    @sgl.function
    def program(s: Any) -> Any:
        s += "p " * 10
        group = s.fork(4, on_error=policy)
        for i, branch in enumerate(group):
            long = {"max_tokens": 200, "ignore_eos": True}
            branch += f"{i}" * 5 + sgl.gen("a", temperature=1.0, **(broken[fault] if i == 2 else long))
        return group

    state = program.run(seed=3, backend=runtime)
    group = state.ret_value
    branches = [branch._line.branch for branch in group]
    for _ in range(150):
        runtime.engine.step()
        if branches[2].error is not None:
            break
        time.sleep(0.001)
    runtime.engine.step()
    held = [branch in runtime.engine.branches.attached for branch in branches]
    assert held == ([True, True, False, True] if policy == "spare" else [False] * 4)
    if policy == "spare":
        assert [
            len(runtime.tokenizer.encode([(branch["a"], False)], first=False)) > 50
            for branch in group
            if branch is not group[2]
        ] == [True] * 3
    else:
        assert all(isinstance(group[i].error(), sgl.Cancelled) for i in (0, 1, 3))
        assert group[0].error().__cause__ is group[2].error()
    assert said(bystander.run(seed=5, backend=runtime)) == alone()
    del state, group, branches
    assert_empty(runtime)


# -- bodies that get in their own way


@pytest.mark.parametrize("native", [True, False])
def test_an_exception_inside_a_turn(runtime: Any, native: bool) -> None:
    async def body(s: Any) -> None:
        s += sgl.system("S")
        with pytest.raises(LookupError, match="mine") as caught, s.user():
            s += "half"
            here("raise")
            raise LookupError("mine")
        assert caught.value.__traceback__ is not None
        assert LINES["raise"] in [frame.lineno for frame in traceback.extract_tb(caught.value.__traceback__)]
        with s.assistant():
            s += "later" + sgl.gen("a", max_tokens=3, ignore_eos=True)

    @sgl.function
    async def coroutine(s: Any) -> None:
        await body(s)

    @sgl.function
    def plain(s: Any) -> None:
        with pytest.raises(StopIteration):
            body(s).send(None)

    state = (coroutine if native else plain).run(backend=runtime)
    assert [(m["role"], m["content"][:5]) for m in state.messages()] == [
        ("system", "S"),
        ("user", "half"),
        ("assistant", "later"),
    ]
    assert state.text().startswith(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhalf<|im_end|>\n<|im_start|>assistant\nlater"
    )

    @sgl.function
    def raises(s: Any) -> None:
        with s.user():
            s += "half" + sgl.gen("a", max_tokens=3)
            here("raise")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        raises.run(backend=runtime)
    assert (__file__, LINES["raise"]) in [(f.filename, f.lineno) for f in traceback.extract_tb(caught.tb)]
    del state, caught
    assert_empty(runtime)


def test_reading_the_scope_one_writes_is_an_error_in_async_too(runtime: Any) -> None:
    @sgl.function
    async def program(s: Any) -> str:
        with s.var_scope("v"):
            s += "A" + sgl.gen("x", max_tokens=3, ignore_eos=True)
            with pytest.raises(sgl.VariableError, match="'v' is the scope that is being written"):
                await s["v"]
            with pytest.raises(sgl.VariableError, match="'v' is the scope that is being written"):
                async for _ in s.text_async_iter("v"):
                    pass
        return str(await s["v"])

    assert program.run(backend=runtime).ret_value.startswith("A")


@pytest.mark.parametrize("what", ["unknown name", "return value", "text", "nested"])
@pytest.mark.parametrize("native", [True, False])
def test_a_body_that_waits_for_its_own_end_is_told(runtime: Any, what: str, native: bool) -> None:
    """Through what `run(stream=True)` returned, a body can wait for more of itself; that is an error and no hang."""
    given: dict[str, Any] = {}
    go = threading.Event()

    def look() -> Any:
        state = given["state"]
        return {"return value": lambda: state.ret_value, "text": state.text}.get(what, lambda: state["never"])()

    @sgl.function
    def within(s: Any) -> Any:
        return look()

    @sgl.function
    async def within_async(s: Any) -> Any:
        return await look()

    @sgl.function
    def plain(s: Any) -> Any:
        go.wait(10)
        return within.run(backend=runtime).ret_value if what == "nested" else look()

    @sgl.function
    async def coroutine(s: Any) -> Any:
        while "state" not in given:
            await asyncio.sleep(0.001)
        return (await within_async.arun(backend=runtime)).ret_value if what == "nested" else await look()

    async def main() -> None:
        given["state"] = state = coroutine.run(stream=True, backend=runtime)
        for _ in range(1000):
            if state._body.ended:
                return
            await asyncio.sleep(0.002)

    if native:
        asyncio.run(main())
    else:
        given["state"] = plain.run(stream=True, backend=runtime)
        go.set()
        for _ in range(1000):
            if given["state"]._body.ended:
                break
            time.sleep(0.002)
    body = given.pop("state")._body  # (a report would print the state, and wait)
    assert body.ended, "the body waits for itself"
    if native:  # the loop ended it
        assert not isinstance(body.error, asyncio.CancelledError), "the body waits for itself"
    assert isinstance(body.error, sgl.SglError)


def test_a_body_that_blocks_is_in_nobodys_way() -> None:
    """Its KV is given up for others, and found again afterwards."""
    runtime = sgl.Runtime.toy(max_total_tokens=200)
    inside, leave = threading.Event(), threading.Event()

    @sgl.function
    def blocks(s: Any) -> None:
        s += "blocked for minutes " * 5 + sgl.gen("a", max_tokens=10, temperature=1.0, ignore_eos=True)
        s["a"]
        inside.set()
        leave.wait(30)
        s += "and goes on" + sgl.gen("b", max_tokens=10, temperature=1.0, ignore_eos=True)

    state = blocks.run(stream=True, seed=7, backend=runtime)
    assert inside.wait(10)
    states = bystander.run_batch([(i,) for i in range(20)], seed=5, backend=runtime)
    assert [said(each) for each in states] == [alone(i) for i in range(20)]
    leave.set()
    threading.Timer(0, leave.set).start()
    blocked_alone = blocks.run(seed=7, backend=sgl.Runtime.toy())
    assert state.text() == blocked_alone.text()
    del state, states
    assert_empty(runtime)


@pytest.mark.parametrize("native", [True, False])
def test_bad_rows_and_failing_rows_spare_the_others_exactly(runtime: Any, native: bool) -> None:
    """Wrong shapes, a body that raises, a refused option, a gen out of time, and rows that end with an error."""

    def body(s: Any, i: int) -> None:
        s += f"Row {i}: " + sgl.gen("a", max_tokens=12, temperature=1.0)
        if i % 7 == 3:
            raise LookupError(f"mine {i}")
        if i % 7 == 4:
            s += sgl.gen("b", max_tokens=3000, ignore_eos=True, timeout=0.02)
        elif i % 7 == 5:
            s += sgl.gen("b", stop_token_ids=[10**9])
        else:
            s += sgl.gen("b", max_tokens=5, regex="[a-z]{2,4}", temperature=1.0)

    async def abody(s: Any, i: int) -> None:
        body(s, i)
        if i % 7 not in (4, 5):
            await s["b"]

    program = sgl.function(abody if native else body)

    def rows() -> Iterator[Any]:
        for i in range(28):
            yield {"j": i} if i % 7 == 2 else 7 if i % 7 == 6 else (i,)
        raise OSError("the file ended")

    states = program.run_batch(rows(), seed=9, on_error="keep", backend=runtime)
    kinds = [None, None, sgl.OptionError, LookupError, sgl.ProgramTimeout, sgl.OptionError, sgl.OptionError]
    found = [None if state.error() is None else type(state.error()) for state in states]
    assert found == [*kinds * 4, OSError]
    fresh = sgl.Runtime.toy()
    for i, state in enumerate(states[:-1]):
        if i % 7 < 2:
            assert state.text() == program.run(i, seed=9, backend=fresh).text()
    del states, state
    assert_empty(runtime)


def test_whoever_waits_to_be_let_in_is_woken_by_the_last_who_leaves() -> None:
    """The one that drives ends with a call of a program that stays admitted; nobody else would look at the queue."""
    runtime = sgl.Runtime.toy(max_total_tokens=100)
    forward = runtime.engine.model.forward

    def slow(batch: Any) -> Any:
        time.sleep(0.03)
        return forward(batch)

    runtime.engine.model.forward = slow
    done = threading.Event()

    @sgl.function
    def stays(s: Any) -> None:
        s += "stays " + sgl.gen("a", max_tokens=15, ignore_eos=True) + sgl.select("b", ["yes", "no"])
        s["b"]
        done.wait(20)

    @sgl.function
    def comes(s: Any) -> None:
        s += "comes " + sgl.gen("a", max_tokens=60, ignore_eos=True)

    def come() -> None:
        while runtime.engine.steps < 5:
            time.sleep(0.001)
        time.sleep(0.005)  # in the middle of a forward
        assert comes.run(backend=runtime).error() is None
        done.set()

    thread = threading.Thread(target=come, daemon=True)
    thread.start()
    stays.run(backend=runtime)
    assert done.is_set(), "it slept for as long as nobody else came"
    thread.join()
    assert_empty(runtime)
