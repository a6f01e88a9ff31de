"""Bad input and faults: a typed error that names the thing, raised where the value is read; the rest unharmed."""

from __future__ import annotations

import _thread
import gc
import threading
import time
import weakref
from typing import Any

import pytest

import sgl
from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized
from sgl.lang.errors import (
    BackendError,
    Cancelled,
    ConstraintError,
    ContextOverflow,
    NotYet,
    OptionError,
    OutOfMemory,
    ProgramTimeout,
)
from sgl.lang.expr import Sampling

from .naive import rush

LONG = Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)
SHORT = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime.toy(context_length=500, max_total_tokens=2000)


def whole(runtime: Runtime) -> None:
    """Everything else still works, and no slot is lost."""
    branch = runtime.open(seed=0)
    branch.append("still here")
    handle = branch.gen(GenRequest(SHORT))
    assert runtime.wait(handle, timeout=30) and len(handle.value()[0].token_ids) == 4
    branch.close()
    runtime.check()
    invariants.idle_and_whole(runtime.engine)


def fails(runtime: Runtime, handle, kind: type[BaseException], match: str) -> None:  # type: ignore[no-untyped-def]
    assert runtime.wait(handle, timeout=30)
    with pytest.raises(kind, match=match):
        handle.value()


def test_a_prompt_longer_than_the_context(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("x" * 600)
    handle, later = branch.gen(GenRequest(SHORT, where="gen('a') at prog.py:3")), branch.gen(GenRequest(SHORT))
    fails(runtime, handle, ContextOverflow, r"gen\('a'\) at prog.py:3: .* 600 tokens .* 500")
    fails(runtime, later, ContextOverflow, "prog.py:3")  # what follows fails with the same error
    assert handle.error is later.error
    whole(runtime)


def test_generation_ends_at_the_context(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("x" * 450)
    handle = branch.gen(GenRequest(LONG))
    assert runtime.wait(handle, timeout=30)
    (result,) = handle.value()
    assert len(result.token_ids) == 50 and result.finish_reason["type"] == "length"
    branch.append("more")
    fails(runtime, branch.gen(GenRequest(SHORT)), ContextOverflow, "context")


def test_a_pool_too_small_for_one_request() -> None:
    runtime = Runtime.toy(max_total_tokens=50)
    small, big = runtime.open(), runtime.open()
    small.append("ok")
    big.append("y" * 80)
    good = small.gen(GenRequest(SHORT))
    fails(runtime, big.gen(GenRequest(SHORT, where="gen('big')")), OutOfMemory, r"gen\('big'\).*80 tokens.*has 50")
    assert runtime.wait(good) and good.value()
    growing = runtime.open()
    growing.append("z")
    fails(runtime, growing.gen(GenRequest(LONG)), OutOfMemory, "max_total_tokens")  # only while it grows
    big.close(), growing.close(), small.close()
    whole(runtime)


def test_a_forward_that_raises_fails_its_branches_only(runtime: Runtime) -> None:
    first = runtime.open()
    first.append("a program that is in the step")
    handle = first.gen(GenRequest(LONG))
    runtime.engine.step()
    real, runtime.engine.model.forward = runtime.engine.model.forward, lambda batch: 1 / 0
    runtime.engine.step()
    runtime.engine.model.forward = real
    fails(runtime, handle, BackendError, "forward failed: ZeroDivisionError")
    assert isinstance(handle.error.__cause__, ZeroDivisionError)
    whole(runtime)


def test_an_interrupted_forward_did_not_happen(runtime: Runtime) -> None:
    branch = runtime.open(seed=1)
    branch.append("a prompt of some length")
    handle = branch.gen(GenRequest(LONG))
    for _ in range(3):
        runtime.engine.step()
    real = runtime.engine.model.forward

    def interrupted(batch):  # type: ignore[no-untyped-def]
        raise KeyboardInterrupt

    runtime.engine.model.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        runtime.engine.step()
    runtime.engine.model.forward = real
    runtime.check()
    assert runtime.wait(handle, timeout=30)
    other = runtime.open(seed=1)
    other.append("a prompt of some length")
    again = other.gen(GenRequest(LONG))
    runtime.wait(again)
    assert again.value()[0].text == handle.value()[0].text


def test_ctrl_c_during_a_wait_leaves_the_runtime_usable(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("long work")
    handle = branch.gen(GenRequest(LONG))
    real = runtime.engine.model.forward

    def slow(batch):  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        return real(batch)

    runtime.engine.model.forward = slow
    threading.Timer(0.15, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        runtime.wait(handle)
    assert not handle.done
    runtime.engine.model.forward = real
    runtime.check()
    assert runtime.wait(handle, timeout=30) and handle.value()  # it even goes on from where it was
    branch.close()
    whole(runtime)


def test_a_choice_method_that_raises(runtime: Runtime) -> None:
    class Bad:
        requires_unconditional_logprobs = False

        def __call__(self, **_: object) -> object:
            raise LookupError("no idea")

    branch = runtime.open()
    branch.append("which")
    fails(runtime, branch.score(ScoreRequest((" a", " b"), Bad())), LookupError, "no idea")  # type: ignore[arg-type]
    branch.close()
    whole(runtime)


def test_a_choice_method_that_decides_something_else(runtime: Runtime) -> None:
    from sgl.lang.choices import ChoicesDecision

    class Other:
        requires_unconditional_logprobs = False

        def __call__(self, **_: object) -> ChoicesDecision:
            return ChoicesDecision("c")

    branch = runtime.open()
    branch.append("which")
    fails(runtime, branch.score(ScoreRequest((" a", " b"), Other())), ConstraintError, "'c', which is not one")
    branch.close()
    whole(runtime)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_cancelling_frees_at_once_and_spares_siblings(runtime: Runtime, steps: int) -> None:
    parent = runtime.open(seed=3)
    parent.append("some shared beginning of the two")
    a, b = parent.fork(2)
    doomed, kept = a.gen(GenRequest(LONG)), b.gen(GenRequest(SHORT))
    for _ in range(steps):
        runtime.engine.step()
    a.cancel()
    assert doomed.done
    fails(runtime, doomed, Cancelled, "cancelled")
    assert runtime.wait(kept, timeout=30) and kept.value()
    for branch in (parent, a, b):
        branch.close()
    whole(runtime)


def test_a_failed_parent_fails_the_children_it_never_had(runtime: Runtime) -> None:
    parent = runtime.open()
    parent.append("x" * 600)
    first = parent.gen(GenRequest(SHORT))
    children = parent.fork(2)
    handles = [child.gen(GenRequest(SHORT)) for child in children]
    for handle in (first, *handles):
        fails(runtime, handle, ContextOverflow, "600 tokens")
    assert handles[0].error is first.error
    late = children[0].fork(1)[0].gen(GenRequest(SHORT))
    fails(runtime, late, ContextOverflow, "600 tokens")
    whole(runtime)


def test_children_of_a_closed_parent_go_on(runtime: Runtime) -> None:
    parent = runtime.open()
    parent.append("a beginning ")
    first = parent.gen(GenRequest(SHORT))
    children = parent.fork(2)
    parent.close()
    handles = [child.gen(GenRequest(SHORT)) for child in children]
    for handle in (first, *handles):
        assert runtime.wait(handle, timeout=30) and handle.value()
    for child in children:
        child.close()
    del parent, children
    gc.collect()
    whole(runtime)


def test_timeouts(runtime: Runtime) -> None:
    real = runtime.engine.model.forward

    def slow(batch):  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        return real(batch)

    runtime.engine.model.forward = slow
    by_gen, by_program = runtime.open(), runtime.open(timeout=0.05)
    by_gen.append("slow")
    by_program.append("slow too")
    a = by_gen.gen(GenRequest(Sampling(max_tokens=400, ignore_eos=True, timeout=0.05), where="gen('slow')"))
    b = by_program.gen(GenRequest(LONG))
    fails(runtime, a, ProgramTimeout, r"gen\('slow'\): timeout=0.05 s")
    fails(runtime, b, ProgramTimeout, "the program's timeout=0.05 s")
    assert runtime.wait(by_program.gen(GenRequest(SHORT)), timeout=10)
    waiting = runtime.open().gen(GenRequest(LONG))
    assert runtime.wait(waiting, timeout=0.02) is False  # a wait that is given up changes nothing
    assert not waiting.done
    runtime.shutdown()
    fails(runtime, waiting, BackendError, "shut down")
    with pytest.raises(BackendError, match="shut down"):
        runtime.open()


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"max_total_token": 5}, OptionError, "did you mean 'max_total_tokens'"),
        ({"speculative_algorithm": "EAGLE"}, NotYet, "speculative_algorithm='EAGLE'"),
        ({"tp_size": 2}, NotYet, "tp_size=2"),
        ({"log_level": "loud"}, OptionError, "log_level"),
        ({"cuda_graph_max_bs": 0}, OptionError, "cuda_graph_max_bs must be a whole number of at least 1"),
        ({"attention_backend": "flash"}, OptionError, "attention_backend must be one of auto, triton"),
        ({"attention_backend": "triton", "device": "cpu"}, OptionError, "'triton' needs a GPU"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, object], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        Runtime(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "kind", "match"),
    [
        ({"max_new_token": 5}, OptionError, "max_new_token"),
        ({"temperature": -1}, OptionError, "temperature"),
        ({"top_p": 0}, OptionError, "top_p"),
        ({"stop": [""]}, OptionError, "empty string"),
        ({"stop_regex": "(["}, ConstraintError, "not a valid regular expression"),
        ({"stop_token_ids": [10**6]}, OptionError, "token 1000000"),
        ({"structural_tag": "{}"}, ConstraintError, "structural_tag"),
        ({"regex": "(a"}, ConstraintError, "regex"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, OptionError, "together"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, OptionError, "min_tokens=9"),
    ],
)
def test_generate_refuses_bad_parameters(
    runtime: Runtime, params: dict[str, object], kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match):
        runtime.generate("x", params)
    whole(runtime)


def test_generate(runtime: Runtime) -> None:
    one = runtime.generate("the thing", {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True})
    assert len(one["output_ids"]) == 6 and one["meta_info"]["completion_tokens"] == 6
    two = runtime.generate(["the thing", "another"], {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True})
    assert two[0]["text"] == one["text"] and len(two) == 2
    ids = runtime.tokenizer.encode([("the thing", False)], first=True)
    assert (
        runtime.generate(input_ids=ids, sampling_params={"max_new_tokens": 6, "temperature": 0, "ignore_eos": True})[
            "text"
        ]
        == one["text"]
    )
    streamed = "".join(
        runtime.generate("the thing", {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}, stream=True)
    )
    assert streamed == one["text"]
    samples = runtime.generate("the thing", {"max_new_tokens": 6, "n": 3, "seed": 4})
    assert len(samples) == 3
    for wrong in ({}, {"prompt": "a", "input_ids": [1]}, {"prompt": 5}, {"input_ids": [-1]}):
        with pytest.raises(OptionError):
            runtime.generate(**wrong)
    whole(runtime)


def test_prompt_logprobs_equal_those_of_the_generation(runtime: Runtime) -> None:
    """Generate with log-probabilities, then ask for the same tokens' as a prompt: the same numbers."""
    first = runtime.generate(
        "the thing",
        {"max_new_tokens": 9, "temperature": 0, "ignore_eos": True},
        return_logprob=True,
        top_logprobs_num=2,
    )
    ids = runtime.tokenizer.encode([("the thing", False)], first=True)
    again = runtime.generate(
        input_ids=ids + first["output_ids"],
        sampling_params={"max_new_tokens": 1},
        return_logprob=True,
        logprob_start_len=len(ids),
        top_logprobs_num=2,
    )
    got = again["meta_info"]["input_token_logprobs"]
    assert got == first["meta_info"]["output_token_logprobs"]
    assert again["meta_info"]["input_top_logprobs"] == first["meta_info"]["output_top_logprobs"]
    whole_prompt = runtime.generate(
        input_ids=ids, sampling_params={"max_new_tokens": 1}, return_logprob=True, logprob_start_len=0
    )["meta_info"]["input_token_logprobs"]
    assert len(whole_prompt) == len(ids) and whole_prompt[0][0] is None and whole_prompt[1][0] < 0
    whole(runtime)


def test_selecting_without_any_context(runtime: Runtime) -> None:
    branch = runtime.open()
    handle = branch.score(ScoreRequest(("yes and", "no and"), token_length_normalized))
    assert runtime.wait(handle, timeout=30)
    scores = handle.value().scores.token_logprobs
    assert scores[0][0].logprob is None and scores[0][1].logprob < 0
    branch.close()
    whole(runtime)


def test_selecting_at_temperature_samples_by_seed(runtime: Runtime) -> None:
    def pick(seed: int) -> str:
        branch = runtime.open(seed=seed)
        branch.append("which one:")
        handle = branch.score(ScoreRequest((" yes", " no", " the"), token_length_normalized, temperature=5.0))
        runtime.wait(handle)
        return handle.value().text

    picks = [pick(seed) for seed in range(30)]
    assert len(set(picks)) == 3 and picks == [pick(seed) for seed in range(30)]


def test_a_stop_that_reaches_back_over_a_preemption() -> None:
    """A preempted branch has its generated tokens in the tree; a stop found later may begin among them."""

    def texts(pool: int) -> tuple[int, list[str]]:
        runtime = Runtime.toy(max_total_tokens=pool, favour={ord("a") - ord("!"): 30.0, ord("b") - ord("!"): 30.0})
        rush(runtime)
        stops = Sampling(max_tokens=200, ignore_eos=True, stop=("abababab", "bbbaabb", "aaaabbb"))
        handles = []
        for i in range(8):
            branch = runtime.open(seed=i)
            branch.append(f"{i} " + "x" * 20)
            handles.append((branch, branch.gen(GenRequest(stops))))
        for _, handle in handles:
            assert runtime.wait(handle, timeout=60)
        runtime.check()
        return runtime.engine.scheduler.preemptions, [handle.value()[0].text for _, handle in handles]

    untouched, expected = texts(10000)
    preempted, got = texts(300)
    assert untouched == 0 and preempted > 0 and got == expected and set("".join(got)) == {"a", "b"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("pool", range(60, 110, 3))
def test_a_failed_step_after_a_preemption_in_its_plan(kind: type[BaseException], pool: int) -> None:
    """The preempted branch may match nodes that the failing step raised: nothing may keep KV beneath them."""
    runtime = Runtime.toy(max_total_tokens=pool, chunked_prefill_size=64)
    rush(runtime)
    victim = runtime.open(seed=3)
    victim.append("xabcdefgh")
    assert runtime.wait(victim.gen(GenRequest(Sampling(max_tokens=6, temperature=0.0, ignore_eos=True))))
    tokens = victim.cursor.path_tokens()
    parent, other = runtime.open(seed=1), runtime.open(seed=2)
    parent.append_tokens(tokens[:6])
    children = parent.fork(2)
    children[0].gen(GenRequest(Sampling(max_tokens=1)))
    other.append("y" * 40)
    other.gen(GenRequest(Sampling(max_tokens=1)))
    real = runtime.engine.model.forward

    def fail(batch):  # type: ignore[no-untyped-def]
        raise kind("the device is gone")

    runtime.engine.model.forward = fail
    if kind is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            runtime.engine.step()
    else:
        runtime.engine.step()
    runtime.engine.model.forward = real
    runtime.check()
    for branch in (parent, other, *children):
        branch.close()
    after = victim.gen(GenRequest(SHORT))
    assert runtime.wait(after, timeout=30)
    fresh = Runtime.toy().generate(
        input_ids=tokens, sampling_params={"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
    )
    assert after.value()[0].text == fresh["text"]
    victim.close()
    whole(runtime)


@pytest.mark.parametrize("text", ["x" * 600, "a lone surrogate \ud800 in the text"])
def test_a_fork_that_fails_fails_its_children(runtime: Runtime, text: str) -> None:
    parent = runtime.open()
    parent.append(text + " end")
    children = parent.fork(2)
    handles = [child.gen(GenRequest(SHORT)) for child in children]
    for handle in handles:
        assert runtime.wait(handle, timeout=10)
        with pytest.raises((ContextOverflow, OptionError)):
            handle.value()
    whole(runtime)


def test_children_inherit_the_programs_timeout(runtime: Runtime) -> None:
    parent = runtime.open(timeout=0.01)
    parent.append("late")
    (child,) = parent.fork(1)
    time.sleep(0.02)
    fails(runtime, child.gen(GenRequest(LONG)), ProgramTimeout, "timeout=0.01 s")


def test_nothing_can_be_added_to_a_closed_branch(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("over")
    branch.close()
    (child,) = branch.fork(1)
    for handle in (branch.gen(GenRequest(SHORT)), branch.sync(), child.gen(GenRequest(SHORT))):
        fails(runtime, handle, Cancelled, "closed")
    whole(runtime)


def test_ops_after_the_last_fork_of_a_closed_branch_are_dropped(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("x y z ")
    (child,) = branch.fork(1)
    dropped, kept = branch.gen(GenRequest(LONG)), child.gen(GenRequest(SHORT))
    branch.close()
    assert runtime.wait(kept, timeout=10) and kept.value()
    fails(runtime, dropped, Cancelled, "closed")
    child.close()
    whole(runtime)


@pytest.mark.parametrize("victim", [0, 2])
def test_samples_fail_and_end_together(runtime: Runtime, victim: int) -> None:
    branch = runtime.open(seed=1)
    branch.append("Go: ")
    handle, later = branch.gen(GenRequest(LONG, n=3)), branch.gen(GenRequest(SHORT))
    for _ in range(5):
        runtime.engine.step()
    samples = runtime.engine.branches.running[0].job.samples  # type: ignore[union-attr]
    samples.branches[victim].cancel()
    for each in (handle, later):
        fails(runtime, each, Cancelled, "cancelled")
    branch.close()
    whole(runtime)


def test_no_samples_follow_before_all_are_there(runtime: Runtime) -> None:
    branch = runtime.open(seed=1)
    branch.append("Go: ")
    some = Sampling(max_tokens=60, temperature=1.0, stop=("a", "e", "i", "s"))
    handle, later = branch.gen(GenRequest(some, n=4)), branch.gen(GenRequest(SHORT))
    while not handle.done:
        assert runtime.engine.step() and not (later.done and not handle.done)
    assert branch.usage.generated >= sum(len(r.token_ids) for r in handle.value())
    runtime.wait(later)
    branch.close()
    whole(runtime)


def test_deep_forks(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("down")
    branches = [branch]
    for _ in range(1500):
        branches.append(branches[-1].fork(1)[0])
    handle = branches[-1].gen(GenRequest(SHORT))
    assert runtime.wait(handle, timeout=60) and handle.value()
    for each in branches:
        each.close()
    whole(runtime)


def test_a_choice_method_that_uses_the_runtime(runtime: Runtime) -> None:
    class Judge:
        requires_unconditional_logprobs = False

        def __call__(self, **_: object) -> object:
            return runtime.generate("judge", {"max_new_tokens": 3})

    branch = runtime.open()
    branch.append("which")
    handle = branch.score(ScoreRequest((" a", " b"), Judge()))  # type: ignore[arg-type]
    fails(runtime, handle, BackendError, "within its own step")
    branch.close()
    whole(runtime)


def test_logits_that_are_not_numbers_fail_their_row_only(runtime: Runtime) -> None:
    good, bad = runtime.open(), runtime.open()
    good.append("fine")
    bad.append("poison")
    handles = good.gen(GenRequest(LONG)), bad.gen(GenRequest(LONG))
    real = runtime.engine.model.forward

    def poisoned(batch):  # type: ignore[no-untyped-def]
        logits = real(batch)
        logits[1, 7] = float("nan")
        return logits

    runtime.engine.step()
    runtime.engine.model.forward = poisoned
    runtime.engine.step()
    runtime.engine.model.forward = real
    fails(runtime, handles[1], BackendError, "NaN")
    assert runtime.wait(handles[0], timeout=60) and handles[0].value()
    good.close(), bad.close()
    whole(runtime)


def test_an_internal_error_hangs_nobody(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("x")
    handle = branch.gen(GenRequest(LONG))

    def broken():  # type: ignore[no-untyped-def]
        raise AssertionError("a bug")

    runtime.engine.collect = broken  # type: ignore[method-assign]
    with pytest.raises(BackendError, match=r"internal error.*a bug"):
        runtime.wait(handle, timeout=10)
    fails(runtime, handle, BackendError, "internal error")
    with pytest.raises(BackendError, match="internal error"):
        runtime.open()


def test_scoring_a_prompt_without_generating(runtime: Runtime) -> None:
    ids = runtime.tokenizer.encode([("the thing that is scored", False)], first=True)
    scored = runtime.generate(
        input_ids=ids, sampling_params={"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0
    )
    also = runtime.generate(
        input_ids=ids, sampling_params={"max_new_tokens": 1}, return_logprob=True, logprob_start_len=0
    )
    assert scored["text"] == "" and len(ids) == len(scored["meta_info"]["input_token_logprobs"])
    assert scored["meta_info"]["input_token_logprobs"] == also["meta_info"]["input_token_logprobs"]
    whole(runtime)


def test_reading_an_error_often_does_not_grow_its_traceback(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append("x" * 600)
    handle = branch.gen(GenRequest(SHORT))
    runtime.wait(handle)

    def depth() -> int:
        with pytest.raises(ContextOverflow) as caught:
            handle.value()
        return len(caught.traceback)

    assert depth() == [depth() for _ in range(20)][-1]


def test_a_stream_that_is_dropped_unread_stops(runtime: Runtime) -> None:
    stream = runtime.generate("never read", {"max_new_tokens": 400, "ignore_eos": True}, stream=True)
    del stream
    gc.collect()
    whole(runtime)
    assert not runtime.engine.branches.attached


@pytest.mark.parametrize("pool", range(16, 60))
def test_a_branch_parked_for_room_may_give_its_kv_to_the_very_path_being_planned(pool: int) -> None:
    def programs(runtime: Runtime) -> object:
        victim = runtime.open(seed=3)
        victim.append("xabcdefgh")
        handle = victim.gen(GenRequest(Sampling(max_tokens=2, temperature=0.0, ignore_eos=True)))
        runtime.wait(handle)
        parent = runtime.open(seed=1)
        parent.append_tokens(victim.cursor.path_tokens()[:6])
        (child,) = parent.fork(1)
        child.append("zzzzz" * 3)
        last = child.gen(GenRequest(SHORT))
        assert runtime.wait(last, timeout=20)
        runtime.check()
        return last.error or last.value()[0].token_ids

    got = programs(Runtime.toy(max_total_tokens=pool, chunked_prefill_size=64))
    assert isinstance(got, OutOfMemory) or got == programs(Runtime.toy())
    assert pool < 30 or not isinstance(got, OutOfMemory)


@pytest.mark.parametrize("options", [{"max_running_requests": 1}, {"max_total_tokens": 60}, {"max_total_tokens": 80}])
def test_samples_in_a_narrow_runtime(options: dict[str, int]) -> None:
    runtime = Runtime.toy(**options)
    branch = runtime.open(seed=1)
    branch.append("x" * 20)
    some = Sampling(max_tokens=12, temperature=1.0, stop=("a", "e", "i", "s"))
    handle, later = branch.gen(GenRequest(some, n=3)), branch.gen(GenRequest(SHORT))
    for each in (handle, later):
        assert runtime.wait(each, timeout=20) and each.value()
    branch.close()
    whole(runtime)


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_that_cuts_back_to_the_end_of_a_node(seed: int) -> None:
    """Parked after every token, so that all that was generated is in the tree when the stop is found."""
    runtime = Runtime.toy(favour={ord("a") - ord("!"): 30.0, ord("b") - ord("!"): 30.0})
    branch = runtime.open(seed=seed)
    branch.append("x" * 20)
    handle = branch.gen(GenRequest(Sampling(max_tokens=200, ignore_eos=True, stop=("ab", "ba"))))
    while not handle.done and runtime.engine.step():
        branch.park()
    later = branch.gen(GenRequest(SHORT))
    assert runtime.wait(later, timeout=20) and handle.value() and later.value()
    branch.close()
    whole(runtime)


def test_listeners_may_cancel_and_may_fail(runtime: Runtime) -> None:
    first, other = runtime.open(), runtime.open()
    first.append("one")
    other.append("two")
    winner, loser = first.gen(GenRequest(SHORT)), other.gen(GenRequest(LONG))
    winner.listen(lambda: other.cancel())
    winner.listen(lambda: 1 / 0)
    heard: list[bool] = []
    winner.listen(lambda: heard.append(winner.done))
    assert runtime.wait(winner, timeout=20) and winner.value() and heard[-1]
    fails(runtime, loser, Cancelled, "cancelled")
    first.close(), other.close()
    whole(runtime)


def test_finished_programs_leave_nothing_behind(runtime: Runtime) -> None:
    for _ in range(3000):
        branch = runtime.open(seed=1)
        branch.append("the same short program")
        runtime.wait(branch.gen(GenRequest(Sampling(max_tokens=1))))
        branch.close()
    runtime.check()
    assert len(runtime.engine.tree._leaves) <= 1100


def test_samples_of_a_gen_that_cannot_begin_hold_nothing(runtime: Runtime) -> None:
    """The first of several constrained samples fails at once: the others were born already."""
    branch = runtime.open()
    branch.append("a text before it: ")
    impossible = GenRequest(Sampling(max_tokens=1), 3, constraint=sgl.regex("abcdefghijkl"))
    fails(runtime, branch.gen(impossible), ConstraintError, "shortest one")
    branch.close()
    runtime.check()
    assert not runtime.engine.branches.attached


def test_an_interruption_while_a_plan_is_finished_undoes_it(runtime: Runtime) -> None:
    """A select without a step of its own ends between the plan and the launch, and its choice method is interrupted."""

    def interrupted(**_: Any) -> Any:
        raise KeyboardInterrupt

    interrupted.requires_unconditional_logprobs = False  # type: ignore[attr-defined]
    other, select = runtime.open(seed=1), runtime.open(seed=2)
    other.append("some text that is computed in the same plan, and not launched: ")
    handle = other.gen(GenRequest(Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)))
    select.score(ScoreRequest(("a", "b"), interrupted))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        for _ in range(5):
            runtime.engine.step()
    runtime.check()
    runtime.wait(handle)
    toy = Runtime.toy()
    again = toy.open(seed=1)
    again.append("some text that is computed in the same plan, and not launched: ")
    oracle = again.gen(GenRequest(Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)))
    toy.wait(oracle)
    assert handle.value()[0].token_ids == oracle.value()[0].token_ids


def test_a_generate_that_failed_is_not_kept(runtime: Runtime) -> None:
    class Witness:
        pass

    def fail() -> weakref.ref[Witness]:
        witness = Witness()
        with pytest.raises(OptionError):
            runtime.generate("a prompt", {"stop_token_ids": [10**9]})
        return weakref.ref(witness)

    kept = fail()
    gc.collect()
    assert kept() is None, "the frames of a failed call live on"
