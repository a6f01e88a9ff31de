"""Waiting, written once for threads and for event loops.

A *flow* is a generator: it yields each thing that has to be waited for, and returns its result. A stream also yields
its items. (In httpx an auth flow yields requests in the same way.) A driver does the waiting: `block_on` and `iterate`
block the calling thread, `suspend_on` and `iterate_async` suspend the running coroutine. A flow knows nothing of its
driver.

An error of a wait is raised inside the flow, at its `yield`. So `try`, `with` and `finally` work there as usual; a
`finally` must not wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

from .base import Backend, Handle
from .contain import said

T = TypeVar("T")


class Wait:
    """Base: one thing to wait for."""

    __slots__ = ()

    def block(self) -> None:
        """Wait on the calling thread."""
        raise NotImplementedError

    async def suspend(self) -> None:
        """Wait in the running coroutine, without blocking its event loop."""
        raise NotImplementedError


class AtHandle(Wait):
    """Wait until `handle` is done or, with `seen`, has more than `seen` characters of text. Drives `backend`."""

    __slots__ = ("backend", "handle", "seen")

    def __init__(self, backend: Backend, handle: Handle[Any], seen: int | None = None) -> None:
        self.backend, self.handle, self.seen = backend, handle, seen

    def block(self) -> None:
        self.backend.wait(self.handle, self.seen)

    async def suspend(self) -> None:
        await self.backend.wait_async(self.handle, self.seen)


def sleep_until(handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
    """Sleep until `handle.ready(seen)`, which another thread brings about. False if `timeout` seconds passed first."""
    told = threading.Event()
    handle.listen(told.set)
    end = None if timeout is None else time.monotonic() + timeout
    try:
        while not handle.ready(seen):
            if not told.wait(None if end is None else max(0.0, end - time.monotonic())):
                return handle.ready(seen)
            told.clear()
        return True
    finally:
        handle.unlisten(told.set)


async def sleep_until_async(handle: Handle[Any], seen: int | None = None) -> None:
    """Let the running coroutine sleep until `handle.ready(seen)`."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: no coroutine waits on it any more
            loop.call_soon_threadsafe(told.set)

    handle.listen(tell)
    try:
        while not handle.ready(seen):
            await told.wait()
            told.clear()
    finally:
        handle.unlisten(tell)


Flow = Generator[Wait, None, T]
"""Yields waits, returns a T."""
StreamFlow = Generator[Wait | T, None, None]
"""Yields waits and, between them, items of type T."""


class Carried(Exception):
    """Brings an error through a flow that a generator cannot raise: Python makes a RuntimeError of a StopIteration."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def through(read: Callable[[], T]) -> T:
    """Call `read` within a flow. A `StopIteration` that it raises is raised by the driver of the flow."""
    try:
        return read()
    except StopIteration as error:
        raise Carried(error) from error


def no_wait(value: T) -> Flow[T]:
    """A flow that is over at once."""
    return value
    yield Wait()


def block_on(flow: Flow[T]) -> T:
    """Run a flow on the calling thread; its result."""
    try:
        wait = next(flow)
        while True:
            try:
                wait.block()
            except BaseException as error:
                wait = flow.throw(error)
            else:
                wait = next(flow)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except Carried as carried:
        raise carried.error from None
    finally:
        flow.close()  # an interruption of the driver itself


async def suspend_on(flow: Flow[T]) -> T:
    """Run a flow in the running coroutine; its result."""
    try:
        wait = next(flow)
        while True:
            try:
                await wait.suspend()
            except BaseException as error:
                wait = flow.throw(error)
            else:
                wait = next(flow)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except Carried as carried:
        raise _not_the_end(carried.error) from carried.error
    finally:
        flow.close()  # an interruption of the driver itself


def iterate(flow: StreamFlow[T]) -> Generator[T, None, None]:
    """Give the items of a stream; wait for them on the calling thread. Closing the iterator closes the flow."""
    try:
        while (item := block_on(_next_item(flow))) is not None:
            yield item[0]
    except StopIteration as error:
        raise _not_the_end(error) from error
    finally:
        flow.close()


async def iterate_async(flow: StreamFlow[T]) -> AsyncGenerator[T, None]:
    """Give the items of a stream; wait for them in the running coroutine."""
    try:
        while (item := await suspend_on(_next_item(flow))) is not None:
            yield item[0]
    except StopAsyncIteration as error:
        raise _not_the_end(error) from error
    finally:
        flow.close()


def _next_item(flow: StreamFlow[T]) -> Flow[tuple[T] | None]:
    """The next item of a stream, in a tuple; None after the last."""
    try:
        found = next(flow)
        while isinstance(found, Wait):
            try:
                yield found
            except BaseException as error:
                found = flow.throw(error)
            else:
                found = next(flow)
    except StopIteration:
        return None
    return (found,)


def _not_the_end(error: BaseException) -> RuntimeError:
    """The error of an iterator or a coroutine for one of a program that would end it in silence (PEP 479)."""
    return RuntimeError(f"the program raised {said(error)}, which no iterator and no coroutine can raise")
