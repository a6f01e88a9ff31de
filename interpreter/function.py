"""`@sgl.function`: an ordinary Python function as a program.

Owns: the decorator and `SglFunction`'s methods, which sort arguments and hand over to `run.py` and `batch.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any, Literal, NoReturn, cast, overload

from ..lang.errors import NotYet, OptionError, suggest
from .arguments import RUN_OPTIONS, Declared, Options, rows_of
from .batch import Batch, Plan
from .defaults import resolve
from .run import Instance, done, is_async, run_async, run_here, run_stream
from .state import ProgramState


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
        return Instance(self.func, self.__name__, call, resolve(options.backend), options), options

    # -- many at a time
    @overload
    def run_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        on_error: Literal["raise", "keep"] = "raise",
        ordered: bool = True,
        backend: Any = None,
        **options: Any,
    ) -> list[ProgramState]: ...
    @overload
    def run_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        on_error: Literal["raise", "keep"] = "raise",
        ordered: bool = True,
        backend: Any = None,
        **options: Any,
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        on_error: Literal["raise", "keep"] = "raise",
        ordered: bool = True,
        backend: Any = None,
        **options: Any,
    ) -> list[ProgramState] | Iterator[ProgramState]:
        """Run the program once a row (a dict by name, or a tuple by position); finished states, in the rows' order.

        `num_threads`: bodies at a time; many more programs are in flight. `on_error="raise"`: the first failing row's
        original error is raised when the running ones ended, with all states as its `.states`; "keep": every row
        gives its state, and `state.error()` says what happened. `generator_style`: yield states as they finish, in
        order or (`ordered=False`) as completed; closing the generator cancels the rest.
        """
        job = self._batch(rows, num_threads, progress_bar, on_error, ordered, generator_style, backend, options)
        return job.iterate() if generator_style else job.run()

    async def arun_batch(
        self,
        rows: Any,
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        on_error: Literal["raise", "keep"] = "raise",
        backend: Any = None,
        **options: Any,
    ) -> list[ProgramState]:
        """`run_batch` without blocking the event loop."""
        job = self._batch(rows, num_threads, progress_bar, on_error, True, False, backend, options)
        return await job.arun()

    def _batch(
        self,
        rows: Any,
        num_threads: Any,
        progress_bar: bool,
        on_error: str,
        ordered: bool,
        windowed: bool,
        backend: Any,
        options: dict[str, Any],
    ) -> Batch:
        where = f"{self.__name__}.run_batch"
        known = (
            *(o for o in RUN_OPTIONS if o != "stream"),
            "num_threads",
            "progress_bar",
            "generator_style",
            "on_error",
            "ordered",
        )
        for name in options:
            if name not in known:
                raise OptionError(f"{where}: unknown option {name!r}{suggest(name, known)}")
        parsed = Options.of(where, options)
        calls = rows_of(self._declared, rows, self.bind_arguments)
        target = resolve(backend) if calls else None

        def start(i: int) -> Instance:
            assert target is not None
            return Instance(self.func, self.__name__, calls[i], target, parsed, row=i)

        plan = Plan.of(where, len(calls), num_threads, progress_bar, on_error, ordered, windowed)
        return Batch(start, plan, target, is_async(self.func))

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

    def trace(self, /, **kwargs: Any) -> NoReturn:
        raise NotYet(f"{self.__name__}.trace: tracing a program without a model is not supported by this version yet")

    def compile(self, backend: Any = None) -> NoReturn:
        raise NotYet(f"{self.__name__}.compile is not supported by this version yet; run() does without")

    def cache(self, backend: Any = None) -> NoReturn:
        raise NotYet(f"{self.__name__}.cache is not supported by this version yet; common prefixes are shared anyway")

    def __repr__(self) -> str:
        return f"<sgl program {self.__name__}{'' if not self.bind_arguments else f' bound to {self.bind_arguments!r}'}>"
