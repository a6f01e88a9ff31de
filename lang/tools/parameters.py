"""The parameters of a function: their JSON Schema, and JSON data as arguments of their types.

Knows nothing of tools' rules. The parameters of a function are read as one TypedDict. So a name may be any Python name,
and a parameter that is left out gets the function's own default. What cannot be read is a `ToolError` that names the
parameter and what to write.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..constraint import JsonSchema
from ..errors import ConstraintError, ToolError, suggest
from ..types.conversion import KnownType, known_type, parse

_EMPTY = inspect.Parameter.empty
_BY_POSITION = inspect.Parameter.POSITIONAL_ONLY
_GATHERS = {
    inspect.Parameter.VAR_POSITIONAL: ("*{}", "take one list, such as {}: list[str]"),
    inspect.Parameter.VAR_KEYWORD: ("**{}", "name the parameters, or take one dict, such as {}: dict[str, str]"),
}


@dataclass(frozen=True, slots=True)
class InjectedMark:
    """In `Annotated`: the program gives this parameter, not the model."""


class ToolParameters(Protocol):
    """What a tool takes."""

    @property
    def schema(self) -> JsonSchema:
        """The JSON Schema of what the model gives, an object. Raises `ToolError` if there is none."""

    @property
    def injected(self) -> Mapping[str, Any]:
        """The parameters that the program gives, with their types."""

    def needed(self, given: Mapping[Any, Any]) -> str | None:
        """The first parameter that the program must give and that `given` lacks; None if there is none."""

    def bind(self, arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Convert JSON data to arguments for the function, and add what the program gives.

        Raises `ValueError` (pydantic's `ValidationError` is one) for data that is not of the parameters' types.
        """


class PlainParameters:
    """Parameters that a JSON Schema describes: the function gets JSON data, by name."""

    injected: Mapping[str, Any] = types.MappingProxyType({})

    def __init__(self, schema: JsonSchema) -> None:
        self.schema = schema

    def needed(self, given: Mapping[Any, Any]) -> str | None:
        return None

    def bind(self, arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
        return [], self.schema.parse(json.dumps(arguments, allow_nan=False))


class ModelParameters(PlainParameters):
    """The fields of a class: the function gets an instance of it."""

    def __init__(self, tp: type, where: str) -> None:
        try:
            self._known = known_type(tp, where)
        except ConstraintError as error:
            raise ToolError(str(error)) from error.__cause__
        super().__init__(JsonSchema(self._known.source))

    def bind(self, arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
        return [parse(self._known.type, json.dumps(arguments, allow_nan=False))], {}


class FunctionParameters:
    """The parameters of one function, from its hints and defaults.

    Args:
        function: the function.
        where: how errors begin, such as "tool search".
        resolver: the types of its annotations.
        skip_first: whether the first parameter is the object of a method.
        injected: names of parameters that the program gives.
        described: what a docstring says of each parameter.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        where: str,
        resolver: HintResolver,
        *,
        skip_first: bool = False,
        injected: tuple[str, ...] = (),
        described: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        self._where, self._described, self._named_injected, self._resolve = where, described, injected, resolver
        self._signature = self._read(function, skip_first)
        self._check(injected)

    def _read(self, function: Callable[..., Any], skip_first: bool) -> list[inspect.Parameter]:
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ToolError(f"{self._where}: its parameters cannot be read ({error}); wrap it in a def") from None
        fixed = function.keywords if isinstance(function, functools.partial) else {}
        return [p for p in found[1 if skip_first else 0 :] if p.name not in fixed]

    def _check(self, injected: tuple[str, ...]) -> None:
        names = [p.name for p in self._signature]
        for name in injected:
            if name not in names:
                raise ToolError(f"{self._where}: inject= names {name!r}, which is no parameter{suggest(name, names)}")
        for p in self._signature:
            if p.kind in _GATHERS:
                stars, instead = _GATHERS[p.kind]
                raise ToolError(
                    f"{self._where}, parameter {stars.format(p.name)}: a model names each argument; "
                    f"{instead.format(p.name)}"
                )
            if p.annotation is _EMPTY and p.name not in injected:
                raise ToolError(
                    f"{self._where}, parameter {p.name}: it has no type; write one, such as {p.name}: str, or name it "
                    f"in inject= if the program gives it"
                )

    # -- their types
    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        hints = {}
        for p in self._signature:
            try:
                hints[p.name] = Any if p.annotation is _EMPTY else self._resolve(p.name, p.annotation)
            except NameError as error:
                raise ToolError(
                    f"{self._where}, parameter {p.name}: the name {error.name!r} in its type cannot be resolved; "
                    "define it in the function's module"
                ) from None
            except Exception as error:
                raise ToolError(
                    f"{self._where}, parameter {p.name}: its type {p.annotation!r} cannot be read: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return hints

    @functools.cached_property
    def injected(self) -> dict[str, Any]:
        return {n: h for n, h in self._hints.items() if n in self._named_injected or _is_injected(h)}

    def needed(self, given: Mapping[Any, Any]) -> str | None:
        for p in self._signature:
            if p.name in self.injected and p.default is _EMPTY and _find(p.name, self.injected[p.name], given) is None:
                return p.name
        return None

    # -- their schema
    @functools.cached_property
    def _known(self) -> KnownType:
        from typing_extensions import NotRequired, TypedDict

        fields: dict[str, Any] = {}
        for p in self._signature:
            if p.name not in self.injected:
                hint, default = self._typed(p)
                fields[p.name] = hint if default is _EMPTY else NotRequired[hint]
        make: Any = TypedDict
        made = make("arguments", fields)
        made.__pydantic_config__ = {"extra": "forbid"}
        try:
            return known_type(made, self._where)
        except ConstraintError as error:
            raise ToolError(str(error).replace(": arguments.", ", parameter ", 1)) from error.__cause__

    def _typed(self, p: inspect.Parameter) -> tuple[Any, Any]:
        """A parameter's type and default. A default made by pydantic's `Field` is both."""
        hint = self._hints[p.name]
        if not _is_field(p.default):
            return hint, p.default
        from pydantic_core import PydanticUndefined

        field = _copied(p.default)
        default = _EMPTY if field.is_required() else field.get_default(call_default_factory=True)
        field.default, field.default_factory = PydanticUndefined, None
        return typing.Annotated[hint, field], default

    @functools.cached_property
    def schema(self) -> JsonSchema:
        """The JSON Schema of the parameters that the model gives: a closed object, in the order of the function."""
        schema = json.loads(self._known.source)
        schema.pop("description", None)
        properties = schema.setdefault("properties", {})
        for p in self._signature:
            if p.name in self.injected:
                continue
            hint, default = self._typed(p)
            said = properties.get(_spelled(p.name, hint))
            if not isinstance(said, dict):
                continue
            if p.name in self._described:
                said.setdefault("description", self._described[p.name])
            if default is not _EMPTY and (plain := _plain_default(hint, default)) is not None:
                said.setdefault("default", plain[0])
        schema.setdefault("additionalProperties", False)
        return JsonSchema(json.dumps(schema, ensure_ascii=False))

    # -- their values
    def bind(self, arguments: Mapping[str, Any], given: Mapping[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
        values: dict[str, Any] = dict(parse(self._known.type, json.dumps(arguments, allow_nan=False)))
        for name, hint in self.injected.items():
            if (found := _find(name, hint, given)) is not None:
                values[name] = found[0]
        by_position: list[Any] = []
        for p in self._signature:
            if p.name not in values and (_is_field(p.default) or p.kind is _BY_POSITION):
                default = self._typed(p)[1]
                if default is not _EMPTY:
                    values[p.name] = default
            if p.kind is _BY_POSITION and p.name in values:
                by_position.append(values.pop(p.name))
        return by_position, values


class HintResolver:
    """Resolves the annotations of a function: now, as far as they can be, else when they are needed.

    `names` are local names that annotations may use; they are not kept.
    """

    def __init__(self, function: Any, names: Mapping[str, Any]) -> None:
        while isinstance(function, functools.partial):
            function = function.func
        if not (inspect.isroutine(function) or inspect.isclass(function)):
            function = type(function).__call__
        self._function = inspect.unwrap(function)
        self._now: dict[str, Any] = {}
        for name, annotation in inspect.get_annotations(self._function).items():
            try:
                self._now[name] = self._eval(annotation, names)
            except Exception:  # it may be defined later; then, or never, it is told
                continue

    def __call__(self, name: str, annotation: Any) -> Any:
        return self._now[name] if name in self._now else self._eval(annotation, {})

    def _eval(self, annotation: Any, names: Mapping[str, Any]) -> Any:
        function = self._function
        enclosed = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        known = getattr(function, "__globals__", {})
        return typing.get_type_hints(holder, known, {**names, **enclosed}, include_extras=True)["it"]


def _is_injected(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return any(isinstance(note, InjectedMark) for note in hint.__metadata__) or _is_injected(hint.__origin__)
    return getattr(hint, "given_to_tools", False) is True


def _find(name: str, hint: Any, given: Mapping[Any, Any]) -> tuple[Any] | None:
    """What the program gives for a parameter, by its name or else by its type, in a tuple."""
    if name in given:
        return (given[name],)
    wanted = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
    for key, value in given.items():
        if isinstance(key, type) and isinstance(wanted, type) and issubclass(key, wanted):
            return (value,)
    return None


def _is_field(value: Any) -> bool:
    return type(value).__name__ == "FieldInfo" and type(value).__module__.startswith("pydantic.")


def _copied(field: Any) -> Any:
    import copy

    return copy.copy(field)


def _spelled(name: str, hint: Any) -> str:
    """The name of a parameter in JSON: its own, or the alias of a `Field`."""
    for note in reversed(getattr(hint, "__metadata__", ())):
        if _is_field(note):
            for alias in (note.validation_alias, note.alias):
                if isinstance(alias, str):
                    return alias
    return name


def _plain_default(hint: Any, default: Any) -> tuple[Any] | None:
    """A default as JSON data, in a tuple; None for one that is no JSON."""
    try:
        plain = json.loads(json.dumps(default, allow_nan=False))
        if plain == default:
            return (plain,)
    except (TypeError, ValueError, RecursionError):
        pass
    from pydantic import TypeAdapter

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        plain = adapter.dump_python(default, mode="json", warnings="error")
        return (plain,) if json.dumps(plain, allow_nan=False) else None
    except Exception:
        return None
