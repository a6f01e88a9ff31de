"""Python types in JSON: a type becomes a JSON Schema, and a text becomes an instance of the type.

Knows nothing of constraints. Pydantic does the conversion (`schema.py`); it is imported when a type is first used.

Invariant: what the schema of a type admits, `parse` accepts, unless `checked_afterwards` says what more is checked.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import typing
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ConstraintError
from ..kept import kept
from .readable import readable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Json = dict[str, Any]

_DTYPES: dict[Any, str] = {
    int: "[-+]?[0-9]{1,20}",
    float: "[-+]?[0-9]{0,20}\\.?[0-9]{1,20}",
    bool: "(?:True|False)",
    str: '"\\w*(?: \\w+)* ?"',
}
"""SGLang's texts of `dtype=`, with bounded digits and no runs of white space."""
_NAMES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}

MOST_TYPES = 512
_TYPE_BYTES, _BYTES_OF_CHARACTER = 12_000, 60
"""What a small model was measured to take with its adapter, and one more character of its schema."""
"""Types that are kept with their schemas and validators."""


@dataclasses.dataclass(frozen=True, eq=False)
class KnownType:
    """A type that was read: one object for all equal types."""

    type: Any
    source: str
    """Its JSON Schema as text, properties in declaration order."""
    adapter: TypeAdapter[Any]
    afterwards: tuple[str, ...]
    """What `parse` checks that the schema does not say: in words, for a receipt."""


def known_type(tp: Any, where: str) -> KnownType:
    """Read a type. Raises `ConstraintError`, with `where`, the place in the type or the schema, and what to do."""
    if isinstance(tp, str):
        raise ConstraintError(f"{where}: {tp!r} is a string, not a type; give the type itself")
    if inspect.isroutine(tp):
        raise ConstraintError(
            f"{where}: {tp!r} is a function, not a type; give a type, such as a dataclass of its arguments"
        )
    try:
        return _known(_Key(tp))
    except ConstraintError as error:
        raise ConstraintError(f"{where}: {error}") from error.__cause__


def parse(tp: Any, text: str) -> Any:
    """Read JSON text as an instance of `tp`. The type's own validators run.

    Raises `ValueError` (pydantic's `ValidationError` is one) if the text is not JSON or not of the type.
    """
    adapter = _known(_Key(tp)).adapter
    json.loads(text, parse_constant=_not_json, parse_float=_finite)  # pydantic also reads NaN, and 1e999 as infinity
    return adapter.validate_json(text)


def checked_afterwards(tp: Any) -> tuple[str, ...]:
    """List what `parse` checks of `tp` that its schema does not say: in words, for a receipt."""
    return _known(_Key(tp)).afterwards


def named_dtype(dtype: Any, where: str) -> Any:
    """The type that `gen(dtype=...)` means: a type, or the name of int, float, bool or str."""
    if not isinstance(dtype, str):
        return dtype
    if dtype not in _NAMES:
        raise ConstraintError(
            f"{where}: {dtype!r} is none of {', '.join(_NAMES)}; for another type, give the type itself"
        )
    return _NAMES[dtype]


def dtype_pattern(dtype: Any) -> str | None:
    """SGLang's pattern of a `dtype`, or None for a type that is written as JSON."""
    return _DTYPES[dtype] if dtype in _NAMES.values() else None


def value_of_dtype(dtype: Any, text: str) -> Any:
    """Read the value of a text written under `gen(dtype=...)`. Raises `ValueError` if it has none."""
    dtype = _NAMES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype not in _NAMES.values():
        return parse(dtype, text)
    text = text.strip()
    if not re.fullmatch(_DTYPES[dtype], text):
        raise ValueError(f"{text!r} is no {dtype.__name__} (it must match {_DTYPES[dtype]})")
    if dtype is bool:
        return text == "True"
    return text[1:-1] if dtype is str else dtype(text)


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is too large for a float")
    return value


# Types that were seen


def adapter_of(tp: Any) -> TypeAdapter[Any]:
    """Pydantic's adapter of a type that was read."""
    return _known(_Key(tp)).adapter


class _Key:
    """A type as a cache key: by equality and spelling (`int | str == str | int`), by identity if it has no hash."""

    __slots__ = ("_hash", "text", "tp")

    def __init__(self, tp: Any) -> None:
        self.tp, self.text = tp, repr(tp)
        try:
            self._hash = hash((tp, self.text))
        except TypeError:
            self._hash = id(tp)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key) or self._hash != other._hash:
            return False
        return self.tp is other.tp or (self.text == other.text and bool(self.tp == other.tp))


@kept(MOST_TYPES, lambda args, known: _TYPE_BYTES + _BYTES_OF_CHARACTER * len(known.source))
def _known(key: _Key) -> KnownType:
    try:
        adapter, schema, afterwards = _read(key.tp)
    except Exception as error:
        path, blamed, reason = _culprit(key.tp, error)
        raise ConstraintError(f"{_name(key.tp)}{path}: {_reason(blamed, reason)}") from reason
    try:
        _check(schema)
    except ConstraintError as error:
        raise ConstraintError(f"{_name(key.tp)}: {error}") from None
    return KnownType(key.tp, json.dumps(schema, ensure_ascii=False, default=float), adapter, afterwards)


def _read(tp: Any) -> tuple[TypeAdapter[Any], Json, tuple[str, ...]]:
    from pydantic import TypeAdapter

    from .schema import schema_of

    if isinstance(tp, str):  # pydantic would look it up among our own names
        raise NameError(f"name {tp!r} is not defined", name=tp)
    adapter: TypeAdapter[Any] = TypeAdapter(readable(tp))
    if not adapter.pydantic_complete:
        adapter.rebuild(raise_errors=True, _parent_namespace_depth=0)
    return adapter, *schema_of(adapter)


# What is wrong with a type


def _culprit(tp: Any, error: Exception, depth: int = 0) -> tuple[str, Any, Exception]:
    """Find the innermost part of a type that cannot be read: its path, itself, and why."""
    for name, part in _parts(tp) if depth < 20 else ():
        if isinstance(part, str):  # an annotation that could not be resolved
            if str(getattr(error, "name", None)) in part:
                return name, tp, error
            continue
        try:
            _read(part)
        except Exception as inner:
            path, blamed, reason = _culprit(part, inner, depth + 1)
            return name + path, blamed, reason
    return "", tp, error


def _parts(tp: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a class, or the arguments of a generic, each with its step of the path."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin is typing.Annotated:
        yield "", args[0]
    elif origin is not None:
        is_data = origin is typing.Literal or "Callable" in repr(origin)
        yield from () if is_data else ((f"[{i}]", arg) for i, arg in enumerate(args) if arg is not ...)
    elif isinstance(tp, type) and any(hasattr(tp, name) for name in _CLASSES):
        try:
            hints = typing.get_type_hints(tp, include_extras=True)
        except (NameError, TypeError):
            hints = inspect.get_annotations(tp)
        for name, hint in hints.items():
            if typing.get_origin(hint) is not typing.ClassVar and not name.startswith("_"):
                yield f".{name}", hint


_CLASSES = ("model_fields", "__dataclass_fields__", "__total__", "_fields")


def _name(tp: Any) -> str:
    return tp.__name__ if isinstance(tp, type) and not typing.get_args(tp) else repr(tp)


def _reason(tp: Any, error: Exception) -> str:
    """Say an error of pydantic's or of Python's in our words, with what to do."""
    text = re.sub(r"\s*For further information visit \S+", "", str(error)).strip()
    if isinstance(error, ConstraintError):
        return text
    kind = type(error).__name__
    if kind == "PydanticUndefinedAnnotation" or isinstance(error, NameError) or "is not fully defined" in text:
        name = getattr(error, "name", None) or _name(tp)
        return (
            f"the name {name!r} cannot be resolved; define it in the type's module, or call model_rebuild() when it is"
        )
    if not isinstance(tp, type) and typing.get_origin(tp) is None and not isinstance(tp, typing.TypeVar):
        return f"{tp!r} is not a type that JSON can spell; give a type such as a model, a dataclass, list[int] or int"
    if kind not in ("PydanticSchemaGenerationError", "PydanticInvalidForJsonSchema"):
        return " ".join(text.split())  # pydantic says what to do
    return (
        f"{_name(tp)} has no JSON schema; use a model, a dataclass, a TypedDict or a plain type, "
        f"or say how it is written: Annotated[{_name(tp)}, pydantic.WithJsonSchema({{...}})] with a validator ({kind})"
    )


# What is wrong with a schema

_SCHEMAS, _LISTS = ("properties", "patternProperties", "$defs"), ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "propertyNames")


def _check(schema: Json) -> None:
    for pointer, part in _walk(schema, ""):
        if problem := _contradiction(part):
            raise ConstraintError(f"at #{pointer}: {problem}, so nothing can be written; correct the bounds")
    definitions = schema.get("$defs", {})
    finite: set[str] = set()
    while more := {name for name in definitions if name not in finite and _can_end(definitions[name], finite)}:
        finite |= more
    if endless := [name for name in definitions if name not in finite]:
        raise ConstraintError(
            f"at #/$defs/{endless[0]}: {endless[0]} always needs another {endless[-1]}, so its text never ends; "
            f"make the field that leads back Optional, or a list, or give it a default"
        )


def _walk(schema: Any, pointer: str) -> Iterator[tuple[str, Json]]:
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    for key in _SCHEMAS:
        for name, part in schema.get(key, {}).items():
            yield from _walk(part, f"{pointer}/{key}/{name.replace('~', '~0').replace('/', '~1')}")
    for key in _LISTS:
        for i, part in enumerate(schema.get(key, ())):
            yield from _walk(part, f"{pointer}/{key}/{i}")
    for key in _SINGLE:
        yield from _walk(schema.get(key), f"{pointer}/{key}")


def _contradiction(schema: Json) -> str | None:
    for what in ("Length", "Items", "Properties"):
        least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}", math.inf)
        if what == "Properties" and schema.get("additionalProperties") is False and "patternProperties" not in schema:
            most = min(most, len(schema.get("properties", ())))
        if least > most:
            return f"at least {least} and at most {most} {what.lower()}"
    items = schema.get("items")
    if schema.get("uniqueItems") and isinstance(items, dict):
        values = 2 if items.get("type") == "boolean" else len(items["enum"]) if "enum" in items else math.inf
        if schema.get("minItems", 0) > (1 if "const" in items else values):
            return f"at least {schema['minItems']} different items of which there are {values}"
    return _no_number(schema)


def _no_number(schema: Json) -> str | None:
    """Say why no number is within the bounds (exactly, in rationals); None if there is one."""
    least = [(Fraction(schema[k]), k == "exclusiveMinimum") for k in ("minimum", "exclusiveMinimum") if k in schema]
    most = [(Fraction(schema[k]), k == "exclusiveMaximum") for k in ("maximum", "exclusiveMaximum") if k in schema]
    if not least or not most:
        return None
    (low, low_open), (high, high_open) = max(least), min(most, key=lambda bound: (bound[0], not bound[1]))
    step = Fraction(str(schema.get("multipleOf", 1 if schema.get("type") == "integer" else 0)))
    if step:
        first = math.floor(low / step) + 1 if low_open else math.ceil(low / step)
        last = math.ceil(high / step) - 1 if high_open else math.floor(high / step)
        empty = first > last
    else:
        empty = low > high or (low == high and (low_open or high_open))
    return f"no number is within the bounds {_bounds(schema)}" if empty else None


def _bounds(schema: Json) -> str:
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
    return ", ".join(f"{name} {schema[name]}" for name in names if name in schema)


def _can_end(schema: Any, finite: set[str]) -> bool:
    """Whether some value of the schema is finite, given the definitions that have one."""
    if not isinstance(schema, dict):
        return schema is not False
    if "$ref" in schema and schema["$ref"].removeprefix("#/$defs/") not in finite:
        return False
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(_can_end(part, finite) for part in schema[key]):
            return False
    if not all(_can_end(part, finite) for part in schema.get("allOf", ())):
        return False
    properties = schema.get("properties", {})
    needed = [properties[name] for name in schema.get("required", ()) if name in properties]
    if schema.get("minProperties", 0) > len(properties):
        needed.append(schema.get("additionalProperties", True))
    if (least := schema.get("minItems", 0)) > 0:
        prefix = schema.get("prefixItems", [])
        needed += prefix[:least] + ([schema.get("items", True)] if least > len(prefix) else [])
    return all(_can_end(part, finite) for part in needed)
