"""The constraint of a call's arguments in a family's notation, from the JSON Schema of a tool's parameters.

JSON arguments are a `JsonSchema` as it stands. The other notations are lowered here: keyword by keyword, and a keyword
that the notation cannot carry is refused, never left out. Knows nothing of how a constraint is enforced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checking.formats import CHECKED_ONLY, FORMATS
from ..constraint import Choices, Constraint, Exactly, JsonSchema, Regex
from ..errors import ConstraintError
from ..pattern import PatternError, parse_ecma, plain, to_rust
from ..structure import free_text, repeat
from .form import CallForm, JsonArguments, LiteralArguments, TaggedArguments
from .markup import any_of, joined, written
from .values import literal_pieces, tagged_value

if TYPE_CHECKING:
    from ..tools.spec import ToolSpec

Json = Any
_KEYWORDS = frozenset(
    (
        "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "$dynamicRef", "$recursiveRef", "enum",
        "const", "type", "minLength", "maxLength", "pattern", "format", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "properties", "required", "additionalProperties",
        "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentSchemas",
        "dependentRequired", "dependencies", "unevaluatedProperties", "items", "prefixItems", "additionalItems",
        "contains", "minContains", "maxContains", "minItems", "maxItems", "uniqueItems", "unevaluatedItems",
    )
)  # fmt: skip
"""What restricts a value; any other keyword is an annotation."""
_OBJECT = frozenset({"type", "properties", "required", "additionalProperties"})
_TYPES = ("string", "number", "boolean", "null", "object", "array")
_DEEPEST = 16
"""Values within values of a schema: beyond it, it is taken to contain itself."""


@dataclass(frozen=True)
class ParameterPlace:
    """A schema within a tool's parameters, and what is needed to say where it stands."""

    tool: str
    syntax: str
    root: Mapping[str, Json]
    schema: Json
    pointer: str = ""
    depth: int = 0

    def at(self, *keys: str, schema: Json = None) -> ParameterPlace:
        """The place of a part, or of `schema`, which a reference leads to."""
        inner = self.schema
        for key in keys:
            inner = inner[int(key) if isinstance(inner, list) else key]
        pointer = self.pointer + "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
        return ParameterPlace(
            self.tool, self.syntax, self.root, inner if schema is None else schema, pointer, self.depth + 1
        )

    def refused(self, keyword: str, fix: str) -> ConstraintError:
        where = f"{self.pointer}/{keyword}" if keyword else self.pointer or "/"
        return ConstraintError(
            f"tool {self.tool!r}, parameters at {where}: the call syntax {self.syntax!r} writes no JSON and "
            f"cannot carry this; {fix}"
        )

    def only(self, allowed: frozenset[str] | set[str]) -> None:
        """Refuse keywords that are neither allowed nor annotations."""
        for keyword in self.schema:
            if keyword in _KEYWORDS and keyword not in allowed:
                raise self.refused(keyword, f"leave {keyword!r} out, or check it in the tool")


def arguments_constraint(form: CallForm, spec: ToolSpec) -> Constraint:
    """Make the constraint of a tool's arguments, which stand between the form's `middle` and `end`."""
    notation = form.arguments
    if isinstance(notation, JsonArguments):
        return spec.parameters
    parameters = spec.parameters.schema
    parts = properties(resolved(ParameterPlace(spec.name, form.name, parameters, parameters)))
    if isinstance(notation, TaggedArguments):
        made = [(_tagged(form, notation, name, part), required) for name, part, required in parts]
        return joined(form, *(one if required else repeat(one, 0, 1) for one, required in made))
    items = [(name + notation.colon, part, required) for name, part, required in _sorted(notation, parts)]
    return joined(form, *_listed(form, notation, items, notation.comma, top=True))


def properties(place: ParameterPlace) -> list[tuple[str, ParameterPlace, bool]]:
    """The arguments of an object's schema: name, schema, whether it is required. Refuses what is no plain object."""
    place.only(_OBJECT)
    schema = place.schema
    if schema.get("type", "object") != "object":
        raise place.refused("type", "let it be 'object'")
    named = schema.get("properties") or {}
    required = schema.get("required") or []
    if missing := [name for name in required if name not in named]:
        raise place.refused("required", f"describe {missing[0]!r} in 'properties'")
    return [(name, resolved(place.at("properties", name)), name in required) for name in named]


def resolved(place: ParameterPlace) -> ParameterPlace:
    """Follow a reference, and read `true` as a schema without keywords."""
    while isinstance(place.schema, Mapping) and "$ref" in place.schema:
        place.only({"$ref"})
        path = place.schema["$ref"]
        if not isinstance(path, str) or not path.startswith("#"):
            raise place.refused("$ref", "let it begin with '#/'")
        target: Json = place.root
        try:
            for key in path.lstrip("#").split("/")[1:]:
                key = key.replace("~1", "/").replace("~0", "~")
                target = target[int(key)] if isinstance(target, list) else target[key]
        except (LookupError, TypeError, ValueError):
            raise place.refused("$ref", f"there is nothing at {path!r}") from None
        place = place.at(schema=target)
        if place.depth > _DEEPEST:
            raise place.refused("", "a schema that contains itself needs a family that writes JSON")
    if place.schema is True:
        place = place.at(schema={})
    if not isinstance(place.schema, Mapping):
        raise place.refused("", f"let it be a schema instead of {place.schema!r:.40}")
    if place.depth > _DEEPEST:
        raise place.refused("", "a schema that contains itself needs a family that writes JSON")
    return place


# -------------------------------------------------------------------------------------------------- one JSON Schema


def listed_values(schema: Mapping[str, Json]) -> list[Json] | None:
    """The values of `enum` or `const`, if a schema has one."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def is_string(schema: Mapping[str, Json]) -> bool:
    """Whether all values of a schema are strings."""
    if (values := listed_values(schema)) is not None:
        return all(isinstance(value, str) for value in values)
    return bool(schema.get("type") == "string")


def alternatives(place: ParameterPlace) -> list[ParameterPlace]:
    """The schemas of which any may hold, of `anyOf`, a list of types, or texts and other values in `enum`."""
    schema = place.schema
    if "anyOf" in schema:
        place.only({"anyOf"})
        kinds = [resolved(place.at("anyOf", str(i))) for i in range(len(schema["anyOf"]))]
        return [each for kind in kinds for each in alternatives(kind)]
    if isinstance(schema.get("type"), list):
        return [place.at(schema={**schema, "type": each}) for each in schema["type"]]
    values = listed_values(schema) or []
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        others = [value for value in values if not isinstance(value, str)]
        return [place.at(schema={"enum": texts}), place.at(schema={"enum": others})]
    return [place]


def tagged_alternatives(place: ParameterPlace) -> list[ParameterPlace]:
    """`alternatives`, each a list of values or of one type."""
    kinds = []
    for kind in alternatives(place):
        if "type" in kind.schema or listed_values(kind.schema) is not None:
            kinds.append(kind)
            continue
        kind.only(set())
        kinds += [kind.at(schema={"type": each}) for each in _TYPES]
    return kinds


def as_json(place: ParameterPlace) -> Constraint:
    """The JSON text of a schema that stands within the tool's parameters."""
    inner = dict(place.schema)
    for name in ("$defs", "definitions"):
        if name in place.root:
            inner[name] = place.root[name]
    for reference in _references(inner):
        if not reference.startswith(("#/$defs/", "#/definitions/")):
            raise place.refused("$ref", "let references lead to '#/$defs/...'")
    return JsonSchema(json.dumps(inner))


def _references(schema: Json) -> list[str]:
    if isinstance(schema, Mapping):
        own = [str(schema["$ref"])] if "$ref" in schema else []
        return own + [found for value in schema.values() for found in _references(value)]
    return [found for value in schema for found in _references(value)] if isinstance(schema, list) else []


def string_pattern(place: ParameterPlace, barred: str) -> str | None:
    """The regular expression of a string without the text `barred`; None for any such string."""
    schema = place.schema
    place.only({"type", "minLength", "maxLength", "pattern", "format"})
    marks = []
    low, high = schema.get("minLength", 0), schema.get("maxLength", "")
    if low or high != "":
        marks.append(f"(?=(?s:.{{{low},{high}}})\\Z)")
    name = schema.get("format")
    if name in CHECKED_ONLY:
        raise place.refused("format", f"leave {name!r} out, or check it in the tool")
    if name in FORMATS:
        marks.append(f"(?=(?:{FORMATS[name]})\\Z)")
    if "pattern" in schema:
        try:
            text = to_rust(plain(parse_ecma(schema["pattern"])))
        except PatternError as error:
            raise place.refused("pattern", f"write it in another way: {error}") from None
        python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", text)
        marks.append(f"(?=(?:{python})\\Z)")
    return f"(?!(?s:.*){re.escape(barred)}){''.join(marks)}(?s:.*)" if marks else None


# ------------------------------------------------------------------------------------------ between tags, a value each


@dataclass(frozen=True)
class ArgumentKind:
    """What may stand between the tags of an argument: a text (`is_text`), or JSON of one of `others`."""

    is_text: bool
    others: tuple[Constraint, ...]

    def read(self, text: str, words: tuple[str, str, str]) -> Any:
        """The value of a text; `words` stand for true, false and null. What is no JSON of `others` is a string."""
        plain = ("true", "false", "null")[words.index(text)] if text in words else text
        for other in self.others:
            try:
                return other.parse(plain)
            except ConstraintError:
                continue
        return text if self.is_text else json.loads(plain)


def argument_kinds(form: CallForm, spec: ToolSpec) -> dict[str, ArgumentKind]:
    """What may stand between the tags of each argument of a tool."""
    root = spec.parameters.schema
    return {
        name: _kind(place) for name, place, _ in properties(resolved(ParameterPlace(spec.name, form.name, root, root)))
    }


def _kind(place: ParameterPlace) -> ArgumentKind:
    kinds = tagged_alternatives(place)
    others = [kind for kind in kinds if not is_string(kind.schema)]
    return ArgumentKind(len(others) < len(kinds), tuple(map(as_json, others)))


def _tagged(form: CallForm, notation: TaggedArguments, name: str, place: ParameterPlace) -> Constraint:
    kinds = tagged_alternatives(place)
    strings = [kind for kind in kinds if is_string(kind.schema)]
    if notation.text_key and 0 < len(strings) < len(kinds):
        return any_of([_tagged(form, notation, name, kind) for kind in kinds])
    before, after = notation.text_key if notation.text_key and strings else notation.key
    values = [_raw(notation, kind) for kind in kinds]
    free = free_text([notation.tag])
    if free not in values and strings and any(kind.schema.get("type") in ("object", "array") for kind in kinds):
        raise place.refused("", "let it be a string of any kind, or no string, beside an object or an array")
    return joined(form, before, Exactly(name), after, free if free in values else any_of(values), notation.end)


def _raw(notation: TaggedArguments, place: ParameterPlace) -> Constraint:
    """One value: a string as it is, any other value as JSON."""
    schema = place.schema
    if (values := listed_values(schema)) is not None:
        return any_of([Exactly(tagged_value(notation, value, place.tool)) for value in values])
    if schema.get("type") == "string":
        pattern = string_pattern(place, notation.tag)
        return free_text([notation.tag]) if pattern is None else Regex(pattern)
    if schema["type"] == "boolean":
        place.only({"type"})
        return Choices(notation.words[:2])
    if schema["type"] == "null":
        return Exactly(notation.words[2])
    return as_json(place)


# ------------------------------------------------------------------------------------- a notation of the family's own


def _sorted(
    notation: LiteralArguments, parts: list[tuple[str, ParameterPlace, bool]]
) -> list[tuple[str, ParameterPlace, bool]]:
    return sorted(parts, key=lambda part: part[0].lower()) if notation.ordered else parts


def _listed(
    form: CallForm,
    notation: LiteralArguments,
    items: list[tuple[str, ParameterPlace, bool]],
    comma: str,
    *,
    top: bool = False,
) -> list[Constraint | str]:
    """The items that are required, and any of the others, in order, with commas between."""

    def rest(at: int, begun: bool) -> list[Constraint | str]:
        if at == len(items):
            return []
        key, place, required = items[at]
        item = [Exactly((comma if begun else "") + key), _value(form, notation, place, top=top)]
        if required:
            return [*item, *rest(at + 1, True)]
        if begun:
            return [repeat(joined(form, *item), 0, 1), *rest(at + 1, True)]
        whole = joined(form, *item, *rest(at + 1, True))
        without = rest(at + 1, False)
        return [any_of([whole, joined(form, *without)])] if without else [repeat(whole, 0, 1)]

    return rest(0, False)


def _value(form: CallForm, notation: LiteralArguments, place: ParameterPlace, *, top: bool = False) -> Constraint:
    kinds = alternatives(place)
    if len(kinds) > 1:
        return any_of([_value(form, notation, kind, top=top) for kind in kinds])
    place = kinds[0]
    schema = place.schema
    if (values := listed_values(schema)) is not None:
        return any_of([written(form, literal_pieces(notation, value, top=top)) for value in values])
    kind = schema.get("type", "object" if "properties" in schema else None)
    if kind == "string":
        return _quoted(form, notation, place)
    if kind in ("integer", "number"):
        return as_json(place)
    if kind == "boolean":
        return Choices(notation.words[:2])
    if kind == "null":
        return Exactly(notation.words[2])
    if kind == "object":
        if top and notation.json_objects:
            return as_json(place)
        quote, colon = notation.key_quote, notation.inner_colon
        items = [
            (quote + name + quote + colon, part, need) for name, part, need in _sorted(notation, properties(place))
        ]
        return joined(form, Exactly("{"), *_listed(form, notation, items, notation.inner_comma), Exactly("}"))
    if kind == "array":
        return _array(form, notation, place)
    raise place.refused("type", "say its type: string, integer, number, boolean, null, array or object")


def _array(form: CallForm, notation: LiteralArguments, place: ParameterPlace) -> Constraint:
    place.only({"type", "items", "minItems", "maxItems"})
    if "items" not in place.schema:
        raise place.refused("items", "say what the items are")
    least, most = place.schema.get("minItems", 0), place.schema.get("maxItems")
    if most == 0:
        return Exactly("[]")
    item = _value(form, notation, resolved(place.at("items")))
    return joined(form, Exactly("["), repeat(item, least, most, separator=notation.inner_comma), Exactly("]"))


def _quoted(form: CallForm, notation: LiteralArguments, place: ParameterPlace) -> Constraint:
    quote = notation.quote
    if not notation.escapes:
        pattern = string_pattern(place, quote)
        return joined(form, quote, free_text([quote]) if pattern is None else Regex(pattern), quote)
    place.only({"type", "minLength", "maxLength"})
    low, high = place.schema.get("minLength", 0), place.schema.get("maxLength", "")
    character = f"(?:[^{quote}\\\\\\n\\r\\t]|\\\\[{quote}\\\\nrt])"
    return joined(form, quote, Regex(f"{character}{{{low},{high}}}"), quote)
