"""`@sgl.function`: an ordinary Python function as a program.

Owns: the decorator and `SglFunction`'s methods, which sort arguments and hand over to `run.py` and `batch.py`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..backend.base import Backend
from ..lang.errors import NotYet, OptionError, suggest
from .arguments import RUN_OPTIONS, Declared, Options
from .batch.plan import BatchPlan
from .batch.results import Results, States
from .batch.rows import Row, Rows
from .batch.tasks import TaskBatch
from .batch.threads import ThreadBatch
from .hooks import hooks
from .journal.journal import Journal
from .partial.values import Partials
from .record import Listener, ProgramRecord
from .run import Instance, backend_here, done, instance_on, is_async, no_loop_here, run_async, run_here, run_stream
from .state import ProgramState
from .trace.recording import program_trace

_BATCH_OPTIONS = ("num_threads", "progress_bar", "generator_style", "on_error", "ordered", "resume", "batch_timeout")

if TYPE_CHECKING:
    from .graph.graph import Graph
    from .graph.lower import CompiledFunction


def _start_span(record: ProgramRecord) -> Listener | None:
    from .trace.spans import start  # imports opentelemetry, so only where the application has done so

    return start(record)


hooks.partial_values, hooks.program_trace, hooks.start_span = Partials, program_trace, _start_span


@overload
def function(func: Callable[..., Any], num_api_spec_tokens: int | None = None) -> SglFunction: ...
@overload
def function(
    func: None = None, num_api_spec_tokens: int | None = None
) -> Callable[[Callable[..., Any]], SglFunction]: ...
def function(
    func: Callable[..., Any] | None = None, num_api_spec_tokens: int | None = None
) -> SglFunction | Callable[[Callable[..., Any]], SglFunction]:
    """Make a program of a function (plain or async), a method, a partial or any callable: its first parameter, whatever
    its name, is the state. As `@sgl.function` or `@sgl.function()`."""
    if num_api_spec_tokens is not None:
        raise NotYet("function: num_api_spec_tokens= (speculation through an API) is not supported by this version yet")
    if func is None:
        return SglFunction
    return SglFunction(func)


class SglFunction:
    """A program. Immutable; hashable by identity."""

    def __init__(self, func: Callable[..., Any], bind_arguments: Mapping[str, Any] | None = None) -> None:
        if isinstance(func, SglFunction) or not callable(func):
            raise OptionError(f"sgl.function: a program is made of a function, got {func!r:.60}")
        functools.update_wrapper(self, func)
        inner = func.func if isinstance(func, functools.partial) else func
        self.__name__ = getattr(inner, "__name__", type(inner).__name__)
        if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
            raise OptionError(f"{self.__name__}: a program cannot contain `yield`; read it with run(stream=True)")
        self.func = func
        self.bind_arguments = dict(bind_arguments or {})
        self._declared = Declared(func, self.__name__)
        self._owner: type | None = None  # the class it is a method of

    @property
    def arg_names(self) -> tuple[str, ...]:
        """The program's parameters after the state."""
        return self._declared.names

    # -- running
    def run(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """Run the body now; values are read lazily from the state. An error of the body itself is raised here.

        `kwargs` are the program's arguments and run-level options (`max_new_tokens`, `temperature`, `stop`, `seed`,
        `timeout`, `backend`, ...). With `stream=True` the body runs in the background, and the state is returned at
        once.
        """
        instance, options = self._instance(args, kwargs)
        return run_stream(instance) if options.stream else run_here(instance)

    async def arun(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """`run` without blocking the event loop; everything is finished when it returns.

        An error of the body is raised; an error of a gen is raised where it is read, and given by `state.error()`.
        """
        instance, options = self._instance(args, kwargs)
        if options.stream:
            raise OptionError(f"{self.__name__}.arun: for a stream use run(stream=True) and state.text_async_iter()")
        return await run_async(instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """`f(...)` is `f.run(...)`; `f(s, ...)` runs the body inline on the program state `s` and returns its value."""
        if not (args and isinstance(args[0], ProgramState)):
            return self.run(*args, **kwargs)
        mine, options = self._declared.split(kwargs)
        if options:
            raise OptionError(
                f"{self.__name__}(s, ...) runs on the state it is given; {', '.join(options)} can only be said to run()"
            )
        call = self._declared.bind(args[1:], mine, self.bind_arguments, self.__name__)
        value = self.func(args[0], *call.args, **call.kwargs)
        body = args[0]._body
        return value if body.is_async or body.ended else done(value, self.__name__)

    def _instance(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Instance, Options]:
        if self._owner is not None and args and isinstance(args[0], self._owner):
            where = f"{self._owner.__name__}.{self.__name__}"
            raise OptionError(f"{where} is a method: run it on the instance, `instance.{self.__name__}.run(...)`")
        mine, given = self._declared.split(kwargs)
        options = Options.of(f"{self.__name__}.run", given)
        call = self._declared.bind(args, mine, self.bind_arguments, self.__name__)
        return instance_on(backend_here(options.backend), self.func, self.__name__, call, options), options

    # -- many at a time
    @overload
    def run_batch(self, rows: Any, *, generator_style: Literal[False] = False, **options: Any) -> States: ...
    @overload
    def run_batch(self, rows: Any, *, generator_style: Literal[True], **options: Any) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        on_error: Literal["raise", "keep"] = "raise",
        ordered: bool = True,
        resume: str | os.PathLike[str] | None = None,
        batch_timeout: float | None = None,
        backend: Any = None,
        **options: Any,
    ) -> States | Iterator[ProgramState]:
        """Run the program once a row (a dict by name, or a tuple by position); finished states, in the rows' order.

        `rows`: a list, or any iterable, which is read as there is room and never kept; with `generator_style` a batch
        holds a bounded number of rows, however many there are.
        `num_threads`: bodies at a time (of an async program: programs at a time); many more programs are in flight.
        `on_error="raise"`: the first failing row's original error is raised when the running ones ended, with all
        states as its `.states`; "keep": every row gives its state, and `state.error()` says what happened, to a row of
        the wrong shape too.
        `generator_style`: yield states as they finish, in order or (`ordered=False`) as completed; closing the
        generator cancels the rest.
        `resume`: a journal file. Each finished row is noted there, and rows that it has already are not run again
        (their states are read-only); see `docs/running.md`.
        `batch_timeout`: seconds for all rows together; `timeout` is each program's own.
        The rest are run-level options, as in `run`.
        """
        if is_async(self.func):
            no_loop_here(self.__name__, "arun_batch")  # before a journal is opened
        results = self._results(
            rows,
            False,
            num_threads,
            progress_bar,
            on_error,
            ordered,
            generator_style,
            resume,
            batch_timeout,
            backend,
            options,
        )
        batch = TaskBatch(results, True) if is_async(self.func) else ThreadBatch(results)
        return batch.iterate() if generator_style else batch.run()

    @overload
    def arun_batch(
        self, rows: Any, *, generator_style: Literal[False] = False, **options: Any
    ) -> Coroutine[Any, Any, States]: ...
    @overload
    def arun_batch(
        self, rows: Any, *, generator_style: Literal[True], **options: Any
    ) -> AsyncIterator[ProgramState]: ...
    def arun_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        on_error: Literal["raise", "keep"] = "raise",
        ordered: bool = True,
        resume: str | os.PathLike[str] | None = None,
        batch_timeout: float | None = None,
        backend: Any = None,
        **options: Any,
    ) -> Coroutine[Any, Any, States] | AsyncIterator[ProgramState]:
        """`run_batch` without blocking the event loop: to be awaited, or with `generator_style` an async iterator.
        `rows` may be an async iterable too."""
        results = self._results(
            rows,
            True,
            num_threads,
            progress_bar,
            on_error,
            ordered,
            generator_style,
            resume,
            batch_timeout,
            backend,
            options,
        )
        batch = TaskBatch(results, is_async(self.func))
        return batch.aiterate() if generator_style else batch.arun()

    def _results(
        self,
        given: Any,
        on_loop: bool,
        num_threads: Any,
        progress_bar: bool,
        on_error: str,
        ordered: bool,
        windowed: bool,
        resume: Any,
        batch_timeout: float | None,
        backend: Any,
        options: dict[str, Any],
    ) -> Results:
        where = f"{self.__name__}.run_batch"
        known = (*(o for o in RUN_OPTIONS if o != "stream"), *_BATCH_OPTIONS)
        for name in options:
            if name not in known:
                raise OptionError(f"{where}: unknown option {name!r}{suggest(name, known)}")
        parsed = Options.of(where, options)
        plan = BatchPlan(
            where,
            num_threads=num_threads,
            progress=progress_bar,
            on_error=on_error,
            ordered=ordered,
            windowed=windowed,
            batch_timeout=batch_timeout,
            is_async=is_async(self.func),
        )
        rows = Rows(self._declared, given, self.bind_arguments, plan.keep, on_loop)
        target = backend_here(backend) if rows.total != 0 else None

        def start(row: Row) -> Instance:
            assert target is not None and row.call is not None
            late = batch_timeout is not None
            return instance_on(target, self.func, self.__name__, row.call, parsed, row=row.index, may_be_late=late)

        journal = None if resume is None else Journal.open(resume, self.__name__)
        return Results(start, rows, plan, cast(Backend, target), journal)

    # -- shaping
    def bind(self, /, **kwargs: Any) -> SglFunction:
        """The program with some arguments given. What is passed to `run` wins over what was bound."""
        self._declared.check_names(f"{self.__name__}.bind", kwargs)
        return SglFunction(self.func, {**self.bind_arguments, **kwargs})

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: object, owner: type | None = None) -> SglFunction:
        """A program defined in a class is a method: `obj.program.run(...)` passes `obj` before the state."""
        if instance is None:
            return self
        bound = cast(Callable[..., Any], MethodType(self.func, instance))
        return SglFunction(bound, self.bind_arguments)

    def trace(self, /, **kwargs: Any) -> Graph:
        """The program's graph, found by running the body once without a model: it prints, and draws itself (`svg()`).

        `kwargs` are the program's arguments, where they matter; the others are placeholders (`{question}`). Also
        `backend` (whose chat template is used), `limit` (ops, 10,000) and `timeout` (seconds, 30).
        """
        from .graph.lower import graph_program

        return graph_program(self, kwargs)

    def compile(self, backend: Any = None) -> CompiledFunction:
        """The program bound to a backend (None: the default one): checked and prepared ahead of its first run, with
        the text that every run begins with computed and pinned."""
        from .graph.lower import compile_program

        return compile_program(self, backend)

    def cache(self, backend: Any = None) -> int:
        """Compute and pin the text that every run begins with, until the cache is flushed; its length in tokens."""
        from .graph.lower import cache_program

        return cache_program(self, backend)

    def __repr__(self) -> str:
        return f"<sgl program {self.__name__}{'' if not self.bind_arguments else f' bound to {self.bind_arguments!r}'}>"
