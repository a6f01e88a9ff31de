"""Whatever fails, ends or looks on while a step is in flight (`test_overlap.py`): nothing is lost, nothing hangs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from sgl.backend.runtime.grammar.compile import Prepared
from sgl.backend.runtime.job.select import SelectJob
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import BackendError

from ..naive import impatient, rush
from .lagging import lagging
from .overlapping import (
    CHOICES,
    ENDING,
    METHODS,
    MIXED,
    NARROW,
    PATTERNS,
    SAMPLINGS,
    Run,
    executor_of,
    expected,
    look,
    outcome,
    start,
    step_to_the_end,
    whole,
)

CONTESTED: list[Any] = [("grammar", PATTERNS[1], 1.0), ("select", CHOICES[2], METHODS[1]), ("gen", SAMPLINGS[1], 1)]
SCORED: list[Any] = [("gen", SAMPLINGS[7], 1), ("select", CHOICES[2], METHODS[1]), ("select", CHOICES[1], METHODS[1])]


def toy(favour: dict[int, float]) -> Runtime:
    return Runtime.toy(favour=favour)


# -- (b) whatever fails while a step is in flight
def survivors(runtime: Runtime, runs: list[Run], kinds: tuple[str, ...]) -> int:
    """How many calls ended well; those are right, and the others failed with what was injected."""
    well = 0
    for run, same in zip(runs, expected(MIXED)):
        for mine, theirs in zip(run.everything(), same):
            for handle, other in zip(mine.handles, theirs.handles):
                got = outcome(handle)
                if got == outcome(other):
                    well += 1
                else:
                    assert handle.error is not None and type(handle.error).__name__ in kinds, got
    return well


@pytest.mark.parametrize("config", [{}, NARROW])
@pytest.mark.parametrize("kind", [ValueError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("part", ["launch", "ask", "answers"])
def test_a_device_that_fails(part: str, kind: type[BaseException], config: dict[str, int]) -> None:
    """Its branches fail, the others go on; an interruption costs nobody anything."""
    for nth in (1, 2, 3, 4, 6, 9, 13):
        runtime = lagging(ENDING, **config)
        rush(runtime), impatient(runtime)
        runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(MIXED)]
        failing(runtime, part, nth, kind)
        while True:
            try:
                step_to_the_end(runtime)
                break
            except KeyboardInterrupt:
                if runtime.engine.flying is None:
                    executor_of(runtime).abandon()
                look(runtime)
        well = survivors(runtime, runs, ("BackendError", "MemoryError"))
        assert runtime.engine.closed is None, runtime.engine.closed
        assert kind is not KeyboardInterrupt or well == sum(len(r.handles) for run in runs for r in run.everything())
        whole(runtime)


def interrupted(runtime: Runtime) -> int:
    """Step to the end through all interruptions; how many there were."""
    for times in range(20):
        try:
            step_to_the_end(runtime)
            return times
        except KeyboardInterrupt:
            if runtime.engine.flying is None:
                getattr(runtime.engine.executor, "abandon", list)()
            look(runtime)
    raise AssertionError("interrupted again and again")


@pytest.mark.parametrize("make", [lagging, toy], ids=["lagging", "toy"])
@pytest.mark.parametrize("nth", [1, 2, 3, 5])
@pytest.mark.parametrize("where", ["choices", "check"])
def test_an_interruption_within_a_job_is_its_own(
    make: Any, nth: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes while a choice method decides, or while a text is checked: all others are finished, and right."""
    calls: list[int] = []

    def interrupts(method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                raise KeyboardInterrupt
            return method(*args, **options)

        return call

    batch = [[("text", f"{i} the "), *CONTESTED] for i in range(6)]
    if where == "check":
        monkeypatch.setattr(Prepared, "check", interrupts(Prepared.check))
    else:
        monkeypatch.setattr(SelectJob, "_decide", interrupts(SelectJob._decide))
    runtime = make(ENDING)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    assert interrupted(runtime) == 1
    failed = [run for run in runs if run.branch.error is not None]
    assert len(failed) == 1 and isinstance(failed[0].branch.error, KeyboardInterrupt)
    for run, same in zip(runs, expected(batch)):
        if run not in failed:
            assert list(map(outcome, run.handles)) == list(map(outcome, same[0].handles))
    runtime.check()


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("part", ["submit", "result"])
def test_an_interruption_while_masks_are_made_costs_nothing(part: str, nth: int) -> None:
    runtime = lagging(ENDING)
    rush(runtime), impatient(runtime)
    submit, calls = runtime.engine._masks.submit, []

    def trip(now: str) -> None:
        calls.append(now)
        if calls.count(part) == nth and now == part:
            raise KeyboardInterrupt

    def submitted(*args: Any) -> Any:
        trip("submit")
        future = submit(*args)
        result = future.result
        future.result = lambda: (trip("result"), result())
        return future

    runtime.engine._masks.submit = submitted  # type: ignore[method-assign]
    batch = [[("text", f"{i} the "), *(CONTESTED if i % 2 else SCORED)] for i in range(6)]
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(batch)]
    assert interrupted(runtime) == (calls.count(part) >= nth)
    for run, same in zip(runs, expected(batch)):
        assert list(map(outcome, run.handles)) == list(map(outcome, same[0].handles))
    whole(runtime)


def failing(runtime: Runtime, part: str, nth: int, kind: type[BaseException]) -> None:
    def trip(now: str, n: int) -> None:
        if (now, n) == (part, nth):
            raise kind("the device is gone")

    runtime.engine.executor.trip = trip  # type: ignore[attr-defined]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 6, 9, 13])
@pytest.mark.parametrize("row", [0, -1])
def test_answers_that_are_errors_are_their_rows_alone(nth: int, row: int) -> None:
    runtime = lagging(ENDING)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(MIXED)]

    def spoil(n: int, answers: list[Any]) -> None:
        if n == nth and answers:
            answers[row] = ArithmeticError("not a number")

    runtime.engine.executor.spoil = spoil  # type: ignore[attr-defined]
    step_to_the_end(runtime)
    failed = {id(h.error) for run in runs for r in run.everything() for h in r.handles if h.error is not None}
    assert len(failed) <= 1
    survivors(runtime, runs, ("ArithmeticError",))
    whole(runtime)


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_job_that_cannot_say_what_it_asks_fails_alone(nth: int) -> None:
    runtime = lagging(ENDING)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(MIXED)]
    for _ in range(nth):
        runtime.engine.step()
        look(runtime)
    victim = runtime.engine.branches.running[0]

    def asks(*vertices: Any) -> Any:
        raise LookupError("no mask")

    victim.job.ask = victim.job.ask_chain = asks  # type: ignore[union-attr, method-assign]
    step_to_the_end(runtime)
    assert isinstance(victim.error, LookupError)
    survivors(runtime, runs, ("LookupError",))
    whole(runtime)


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("how", ["cancel", "close", "timeout", "listener"])
def test_ends_that_come_while_a_step_is_in_flight(how: str, steps: int) -> None:
    runtime = lagging(ENDING)
    engine = runtime.engine
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(MIXED)]
    for _ in range(steps):
        engine.step()
    for run in runs[::2]:
        for each in run.everything():
            if how == "cancel":
                each.branch.cancel()
            elif how == "close":
                each.branch.close()
            elif how == "timeout" and each.branch.job is not None:
                each.branch.job.timeout = -1.0
                engine.branches.timed[each.branch] = None
            elif how == "listener":  # in the middle of collecting: another's end is theirs
                for handle in runs[1].handles:
                    handle.listen(each.branch.cancel)
        look(runtime)
    step_to_the_end(runtime)
    survivors(runtime, runs, ("Cancelled", "ProgramTimeout"))
    for run, same in zip(runs[1::2], expected(MIXED)[1::2]):
        for mine, theirs in zip(run.everything(), same):
            assert list(map(outcome, mine.handles)) == list(map(outcome, theirs.handles))
    whole(runtime)


# -- (e) the runtime's own calls with a step in flight
def flying() -> tuple[Runtime, list[Run]]:
    runtime = lagging(ENDING)
    runs = [start(runtime.open(seed=i % 2), program) for i, program in enumerate(MIXED)]
    for _ in range(4):
        runtime.engine.step()
    assert runtime.engine.flying is not None and executor_of(runtime).ran_ahead
    return runtime, runs


@pytest.mark.parametrize("call", ["flush_cache", "get_server_info", "check", "draw", "cache_prefix", "generate"])
def test_calls_while_a_step_is_in_flight(call: str) -> None:
    runtime, runs = flying()
    given_to = {"cache_prefix": ("A long common beginning, and more",), "generate": ("the", {"max_new_tokens": 5})}
    for _ in range(12):
        found = getattr(runtime, call)(*given_to.get(call, ()))
        assert found is None or found
        look(runtime)
        runtime.engine.step()
    step_to_the_end(runtime)
    total = sum(len(r.handles) for run in runs for r in run.everything())
    assert survivors(runtime, runs, ()) == total
    runtime.flush_cache()
    whole(runtime)


@pytest.mark.parametrize("broken", [False, True])
def test_a_shutdown_while_a_step_is_in_flight(broken: bool) -> None:
    runtime, runs = flying()
    model = weakref.ref(runtime.engine.model)
    if broken:
        runtime.engine.scheduler.plan = None  # type: ignore[method-assign, assignment]
        with pytest.raises(BackendError, match="internal error"):
            runtime.engine.step()
    else:
        runtime.shutdown()
    for run in runs:
        for each in run.everything():
            assert all(handle.done and (handle.error or handle.value()) for handle in each.handles)
    runtime.check()
    assert runtime.get_server_info()["attached"] == 0
    assert runtime.engine.step() is False or runtime.engine.step() is False
    with pytest.raises(BackendError):
        runtime.open()
    gc.collect()
    assert model() is None, "the model's memory is not free"
