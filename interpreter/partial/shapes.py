"""A Python type as something that is filled in while its JSON text is still being written.

Owns: `shape_of`. A `TypeShape` is one place of a type: it reads the finished text of a value there, and says which
containers may be open there. A `TypeContainer` is an open object or array: it knows the places within it, and makes an
instance of what is known. Knows nothing of reading JSON (`values.py`).

1. The type is pydantic's own core schema, which also validates the finished text. So aliases, configuration and the
   validators of a field mean the same in both.
2. An unfinished instance is made without `__init__`, `__post_init__`, `model_post_init`, a default's factory or any
   validator of the whole object. `values.py` says what it shows.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from ...lang.constraint import JsonSchema
from ...lang.kept import kept
from ...lang.types.conversion import adapter_of

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

Maker = Callable[[Any], Any]

_WRAPPERS = {
    **dict.fromkeys(("nullable", "default", "function-before", "function-after", "function-wrap"), "schema"),
    "custom-error": "schema",
    "lax-or-strict": "lax_schema",
    "json-or-python": "json_schema",
}
"""Core schemas that stand around another one: where they keep it."""

_OBJECTS = ("model", "dataclass", "typed-dict", "named-tuple", "call")
_DICTS = ("dict", "ordered-dict", "counter", "frozendict")
_LISTS: dict[str, Maker] = {"list": list, "set": set, "frozenset": frozenset, "deque": list, "tuple": tuple}


@kept(256, lambda args, shape: 10_000 + 30 * len(args[0].source))
def shape_of(constraint: JsonSchema) -> TypeShape | None:
    """The shape of the type that a constraint was made from; None for a raw JSON Schema, whose values are plain."""
    if constraint.type is None:
        return None
    adapter = adapter_of(constraint.type)
    types = TypeSchemas()
    schema = types.inner(adapter.core_schema, only_definitions=True)
    types.keep(schema, None, cast("SchemaValidator", adapter.validator))
    return TypeShape(types, schema, None)


class TypeSchemas:
    """The core schema of one type: its definitions, and the validators of its parts that have been made."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._validators: dict[tuple[int, int], tuple[SchemaValidator, Any, Any]] = {}

    def inner(self, schema: Any, only_definitions: bool = False) -> Any:
        """The schema within these wrappers."""
        while True:
            kind = schema["type"]
            if kind == "definitions":
                self.definitions.update({part["ref"]: part for part in schema["definitions"]})
                schema = schema["schema"]
            elif only_definitions:
                return schema
            elif kind == "definition-ref":
                schema = self.definitions[schema["schema_ref"]]
            elif kind in _WRAPPERS:
                schema = schema[_WRAPPERS[kind]]
            elif kind == "chain":
                schema = schema["steps"][0]
            else:
                return schema

    def validator(self, schema: Any, config: Any) -> SchemaValidator:
        key = (id(schema), id(config))
        if key not in self._validators:
            from pydantic_core import SchemaValidator, core_schema

            shared = list(self.definitions.values())
            whole = core_schema.definitions_schema(schema, shared) if shared else schema
            self.keep(schema, config, SchemaValidator(whole, config))
        return self._validators[key][0]

    def keep(self, schema: Any, config: Any, validator: SchemaValidator) -> None:
        self._validators[id(schema), id(config)] = validator, schema, config  # both are kept: an id is used again


class TypeShape:
    """One place of a type."""

    __slots__ = ("_config", "_containers", "_schema", "_types")

    def __init__(self, types: TypeSchemas, schema: Any, config: Any) -> None:
        self._types, self._schema, self._config = types, schema, config
        self._containers: dict[str, list[TypeContainer]] = {}

    def read(self, raw: str) -> Any:
        """The value of a complete JSON text, by the type's own validators.

        Raises what these raise: pydantic's `ValidationError` if they refuse the text, anything if they are at fault.
        """
        return self._types.validator(self._schema, self._config).validate_json(raw)

    def admits(self, raw: str) -> bool:
        """Whether `read` takes a text. A validator that breaks down has not refused it."""
        from pydantic_core import ValidationError

        try:
            self.read(raw)
        except ValidationError:
            return False
        except Exception:
            return True
        return True

    def containers(self, opening: str) -> list[TypeContainer]:
        """The containers that `opening`, "{" or "[", may begin here: several in a union."""
        if opening not in self._containers:
            self._containers[opening] = list(self._read_containers(opening, self._schema, set()))
        return self._containers[opening]

    def _read_containers(self, opening: str, schema: Any, seen: set[int]) -> Iterable[TypeContainer]:
        schema = self._types.inner(schema)
        if id(schema) in seen:
            return
        seen.add(id(schema))
        kind = schema["type"]
        if kind in ("union", "tagged-union"):
            choices = schema["choices"].values() if kind == "tagged-union" else schema["choices"]
            for choice in choices:
                yield from self._read_containers(opening, choice[0] if isinstance(choice, tuple) else choice, seen)
        elif kind == "model" and schema.get("root_model"):
            wrap = _root_of(schema["cls"])
            config = schema.get("config")
            for inner in TypeShape(self._types, schema["schema"], config).containers(opening):
                yield RootContainer(inner, wrap)
        elif opening == "{" and kind in _OBJECTS:
            yield from self._fields(schema)
        elif opening == "{" and kind in _DICTS:
            yield DictContainer(self._part(schema.get("values_schema")), self._key_reader(schema.get("keys_schema")))
        elif opening == "[" and kind in _LISTS:
            yield self._items(schema)
        elif kind in ("any", "function-plain"):
            yield AnyContainer()

    def _part(self, schema: Any, config: Any = None) -> TypeShape | None:
        config = self._config if config is None else config
        return None if schema is None else TypeShape(self._types, schema, config)

    def _items(self, schema: Any) -> ItemsContainer:
        items = schema.get("items_schema")
        if schema["type"] != "tuple":
            return ItemsContainer([], self._part(items), _LISTS[schema["type"]])
        rest = schema.get("variadic_item_index")
        places = [self._part(item) for item in items]
        last = None if rest is None else places[rest]
        return ItemsContainer(places if rest is None else places[:rest], last, tuple)

    def _key_reader(self, schema: Any) -> Callable[[str], Any] | None:
        """A reader of the keys of a dict, which JSON spells as strings; None where they are strings."""
        if schema is None or self._types.inner(schema)["type"] in ("str", "any"):
            return None
        from pydantic_core import core_schema

        probe = core_schema.dict_schema(schema, core_schema.any_schema())

        def read(key: str) -> Any:
            (found,) = self._types.validator(probe, self._config).validate_json(json.dumps({key: None}))
            return found

        return read

    def _fields(self, schema: Any) -> Iterable[TypeContainer]:
        """A container of the fields of a class, by their names in JSON."""
        config = schema.get("config") or self._config
        body, cls = schema, schema.get("cls")
        if schema["type"] in ("model", "dataclass"):
            body = self._types.inner(schema["schema"])
        elif schema["type"] == "call":  # a NamedTuple, in earlier versions of pydantic
            body, cls = schema["arguments_schema"], schema["function"]
        listed = body.get("fields", body.get("arguments_schema"))
        if listed is None:
            return
        named = listed if isinstance(listed, Mapping) else {field["name"]: field for field in listed}
        by_name = bool(config) and any(config.get(k) for k in ("populate_by_name", "validate_by_name"))
        keys: dict[str, str] = {}
        parts: dict[str, TypeShape] = {}
        for name, field in named.items():
            part = self._part(field["schema"], config)
            assert part is not None
            parts[name] = part
            aliases = _aliases(field.get("validation_alias", field.get("alias")))
            keys.update(dict.fromkeys([*aliases, name] if by_name or not aliases else aliases, name))
        extra = body.get("extra_behavior") or (config or {}).get("extra_fields_behavior")
        yield FieldsContainer(keys, parts, extra == "allow", _maker(schema["type"], cls, named))


class TypeContainer:
    """An open object or array. A key is a member's name in JSON, or an item's number."""

    __slots__ = ()

    def has(self, key: str | int) -> bool:
        """Whether the type has a place for this key."""
        return True

    def part(self, key: str | int) -> TypeShape | None:
        """The place of this key; None where any data may stand."""
        return None

    def make(self, values: Any) -> Any:
        """Make an instance from the typed members by key, or from the typed items. It may keep `values`."""
        return values


class AnyContainer(TypeContainer):
    """Any data, or data that only the user's code can read."""

    __slots__ = ()


class FieldsContainer(TypeContainer):
    """An object with the fields of a class."""

    __slots__ = ("_keys", "_make", "_open", "_parts")

    def __init__(self, keys: dict[str, str], parts: dict[str, TypeShape], is_open: bool, make: Maker) -> None:
        self._keys, self._parts, self._open, self._make = keys, parts, is_open, make

    def has(self, key: str | int) -> bool:
        return self._open or key in self._keys

    def part(self, key: str | int) -> TypeShape | None:
        return self._parts.get(self._keys.get(str(key), ""))

    def make(self, values: dict[str, Any]) -> Any:
        known = {self._keys[key]: value for key, value in values.items() if key in self._keys}
        extra = {key: value for key, value in values.items() if key not in self._keys} if self._open else {}
        return self._make((known, extra))


class DictContainer(TypeContainer):
    """An object with any keys."""

    __slots__ = ("_key", "_value")

    def __init__(self, value: TypeShape | None, key: Callable[[str], Any] | None) -> None:
        self._value, self._key = value, key

    def part(self, key: str | int) -> TypeShape | None:
        return self._value

    def make(self, values: dict[str, Any]) -> Any:
        if self._key is None:
            return values
        return {_or_itself(self._key, key): value for key, value in values.items()}


class ItemsContainer(TypeContainer):
    """An array: `places` for the first items, `rest` for all others."""

    __slots__ = ("_make", "_places", "_rest")

    def __init__(self, places: list[TypeShape | None], rest: TypeShape | None, make: Maker) -> None:
        self._places, self._rest, self._make = places, rest, make

    def has(self, key: str | int) -> bool:
        return self._make is not tuple or self._rest is not None or int(key) < len(self._places)

    def part(self, key: str | int) -> TypeShape | None:
        return self._places[int(key)] if int(key) < len(self._places) else self._rest

    def make(self, values: list[Any]) -> Any:
        if self._make is list:
            return values
        values += [None] * (len(self._places) - len(values))
        return self._make(values)


class RootContainer(TypeContainer):
    """A RootModel around a container."""

    __slots__ = ("_inner", "_wrap")

    def __init__(self, inner: TypeContainer, wrap: Maker) -> None:
        self._inner, self._wrap = inner, wrap

    def has(self, key: str | int) -> bool:
        return self._inner.has(key)

    def part(self, key: str | int) -> TypeShape | None:
        return self._inner.part(key)

    def make(self, values: Any) -> Any:
        return self._wrap(self._inner.make(values))


# -- instances that are not initialised


def _maker(kind: str, cls: Any, named: Mapping[str, Any]) -> Maker:
    """A function that makes an instance from (values by field name, extra values by key)."""
    if kind == "model":
        return lambda found: _model(cls, {**dict.fromkeys(named), **found[0]}, set(found[0]), found[1])
    if kind == "dataclass":
        return lambda found: _dataclass(cls, found[0])
    if kind == "typed-dict":
        needed = [name for name, field in named.items() if field.get("required", True)]
        return lambda found: {**dict.fromkeys(needed), **found[0], **found[1]}
    return lambda found: tuple.__new__(cls, [found[0].get(name) for name in cls._fields])


def _model(cls: Any, values: dict[str, Any], known: set[str], extra: dict[str, Any] | None) -> Any:
    from pydantic_core import PydanticUndefined

    made = object.__new__(cls)
    defaults = {name: attribute.default for name, attribute in cls.__private_attributes__.items()}
    private = {name: copy.deepcopy(value) for name, value in defaults.items() if value is not PydanticUndefined}
    is_open = cls.model_config.get("extra") == "allow"
    for name, value in (
        ("__dict__", values),
        ("__pydantic_fields_set__", known | set(extra or ())),
        ("__pydantic_extra__", extra if is_open else None),
        ("__pydantic_private__", private or None),
    ):
        object.__setattr__(made, name, value)
    return made


def _root_of(cls: Any) -> Maker:
    return lambda root: _model(cls, {"root": root}, {"root"}, None)


def _dataclass(cls: Any, values: dict[str, Any]) -> Any:
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, values.get(field.name))
    return made


def _aliases(alias: Any) -> list[str]:
    """The names in an alias: a name, a path of one, or several of these."""
    if isinstance(alias, str):
        return [alias]
    paths = alias if alias and isinstance(alias[0], list) else [alias or []]
    return [path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)]


def _or_itself(read: Callable[[str], Any], key: str) -> Any:
    try:
        return read(key)
    except Exception:
        return key
