"""The event loop that carries all requests of a process to services, on a daemon thread; and waiting for it.

Knows nothing of requests. The thread starts with the first request and ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ...lang.errors import BackendError
from ..base import Handle

T = TypeVar("T")

LAST_SECONDS = 2.0
"""How long the end of the process waits for open streams to be closed: they need one write each."""

_lock = threading.Lock()
_thread: threading.Thread | None = None
_loop: asyncio.AbstractEventLoop | None = None


def _forget() -> None:
    """In a forked child: the thread of the loop stayed in the parent."""
    global _thread, _loop, _lock
    _thread = _loop = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def carrier() -> asyncio.AbstractEventLoop:
    """The loop, which runs."""
    global _thread, _loop
    with _lock:
        if _loop is None:
            _loop = contextvars.Context().run(asyncio.new_event_loop)  # it keeps the context that it is made in
            _thread = threading.Thread(target=_run, args=(_loop,), name="sgl-remote", daemon=True)
            _thread.start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@atexit.register
def _end() -> None:
    if _loop is not None and _thread is not None:
        with suppress(RuntimeError):
            _loop.call_soon_threadsafe(_loop.stop)
        _thread.join(LAST_SECONDS)


def soon(call: Callable[[], object]) -> None:
    """Call `call` on the loop. Takes no lock that a caller may hold, so a finaliser may ask for it.

    The context is empty: a caller's has its program, which a task of the loop would keep alive.
    """
    with suppress(RuntimeError):  # the process is ending
        (_loop or carrier()).call_soon_threadsafe(call, context=contextvars.Context())


def refuse_reentry() -> None:
    """Raise `BackendError` on the loop's own thread: what waits there waits for itself."""
    if threading.current_thread() is _thread:
        raise BackendError(
            "a remote backend was waited for on the thread that carries its requests (by a choice method, a type's "
            "validator, or a listener of a handle); do that in the program's body"
        )


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the loop; wait for its result on the calling thread. Ctrl-C cancels it."""
    try:
        refuse_reentry()
    except BackendError:
        work.close()
        raise
    future = asyncio.run_coroutine_threadsafe(work, carrier())
    try:
        return future.result()
    finally:
        future.cancel()


def wait(handle: Handle[Any], seen: int | None, timeout: float | None) -> bool:
    """Wait until `handle.ready(seen)`; False if `timeout` seconds pass first. Ctrl-C is raised here."""
    if handle.ready(seen):
        return True
    refuse_reentry()
    told = threading.Event()

    def look() -> None:
        if handle.ready(seen):
            told.set()

    handle.listen(look)
    try:
        told.wait(timeout)
    finally:
        handle.unlisten(look)
    return handle.ready(seen)


async def wait_async(handle: Handle[Any], seen: int | None = None) -> None:
    """Wait until `handle.ready(seen)` in the running event loop, which stays free."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if handle.ready(seen):
            with suppress(RuntimeError):  # the waiter's loop was closed meanwhile: no coroutine waits there
                loop.call_soon_threadsafe(told.set)

    handle.listen(look)
    try:
        await told.wait()
    finally:
        handle.unlisten(look)
