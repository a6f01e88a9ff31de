"""One run of a program: it opens a branch, executes the body somewhere, and notes how the body ended.

Knows nothing of batches. Bodies of plain functions run inline (`run`) or on a daemon thread (`run(stream=True)`,
`arun`). Bodies of `async def` programs are coroutines on the caller's loop, or on a private one.

A run returns when the Python body ends, not when generation does: values are read lazily. `arun` returns when
everything is finished.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from ..backend.base import Backend
from ..backend.contain import is_interruption
from ..backend.waiting import AtHandle, Flow, suspend_on
from ..lang.errors import OptionError, ProgramTimeout
from .arguments import Arguments, Options
from .body import Body
from .defaults import resolve
from .hooks import hooks
from .line import Line
from .live import LiveState
from .record import ProgramRecord, begin, seed_of
from .state import ProgramState
from .usage import Ledger

CLEANUP_SECONDS = 1.0
"""How long a cancelled body may clean up before it is left behind. A choice: a `finally` takes milliseconds."""

running: contextvars.ContextVar[Instance | None] = contextvars.ContextVar("sgl program", default=None)
"""The program whose body runs here. A program that this body runs is part of its costs."""


class Instance:
    """One call of a program on a backend. `state` is the body's own; `outside()` is for readers elsewhere."""

    line_type: type[Line] = Line
    state_type: type[LiveState] = LiveState
    line: Line
    record: ProgramRecord | None

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        call: Arguments,
        backend: Backend,
        options: Options,
        row: int | None = None,
        may_be_late: bool = False,
    ) -> None:
        self._func, self.call, self.name = func, call, name
        self.timeout = options.timeout
        self.may_be_late = may_be_late  # the batch has a time limit
        self.deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._given_up: asyncio.Event | None = None  # set: do not wait for the end of the body any more
        self.body = Body(is_async(func))
        caller = running.get()
        inside = None if caller is None else caller.record
        seed = seed_of(options.seed, name, call, inside, row)
        outer = None if caller is None else caller.line.branch
        branch = backend.open(seed=seed, timeout=options.timeout, caller=outer)
        ledger = Ledger(name, branch, options.budget)
        if caller is not None:
            caller.line.ledger.fork(ledger)
        self.record = self.body.record = begin(
            lambda tokens: ProgramRecord(func, name, call, options, backend, branch.seed, inside, row, tokens),
            hooks.start_span,
        )
        root = None if self.record is None else self.record.root
        self.line = self.line_type(backend, branch, options.sampling, self.body.pulse, ledger, root)
        self.line.asking.defers = self.body.is_async
        self.state = self.state_type(self.line, self.body, root=True)

    @property
    def is_async(self) -> bool:
        return self.body.is_async

    def outside(self) -> ProgramState:
        """A state for readers that do not run in the body: it waits for what the body has still to say."""
        return self.state_type(self.line, self.body, outside=True, root=True)

    def backend_of_started(self, backend: Any) -> Backend:
        """The backend of a program that this body starts with `backend=` (None: the default one)."""
        return resolve(backend)

    def execute(self) -> None:
        """Run a plain body here. An error is noted in `body`, not raised."""
        outer = running.set(self)
        self.body.runs_here()
        try:
            value = done(self._func(self.state, *self.call.args, **self.call.kwargs), self.name)
        except BaseException as error:
            self._end(error=error)
        else:
            self._end(value)
        finally:
            running.reset(outer)

    async def execute_async(self) -> None:
        """Run the body of an `async def` program on this loop. Raises what ends the task: `CancelledError`, Ctrl-C."""
        self.body.loop = asyncio.get_running_loop()
        outer = running.set(self)
        try:
            value = await self._within(self._func(self.state, *self.call.args, **self.call.kwargs))
        except asyncio.CancelledError as error:
            self.line.cancel()
            self._end(error=error)
            raise
        except BaseException as error:
            self._end(error=error)
            if is_interruption(error):
                raise
        else:
            self._end(value)
        finally:
            with suppress(ValueError):  # a dropped coroutine is closed in whatever context it is dropped
                running.reset(outer)

    async def _within(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Await the body. With a time limit it runs in a task of its own, which can be left behind."""
        if self.deadline is None and not self.may_be_late:
            self.body.runs_here()
            return await body
        self._given_up = asyncio.Event()
        task = asyncio.ensure_future(_contained(body))
        self.body.runs_here(task)
        late = asyncio.ensure_future(self._given_up.wait())
        left = None if self.deadline is None else self.deadline - time.monotonic()
        try:
            await asyncio.wait([task, late], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            late.cancel()
        if not task.done():
            if not self.body.ended:
                self.give_up(self._timeout_error())
            task.cancel()
            await asyncio.wait([task], timeout=CLEANUP_SECONDS)  # it may clean up; it may also refuse
            task.add_done_callback(_forget)
            return None
        value, error = task.result()
        if error is not None:
            raise error
        return value

    async def finish_body(self) -> None:
        """Run the body on this loop, or a plain body on a thread, until it has ended or is given up."""
        if self.is_async:
            await self.execute_async()
            return
        left = None if self.deadline is None else self.deadline - time.monotonic()
        self._given_up = asyncio.Event()
        if not await in_thread(self.name, self.execute, self._given_up, left) and not self.body.ended:
            self.give_up(self._timeout_error())

    def give_up(self, error: BaseException) -> None:
        """End the program with `error`. A thread or a task that still runs the body is left to itself."""
        if not self.body.ended:
            self._end(error=error)
        self.line.cancel(error)
        if self._given_up is not None:
            self._given_up.set()

    def _timeout_error(self) -> ProgramTimeout:
        return ProgramTimeout(f"{self.name}: timeout={self.timeout:g} s passed while its body ran")

    def _end(self, value: Any = None, error: BaseException | None = None) -> None:
        if self.body.ended:
            return  # it was given up meanwhile
        try:
            self.line.rest()
        except BaseException as flushing:  # the chat template refuses the role that the body left open
            error = error or flushing
        if self.record is not None:
            self.record.end(value, error)
        self.body.end(value, error)

    @property
    def error(self) -> BaseException | None:
        """The error of the body, or of its branch."""
        return self.body.error or self.line.branch.error

    def cancel(self) -> None:
        """Cancel everything that the program said."""
        self.line.cancel()

    def finish_ops(self) -> Flow[None]:
        """Wait for everything that the program said, on branches that were joined too. Raises nothing."""
        for barrier in self.line.barriers():
            yield AtHandle(self.line.backend, barrier)

    def raise_body_error(self) -> None:
        """If the body failed, cancel its branch and raise its error."""
        if self.body.error is not None:
            self.cancel()
            self.body.outcome.value()


async def _contained(body: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Await a body as (value, error): an interruption raised by a task would end the whole loop."""
    try:
        return await body, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


def _forget(task: asyncio.Future[Any]) -> None:
    """Read the outcome of a task, so that asyncio does not warn about it."""
    if not task.cancelled():
        task.exception()


def backend_here(backend: Any = None) -> Backend:
    """The backend of a program that is started here: `backend` or the default one, unless the running body decides."""
    caller = running.get()
    return resolve(backend) if caller is None else caller.backend_of_started(backend)


def instance_on(
    backend: Backend, func: Callable[..., Any], name: str, call: Arguments, options: Options, **batch: Any
) -> Instance:
    """Make one call of a program on what `backend_here` gave. `batch`: more arguments from a batch."""
    instance_type: type[Instance] = getattr(backend, "instance_type", Instance)
    return instance_type(func, name, call, backend, options, **batch)


def is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def done(value: Any, name: str) -> Any:
    """Check what a plain body returned: a coroutine would be a body that silently never ran."""
    if inspect.iscoroutine(value):
        value.close()
        raise OptionError(
            f"{name} is async, but was called like a plain function, so its body did not run: under a decorator, make "
            f"the decorator's wrapper `async def` too; in the body of another program, make that one `async def` and "
            f"use `await {name}(s, ...)`"
        )
    return value


def run_here(instance: Instance) -> ProgramState:
    """Run the body to its end in this thread."""
    if instance.is_async:
        no_loop_here(instance.name, "arun")
        asyncio.run(instance.execute_async())
        instance.body.loop = None
    else:
        instance.execute()
    instance.raise_body_error()
    return instance.state


def run_stream(instance: Instance) -> ProgramState:
    """Start the body elsewhere and return at once, with the state to read from."""
    state = instance.outside()
    if not instance.is_async:
        start_thread(instance.name, instance.execute)
    elif asyncio._get_running_loop() is not None:
        instance.body.start(asyncio.get_running_loop(), instance.execute_async())
    else:
        start_thread(instance.name, lambda: asyncio.run(instance.execute_async()))
    return state


async def run_async(instance: Instance) -> ProgramState:
    """Run the body without blocking the loop, until everything it said is finished."""
    try:
        await instance.finish_body()
        instance.raise_body_error()
        await suspend_on(instance.state._finish(deep=True))
    except asyncio.CancelledError:
        instance.cancel()
        raise
    return instance.state


def no_loop_here(name: str, instead: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise OptionError(
            f"{name} is an async program and an event loop is running here (as in a notebook): use `await "
            f"{name}.{instead}(...)`, or with generator_style=True `async for state in {name}.arun_batch(...)`"
        )


def start_thread(name: str, work: Callable[[], Any]) -> threading.Thread:
    """Start a daemon thread, which never keeps Python alive, with this context's variables."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name=f"sgl-{name}", daemon=True)
    thread.start()
    return thread


async def in_thread(name: str, work: Callable[[], None], ended: asyncio.Event, timeout: float | None) -> bool:
    """Await `work` (which raises nothing) on a daemon thread, until it is done or `ended` is set.

    False if `timeout` seconds passed first. The default executor's threads would block Python's exit.
    """
    loop = asyncio.get_running_loop()

    def body() -> None:
        try:
            work()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

    start_thread(name, body)
    try:
        await asyncio.wait_for(ended.wait(), timeout)
    except asyncio.TimeoutError:
        return False
    return True
