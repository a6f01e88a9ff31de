"""Async programs: awaited reads, structured branches, races, and an event loop that stays free."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest

import sgl
from sgl import Runtime

from ..fake import FakeBackend


def test_reads_are_awaited():
    @sgl.function
    async def program(s):
        s += sgl.user("q") + sgl.assistant("[" + sgl.gen("a", choices=["x", "y"]) + sgl.gen("b", max_tokens=3) + "]")
        assert await s["a"] == "x" and await s.get_var("a") == "x"
        assert await s["a"] == "x", "a read can be awaited again"
        read = s["b"]
        assert await read == await read
        assert (await s.get_meta_info("b"))["completion_tokens"] == len("beta")
        assert (await s.text()).endswith("[xbeta]<|im_end|>\n")
        assert (await s.messages())[-1] == {"role": "assistant", "content": "[xbeta]"}
        assert await s.error() is None and await s.sync() is None
        return await s.value("b")

    state = program.run(backend=FakeBackend("beta"))
    assert state.ret_value == "beta" and state["a"] == "x", "outside, and when it is over, reads are values"


@pytest.mark.parametrize(
    "use",
    [
        lambda read: read == "x",
        lambda read: read != "x",
        bool,
        str,
        len,
        list,
        lambda read: f"{read}",
        lambda read: "x" in read,
        lambda read: read + "x",
        lambda read: "x" + read,
        lambda read: read[0],
        lambda read: read.strip(),
        lambda read: read % 2,
        int,
    ],
)
def test_a_read_that_is_not_awaited_is_an_error_and_never_a_wrong_value(use):
    @sgl.function
    async def program(s):
        s += sgl.gen("a")
        await s["a"]
        with pytest.raises(sgl.VariableError, match=r"write `await s\['a'\]`"):
            use(s["a"])
        assert "await it" in repr(s["a"])

    program.run(backend=FakeBackend())


def test_an_unknown_name_and_a_failed_gen_raise_at_the_await():
    @sgl.function
    async def program(s):
        s += sgl.gen("a")
        with pytest.raises(sgl.VariableError, match="no variable 'b'"):
            await s["b"]
        with pytest.raises(ValueError, match="boom"):
            await s["a"]
        assert isinstance(await s.error(), ValueError)

    program.run(backend=FakeBackend([ValueError("boom")]))


def test_what_would_block_the_loop_says_what_to_use():
    @sgl.function
    async def program(s):
        group = s.fork(2)
        group += sgl.gen("a")
        with pytest.raises(sgl.OptionError, match=r"await group.ajoin"):
            group.join("concate_and_append")
        await group.ajoin("concate_and_append")
        with pytest.raises(sgl.OptionError, match="async for"):
            next(s.text_iter())
        return await s.text()

    assert program.run(backend=FakeBackend("z")).ret_value == "zz"


def test_forks_in_a_block_are_joined_or_cancelled():
    @sgl.function
    async def program(s, fails):
        s += "p "
        try:
            async with s.fork(3) as group:
                for i, branch in enumerate(group):
                    branch += f"{i}:" + sgl.gen("a", max_tokens=4, ignore_eos=True)
                if fails:
                    raise LookupError("mine")
        except LookupError:
            return [type(branch._line.branch.error) for branch in group]
        return await s["a"]

    runtime = Runtime.toy()
    assert len(program.run(fails=False, backend=runtime).ret_value) == 3
    assert program.run(fails=True, backend=runtime).ret_value == [sgl.Cancelled] * 3
    runtime.check()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup")
def test_task_groups():
    async def work(branch, i):
        branch += f"{i}:" + sgl.gen("a", max_tokens=4)
        if i == 1 and await branch["a"] is not None:
            raise LookupError("one")
        return await branch["a"]

    @sgl.function
    async def program(s, n):
        async with s.fork(n) as group, asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(work(branch, i)) for i, branch in enumerate(group)]
        return [task.result() for task in found]

    assert len(program.run(n=1, backend=Runtime.toy()).ret_value) == 1
    runtime = Runtime.toy()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        program.run(n=3, backend=runtime)
    assert isinstance(caught.value.exceptions[0], LookupError)
    runtime.flush_cache()
    assert runtime.get_server_info()["running"] == 0
    runtime.check()


@pytest.mark.parametrize("native", [True, False])
def test_the_first_branch_wins_and_the_losers_hold_no_kv_at_the_next_step(native):
    def race(s):
        s += "Who is first? "
        group = s.fork(4)
        for i, branch in enumerate(group):
            branch += f"{i}" + sgl.gen("a", max_tokens=5 if i == 2 else 200, ignore_eos=True)
        return group

    @sgl.function
    def plain(s):
        group = race(s)
        winner = sgl.first(group)
        runtime.engine.step()
        held = [branch for branch in group if branch._line.branch in runtime.engine.branches.attached]
        assert held == [winner] or not held, "a loser's KV is freed at the next step"
        winner += " and" + sgl.gen("b", max_tokens=3, ignore_eos=True)
        return group.states.index(winner), len(winner["a"]), winner["b"], [b.error() for b in group]

    @sgl.function
    async def coroutine(s):
        group = race(s)
        winner = await sgl.first(group)
        winner += " and" + sgl.gen("b", max_tokens=3, ignore_eos=True)
        await winner["b"]
        return group.states.index(winner), len(await winner["a"]), await winner["b"], [await b.error() for b in group]

    runtime = Runtime.toy()
    state = (coroutine if native else plain).run(backend=runtime, seed=1)
    index, _, _, errors = state.ret_value
    assert index == 2 and [type(e) for e in errors] == [sgl.Cancelled, sgl.Cancelled, type(None), sgl.Cancelled]
    assert state.usage.total.generated < 3 * 200, "the losers were stopped, and what they cost is counted"
    runtime.check()


def test_a_race_that_all_lose():
    @sgl.function
    def program(s):
        group = s.fork(2)
        group += sgl.gen("a")
        sgl.first(group)

    with pytest.raises(ValueError, match="boom"):
        program.run(backend=FakeBackend([ValueError("boom"), ValueError("bang")]))
    with pytest.raises(sgl.OptionError, match="no branches"):
        sgl.function(lambda s: sgl.first(s.fork(0))).run(backend=FakeBackend())
    with pytest.raises(sgl.OptionError, match="a group of branches"):
        sgl.first([1])


@pytest.mark.parametrize("policy", ["spare", "cancel"])
def test_a_failing_branch_spares_or_cancels_its_siblings(policy):
    @sgl.function
    def program(s):
        s += "p "
        group = s.fork(3, on_error=policy)
        for i, branch in enumerate(group):
            branch += f"{i}" + sgl.gen("a", max_tokens=100, ignore_eos=True, stop_token_ids=[10**9] if i == 1 else None)
        group.join()
        return s["a"]

    runtime = Runtime.toy()
    state = program.run(backend=runtime)
    values = state.ret_value
    assert isinstance(values.errors[1], sgl.OptionError) and state.error() is not None
    if policy == "spare":
        assert len(values.succeeded) == 2 and list(values.errors) == [1]
    else:
        assert sorted(values.errors) == [0, 1, 2]
        assert "branch 1 of 3 failed: gen('a') at test_async.py" in str(values.errors[0])
        assert values.errors[2].__cause__ is values.errors[1]
    runtime.check()
    with pytest.raises(sgl.OptionError, match="on_error must be"):
        sgl.function(lambda s: s.fork(2, on_error="ignore")).run(backend=runtime)


def test_a_branch_that_the_program_cancels_has_not_failed():
    @sgl.function
    def program(s):
        group = s.fork(2, on_error="cancel")
        group += sgl.gen("a")
        group[0].cancel()
        return group[1]["a"]

    assert program.run(backend=FakeBackend("ok")).ret_value == "ok"


def test_cancelling_a_task_frees_its_kv():
    @sgl.function
    async def program(s):
        s += "x" * 50 + sgl.gen("a", max_tokens=5000, ignore_eos=True)
        await s["a"]

    runtime = Runtime.toy()

    async def main():
        task = asyncio.create_task(program.arun(backend=runtime))
        while runtime.engine.steps < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    runtime.check()
    info = runtime.get_server_info()
    assert info["running"] == 0 and info["free_tokens"] + info["cached_tokens"] == info["max_total_tokens"]


def test_the_event_loop_stays_free():
    @sgl.function
    async def program(s, i):
        s += f"{i}" + sgl.gen("a", max_tokens=60, ignore_eos=True)
        await s["a"]

    runtime = Runtime.toy()
    real = runtime.engine.model.forward

    def slow(batch):
        time.sleep(0.02)
        return real(batch)

    runtime.engine.model.forward = slow

    async def main():
        gaps, running = [], True

        async def beat():
            last = time.monotonic()
            while running:
                await asyncio.sleep(0.001)
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        heart = asyncio.create_task(beat())
        await asyncio.gather(*(program.arun(i, backend=runtime) for i in range(20)))
        running = False
        await heart
        return gaps

    gaps = asyncio.run(main())
    assert len(gaps) > 150, "60 steps of 20 ms leave room for hundreds of beats"


def test_ten_thousand_programs_that_wait_cost_little():
    import gc
    import tracemalloc

    @sgl.function
    async def program(s):
        s += "What is " + sgl.gen("a", max_tokens=2)
        await s["a"]

    backend = FakeBackend(manual=True)

    async def main(n):
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(program.arun(backend=backend)) for _ in range(n)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        cost = (tracemalloc.get_traced_memory()[0] - before) / n
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cost

    backend.wait_async = lambda handle, seen=None: asyncio.sleep(3600)
    tracemalloc.start()
    try:
        assert asyncio.run(main(2000)) < 20_000
    finally:
        tracemalloc.stop()


def test_a_slow_constraint_blocks_neither_the_loop_nor_other_programs():
    runtime = Runtime.toy()
    real = runtime.engine.grammars._compile

    def slow(constraint):
        time.sleep(0.3)
        return real(constraint)

    runtime.engine.grammars._compile = slow

    @sgl.function
    async def constrained(s):
        start = time.monotonic()
        s += "n: " + sgl.gen("a", regex="[0-9]{3}", max_tokens=8)
        s += " " + sgl.gen("b", regex="[0-9]{3}", max_tokens=8)
        said = time.monotonic() - start
        return said, await s["a"], await s["b"]

    @sgl.function
    async def free(s):
        start = time.monotonic()
        s += "n: " + sgl.gen("a", max_tokens=3)
        await s["a"]
        return time.monotonic() - start

    async def main():
        return await asyncio.gather(constrained.arun(backend=runtime), free.arun(backend=runtime))

    one, other = asyncio.run(main())
    said, a, b = one.ret_value
    assert said < 0.2 and a.isdigit() and b.isdigit() and other.ret_value < 0.2
    assert constrained.run(backend=runtime).ret_value[1].isdigit()

    @sgl.function
    async def refused(s):
        s += "n: " + sgl.gen("a", ebnf="root ::= nothing", max_tokens=8)
        with pytest.raises(sgl.ConstraintError, match=r"gen\('a'\)"):
            await s["a"]
        return True

    assert refused.run(backend=runtime).ret_value
    runtime.check()


def test_reads_can_be_gathered():
    @sgl.function
    async def program(s):
        s += sgl.gen("a") + sgl.gen("b")
        return await asyncio.gather(s["a"], s["b"], s.text())

    assert program.run(backend=FakeBackend("x")).ret_value == ["x", "x", "xx"]


def test_an_unfinished_branch_of_a_program_that_is_over_does_not_block_the_loop():
    @sgl.function
    async def program(s):
        s += "x"
        group = s.fork(1)
        group += sgl.gen("a", max_tokens=600, ignore_eos=True)
        return group[0]

    async def main():
        state = await program.arun(backend=Runtime.toy())
        branch = state.ret_value
        with pytest.raises(sgl.OptionError, match="aget"):
            branch["a"]
        assert await branch.aget("a") == branch["a"] != ""

    asyncio.run(main())


def test_an_awaited_text_waits_for_branches_that_were_joined() -> None:
    """So that reading them afterwards blocks no event loop."""
    backend = FakeBackend()

    @sgl.function
    def program(s: Any) -> None:
        forks = s.fork(2)
        forks += sgl.gen("tip", max_tokens=3)
        forks.join()
        s += "over"

    async def main() -> tuple[str, bool]:
        state = program.run(stream=True, backend=backend)
        text = await state.async_text()
        return text, all(line.barrier().done for line in state._line.joined)

    assert asyncio.run(main())[1]
