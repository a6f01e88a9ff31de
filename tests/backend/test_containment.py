"""What user code and engines raise is theirs: no other call or program fails with it, and no process hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

import sgl
from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime.job import rule
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized
from sgl.lang.errors import BackendError, ConstraintError
from sgl.lang.expr import Sampling

RAISED = [ValueError("a bug"), SystemExit(3), KeyboardInterrupt()]
SHORT = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime.toy()


def works(runtime: Runtime) -> None:
    branch = runtime.open(seed=1)
    branch.append("and it goes on: ")
    handle = branch.gen(GenRequest(SHORT))
    runtime.wait(handle)
    assert len(handle.value()[0].token_ids) == 4
    branch.close()
    runtime.check()


def test_ops_may_be_added_while_the_queue_is_looked_at(runtime: Runtime) -> None:
    branch, stop = runtime.open(), threading.Event()

    def add() -> None:
        while not stop.is_set():
            branch.append("x")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=add)
    thread.start()
    try:
        for _ in range(300):
            branch.may_generate()
            branch.is_all()
            if len(branch.ops) > 20_000:
                branch.ops.clear()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("deep", [985, 1500])
def test_choices_that_begin_alike_as_deep_as_they_like(runtime: Runtime, deep: int) -> None:
    branch = runtime.open(seed=1)
    branch.append("pick: ")
    handle = branch.score(ScoreRequest(tuple("x" * i + "q" for i in range(deep)), token_length_normalized))
    runtime.wait(handle)
    assert handle.value().text.endswith("q")
    works(runtime)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_listener_of_steps_that_raises_is_told_no_more(runtime: Runtime, error: BaseException) -> None:
    told: list[Any] = []
    kept: list[Any] = []

    def raises(record: Any) -> None:
        told.append(record)
        raise error

    runtime.watch(raises)
    end = runtime.watch(kept.append)
    works(runtime)
    end()
    assert len(told) == 1 and len(kept) == 4


@pytest.mark.parametrize("error", RAISED[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("together", [True, False])
def test_an_engine_that_fails_at_a_mask_fails_that_call(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: BaseException, together: bool
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    branch, other = runtime.open(seed=1), runtime.open(seed=2)
    for each in (branch, other):
        each.append("a text: ")
    if together:
        monkeypatch.setattr(rule, "masks", fails)
    else:
        monkeypatch.setattr(rule.Rule, "_with_ends", fails)
    handle = branch.gen(GenRequest(SHORT, constraint=sgl.regex("[ab]{2,9}")))
    free = other.gen(GenRequest(SHORT))
    runtime.wait(handle)
    runtime.wait(free)
    monkeypatch.undo()
    with pytest.raises(type(error) if isinstance(error, Exception) else ConstraintError):
        handle.value()
    assert len(free.value()[0].token_ids) == 4
    works(runtime)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_choice_method_that_raises_ends_no_driver(runtime: Runtime, error: BaseException) -> None:
    """Coroutines wait for a thread that drives: it goes on after whatever user code raised in a step."""

    def method(**_: Any) -> Any:
        raise error

    method.requires_unconditional_logprobs = False  # type: ignore[attr-defined]

    async def main() -> None:
        bad, good = runtime.open(seed=1), runtime.open(seed=2)
        for each in (bad, good):
            each.append("a text: ")
        chosen = bad.score(ScoreRequest(("a", "b"), method))  # type: ignore[arg-type]
        written = good.gen(GenRequest(SHORT))
        await asyncio.wait_for(runtime.wait_async(chosen), 20)
        await asyncio.wait_for(runtime.wait_async(written), 20)
        assert chosen.error is error and len(written.value()[0].token_ids) == 4

    asyncio.run(main())
    works(runtime)


FORKED = """
import os, sys
import sgl

@sgl.function
def program(s):
    s += "a text: " + sgl.gen("a", max_tokens=4, temperature=0)

runtime = sgl.Runtime.toy()
program.run(backend=runtime)["a"]
child = os.fork()
if not child:
    code = 0
    for attempt in (lambda: program.run(backend=runtime)["a"], lambda: runtime.generate("x"), sgl.Runtime.toy):
        try:
            attempt()
        except sgl.BackendError as error:
            code += "forked" in str(error) and "spawn" in str(error)
    os._exit(code)
_, status = os.waitpid(child, 0)
program.run(backend=runtime)["a"]
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_is_refused_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=120, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr


ENDING = """
import asyncio, sys
import sgl

@sgl.function
async def story(s):
    s += "Once upon a time" + sgl.gen("a", max_tokens=2000, ignore_eos=True)
    await s["a"]

async def main():
    try:
        await asyncio.wait_for(story.arun(backend=runtime), 1.0)
    except asyncio.TimeoutError:
        print("late")

runtime = sgl.Runtime()
asyncio.run(main())
sys.exit(5)
"""


@pytest.mark.model
def test_a_script_ends_with_its_own_exit_code_while_a_step_runs() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", ENDING], timeout=200, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (5, "late\n"), done.stderr


def test_the_end_of_a_process_lets_no_step_begin(runtime: Runtime) -> None:
    branch = runtime.open(seed=1)
    branch.append("a text: ")
    handle = branch.gen(GenRequest(SHORT))
    runtime.engine.drive.end()
    with pytest.raises(BackendError, match="the process is ending"):
        runtime.wait(handle)


def test_a_prefix_that_threads_cache_at_once_is_pinned_once(runtime: Runtime) -> None:
    text, start = "A long text that many programs begin with. " * 20, threading.Barrier(4)
    lengths: list[int] = []

    def cache() -> None:
        start.wait()
        lengths.append(runtime.cache_prefix(text))

    threads = [threading.Thread(target=cache) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(lengths)) == 1
    runtime.flush_cache()
    runtime.flush_cache()
    info = runtime.get_server_info()
    assert info["free_tokens"] == info["max_total_tokens"] and not info["attached"]


@pytest.mark.parametrize("error", RAISED[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["forward", "gate"])
def test_a_model_or_a_gate_that_raises_ends_no_driver(runtime: Runtime, error: BaseException, where: str) -> None:
    def fails(*_: Any) -> Any:
        raise error

    async def main() -> None:
        bad = runtime.open(seed=1)
        bad.append("a text: ")
        forward = runtime.engine.model.forward
        if where == "forward":
            runtime.engine.model.forward = fails  # type: ignore[method-assign]
        handle = bad.gen(GenRequest(SHORT, gate=fails if where == "gate" else None))
        await asyncio.wait_for(runtime.wait_async(handle), 20)
        runtime.engine.model.forward = forward  # type: ignore[method-assign]
        assert handle.error is error or handle.error.__cause__ is error  # type: ignore[union-attr]

    asyncio.run(main())
    works(runtime)


def test_a_body_that_recurses_to_the_limit_harms_no_one_else(runtime: Runtime) -> None:
    """It reads its value where no step would fit on its stack."""

    def below(state: Any, calls: int) -> str:
        return below(state, calls - 1) if calls else state["a"]

    @sgl.function
    def program(s: Any, calls: int) -> None:
        s += "x" + sgl.gen("a", regex="[ab]{4}", max_tokens=4)
        s["read"] = below(s, calls)

    ended = []
    for calls in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit(), 7):
        try:
            ended.append(len(program.run(calls, backend=runtime)["read"]))
        except RecursionError as error:
            ended.append(error)
    assert 4 in ended and isinstance(ended[-1], RecursionError)
    works(runtime)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


class Unspoken(type(sgl.token_length_normalized)):  # type: ignore[misc]
    def __call__(self, **given: Any) -> Any:
        raise Unspeakable


def test_an_error_whose_message_raises_is_its_own_programs() -> None:
    runtime = sgl.Runtime.toy()

    @sgl.function
    async def program(s: Any) -> None:
        s += "x" + sgl.select("a", ["yes", "no"], choices_method=Unspoken())

    for state in program.run_batch([{}] * 3, on_error="keep", backend=runtime):
        with pytest.raises(Unspeakable):
            state["a"]

    async def alone() -> None:
        (await program.arun(backend=runtime))["a"]

    with pytest.raises(Unspeakable):
        asyncio.run(alone())
    assert runtime.generate("x", {"max_new_tokens": 3})["text"]


FORKED_BUSY = """
import os, sys, threading, time
import sgl
from sgl.backend.runtime import drive
runtime = sgl.Runtime.toy()
@sgl.function
def program(s):
    s += "x" + sgl.gen("a", max_tokens=4000, n=200, ignore_eos=True)
state = program.run(backend=runtime)
threading.Thread(target=lambda: state["a"], daemon=True).start()
time.sleep(0.3)
drive.LAST_STEP_SECONDS = 1000  # an end that waits for the parent's step would not come
child = os.fork()
if child == 0:
    sys.exit(4)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(code, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_ends_at_once_while_the_parent_computes() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED_BUSY], timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
