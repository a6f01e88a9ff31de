"""Tracing a program, and binding it to a backend ahead of its first run.

Owns: `trace`, `cache` and `compile` of a program, and the rules of what ends a trace. A trace runs the body once, in a
thread of its own, without a model (`dry_run.py`), and gives a `Graph`. Compiling traces with the backend's own chat
template and capabilities, so whatever a run would refuse is refused then, has every constraint prepared, and pins the
text that every run begins with.

Invariants
- The body runs exactly once a trace, and only because the user asked for one: no ordinary run ever traces.
- A trace ends: by the body's end, by a placeholder that was taken for a value, by `limit` ops, or by `timeout` seconds.
- What a placeholder cannot have caused is the program's own error, and raised as it is.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ...backend.base import Backend
from ...lang.errors import CapabilityError, OptionError
from ..arguments import Options
from ..defaults import resolve
from ..record import current as recorders
from ..run import _caller
from ..state import ProgramState
from .dry_run import Ended, Line, Trace
from .dry_state import DryInstance, looked_here
from .graph import Graph
from .nodes import Stopped

if TYPE_CHECKING:
    from ..function import SglFunction

LIMIT = 10_000
"""Ops, reads and branches of a trace, if nobody says."""
TIMEOUT = 30.0
"""Seconds of a trace, if nobody says."""


def trace_program(function: SglFunction, kwargs: Mapping[str, Any]) -> Graph:
    """The graph of a program, found by running its body once without a model.

    `kwargs` are the program's arguments (one that is not given, bound or declared with a default is a placeholder), and
    `backend` (whose chat template renders the prefix; no model of it is asked), `limit` (ops, 10,000) and `timeout`
    (seconds, 30), unless the program declares these names itself.
    """
    given = dict(kwargs)
    limit = LIMIT if "limit" in function.arg_names else given.pop("limit", LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise OptionError(f"{function.__name__}.trace: limit must be an integer of at least 1, got {limit!r:.60}")
    mine, run = function._declared.split(given)
    options = Options.of(f"{function.__name__}.trace", run)
    if options.stream:
        raise OptionError(f"{function.__name__}.trace: stream= has no meaning without a model")
    target = None if options.backend is None else resolve(options.backend)
    return _Follow(function, mine, options, Trace(target, False, limit)).graph()


def cache_program(function: SglFunction, backend: Any = None) -> int:
    """Pin the text that every run of the program begins with; its length in tokens."""
    target = resolve(backend)
    return _pinned(target, _bound_graph(function, target))


def compile_program(function: SglFunction, backend: Any = None) -> CompiledFunction:
    """The program bound to `backend` (None: the default one). Raises what a run there would raise for an op that the
    backend cannot do, or a constraint that it cannot enforce."""
    declares = "backend" in function.arg_names
    if declares and backend is not None:
        raise OptionError(
            f"{function.__name__}.compile: `backend` is an argument of the program itself, so it runs on the default "
            f"backend: call sgl.set_default_backend(...) and compile() without one, or rename the parameter"
        )
    target = resolve(backend)
    graph = _bound_graph(function, target)
    return CompiledFunction(function, target, graph, _pinned(target, graph))


def _bound_graph(function: SglFunction, target: Backend) -> Graph:
    return _Follow(function, {}, Options(), Trace(target, True, LIMIT)).graph()


def _pinned(target: Backend, graph: Graph) -> int:
    return target.pin(graph.prefix) if graph.prefix else 0


class CompiledFunction:
    """A program on one backend, prepared: its constraints are compiled and its leading text is computed and pinned
    (`pinned` tokens, until the backend's cache is flushed). Runs as the program does; `graph` is what was traced."""

    def __init__(self, function: SglFunction, backend: Backend, graph: Graph, pinned: int) -> None:
        self.function, self.backend, self.graph, self.pinned = function, backend, graph, pinned
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._on = {} if "backend" in function.arg_names else {"backend": backend}

    @property
    def arg_names(self) -> tuple[str, ...]:
        return self.function.arg_names

    def run(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        return self.function.run(*args, **self._bound("run", kwargs))

    async def arun(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        return await self.function.arun(*args, **self._bound("arun", kwargs))

    def run_batch(self, rows: Any, **options: Any) -> Any:
        """As the program's: a list of states, or with `generator_style` an iterator of them."""
        self._refuse("run_batch", options)
        return self.function.run_batch(rows, **options, backend=self.backend)

    def arun_batch(self, rows: Any, **options: Any) -> Any:
        """As the program's: to be awaited, or with `generator_style` an async iterator."""
        self._refuse("arun_batch", options)
        return self.function.arun_batch(rows, **options, backend=self.backend)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """`run`; or, with a program state first, the body inline on that state."""
        if args and isinstance(args[0], ProgramState):
            return self.function(*args, **kwargs)
        return self.run(*args, **kwargs)

    def bind(self, /, **kwargs: Any) -> CompiledFunction:
        """The program with some arguments given, compiled again: more of its text is constant."""
        chosen = None if "backend" in self.function.arg_names else self.backend
        return compile_program(self.function.bind(**kwargs), chosen)

    def print_graph(self) -> None:
        print(self.graph)

    def _bound(self, what: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if self._on:
            self._refuse(what, kwargs)
        return {**kwargs, **self._on}

    def _refuse(self, what: str, kwargs: Mapping[str, Any]) -> None:
        if "backend" in kwargs:
            raise OptionError(
                f"{self.__name__}.{what}: the program was compiled for backend {self.backend.capabilities.name!r}; "
                f"run the program itself, or compile() it for the other one"
            )

    def __repr__(self) -> str:
        return f"<compiled {self.function!r} on {self.backend.capabilities.name!r}, {self.pinned} tokens pinned>"


class _Follow:
    """One trace of one program."""

    def __init__(self, function: SglFunction, given: dict[str, Any], options: Options, trace: Trace) -> None:
        self._function, self._trace = function, trace
        self._options = replace(options, timeout=None)  # the time is ours to keep
        self._timeout = TIMEOUT if options.timeout is None else options.timeout
        missing = _missing(function, given)
        holes = {name: trace.argument(name) for name in missing}
        bound = {**function.bind_arguments, **holes}
        self._call = function._declared.bind((), given, bound, f"{function.__name__}.trace")
        self._placeholders = tuple(missing)
        self._line = Line()
        self._instance: DryInstance | None = None
        self._failed: BaseException | None = None
        trace.on_look = looked_here

    def graph(self) -> Graph:
        """Run the body to its end, or to where it cannot be followed, and give what it said."""
        thread = self._start()
        try:
            ends = time.monotonic() + self._timeout
            while thread.is_alive() and (left := ends + self._trace.seconds_excused() - time.monotonic()) > 0:
                thread.join(left)
            if thread.is_alive():
                where = _line_of_thread(thread, self._code())
                self._trace.stop(f"the body still ran after {self._timeout:g} seconds", where)
        finally:
            if thread.is_alive():  # too long, or Ctrl-C here
                self._trace.stop("the trace was interrupted")
                self._interrupt(thread)
            self._trace.over = True
        stopped = self._trace.stopped or self._judge()
        instance = self._instance
        prefix = () if instance is None else tuple(instance.state._branch.prefix)  # type: ignore[attr-defined]
        return Graph(self._function.__name__, self._line.frozen(), _joined(prefix), stopped, self._placeholders)

    def _start(self) -> threading.Thread:
        """The body's own thread: it can be left behind, and no event loop of the caller's gets in its way."""
        context = contextvars.copy_context()
        context.run(_caller.set, None)  # what is traced here costs no program anything,
        context.run(recorders.set, ())  # and is no run that a recorder should hear of

        def work() -> None:
            with suppress(Ended, asyncio.CancelledError):
                self._execute()

        name = f"sgl-trace-{self._function.__name__}"
        thread = threading.Thread(target=context.run, args=(work,), name=name, daemon=True)
        thread.start()
        return thread

    def _execute(self) -> None:
        try:
            self._instance = DryInstance(
                self._function.func,
                self._function.__name__,
                self._call,
                self._options,
                self._trace,
                self._line,
                self._trace.target,
            )
            if self._instance.is_async:
                asyncio.run(self._instance.execute_async())
            else:
                self._instance.execute()
        except Exception as error:
            self._failed = error

    def _judge(self) -> Stopped | None:
        """The body's error: did a placeholder (perhaps) cause it, or is it the program's own? Raises the latter."""
        error = self._failed or (None if self._instance is None else self._instance.body.error)
        if error is None:
            return None
        own = not isinstance(error, Exception) or isinstance(error, CapabilityError)
        if own or not self._trace.guessed or error in self._trace.backend_errors:
            if self._failed is None and self._instance is not None:
                self._instance.body.outcome.value()  # raises it, with the traceback that it had
            raise error
        only_arguments = self._placeholders and not self._trace.read
        hint = f" (no value was given for {', '.join(self._placeholders)})" if only_arguments else ""
        return Stopped(f"{type(error).__name__}: {error}{hint}", _line_of(error, self._code()))

    def _interrupt(self, thread: threading.Thread) -> None:
        """End the body, wherever its Python code is. One that is blocked outside Python is left behind."""
        loop = None if self._instance is None else self._instance.body.loop
        if loop is not None:
            with suppress(RuntimeError):  # it closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            thread.join(0.5)
        if thread.is_alive():
            raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Ended))
            thread.join(1.0)

    def _code(self) -> CodeType | None:
        func = inspect.unwrap(getattr(self._function.func, "func", self._function.func))
        return getattr(getattr(func, "__func__", func), "__code__", None)


def _missing(function: SglFunction, given: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(function.func).parameters
    empty = inspect.Parameter.empty
    known = {**function.bind_arguments, **given}
    return [name for name in function.arg_names if name not in known and parameters[name].default is empty]


def _joined(pieces: tuple[tuple[str, bool], ...]) -> tuple[tuple[str, bool], ...]:
    """Pieces of one kind that touch, as one."""
    found: list[tuple[str, bool]] = []
    for text, markup in pieces:
        if found and found[-1][1] == markup:
            found[-1] = (found[-1][0] + text, markup)
        elif text:
            found.append((text, markup))
    return tuple(found)


# -- where a body is
def _line_of(error: BaseException, code: CodeType | None) -> str:
    """The innermost line of the body's own file that the error passed; else its innermost line."""
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    return _shown(frames, code)


def _line_of_thread(thread: threading.Thread, code: CodeType | None) -> str:
    frames: list[tuple[str, int]] = []
    frame: FrameType | None = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        frames.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _shown(frames, code)


def _shown(frames: list[tuple[str, int]], code: CodeType | None) -> str:
    own = [f for f in frames if code is not None and f[0] == code.co_filename] or frames
    return f"{own[-1][0].replace(chr(92), '/').rpartition('/')[2]}:{own[-1][1]}" if own else "?"
