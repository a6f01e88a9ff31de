"""Graphs of programs, and programs that are bound to a backend ahead of their first run.

A dry run executes the body once, in a thread of its own, without a model (`dry_run.py`). Compiling makes a dry run with
the backend's own chat template and capabilities. So it refuses all that a run would refuse, prepares every constraint,
and pins the text that every run begins with.

Invariants
1. The body runs exactly once for a graph, and only because the user asked for one.
2. A dry run ends: by the body's end, by a placeholder taken for a value, by `limit` ops, or by `timeout` seconds.
3. An error that no placeholder can have caused is the program's own, and is raised as it is.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ...backend.base import Backend
from ...lang.errors import CapabilityError, OptionError
from ..arguments import Options
from ..defaults import resolve
from ..record import current as recorders
from ..run import running
from ..state import ProgramState
from .dry_run import DryBackend, DryBranch, GraphCollector, GraphEnded
from .dry_state import DryInstance
from .graph import Graph, Pieces
from .nodes import Stopped, Subprogram

if TYPE_CHECKING:
    from ..function import SglFunction  # for the annotations; a program imports this module when it is first asked

DEFAULT_OPS = 10_000
"""The `limit` of ops, reads and branches. Real programs say hundreds; a loop without an end gets here in 0.3 s."""
DEFAULT_SECONDS = 30.0


def graph_program(function: SglFunction, kwargs: Mapping[str, Any]) -> Graph:
    """Make the graph of a program by running its body once without a model.

    `kwargs` are the program's arguments; one that is not given, bound or declared with a default is a placeholder.
    Unless the program declares these names itself, they may also hold `backend` (its chat template renders the prefix;
    its model is not asked), `limit` (ops, default 10,000) and `timeout` (seconds, default 30).
    """
    where, given = f"{function.__name__}.graph", dict(kwargs)
    limit = DEFAULT_OPS if "limit" in function.arg_names else given.pop("limit", DEFAULT_OPS)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise OptionError(f"{where}: limit must be an integer of at least 1, got {limit!r:.60}")
    mine, run = function._declared.split(given)
    options = Options.of(where, run)
    if options.stream:
        raise OptionError(f"{where}: stream= has no meaning without a model")
    target = None if options.backend is None else resolve(options.backend)
    return _DryRun(function, mine, options, target, GraphCollector(False, limit)).graph()


def cache_program(function: SglFunction, backend: Any = None) -> int:
    """Pin the text that every run of the program begins with; its length in tokens."""
    target = resolve(backend)
    return _pinned(target, _bound_graph(function, target))


def compile_program(function: SglFunction, backend: Any = None) -> CompiledFunction:
    """Bind the program to `backend` (None: the default one).

    Raises what a run there would raise: for an op that the backend cannot do, or a constraint that it cannot enforce.
    """
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
    return _DryRun(function, {}, Options(), target, GraphCollector(True, DEFAULT_OPS)).graph()


def _pinned(target: Backend, graph: Graph) -> int:
    return target.pin(graph.prefix) if graph.prefix else 0


class CompiledFunction:
    """A program on one backend, prepared; it runs as the program does.

    Its constraints are compiled, and its leading text is computed and pinned: `pinned` tokens, until the backend's
    cache is flushed. `graph` is the program's graph.
    """

    def __init__(self, function: SglFunction, backend: Backend, graph: Graph, pinned: int) -> None:
        self.function, self.backend, self.graph, self.pinned = function, backend, graph, pinned
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._declares_backend = "backend" in function.arg_names

    @property
    def arg_names(self) -> tuple[str, ...]:
        """The program's parameters after the state."""
        return self.function.arg_names

    def run(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """Run the program, as `SglFunction.run`."""
        return self.function.run(*args, **self._with_backend("run", kwargs))

    async def arun(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """Run the program without blocking the event loop, as `SglFunction.arun`."""
        return await self.function.arun(*args, **self._with_backend("arun", kwargs))

    def run_batch(self, rows: Any, **options: Any) -> Any:
        """Run the program once a row, as `SglFunction.run_batch`."""
        self._refuse_backend("run_batch", options)
        return self.function.run_batch(rows, **options, backend=self.backend)

    def arun_batch(self, rows: Any, **options: Any) -> Any:
        """Run the program once a row without blocking the event loop, as `SglFunction.arun_batch`."""
        self._refuse_backend("arun_batch", options)
        return self.function.arun_batch(rows, **options, backend=self.backend)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the program; with a program state as first argument, run the body inline on that state."""
        if args and isinstance(args[0], ProgramState):
            return self.function(*args, **kwargs)
        return self.run(*args, **kwargs)

    def bind(self, /, **kwargs: Any) -> CompiledFunction:
        """Give some arguments and compile again: more of the program's text is constant then."""
        return compile_program(self.function.bind(**kwargs), None if self._declares_backend else self.backend)

    def print_graph(self) -> None:
        """Print the program's graph as text."""
        print(self.graph)

    def _with_backend(self, what: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if self._declares_backend:
            return dict(kwargs)
        self._refuse_backend(what, kwargs)
        return {**kwargs, "backend": self.backend}

    def _refuse_backend(self, what: str, kwargs: Mapping[str, Any]) -> None:
        if "backend" in kwargs:
            raise OptionError(
                f"{self.__name__}.{what}: the program was compiled for backend {self.backend.capabilities.name!r}; "
                f"run the program itself, or compile() it for the other one"
            )

    def __repr__(self) -> str:
        return f"<compiled {self.function!r} on {self.backend.capabilities.name!r}, {self.pinned} tokens pinned>"


class _DryRun:
    """One dry run of one program, from its arguments to its graph."""

    def __init__(
        self,
        function: SglFunction,
        given: dict[str, Any],
        options: Options,
        target: Backend | None,
        collector: GraphCollector,
    ) -> None:
        self._function, self._collector = function, collector
        self._options = replace(options, timeout=None)  # the dry run keeps the time itself
        self._seconds = DEFAULT_SECONDS if options.timeout is None else options.timeout
        missing = _missing(function, given)
        placeholders = {name: collector.argument(name) for name in missing}
        bound = {**function.bind_arguments, **placeholders}
        self._call = function._declared.bind((), given, bound, f"{function.__name__}.graph")
        self._placeholders = tuple(missing)
        self._top = DryBranch(collector, depth=-1)  # the program is the one node on it
        self._backend = DryBackend(self._top, target)
        self._instance: DryInstance | None = None
        self._failed: BaseException | None = None

    def graph(self) -> Graph:
        """Run the body to its end, or to where it cannot be followed, and give what it said."""
        collector, thread = self._collector, self._start()
        try:
            ends = time.monotonic() + self._seconds
            while thread.is_alive() and (left := ends + collector.seconds_excused() - time.monotonic()) > 0:
                thread.join(left)
            if thread.is_alive():
                frame = sys._current_frames().get(thread.ident or 0)
                stack = [] if frame is None else list(traceback.walk_stack(frame))
                where = _line_of(reversed(stack), self._code())
                collector.stop(f"the body still ran after {self._seconds:g} seconds", where)
        finally:
            if thread.is_alive():  # the time is over, or Ctrl-C was pressed here
                collector.stop("the dry run was interrupted")
                self._interrupt(thread)
            collector.over = True
        stopped = collector.stopped or self._judge()
        body = next((node.body for node in self._top.frozen() if isinstance(node, Subprogram)), ())
        prefix = [] if self._instance is None else self._instance.branch.prefix
        return Graph(self._function.__name__, body, _joined(prefix), stopped, self._placeholders)

    def _start(self) -> threading.Thread:
        """Start the body in a thread of its own: it can be left behind, and is on no event loop of the caller's."""
        context = contextvars.copy_context()
        context.run(running.set, None)  # what runs dry costs no program anything,
        context.run(recorders.set, ())  # and no recorder hears of it

        def work() -> None:
            with suppress(GraphEnded, asyncio.CancelledError):
                self._execute()

        name = f"sgl-graph-{self._function.__name__}"
        thread = threading.Thread(target=context.run, args=(work,), name=name, daemon=True)
        thread.start()
        return thread

    def _execute(self) -> None:
        function = self._function
        try:
            self._instance = DryInstance(function.func, function.__name__, self._call, self._backend, self._options)
            if self._instance.is_async:
                asyncio.run(self._instance.execute_async())
            else:
                self._instance.execute()
        except Exception as error:
            self._failed = error

    def _judge(self) -> Stopped | None:
        """Judge the body's error. The dry run stopped there if a placeholder may have caused it; else raise it."""
        instance, collector = self._instance, self._collector
        error = self._failed or (None if instance is None else instance.body.error)
        if error is None:
            return None
        own = not isinstance(error, Exception) or isinstance(error, CapabilityError)
        if own or not collector.guessed or error in collector.backend_errors:
            if self._failed is None and instance is not None:
                instance.body.outcome.value()  # raises it, with the traceback that it had
            raise error
        only_arguments = self._placeholders and not collector.read
        hint = f" (no value was given for {', '.join(self._placeholders)})" if only_arguments else ""
        return Stopped(
            f"{type(error).__name__}: {error}{hint}", _line_of(traceback.walk_tb(error.__traceback__), self._code())
        )

    def _interrupt(self, thread: threading.Thread) -> None:
        """End the body, wherever its Python code is. A body that is blocked outside Python is left behind."""
        loop = None if self._instance is None else self._instance.body.loop
        if loop is not None:
            with suppress(RuntimeError):  # it closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            thread.join(0.5)
        if thread.is_alive():
            _raise_in(thread)
            thread.join(0.5)
        if thread.is_alive() and self._code() in _codes(thread):
            # The first exception was lost if it was raised in a weak reference's callback, where Python ignores it.
            _raise_in(thread)
            thread.join(0.5)

    def _code(self) -> CodeType | None:
        func = inspect.unwrap(getattr(self._function.func, "func", self._function.func))
        return getattr(getattr(func, "__func__", func), "__code__", None)


def _raise_in(thread: threading.Thread) -> None:
    """Raise `GraphEnded` in `thread`, at the next line of Python that it runs."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(GraphEnded))


def _codes(thread: threading.Thread) -> list[CodeType]:
    """Return the code of every function that `thread` is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [frame.f_code for frame, _ in traceback.walk_stack(frame)] if frame is not None else []


def _missing(function: SglFunction, given: Mapping[str, Any]) -> list[str]:
    parameters = inspect.signature(function.func).parameters
    empty = inspect.Parameter.empty
    known = {**function.bind_arguments, **given}
    return [name for name in function.arg_names if name not in known and parameters[name].default is empty]


def _joined(pieces: Sequence[tuple[str, bool]]) -> Pieces:
    """Join neighbours of one kind."""
    groups = groupby(pieces, key=lambda piece: piece[1])
    return tuple(("".join(text for text, _ in group), markup) for markup, group in groups)


def _line_of(frames: Iterable[tuple[FrameType, int]], code: CodeType | None) -> str:
    """Find the innermost line of the body's own file among `frames` (outermost first); else the innermost of all."""
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    own = [place for place in places if code is not None and place[0] == code.co_filename] or places
    return f"{own[-1][0].replace(chr(92), '/').rpartition('/')[2]}:{own[-1][1]}" if own else "?"
