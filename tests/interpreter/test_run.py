"""async def programs and arun."""

from __future__ import annotations

import asyncio

import pytest

import sgl

from .fake import FakeBackend


@sgl.function
async def native(s, word):
    s += word + sgl.gen("a")
    first = await s.aget("a")
    s += "." + sgl.gen("b")
    return first, await s.async_text()


@sgl.function
def plain(s, word):
    s += word + sgl.gen("a")
    if s["a"] == "ok":
        s += sgl.gen("b")


def test_weakness_28_async_programs():
    async def main():
        state = await native.arun("x", backend=FakeBackend())
        assert state.ret_value == ("ok", "xok.ok") and state["b"] == "ok"
        states = await asyncio.gather(*(native.arun(str(i), backend=backend) for i in range(20)))
        assert [s.ret_value[1] for s in states] == [f"{i}ok.ok" for i in range(20)]

    backend = FakeBackend()
    asyncio.run(main())


def test_an_async_program_without_a_loop():
    assert native.run("x", backend=FakeBackend()).ret_value == ("ok", "xok.ok")


def test_an_async_program_inside_a_loop_says_what_to_use():
    async def main():
        with pytest.raises(sgl.OptionError, match=r"await native\.arun"):
            native.run("x", backend=FakeBackend())
        with pytest.raises(sgl.OptionError, match=r"await native\.arun_batch"):
            native.run_batch([("x",)], backend=FakeBackend())

    asyncio.run(main())


def test_arun_of_a_plain_program_leaves_the_loop_free_and_finishes_everything():
    async def main():
        backend = FakeBackend(manual=True)
        task = asyncio.create_task(plain.arun("x", backend=backend))
        for _ in range(5):
            await asyncio.sleep(0.001)
        while not task.done():
            backend.step()
            await asyncio.sleep(0.001)
        backend.manual = False
        state = task.result()
        assert state.text() == "xokok"

    asyncio.run(main())


def test_arun_raises_the_bodys_error_and_keeps_a_gens_for_the_read():
    @sgl.function
    def unread(s):
        s += sgl.gen("a")

    async def main():
        state = await unread.arun(backend=FakeBackend([ValueError("boom")]))
        assert isinstance(state.error(), ValueError)
        with pytest.raises(ValueError):
            state["a"]
        with pytest.raises(ValueError):
            await plain.arun("x", backend=FakeBackend([ValueError("boom")]))
        with pytest.raises(sgl.OptionError):
            await plain.arun("x", stream=True, backend=FakeBackend())

    asyncio.run(main())


@pytest.mark.parametrize("program", [native, plain])
def test_weakness_29_a_cancelled_task_cancels_its_branch(program):
    async def main():
        backend = FakeBackend(manual=True)
        task = asyncio.create_task(program.arun("x", backend=backend))
        while not backend.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(backend.branches[0].error, sgl.Cancelled)

    asyncio.run(main())
