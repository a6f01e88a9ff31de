"""Flows: one generator of what is waited for, run by a thread or by a coroutine with the same result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sgl.backend.waiting import Flow, StreamFlow, Wait, block_on, iterate, iterate_async, suspend_on, through


class Turn(Wait):
    """A wait that only counts, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.blocked, self.suspended = error, 0, 0

    def block(self) -> None:
        self.blocked += 1
        if self.error is not None:
            raise self.error

    async def suspend(self) -> None:
        self.suspended += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


def both(make: Callable[[], Flow[Any]]) -> list[Any]:
    """What a flow comes to on a thread and in a coroutine: its value, or its error."""
    found = []
    for run in (block_on, lambda flow: asyncio.run(suspend_on(flow))):
        try:
            found.append(run(make()))
        except Exception as error:
            found.append(error)
    return found


def both_streams(make: Callable[[], StreamFlow[Any]]) -> list[list[Any]]:
    async def collected() -> list[Any]:
        return [item async for item in iterate_async(make())]

    return [list(iterate(make())), asyncio.run(collected())]


def test_a_flow_returns_its_value() -> None:
    turns = [Turn(), Turn()]

    def flow() -> Flow[int]:
        yield turns[0]
        yield turns[1]
        return 7

    assert both(flow) == [7, 7]
    assert [(t.blocked, t.suspended) for t in turns] == [(1, 1), (1, 1)]


def test_a_flow_that_needs_no_wait() -> None:
    def flow() -> Flow[str]:
        return "there"
        yield

    assert both(flow) == ["there", "there"]


def test_an_error_of_a_wait_is_raised_at_the_yield() -> None:
    lost = OSError("lost")

    def caught() -> Flow[Any]:
        try:
            yield Turn(lost)
        except OSError as error:
            yield Turn()
            return error

    def raised() -> Flow[Any]:
        yield Turn(lost)

    assert both(caught) == [lost, lost]
    assert both(raised) == [lost, lost]


def test_a_wait_that_raises_stop_iteration_does_not_end_the_flow() -> None:
    def flow() -> Flow[int]:
        yield Turn(StopIteration(3))
        return 1

    assert [type(found) for found in both(flow)] == [RuntimeError, RuntimeError]


@pytest.mark.parametrize("raised", [StopIteration, StopAsyncIteration])
def test_an_error_that_would_end_an_iterator_becomes_one_that_names_it(raised: type[Exception]) -> None:
    def fail() -> None:
        raise raised("mine")

    def flow() -> StreamFlow[str]:
        yield "a"
        yield Turn()
        through(fail)

    async def read() -> list[str]:
        return [item async for item in iterate_async(flow())]

    for call, ends in ((lambda: list(iterate(flow())), StopIteration), (lambda: asyncio.run(read()), raised)):
        with pytest.raises(RuntimeError if raised is ends else raised, match="mine") as caught:
            call()
        assert raised in (type(caught.value), type(caught.value.__cause__))


def test_a_stream_gives_items_between_its_waits() -> None:
    def flow() -> StreamFlow[Any]:
        yield Turn()
        yield "a"
        yield None
        yield Turn()
        yield Turn()
        yield ""

    assert both_streams(flow) == [["a", None, ""]] * 2


def test_an_error_in_a_stream_reaches_its_finally_and_the_reader() -> None:
    ended = []

    def flow() -> StreamFlow[str]:
        try:
            yield "a"
            yield Turn(OSError("lost"))
        finally:
            ended.append(True)

    with pytest.raises(OSError, match="lost"):
        list(iterate(flow()))

    async def read() -> None:
        async for _ in iterate_async(flow()):
            pass

    with pytest.raises(OSError, match="lost"):
        asyncio.run(read())
    assert ended == [True, True]


def test_a_reader_that_stops_early_closes_the_flow() -> None:
    ended = []

    def flow() -> StreamFlow[str]:
        try:
            while True:
                yield Turn()
                yield "a"
        finally:
            ended.append(True)

    pieces = iterate(flow())
    assert next(pieces) == "a"
    pieces.close()
    assert ended == [True]

    async def read() -> None:
        pieces = iterate_async(flow())
        assert await pieces.__anext__() == "a"
        await pieces.aclose()

    asyncio.run(read())
    assert ended == [True, True]


def test_a_cancelled_coroutine_cancels_the_flow_at_its_wait() -> None:
    seen = []

    class Never(Wait):
        async def suspend(self) -> None:
            await asyncio.Event().wait()

    def flow() -> Flow[None]:
        try:
            yield Never()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run() -> None:
        task = asyncio.ensure_future(suspend_on(flow()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())
    assert seen == ["cancelled"]
