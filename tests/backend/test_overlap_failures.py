"""Whatever fails, ends or looks on while a step is in flight (`test_overlap.py`): nothing is lost, nothing hangs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import BackendError

from .lagging import lagging
from .naive import impatient, rush
from .overlapping import (
    ENDING,
    MIXED,
    NARROW,
    Run,
    executor_of,
    expected,
    look,
    outcome,
    start,
    step_to_the_end,
    whole,
)


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
    victim = runtime.engine.active[0]

    def asks(branch: Any, span: Any) -> Any:
        raise LookupError("no mask")

    victim.job.asks = asks  # type: ignore[union-attr, method-assign]
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
                engine._timed[each.branch] = None
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
