"""Streams: any reader, at any time, sees everything once; errors come at the end; loops are never blocked."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import sgl

from .fake import FakeBackend


@sgl.function
def story(s):
    s += "Q:" + sgl.gen("a") + " then "
    s += sgl.gen("b") + sgl.select("c", ["yes", "no"])


TEXT = "Q:alpha then alphayes"


def test_streams_of_a_running_program():
    state = story.run(backend=FakeBackend("alpha"), stream=True)
    pieces = list(state.text_iter())
    assert "".join(pieces) == TEXT == state.text()
    assert pieces[:6] == ["Q:", "a", "l", "p", "h", "a"]
    assert state.ret_value is None and state.error() is None


def test_weakness_15_any_number_of_readers_early_or_late():
    backend = FakeBackend("alpha", manual=True)
    state = story.run(backend=backend, stream=True)
    seen: dict[int, str] = {}

    def read(i):
        seen[i] = "".join(state.text_iter("b" if i % 2 else None))

    readers = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(6)]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        backend.step()
        time.sleep(0.0005)
    backend.manual = False
    assert [seen[i] for i in range(6)] == [TEXT, "alpha"] * 3
    assert "".join(state.text_iter("a")) == "alpha" and "".join(state.text_iter()) == TEXT
    assert list(story.run(backend=FakeBackend("z")).text_iter("c")) == ["yes"]


def test_a_reader_waits_for_names_and_text_still_to_come():
    go = threading.Event()

    @sgl.function
    def slow(s):
        s += "first"
        go.wait(10)
        s["mine"] = 7
        with s.var_scope("all"):
            s += "x" + sgl.gen("late")
        return 5

    state = slow.run(backend=FakeBackend(), stream=True)
    text = state.text_iter()
    assert next(text) == "first"
    threading.Timer(0.05, go.set).start()
    assert state["late"] == "ok" and "".join(text) == "xok"
    assert "".join(state.text_iter("all")) == "xok" and list(state.text_iter("mine")) == ["7"]
    assert state.ret_value == 5 and state["all"] == "xok"
    with pytest.raises(sgl.VariableError):
        next(state.text_iter("never"))


def test_weakness_15_errors_come_after_the_text_so_far():
    boom = ValueError("boom")
    state = story.run(backend=FakeBackend(["alpha", boom], fails_after=2), stream=True)
    got = []
    with pytest.raises(ValueError) as caught:
        got.extend(iter_into(got, state.text_iter()))
    assert caught.value is boom and "".join(got) == "Q:alpha then ~~"
    with pytest.raises(ValueError):
        list(state.text_iter("b"))
    assert state.error() is boom and "".join(state.text_iter("a")) == "alpha"


def iter_into(got, pieces):
    for piece in pieces:
        got.append(piece)
    return []


def test_weakness_15_an_error_of_a_streaming_body_is_not_lost():
    @sgl.function
    def broken(s):
        s += "before" + sgl.gen("a")
        raise LookupError("mine")

    state = broken.run(backend=FakeBackend(), stream=True)
    got: list[str] = []
    with pytest.raises(LookupError, match="mine"):
        iter_into(got, state.text_iter())
    assert "".join(got) == "beforeok" and isinstance(state.error(), LookupError) and state["a"] == "ok"
    for read in (lambda: state["b"], state.text, lambda: state.ret_value, lambda: list(state.text_iter("b"))):
        with pytest.raises(LookupError):
            read()
    assert repr(state) == "ProgramState(beforeok)"


def test_streaming_inside_the_body():
    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")
        assert "".join(s.text_iter("a")) == "alpha" and "".join(s.text_iter()) == "xalpha"
        with pytest.raises(sgl.VariableError):
            next(s.text_iter("b"))

    program.run(backend=FakeBackend("alpha"))


def test_weakness_15_async_streams_do_not_block_the_loop():
    async def main():
        backend = FakeBackend("alpha", manual=True)
        state = story.run(backend=backend, stream=True)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1
                if ticks > 20:
                    backend.step()

        ticking = asyncio.create_task(tick())
        pairs = [pair async for pair in state.text_async_iter("b", return_meta_data=True)]
        whole = "".join([piece async for piece in state.text_async_iter()])
        ticking.cancel()
        assert ticks > 20 and whole == TEXT
        assert "".join(piece for piece, _ in pairs) == "alpha" and pairs[-1][1]["completion_tokens"] == 5
        with pytest.raises(sgl.OptionError):
            [x async for x in state.text_async_iter(return_meta_data=True)]
        with pytest.raises(sgl.VariableError):
            [x async for x in state.text_async_iter("never")]

    asyncio.run(main())


def test_async_stream_errors():
    async def main():
        state = story.run(backend=FakeBackend(["alpha", ValueError("boom")]), stream=True)
        with pytest.raises(ValueError, match="boom"):
            [x async for x in state.text_async_iter()]
        with pytest.raises(ValueError):
            await state.aget("b")
        assert await state.aget("a") == "alpha"

    asyncio.run(main())


def test_an_async_program_streams_on_the_callers_loop():
    @sgl.function
    async def program(s):
        s += "x" + sgl.gen("a")
        await s.aget("a")
        await asyncio.sleep(0)
        s += "y"

    async def main():
        state = program.run(backend=FakeBackend("alpha"), stream=True)
        assert await state.text() == "xalphay" and await state["a"] == "alpha"
        state = program.run(backend=FakeBackend("alpha"), stream=True)
        with pytest.raises(sgl.OptionError, match="event loop"):
            next(state.text_iter())
        with pytest.raises(sgl.VariableError, match="await"):
            assert state.text() == "xalphay"
        assert "".join([p async for p in state.text_async_iter()]) == "xalphay"
        assert await state.async_text() == "xalphay" == await state.text()

    asyncio.run(main())
    assert "".join(program.run(backend=FakeBackend("alpha"), stream=True).text_iter()) == "xalphay"


def test_no_wake_up_is_lost():
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            assert "".join(story.run(backend=FakeBackend("ab"), stream=True).text_iter("b")) == "ab"
    finally:
        sys.setswitchinterval(before)


def test_cancelling_a_stream_ends_it():
    backend = FakeBackend("alpha", manual=True)

    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")
        s["a"]

    state = program.run(backend=backend, stream=True)
    pieces = state.text_iter()
    assert next(pieces) == "x"
    state.cancel()
    with pytest.raises(sgl.Cancelled):
        list(pieces)
