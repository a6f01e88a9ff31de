"""The JSON Schema of a Python type: pydantic's generator, made closed, canonical and free of lookaround.

Knows nothing of constraints, nor of caches. It imports pydantic, so import it only when a type is used.

What `schema_of` returns: (1) properties stand in declaration order; (2) a class is a closed object unless it allows
extra fields; (3) where pydantic reads several spellings, one is asked for; (4) what pydantic may still refuse is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from ..checking.formats import FORMATS, known
from ..errors import ConstraintError
from ..pattern.rust import narrowed
from .decimals import decimals
from .urls import url_pattern

Json = dict[str, Any]

_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?"
_OFFSET = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_SECONDS = "([0-9]{1,6}(\\.[0-9]{1,6})?S)"
_SPAN = f"([0-9]{{1,6}}H([0-9]{{1,6}}M)?{_SECONDS}?|[0-9]{{1,6}}M{_SECONDS}?|{_SECONDS})"
_DURATION = f"^-?P([0-9]{{1,6}}D(T{_SPAN})?|T{_SPAN})$"
_BASE64 = "^([A-Za-z0-9{0}]{{4}})*([A-Za-z0-9{0}]{{2}}==|[A-Za-z0-9{0}]{{3}}=)?$"
_PATTERNS = {"base64": _BASE64.format("+/"), "base64url": _BASE64.format("_-")} | {
    f"uuid{v}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{v}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
    for v in range(1, 9)
}
"""Pydantic's own formats that are regular."""

_FREE_TEXT = {"binary", "path", "password"}
"""Pydantic's own formats that any string has."""

_HARMLESS = ("_address_validator", "path_validator", "defaultdict_validator", "_literal_schema.<locals>.<lambda>")
"""Pydantic's own functions that take whatever the schema admits."""

# Keywords that say nothing about which values are valid; a description is worth its tokens in a prompt.
_NOISE = {
    "title",
    "examples",
    "discriminator",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentSchema",
}
_MAPS = {"properties", "patternProperties", "$defs"}
_DATA = {"enum", "const", "default", "required"}


def schema_of(adapter: TypeAdapter[Any]) -> tuple[Json, tuple[str, ...]]:
    """Make the schema; also say why pydantic may refuse what the schema admits (empty: it never does)."""
    generator = TypeSchema()
    schema = generator.generate(adapter.core_schema, mode="validation")
    return schema, tuple(dict.fromkeys(generator.afterwards))


class TypeSchema(GenerateJsonSchema):
    """Pydantic's generator with our changes. One instance makes one schema."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.afterwards: list[str] = []
        self._shared: list[CoreSchema] = []
        self._order: list[str] = []

    # What is refused, and what is only checked afterwards

    def generate_inner(self, schema: Any) -> Json:
        kind = schema["type"]
        if kind.startswith("function-"):
            function = schema["function"]["function"]
            function = getattr(function, "func", function)
            module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))
            ours = module.startswith("pydantic._internal") and name.endswith(_HARMLESS)
            if not ours and not isinstance(function, attrgetter):
                self.afterwards.append(f"validator {name}")
        elif kind in ("url", "multi-host-url", "json", "chain", "complex", "is-instance", "custom-error"):
            self.afterwards.append(kind)
        elif kind in ("date", "time", "datetime", "timedelta", "fraction"):
            bounds = sorted({"ge", "gt", "le", "lt", "now_op"} & {k for k, v in schema.items() if v is not None})
            self.afterwards.extend(f"{kind} with {bound}" for bound in bounds)
        elif kind in ("model", "dataclass") and (schema.get("post_init") or schema.get("custom_init")):
            self.afterwards.append(f"code of {schema['cls'].__name__} that runs when it is made")
        return super().generate_inner(schema)

    def definitions_schema(self, schema: core_schema.DefinitionsSchema) -> Json:
        self._shared += schema["definitions"]
        return super().definitions_schema(schema)

    def emit_warning(self, kind: str, detail: str) -> None:
        if kind == "skipped-choice":  # a union must not lose a member
            raise ConstraintError(f"a member of a union has no schema: {detail}")

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> Json:
        return self.handle_invalid_for_json_schema(schema, f"a class object ({schema['cls']})")

    def tuple_schema(self, schema: core_schema.TupleSchema) -> Json:
        if schema.get("variadic_item_index", len(schema["items_schema"]) - 1) != len(schema["items_schema"]) - 1:
            raise ConstraintError("a tuple whose `...` is not its last item has no schema; let it end the tuple")
        return super().tuple_schema(schema)

    # Values

    def literal_schema(self, schema: core_schema.LiteralSchema) -> Json:
        return self._one_of(schema, schema["expected"], "Literal")

    def enum_schema(self, schema: core_schema.EnumSchema) -> Json:
        return self._one_of(schema, schema["members"], schema["cls"].__name__)

    def _one_of(self, schema: Any, values: list[Any], name: str) -> Json:
        """List `values` in JSON. Raises `ConstraintError` for one that does not read back as itself."""
        if not values:
            raise ConstraintError(f"{name} has no values, so nothing can be written; give it one")
        reads = self._reader(schema)  # made once: it takes as long as the list is
        spelled: dict[str, Any] = {}
        for value in values:
            plain = value.value if isinstance(value, Enum) else value
            try:
                text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
                same = reads(text) == value
            except (TypeError, ValueError):
                same = False
            if not same:
                raise ConstraintError(
                    f"{name} has the value {value!r}, which no JSON text gives back; use str, int, float, bool, None "
                    f"(in a Literal, an Enum that is also a str or int), or leave it out"
                )
            spelled.setdefault(text, json.loads(text))
        options = list(spelled.values())
        return {"const": options[0]} if len(options) == 1 else {"enum": options}

    def _reader(self, schema: Any) -> Callable[[str], Any]:
        """What reads a JSON text as pydantic does."""
        if self._shared:
            schema = core_schema.definitions_schema(schema, self._shared)
        return SchemaValidator(schema).validate_json

    def str_schema(self, schema: core_schema.StringSchema) -> Json:
        result, pattern = super().str_schema(schema), schema.get("pattern")
        if isinstance(pattern, re.Pattern):
            flags = "".join(letter for letter in "imsx" if pattern.flags & getattr(re, letter.upper()))
            result["pattern"] = f"(?{flags}:{pattern.pattern})" if flags else pattern.pattern
        if "pattern" in result:
            said = result["pattern"]
            result["pattern"], sure = narrowed(said)
            if not sure:
                self.afterwards.append(f"pattern {said}")
        if (
            schema.get("strip_whitespace", self._config.str_strip_whitespace)
            and {"minLength", "pattern"} & result.keys()
        ):
            trimmed, _ = narrowed("^(\\S([^\\n\\r]*\\S)?)?$")  # so that stripping takes nothing away
            if "pattern" in result:
                result["allOf"] = [{"pattern": trimmed}]
            else:
                result["pattern"] = trimmed
        return result

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Json:
        coding = self._config.val_json_bytes
        if coding != "utf8":
            pattern = "^([0-9a-f]{2})*$" if coding == "hex" else _PATTERNS["base64url"]
            if schema.get("min_length") or schema.get("max_length") is not None:
                self.afterwards.append("length of bytes")
            return {"type": "string", "pattern": pattern}
        result = {k: v for k, v in super().bytes_schema(schema).items() if k != "format"}
        if "maxLength" in result:
            result["pattern"] = "^[ -~]*$"  # one byte a character, so that the length is that of the bytes
        return result

    def float_schema(self, schema: core_schema.FloatSchema) -> Json:
        return {k: float(v) if isinstance(v, Decimal) else v for k, v in super().float_schema(schema).items()}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Json:
        """Ask for a string: pydantic reads a JSON number through a float, with 17 digits and no trailing zeros."""
        bounds: Json = {k: Decimal(str(v)) for k in ("ge", "gt", "le", "lt") if (v := schema.get(k)) is not None}
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        if (step := schema.get("multiple_of")) is not None:
            _, unit, exponent = Decimal(str(step)).normalize().as_tuple()
            if unit == (1,) and isinstance(exponent, int) and exponent <= 0:
                places = -exponent if places is None else min(places, -exponent)
            else:
                self.afterwards.append(f"multiple of {step}")
        return {"type": "string", "pattern": f"^{decimals(digits=digits, places=places, **bounds)}$"}

    def fraction_schema(self, schema: Any) -> Json:
        return {"type": "string", "pattern": "^-?(0|[1-9][0-9]{0,17})(/[1-9][0-9]{0,17})?$"}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> Json:
        if schema.get("tz_constraint") == "naive":
            return {"type": "string", "pattern": f"^{FORMATS['date']}T{_CLOCK}$"}
        return {"type": "string", "format": "date-time"}

    def time_schema(self, schema: core_schema.TimeSchema) -> Json:
        offset = {"naive": "", "aware": _OFFSET}.get(cast(str, schema.get("tz_constraint")), f"{_OFFSET}?")
        return {"type": "string", "pattern": f"^{_CLOCK}{offset}$"}

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> Json:
        return {"type": "string", "pattern": _DURATION}

    def url_schema(self, schema: core_schema.UrlSchema) -> Json:
        result = super().url_schema(schema)
        if schemes := schema.get("allowed_schemes"):
            del result["format"]
            result["pattern"] = url_pattern(schemes, needs_host=_needs_host(schema))
        return result

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> Json:
        result = super().multi_host_url_schema(schema)
        if schemes := schema.get("allowed_schemes"):
            del result["format"]
            result["pattern"] = url_pattern(schemes, needs_host=_needs_host(schema), several_hosts=True)
        return result

    # Containers

    def _common_set_schema(self, schema: Any) -> Json:
        """Forbid repeats only where they would make the set too small: pydantic takes them."""
        result = super()._common_set_schema(schema)
        if result.get("minItems", 0) < 2:
            del result["uniqueItems"]
        return result

    def dict_schema(self, schema: Any) -> Json:
        """Spell keys that are not plain strings as their type does, and allow no others."""
        values = self.generate_inner(schema["values_schema"]) if "values_schema" in schema else {}
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        result: Json = {"type": "object"}
        self.update_with_validations(result, schema, self.ValidationsMapping.object)
        while "$ref" in keys:
            keys = self.resolve_ref_schema(keys)
        keys = {k: v for k, v in keys.items() if k not in ("title", "description")}
        if {"type": "string"} in keys.get("anyOf", ()):
            keys = {}
        names = {"boolean": [True, False]}.get(
            keys.get("type", ""), keys.get("enum", [keys["const"]] if "const" in keys else None)
        )
        if names is not None:
            spelled = [name if isinstance(name, str) else json.dumps(name) for name in names]
            for name in spelled:
                self._check_key(schema, name)
            return result | {"properties": dict.fromkeys(spelled, values), "additionalProperties": False}
        if keys.get("type") in ("integer", "number"):
            keys = {"pattern": f"^{_number_keys(keys)}$"}
        if keys in ({}, {"type": "string"}):
            return result | {"additionalProperties": values or True}
        if keys.keys() - {"type"} == {"pattern"}:
            return result | {"patternProperties": {keys["pattern"]: values}, "additionalProperties": False}
        if keys.get("type") == "string":
            return result | {
                "propertyNames": {k: v for k, v in keys.items() if k != "type"},
                "additionalProperties": values or True,
            }
        raise ConstraintError(
            "the keys of a dict are strings in JSON; use str, int, a Literal or Enum of strings, or a list of pairs"
        )

    frozendict_schema = ordered_dict_schema = counter_schema = dict_schema

    def _check_key(self, schema: Any, name: str) -> None:
        probe = core_schema.dict_schema(schema["keys_schema"], core_schema.any_schema())
        try:
            self._reader(probe)(json.dumps({name: None}))
        except ValidationError:
            raise ConstraintError(
                f"the dict key {name} is a string in JSON, which does not give it back; use strings"
            ) from None

    # Classes

    def model_schema(self, schema: core_schema.ModelSchema) -> Json:
        return _closed(super().model_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Json:
        self._check_aliases(schema["fields"])
        return _closed(super().typed_dict_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> Json:
        self._order = list(getattr(schema["cls"], "__dataclass_fields__", ()))
        return _closed(super().dataclass_schema(schema))

    def dataclass_args_schema(self, schema: core_schema.DataclassArgsSchema) -> Json:
        """Drop the fields that are no arguments; keep declaration order (pydantic puts keyword-only ones last)."""
        self._check_aliases({field["name"]: field for field in schema["fields"]})
        order = {name: i for i, name in enumerate(self._order)}
        fields = [field for field in schema["fields"] if field.get("init", True)]
        fields.sort(key=lambda field: order.get(field["name"], len(order)))
        return super().dataclass_args_schema({**schema, "fields": fields})

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> Json:
        self._check_aliases(schema["fields"])
        return super().model_fields_schema(schema)

    def named_tuple_schema(self, schema: Any) -> Json:
        """Ask for an object with the fields' names: pydantic reads it as well as an array, its own default."""
        fields = {field["name"]: field for field in schema["fields"]}
        self._check_aliases(fields)
        named = [(name, field["schema"]["type"] != "default", field["schema"]) for name, field in fields.items()]
        return _closed(self._named_required_fields_schema(named))

    def p_arguments_schema(self, arguments: Any, var_args_schema: Any) -> Json:
        """Write a NamedTuple as an object, in versions of pydantic that see it as a call."""
        return self.kw_arguments_schema(arguments, None)

    def _check_aliases(self, fields: Any) -> None:
        for name, field in fields.items():
            alias = field.get("validation_alias")
            paths = alias if isinstance(alias, list) and isinstance(alias[0], list) else [alias]
            if alias is not None and not any(isinstance(path, str) or len(path) == 1 for path in paths):
                raise ConstraintError(
                    f"field {name}: its alias is a path, which cannot be written; give it a name as alias"
                )

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    # The whole

    def sort(self, value: Json, parent_key: str | None = None) -> Json:
        """Tidy the finished schema. Pydantic calls this hook to sort; nothing is sorted here."""
        definitions = value.get("$defs", {})
        _require_tags(value, definitions)
        tidy: Json = self._tidy(value)
        if "$defs" in tidy:
            tidy["$defs"] = tidy.pop("$defs")  # last, where a reader looks for it
        return tidy

    def _tidy(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._tidy(member) for member in schema]
        if not isinstance(schema, dict):
            return schema
        tidy: Json = {}
        for key, value in schema.items():
            if key in _MAPS:
                tidy[key] = {name: self._tidy(member) for name, member in value.items()}
            elif key in _DATA:
                if key != "default" or _is_json(value):
                    tidy[key] = value
            elif key not in _NOISE:
                if key == "oneOf" and "discriminator" not in schema:
                    self.afterwards.append("choice of a union's member by a function")
                tidy["anyOf" if key == "oneOf" else key] = self._tidy(value)  # the tags keep the members apart
        if (name := tidy.get("format")) is not None and not known(name):
            del tidy["format"]
            if name in _PATTERNS:
                tidy["pattern"] = _PATTERNS[name]
            elif name not in _FREE_TEXT:
                self.afterwards.append(f"format {name}")
        return tidy


def _is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False


def _closed(schema: Json) -> Json:
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def _require_tags(schema: Any, definitions: Json) -> None:
    """Make the tags of discriminated unions required: pydantic picks a member by its tag, default or not."""
    members: list[Any] = list(schema.values() if isinstance(schema, dict) else schema)
    for member in members:
        if isinstance(member, (dict, list)):
            _require_tags(member, definitions)
    if isinstance(schema, dict) and "oneOf" in schema and "discriminator" in schema:
        _require(schema, schema["discriminator"]["propertyName"], definitions)


def _require(schema: Json, name: str, definitions: Json) -> None:
    for member in [*schema.get("oneOf", ()), *schema.get("anyOf", ())]:
        _require(member, name, definitions)
    if "$ref" in schema:
        _require(definitions[schema["$ref"].removeprefix("#/$defs/")], name, definitions)
    elif name in schema.get("properties", {}) and name not in schema.get("required", []):
        schema["required"] = [p for p in schema["properties"] if p == name or p in schema.get("required", [])]


def _needs_host(schema: Any) -> bool:
    return bool(schema.get("host_required")) and not schema.get("default_host")


def _number_keys(keys: Json) -> str:
    names = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt"}
    bounds: Json = {names[k]: Decimal(str(v)) for k, v in keys.items() if k in names}
    return decimals(digits=None, places=0 if keys["type"] == "integer" else None, whole=18, **bounds)
