"""`@sgl.function`: an ordinary Python function as a program, and everything that can be done with one.

Knows nothing of how bodies run or rows finish. This is the one file that joins the core and the wings. Its methods hand
over to `run.py`, `batch/` and `graph/`. It puts what the core needs of `partial/` and `trace/` into the core's hooks.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..lang.errors import NotYet, OptionError
from .arguments import Declared, Options, one_batch
from .batch.results import Results, States
from .batch.tasks import TaskBatch
from .batch.threads import ThreadBatch
from .hooks import hooks
from .partial.values import Partials
from .record import Listener, ProgramRecord
from .run import Instance, backend_here, done, instance_on, is_async, no_loop_here, run_async, run_here, run_stream
from .state import ProgramState
from .trace.recording import program_trace

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
    """Make a program of a function: `@sgl.function` or `@sgl.function()`.

    Args:
        func: A function (plain or `async def`), a method, a partial or any callable. Its first parameter, whatever its
            name, is the state; the others are the program's arguments.
        num_api_spec_tokens: SGLang's argument; only None is possible yet.

    Returns:
        The program; without `func`, the decorator that makes one.

    Raises:
        OptionError: `func` is no function, has no parameter for the state, or contains `yield`.
        NotYet: `num_api_spec_tokens` was given.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def qa(s, question):
        ...     s += question + sgl.gen("answer", max_tokens=4)
        >>> qa
        <sgl program qa>
    """
    if num_api_spec_tokens is not None:
        raise NotYet("function: num_api_spec_tokens= (speculation through an API) is not supported by this version yet")
    if func is None:
        return SglFunction
    return SglFunction(func)


class SglFunction:
    """A program: what `@sgl.function` makes of a function. Immutable; hashable by identity.

    `f(...)` is `f.run(...)`. `f(s, ...)`, in the body of another program, runs the body inline on the state `s` and
    returns what the body returns.
    """

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
        """The names of the program's parameters after the state."""
        return self._declared.names

    # -- running
    def run(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """Run the body now. It returns when the body ends; values are read from the state, which waits for them.

        Args:
            *args: Arguments of the program, after its state.
            **kwargs: Arguments by name, and run-level options. A name that the function itself declares is its own.

        Run-level options:
            max_new_tokens, temperature, top_p, top_k, min_p, frequency_penalty, presence_penalty, repetition_penalty,
            stop, stop_token_ids, stop_regex, ignore_eos, n, return_logprob, logprob_start_len, top_logprobs_num,
            return_text_in_logprobs: Defaults for every gen of the program; what a gen says itself wins. Meaning, unit
                and default are those of `sgl.gen`.
            seed: An integer. With it the same program and arguments give the same result. Default: a new one.
            timeout: Seconds for the whole program, after which it fails with `ProgramTimeout`. Default: none.
            budget: The most the program may cost: generated tokens, or a dict of counts of `sgl.Usage`, such as
                `{"generated": 2000, "calls": 20}`. The next call fails with `BudgetExceeded`. Default: none.
            stream: True: run the body elsewhere and return the state at once. Default False.
            use_thread: Taken for SGLang's programs; without effect, as no program has a thread of its own here.
            backend: Where to run. Default: the one given to `sgl.set_default_backend`.

        Returns:
            The program's state.

        Raises:
            OptionError: An unknown, missing or wrong argument or option.
            BackendError: There is no backend to run on.
            Exception: What the body raised. (What a gen raises is raised where its value is read.)

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def qa(s, question):
            ...     s += question + sgl.gen("answer", max_tokens=4)
            >>> state = qa.run("Why?", temperature=0, backend=sgl.Runtime.toy())
            >>> state.text() == "Why?" + state["answer"]
            True
        """
        instance, options = self._instance(args, kwargs)
        return run_stream(instance) if options.stream else run_here(instance)

    async def arun(self, /, *args: Any, **kwargs: Any) -> ProgramState:
        """Run the program without blocking the event loop. Everything is finished when it returns.

        Args:
            *args: Arguments of the program, as for `run`.
            **kwargs: Arguments by name and run-level options, as for `run`. `stream` is not possible: use
                `run(stream=True)` and `state.text_async_iter()`.

        Returns:
            The program's state.

        Raises:
            OptionError, BackendError, Exception: As `run` does. `state.error()` gives the error of a gen.

        Example:
            >>> import asyncio, sgl
            >>> @sgl.function
            ... async def qa(s, question):
            ...     s += question + sgl.gen("answer", max_tokens=4)
            ...     return len(await s["answer"]) > 0
            >>> asyncio.run(qa.arun("Why?", backend=sgl.Runtime.toy())).ret_value
            True
        """
        instance, options = self._instance(args, kwargs)
        if options.stream:
            raise OptionError(f"{self.__name__}.arun: for a stream use run(stream=True) and state.text_async_iter()")
        return await run_async(instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
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
    def run_batch(self, rows: Any = None, *, generator_style: Literal[False] = False, **options: Any) -> States: ...
    @overload
    def run_batch(
        self, rows: Any = None, *, generator_style: Literal[True], **options: Any
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        rows: Any = None,
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
        """Run the program once for each row, many at a time.

        Args:
            rows: Each row is a dict of arguments by name, or a tuple by position. A list is checked before anything
                runs. Any other iterable is read as there is room and never kept, so it may be endless. SGLang's name
                `batch_kwargs` of this argument is taken too.
            num_threads: Bodies that run at a time (of an async program: programs at a time); many more programs are in
                flight. Default "auto": 64 bodies, 256 programs.
            progress_bar: Show rows, tokens a second and reuse. Default False.
            generator_style: Yield states as they finish; a bounded number of rows is held. Closing the generator
                cancels the rest. Default False.
            on_error: "raise" (default): no more rows start once one failed. When the running ones have ended, the
                original error is raised, with all states as its `.states`. "keep": every row gives a state, also a row
                of the wrong shape, and `state.error()` says what happened.
            ordered: With `generator_style`, give rows in their order (default True) or as they complete.
            resume: Path of a journal file. Each finished row is noted there, and a row that the file has already does
                not run again: its state can only be read. Default None.
            batch_timeout: Seconds for all rows together (`timeout` is each program's own). Default None.
            backend: Where to run. Default: the one given to `sgl.set_default_backend`.
            **options: Run-level options, as for `run`.

        Returns:
            The finished states, in the rows' order: a list with `.errors` and `.usage`. With `generator_style`, an
            iterator of states.

        Raises:
            OptionError: A wrong option, a wrong row, or a file that is no journal of this program.
            ProgramTimeout: `batch_timeout` passed.
            JournalError: The journal could not be written.
            Exception: With `on_error="raise"`, the error of the first failed row.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def qa(s, question):
            ...     s += question + sgl.gen("answer", max_tokens=4)
            >>> states = qa.run_batch([{"question": "Why?"}, ("How?",)], backend=sgl.Runtime.toy())
            >>> [state.text()[:4] for state in states], states.errors
            (['Why?', 'How?'], {})
        """
        if is_async(self.func):
            no_loop_here(self.__name__, "arun_batch")  # before a journal is opened
        results = self._results(
            rows, False, resume=resume, backend=backend, options=options, num_threads=num_threads,
            progress=progress_bar, on_error=on_error, ordered=ordered, windowed=generator_style,
            batch_timeout=batch_timeout,
        )  # fmt: skip
        batch = TaskBatch(results, True) if is_async(self.func) else ThreadBatch(results)
        return batch.iterate() if generator_style else batch.run()

    @overload
    def arun_batch(
        self, rows: Any = None, *, generator_style: Literal[False] = False, **options: Any
    ) -> Coroutine[Any, Any, States]: ...
    @overload
    def arun_batch(
        self, rows: Any = None, *, generator_style: Literal[True], **options: Any
    ) -> AsyncIterator[ProgramState]: ...
    def arun_batch(
        self,
        rows: Any = None,
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
        """Run the program once for each row without blocking the event loop.

        Args:
            rows: As for `run_batch`, or an async iterable.
            num_threads, progress_bar, generator_style, on_error, ordered, resume, batch_timeout, backend: As for
                `run_batch`.
            **options: Run-level options, as for `run`.

        Returns:
            A coroutine that gives the finished states; with `generator_style`, an async iterator of states.

        Raises:
            OptionError, ProgramTimeout, JournalError, Exception: As `run_batch` does.

        Example:
            >>> import asyncio, sgl
            >>> @sgl.function
            ... async def qa(s, question):
            ...     s += question + sgl.gen("answer", max_tokens=4)
            >>> len(asyncio.run(qa.arun_batch([("Why?",), ("How?",)], backend=sgl.Runtime.toy())))
            2
        """
        results = self._results(
            rows, True, resume=resume, backend=backend, options=options, num_threads=num_threads,
            progress=progress_bar, on_error=on_error, ordered=ordered, windowed=generator_style,
            batch_timeout=batch_timeout,
        )  # fmt: skip
        batch = TaskBatch(results, is_async(self.func))
        return batch.aiterate() if generator_style else batch.arun()

    def _results(self, rows: Any, on_loop: bool, **options: Any) -> Results:
        rows = one_batch(self.__name__, rows, options["options"])
        return Results.of(self.func, self._declared, self.bind_arguments, rows, on_loop, **options)

    # -- shaping
    def bind(self, /, **kwargs: Any) -> SglFunction:
        """Give some arguments of the program: a new program. What is passed to `run` wins over what was bound.

        Args:
            **kwargs: Arguments of the program by name.

        Raises:
            OptionError: The program has no such parameter.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def qa(s, question, tone):
            ...     s += f"{tone}: {question}"
            >>> qa.bind(tone="kind").run("Why?", backend=sgl.Runtime.toy()).text()
            'kind: Why?'
        """
        self._declared.check_names(f"{self.__name__}.bind", kwargs)
        return SglFunction(self.func, {**self.bind_arguments, **kwargs})

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: object, owner: type | None = None) -> SglFunction:
        """Bind a program that is defined in a class: `obj.program.run(...)` passes `obj` before the state."""
        if instance is None:
            return self
        bound = cast(Callable[..., Any], MethodType(self.func, instance))
        return SglFunction(bound, self.bind_arguments)

    def graph(self, /, **kwargs: Any) -> Graph:
        """Draw the program: run its body once without a model and give the graph of what it says.

        Args:
            **kwargs: Arguments of the program, where they matter; the others are placeholders (`{question}`). Also,
                unless the program declares these names itself: `backend` (its chat template is used; its model is not
                asked), `limit` (ops, default 10,000) and `timeout` (seconds, default 30).

        Returns:
            The graph; it prints, and draws itself (`.svg()`). It ends where the body needs what a model would say.

        Raises:
            OptionError: A wrong argument.
            Exception: What the body raised, if no placeholder can have caused it.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def qa(s, question):
            ...     s += "Q: " + question + sgl.gen("answer")
            >>> "gen" in str(qa.graph())
            True
        """
        from .graph.lower import graph_program

        return graph_program(self, kwargs)

    def trace(self, /, **kwargs: Any) -> Graph:
        """Give `graph(**kwargs)`: the name that SGLang's programs use. (To record a run, use `with sgl.trace()`.)

        Example:
            >>> import sgl
            >>> type(sgl.function(lambda s: s.user("Why?")).trace()).__name__
            'Graph'
        """
        return self.graph(**kwargs)

    def compile(self, backend: Any = None) -> CompiledFunction:
        """Give the program bound to a backend and prepared ahead of its first run. It runs as the program does.

        Its ops are checked against what the backend can do, and its constraints are compiled. The KV of the text that
        every run begins with is computed and kept.

        Args:
            backend: Where the program will run. Default: the one given to `sgl.set_default_backend`.

        Raises:
            CapabilityError, ConstraintError: What a run there would raise.
            OptionError: The program has an argument `backend` of its own.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def qa(s, question):
            ...     s += "Answer briefly. " + question + sgl.gen("answer", max_tokens=4)
            >>> compiled = qa.compile(sgl.Runtime.toy())
            >>> compiled.pinned > 0 and compiled.run("Why?")["answer"] != ""
            True
        """
        from .graph.lower import compile_program

        return compile_program(self, backend)

    def cache(self, backend: Any = None) -> int:
        """Compute the KV of the text that every run begins with, and keep it until the cache is flushed.

        Args:
            backend: Where the program will run. Default: the one given to `sgl.set_default_backend`.

        Returns:
            The length of that text in tokens.

        Raises:
            BackendError, CapabilityError, ConstraintError, OutOfMemory: What a run there would raise.

        Example:
            >>> import sgl
            >>> sgl.function(lambda s: s.user("Why?")).cache(sgl.Runtime.toy()) > 0
            True
        """
        from .graph.lower import cache_program

        return cache_program(self, backend)

    def __repr__(self) -> str:
        return f"<sgl program {self.__name__}{'' if not self.bind_arguments else f' bound to {self.bind_arguments!r}'}>"
