"""Steps that overlap: the next is launched before the last one's answers are there, and nothing shows of it.

On a toy device (`lagging.py`), against the runtime that does one thing after the other, and against the naive oracle.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.pool import cut
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized, unconditional_likelihood_normalized
from sgl.lang.errors import BackendError, OutOfMemory
from sgl.lang.expr import Sampling

from .lagging import LaggingExecutor, lagging
from .naive import Naive, NaiveBranch, impatient, rush
from .test_invariants import programs as free_programs
from .test_invariants import start as start_both
from .test_invariants import verify

EOS = min(toy_tokenizer().eos_ids)
ENDING = {EOS: 3.0}
"""With this, about one text in ten ends at each token."""
NAIVE = Naive(favour=ENDING)
PATIENCE = 3000
"""Steps that no test needs: with more, somebody hangs."""

TEXTS = ["ab", "the ", "\n", "日本", "Answer:", "st", "A long common beginning, which many programs share; "]
SAMPLINGS = [
    Sampling(max_tokens=7, temperature=0.0),
    Sampling(max_tokens=14, temperature=1.0),
    Sampling(max_tokens=12, temperature=0.9, top_k=30, stop=("a", "th", "\n")),
    Sampling(max_tokens=12, temperature=1.3, top_p=0.9, stop=("e", "日", "st"), min_tokens=3),
    Sampling(max_tokens=12, temperature=1.0, stop_token_ids=tuple(range(0, 300, 9)), min_tokens=2),
    Sampling(max_tokens=8, temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.5, seed=11),
    Sampling(max_tokens=9, temperature=1.0, return_logprob=True, top_logprobs_num=2),
    Sampling(max_tokens=6, temperature=0.8, return_logprob=True, logprob_start_len=0, stop=("o",)),
    Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
    Sampling(max_tokens=0),
]
PATTERNS = [r"[ab]{2,5}", r"(yes|no), the (answer|stop)", r"[0-9]{3}\.", r"stop", r"(?=.*\d)[a-e0-9]{4,}"]
CHOICES = [("yes", "no"), ("a", "ab", "abc"), ("the", "th", "stop", "st", "日本")]
METHODS = [token_length_normalized, unconditional_likelihood_normalized]

text_op = st.tuples(st.just("text"), st.sampled_from(TEXTS))
gen_op = st.tuples(st.just("gen"), st.sampled_from(SAMPLINGS), st.sampled_from([1, 1, 1, 3]))
grammar_op = st.tuples(st.just("grammar"), st.sampled_from(PATTERNS), st.sampled_from([0.0, 1.0]))
select_op = st.tuples(st.just("select"), st.sampled_from(CHOICES), st.sampled_from(METHODS))


def programs(depth: int) -> st.SearchStrategy[list[Any]]:
    op: Any = st.one_of(text_op, gen_op, gen_op, grammar_op, select_op)
    if depth:
        op = st.one_of(op, op, st.tuples(st.just("fork"), st.lists(programs(depth - 1), min_size=1, max_size=3)))
    return st.lists(op, min_size=1, max_size=5)


CONFIGS = st.fixed_dictionaries(
    {
        "disable_radix_cache": st.booleans(),
        "chunked_prefill_size": st.sampled_from([1, 3, 7, 64]),
        "max_running_requests": st.sampled_from([1, 2, 64]),
        "max_total_tokens": st.sampled_from([130, 200, 500, 20000]),
    }
)


@dataclass
class Run:
    """One program on one runtime."""

    branch: Any
    handles: list[Any] = field(default_factory=list)
    children: list[Run] = field(default_factory=list)

    def everything(self) -> list[Run]:
        return [self, *(r for c in self.children for r in c.everything())]


def start(branch: Any, program: list[Any], trace: bool = False) -> Run:
    run = Run(branch)
    for op, *args in program:
        if op == "text":
            branch.append(args[0])
        elif op == "gen":
            run.handles.append(branch.gen(GenRequest(args[0], args[1], trace=trace)))
        elif op == "grammar":
            sampling = Sampling(max_tokens=20, temperature=args[1])
            run.handles.append(branch.gen(GenRequest(sampling, constraint=sgl.regex(args[0]), trace=trace)))
        elif op == "select":
            run.handles.append(branch.score(ScoreRequest(args[0], args[1], trace=trace)))
        else:
            run.children += [start(b, p, trace) for b, p in zip(branch.fork(len(args[0])), args[0])]
    return run


def outcome(handle: Any) -> Any:
    """What a caller gets, without what it cost."""
    assert handle.done, "a handle hangs"
    if handle.error is not None:
        return type(handle.error).__name__, str(handle.error)
    value = handle.value()
    if not isinstance(value, list):
        return value.index, value.text, value.scores, value.meta
    assert handle.text == value[0].text  # 7: what was streamed is the final text
    return [
        (r.text, r.token_ids, r.finish_reason, r.logprobs, r.input_logprobs, r.value, _told(r.receipt)) for r in value
    ]


def _told(receipt: Any) -> Any:
    return receipt and {key: receipt.get(key) for key in ("complete", "attempts", "steered", "mask_loss")}


def expected(batch: list[list[Any]], **config: Any) -> list[list[Run]]:
    """The programs on a runtime that knows each answer before it goes on."""
    plain = Runtime.toy(favour=ENDING, **config)
    runs = [start(plain.open(seed=i % 2), program) for i, program in enumerate(batch)]
    step_to_the_end(plain)
    return [run.everything() for run in runs]


def step_to_the_end(runtime: Runtime) -> int:
    """Steps until nothing is left to do, looking at everything after each."""
    impatient(runtime)
    for steps in range(PATIENCE):
        if not runtime.engine.step():
            return steps
        look(runtime)
    raise AssertionError("somebody hangs")


def look(runtime: Runtime) -> None:
    """The invariants with a step in flight; and every slot that counts as computed holds just that token."""
    engine = runtime.engine
    invariants.check(engine)
    if not isinstance(engine.executor, LaggingExecutor):
        return
    tokens_N, positions_N = engine.model._token, engine.model._position  # type: ignore[attr-defined]

    def holds(runs: list[Any], start: int, tokens: list[int]) -> None:
        slots = np.concatenate([np.arange(at, at + n) for at, n in runs]) if runs else np.zeros(0, dtype=np.int64)
        real = np.array([t if t >= 0 else tokens_N[s] for t, s in zip(tokens, slots)], dtype=np.int64)
        assert (tokens_N[slots] == real).all() and (positions_N[slots] == start + np.arange(len(slots))).all()

    for node in invariants._all_nodes(engine):
        assert min(node.tokens) >= 0, "a token that stands for another is in the tree"
        holds(node.runs, node.start, node.tokens[: node.computed])
    for branch in engine.attached:
        own = branch.tail[: branch.tail_computed]
        runs, _ = cut(branch.runs, len(own))
        holds(runs, branch.base, own)
        known = branch.tail[:-1] if branch.ahead else branch.tail
        assert not known or min(known) >= 0, "a token that stands for another is not the last"
        assert not branch.ahead or engine.flying is not None, "a token stands for one, and no step is in flight"


def whole(runtime: Runtime) -> None:
    """Nothing is lost, everything still works, and the device saw nothing wrong."""
    engine = runtime.engine
    for branch in list(engine.attached):
        branch.close()
    engine.land()
    engine.take_inbox()
    runtime.check()
    invariants.idle_and_whole(engine)
    assert not engine.attached and engine.executor.wrong == [] and engine.executor.flying == []  # type: ignore[attr-defined]
    again = [["text", "still "], ["gen", SAMPLINGS[1], 3], ["select", CHOICES[1], METHODS[0]]]
    run = start(runtime.open(seed=0), again)
    step_to_the_end(runtime)
    assert [outcome(h) for h in run.handles] == [outcome(h) for h in expected([again])[0][0].handles]
    run.branch.close()
    runtime.flush_cache()
    assert engine.tree.pool.available == engine.tree.pool.capacity
    assert engine.executor.wrong == []  # type: ignore[attr-defined]


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
                assert 2 * theirs.branch.length + 80 > config["max_total_tokens"]
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


# -- (b) whatever fails while a step is in flight
MIXED: list[list[Any]] = [
    [("text", "A long common beginning; "), ("gen", SAMPLINGS[1], 1), ("text", " and"), ("gen", SAMPLINGS[0], 1)],
    [("text", "A long common beginning. "), ("gen", SAMPLINGS[6], 3), ("select", CHOICES[2], METHODS[1])],
    [("text", "the "), ("fork", [[("text", "a"), ("gen", SAMPLINGS[2], 1)], [("gen", SAMPLINGS[7], 1)]])],
    [("text", "Answer:"), ("grammar", PATTERNS[1], 1.0), ("gen", SAMPLINGS[5], 1)],
    [("text", "ab"), ("gen", SAMPLINGS[3], 1), ("grammar", PATTERNS[2], 0.0), ("gen", SAMPLINGS[1], 1)],
]
NARROW: dict[str, int] = {"chunked_prefill_size": 12, "max_total_tokens": 160}


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


# -- (c) a text that ended while it ran ahead
def test_a_row_computed_in_vain_shows_in_what_was_computed_alone() -> None:
    batch: list[list[Any]] = [[("text", f"{i} the "), ("gen", SAMPLINGS[1], 1)] for i in range(24)]
    runtime = lagging(ENDING)
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


def executor_of(runtime: Runtime) -> LaggingExecutor:
    executor = runtime.engine.executor
    assert isinstance(executor, LaggingExecutor)
    return executor


def test_constrained_batches_take_no_turns() -> None:
    batch = [GRAMMAR] * 6
    plain, runtime = Runtime.toy(favour=ENDING), lagging(ENDING)
    for each in (plain, runtime):
        for i, program in enumerate(batch):
            start(each.open(seed=i), program)
        step_to_the_end(each)
    assert runtime.engine.steps == plain.engine.steps and runtime.engine.rows == plain.engine.rows
    assert executor_of(runtime).ran_ahead == 0
    whole(runtime)


def test_free_batches_go_on_in_every_step() -> None:
    plain, runtime = Runtime.toy(favour=ENDING), lagging(ENDING)
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


# -- (f) what is told of it
def test_traces_and_steps_agree() -> None:
    runtime = lagging(ENDING)
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
