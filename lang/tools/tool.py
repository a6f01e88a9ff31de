"""`@sgl.tool` and `Tool`: a Python function with what a model is told of it, and the rules by which it is run.

Knows nothing of threads, nor of how a tool is run. The schema of a function is made when it is first asked for, so a
type may be defined after the function.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Annotated, Any, Generic, ParamSpec, TypeVar, cast, overload

from ..errors import ToolError
from .docstring import described
from .parameters import FunctionParameters, HintResolver, InjectedMark, PlainParameters, ToolParameters
from .raw import argument_schema
from .spec import ToolSpec, check_name

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MOST_RESULT_TOKENS = 2_000
"""Of a result that the model is shown, unless its tool says otherwise: a quarter of a context of 8,192."""
MOST_RETRIES = 100
_NOBODY = object()

if TYPE_CHECKING:
    Injected = Annotated[T, InjectedMark()]
else:

    class Injected:
        """Marks a parameter that the program gives to a tool, and that the model never sees: `db: sgl.Injected[Db]`.

        Its value comes from `given=`, by the parameter's name or by its type. A parameter whose type is
        `sgl.ProgramState` needs no mark.

        Example:
            >>> import sgl
            >>> @sgl.tool
            ... def look(key: str, table: sgl.Injected[dict]) -> str:
            ...     return table[key]
            >>> list(look.spec.parameters.schema["properties"])
            ['key']
        """

        given_to_tools = True

        def __class_getitem__(cls, tp: Any) -> Any:
            return Annotated[tp, InjectedMark()]


@dataclasses.dataclass(eq=False, repr=False)
class Tool(Generic[P, R]):
    """A function that a model may call. `@sgl.tool` makes it; it is still called as the function.

    Attributes:
        name: What the model calls it.
        description: What the model is told of it.
        timeout: Seconds that one try may take; None: any time.
        retries: Further tries after one that raised or took too long.
        parallel_safe: Whether other tools may run at the same time.
        requires_approval: Whether somebody is asked before each call.
        max_result_tokens: Tokens of a result that the model is shown; None: all.
        own: Whether it is the program's own function. What is wrong with such a tool is an error; what is wrong with
            another one leaves it out of a list of tools.
    """

    raw_function: Callable[P, R] | None
    name: str
    description: str
    read_parameters: Callable[[bool], ToolParameters]
    """Makes the parameters; the argument says whether the first one is the object of a method."""
    timeout: float | None = None
    retries: int = 0
    parallel_safe: bool = True
    requires_approval: bool = False
    max_result_tokens: int | None = MOST_RESULT_TOKENS
    own: bool = True
    receiver: Any = _NOBODY
    """The object of a bound method."""
    is_method: bool = False

    def __post_init__(self) -> None:
        if self.raw_function is not None:
            functools.update_wrapper(cast("Callable[..., Any]", self), self.raw_function, updated=())

    # -- for the program
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself.

        Example:
            >>> import sgl
            >>> @sgl.tool
            ... def add(a: int, b: int) -> int:
            ...     return a + b
            >>> add(1, b=2)
            3
        """
        if self.raw_function is not None and self.receiver is _NOBODY:
            return self.raw_function(*args, **kwargs)
        return self.function(*args, **kwargs)

    def __set_name__(self, owner: type, name: str) -> None:
        inside, _, _ = str(getattr(self.raw_function, "__qualname__", "")).rpartition(".")
        self.is_method = inside == owner.__qualname__  # else a function that the class merely holds

    def __get__(self, instance: Any, owner: type | None = None) -> Tool[..., R]:
        tool = cast("Tool[..., R]", self)
        if instance is None or self.receiver is not _NOBODY:
            return tool
        if not self.is_method and not isinstance(instance, type):  # a class comes from `@classmethod` above it
            return tool
        return dataclasses.replace(tool, receiver=instance, is_method=True)

    def __repr__(self) -> str:
        return f"<sgl.Tool {self.name}>"

    @property
    def function(self) -> Callable[..., R]:
        """What runs. Raises `ToolError` for a description without a function, and for a method without its object."""
        if self.raw_function is None:
            raise ToolError(
                f"tool {self.name}: it is a description without a function, so it cannot be run; "
                "give it one: sgl.tool(name=..., parameters=...)(function)"
            )
        if self.receiver is not _NOBODY:
            return MethodType(self.raw_function, self.receiver)
        if self.is_method:
            raise ToolError(f"tool {self.name}: it is a method; take it from an object, as in thing.{self.name}")
        return self.raw_function

    # -- for the model
    @functools.cached_property
    def parameters(self) -> ToolParameters:
        """What the tool takes."""
        return self.read_parameters(self.is_method)

    @functools.cached_property
    def spec(self) -> ToolSpec:
        """What a model is told of the tool. Raises `ToolError` where the function has no JSON Schema."""
        return ToolSpec(self.name, self.description, self.parameters.schema)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    parallel_safe: bool = True,
    requires_approval: bool = False,
    max_result_tokens: int | None = MOST_RESULT_TOKENS,
    inject: tuple[str, ...] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    parallel_safe: bool = True,
    requires_approval: bool = False,
    max_result_tokens: int | None = MOST_RESULT_TOKENS,
    inject: tuple[str, ...] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """Make a tool of a function: what a model is told of it follows from its hints, defaults and docstring.

    On `def` and on `async def`, on methods and static methods, on anything that is called. The docstring may be in
    Google's, NumPy's or Sphinx's style. Arguments are converted to the hinted types before the function is called.

    Args:
        function: The function; without it, a decorator with these options.
        name: What the model calls it; default: the function's name.
        description: What the model is told; default: the docstring without its sections.
        timeout: Seconds that one try may take; default None: any time.
        retries: Further tries after one that raised or took too long; default 0.
        parallel_safe: Whether other tools may run at the same time; default True.
        requires_approval: Whether somebody is asked before each call; default False.
        max_result_tokens: Tokens of a result that the model is shown; default 2,000; None: all.
        inject: Names of parameters that the program gives and that the model does not see (see `Injected`).
        parameters: A JSON Schema of the arguments, in place of the hints; the function gets plain JSON data.

    Returns:
        The `Tool`, or a decorator that makes one.

    Raises:
        ToolError: The name, an option or a parameter is wrong. The message names the tool and the parameter.

    Example:
        >>> import sgl
        >>> @sgl.tool(timeout=5)
        ... def weather(city: str, days: int = 1) -> str:
        ...     '''Forecast the weather.
        ...
        ...     Args:
        ...         city: Name of the city.
        ...     '''
        ...     return f"{city}: sun for {days} days"
        >>> weather.spec.description, weather.spec.parameters.schema["required"]
        ('Forecast the weather.', ['city'])
        >>> weather("Rome")
        'Rome: sun for 1 days'
    """
    frame = sys._getframe(1)

    def make(function: Any) -> Tool[Any, Any]:
        made = _make(function, name, description, tuple(inject), parameters, frame.f_locals)
        made.timeout, made.retries, made.max_result_tokens = timeout, retries, max_result_tokens
        made.parallel_safe, made.requires_approval = parallel_safe, requires_approval
        _check(made)
        return made

    return make if function is None else make(function)


def _make(
    function: Any,
    name: str | None,
    description: str | None,
    inject: tuple[str, ...],
    schema: Mapping[str, Any] | None,
    names: Mapping[str, Any],
) -> Tool[Any, Any]:
    if isinstance(function, Tool):
        raise ToolError(f"tool {function.name}: it is a tool already; decorate the function once")
    if isinstance(function, (staticmethod, classmethod)):
        kind = type(function).__name__
        raise ToolError(f"tool {function.__name__}: write @{kind} above @sgl.tool, not below it")
    if isinstance(function, type) or not callable(function):
        raise ToolError(f"sgl.tool takes a function, got {function!r:.80}; a class can stand in a list of tools itself")
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = name or getattr(inner, "__name__", None) or type(inner).__name__
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ToolError(f"tool {name}: it is a generator; return a list, or one text")
    text, of_parameters = described(inspect.getdoc(inner) if inspect.isroutine(inner) else None)
    where = f"tool {name}"
    if schema is not None:
        plain = PlainParameters(argument_schema(where, schema))
        return Tool(function, name, description or text, lambda is_method: plain)
    resolver = HintResolver(function, names)

    def read(is_method: bool) -> ToolParameters:
        return FunctionParameters(
            function, where, resolver, skip_first=is_method, injected=inject, described=of_parameters
        )

    made = Tool(function, name, description or text, read)
    inside, _, _ = str(getattr(inner, "__qualname__", "")).rpartition(".")
    if not inside or inside.endswith("<locals>"):  # else it may be a method, which its class will say
        _ = made.parameters  # is checked now
    return made


def _check(made: Tool[Any, Any]) -> None:
    where = f"tool {made.name}"
    check_name(where, made.name)
    if not isinstance(made.description, str):
        raise ToolError(f"{where}: description must be a text, got {made.description!r:.60}")
    check_seconds(where, made.timeout)
    if not isinstance(made.retries, int) or isinstance(made.retries, bool) or not 0 <= made.retries <= MOST_RETRIES:
        raise ToolError(f"{where}: retries must be a whole number from 0 to {MOST_RETRIES}, got {made.retries!r:.60}")
    most = made.max_result_tokens
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise ToolError(f"{where}: max_result_tokens must be a whole number above 0, or None, got {most!r:.60}")


def check_seconds(where: str, seconds: object) -> None:
    """Refuse a timeout that is no number of seconds above 0."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ToolError(f"{where}: timeout must be seconds above 0, or None for any time, got {seconds!r:.60}")
