"""What a user passes to a program, sorted into the program's arguments and options of the run.

Knows nothing of running. A name that the function itself declares is the program's, even `n` or `stop`; every other
name must be a run-level option. Rows, dicts and lists of a caller are read and copied, never changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..lang.errors import OptionError, suggest
from ..lang.sampling import RUN_NAMES, Sampling
from .usage import Budget

RUN_OPTIONS = (*RUN_NAMES, "budget", "stream", "backend", "use_thread")
"""Names of the run-level options. `seed`, `timeout` and `budget` are the program's as a whole.

`use_thread` is SGLang's: whether a program has a thread of its own. None has one here, so it changes nothing."""


@dataclass(frozen=True)
class Options:
    """Run-level options, checked. `seed`, `timeout` (seconds) and `budget` hold for the whole program."""

    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    timeout: float | None = None
    budget: Budget | None = None
    stream: bool = False
    backend: Any = None

    @staticmethod
    def of(where: str, given: Mapping[str, Any]) -> Options:
        given = dict(given)
        stream, backend, budget = given.pop("stream", False), given.pop("backend", None), given.pop("budget", None)
        for name, flag in (("stream", stream), ("use_thread", given.pop("use_thread", True))):
            if not isinstance(flag, bool):
                raise OptionError(f"{where}: {name} must be True or False, got {flag!r:.60}")
        whole = Sampling.of(where, **{k: given.pop(k) for k in ("seed", "timeout") if k in given})
        defaults = Sampling.of(where, **{RUN_NAMES[k]: v for k, v in given.items()})
        limit = None if budget is None else Budget(where, budget)
        return Options(defaults, whole.seed, whole.timeout, limit, stream, backend)


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a body, after the state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Declared:
    """The parameters that a program declares after its state."""

    def __init__(self, func: Callable[..., Any], name: str) -> None:
        self.name = name
        try:
            signature = inspect.signature(func)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{name}: a program must be a function with a readable signature ({error})") from None
        kinds = inspect.Parameter
        parameters = list(signature.parameters.values())
        if not parameters or parameters[0].kind not in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            raise OptionError(f"{name}: a program needs a first parameter for its state: def {name}(s, ...)")
        self._signature = signature.replace(parameters=parameters[1:])
        rest = self._signature.parameters
        self.names = tuple(p.name for p in rest.values() if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD))
        self._open = any(p.kind is kinds.VAR_KEYWORD for p in rest.values())

    def split(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort `kwargs` into (the program's, the run's). A function with `**kwargs` takes unknown names."""
        mine: dict[str, Any] = {}
        run: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self.names:
                mine[name] = value
            elif name in RUN_OPTIONS:
                run[name] = value
            elif self._open:
                mine[name] = value
            else:
                raise OptionError(f"{self.name}: unknown argument {name!r}{suggest(name, (*self.names, *RUN_OPTIONS))}")
        return mine, run

    def check_names(self, where: str, names: Iterable[Any]) -> None:
        for name in names:
            if not isinstance(name, str) or (name not in self.names and not self._open):
                raise OptionError(f"{where}: no parameter {name!r}{suggest(str(name), self.names)}; {self}")

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], bound: Mapping[str, Any], where: str) -> Arguments:
        """The arguments of a call: those given, then those bound, then the function's own defaults."""
        try:
            call = self._signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise OptionError(f"{where}: {error}; {self}") from None
        extra = {k: v for k, v in bound.items() if k not in call.arguments and k not in kwargs}
        for name in self.names:
            if name in extra:
                call.arguments[name] = extra.pop(name)
        empty = inspect.Parameter.empty
        missing = [n for n in self.names if n not in call.arguments and self._signature.parameters[n].default is empty]
        if missing:
            raise OptionError(f"{where}: missing argument {', '.join(map(repr, missing))}; {self}")
        call.apply_defaults()
        return Arguments(call.args, {**call.kwargs, **extra})

    def __str__(self) -> str:
        return f"the program is {self.name}{self._signature}"


def one_batch(name: str, rows: Any, options: dict[str, Any]) -> Any:
    """The rows of a batch, which may be in `options` under SGLang's name for them."""
    if ("batch_kwargs" in options) == (rows is not None):
        raise OptionError(f"{name}.run_batch: give the rows, once: run_batch([...]) or run_batch(batch_kwargs=[...])")
    return options.pop("batch_kwargs", rows)
