"""What `get_server_info` counts is true at once, without another step, however a program ended."""

from __future__ import annotations

import asyncio
import time

import pytest

import sgl
from sgl import Runtime
from sgl.backend.base import GenRequest
from sgl.lang.expr import Sampling


@sgl.function
async def story(s):
    s += "Once " + sgl.gen("a", max_tokens=3000, ignore_eos=True)
    await s["a"]


def nothing_left(runtime):
    info = runtime.get_server_info()
    assert (info["running"], info["queued"], info["attached"]) == (0, 0, 0)
    assert info["free_tokens"] + info["cached_tokens"] == info["max_total_tokens"]


def begun(runtime, programs, pool_tokens=65536):
    branches = [runtime.open(seed=i) for i in range(programs)]
    for i, branch in enumerate(branches):
        branch.append(f"{i} begins here")
        branch.gen(GenRequest(Sampling(max_tokens=500, ignore_eos=True)))
    for _ in range(5):
        runtime.engine.step()
    assert runtime.get_server_info()["running"] >= 1
    return branches


@pytest.mark.parametrize("how", ["wait_for", "cancel"])
def test_a_cancelled_coroutine(how):
    runtime = Runtime.toy()

    async def main():
        task = asyncio.ensure_future(story.arun(backend=runtime))
        while not runtime.engine.steps:
            await asyncio.sleep(0.001)
        if how == "cancel":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, asyncio.TimeoutError)):
            await asyncio.wait_for(task, 0.02)

    asyncio.run(main())
    nothing_left(runtime)


@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
@pytest.mark.parametrize("pool", [65536, 100])
def test_branches_that_go(how, pool):
    """Some run, and (in the small pool) some wait for admission."""
    runtime = Runtime.toy(max_total_tokens=pool)
    branches = begun(runtime, 4)
    for branch in branches:
        if how == "drop":
            branch.closer()()  # what the finaliser of its owner calls
        else:
            getattr(branch, how)()
    nothing_left(runtime)


def test_a_deadline_that_passed():
    runtime = Runtime.toy()
    branch = runtime.open(seed=1, timeout=0.05)
    branch.append("It begins")
    handle = branch.gen(GenRequest(Sampling(max_tokens=3000, ignore_eos=True)))
    runtime.engine.step()
    assert runtime.get_server_info()["running"] == 1
    time.sleep(0.06)
    nothing_left(runtime)
    assert isinstance(handle.error, sgl.ProgramTimeout)


def test_an_abandoned_batch():
    runtime = Runtime.toy()

    @sgl.function
    def row(s, i):
        s += f"row {i}: " + sgl.gen("a", max_tokens=5 if i < 2 else 3000, ignore_eos=True)
        s["a"]

    rows = row.run_batch([(i,) for i in range(4)], backend=runtime, generator_style=True)
    next(rows)
    rows.close()
    for _ in range(200):  # bodies on threads may take a moment to end
        if not runtime.get_server_info()["running"]:
            break
        time.sleep(0.01)
    assert runtime.get_server_info()["running"] == 0


def test_an_error_and_a_pin_and_a_shutdown():
    runtime = Runtime.toy()
    length = runtime.cache_prefix("The rules are: ")
    branch = begun(runtime, 1)[0]
    bad = branch.gen(GenRequest(Sampling(max_tokens=5, stop_token_ids=(10**6,))))
    branch.cancel()
    info = runtime.get_server_info()
    assert bad.error is not None and (info["running"], info["attached"]) == (0, 1)
    assert info["max_total_tokens"] - info["free_tokens"] - info["cached_tokens"] >= length - 1  # pinned
    runtime.flush_cache()
    info = runtime.get_server_info()
    assert (info["attached"], info["free_tokens"]) == (0, info["max_total_tokens"])
    begun(runtime, 3)
    runtime.shutdown()
    nothing_left(runtime)
