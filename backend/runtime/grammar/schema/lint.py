"""What is refused before a schema is read: broken, misspelt, hostile or contradictory schemas.

Knows nothing of sets. Every error names the JSON pointer of the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .....lang.checking.dialect import dialect, finder, metaschema_fault
from .....lang.errors import ConstraintError
from .....lang.kept import kept
from .places import NAMED, child

MOST_SCHEMA_VALUES = 60_000  # objects, arrays and scalars of a schema
MOST_SCHEMA_LEVELS = 120  # how deep they are nested
MOST_PATTERN_CHARACTERS = 20_000
MOST_INTEGER = 10**300  # whole numbers of a schema are below it: beyond doubles nothing is checked

ENFORCED = frozenset([
    "type", "enum", "const",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format",
    "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems",
    "contains", "minContains", "maxContains",
    "properties", "patternProperties", "additionalProperties", "required",
    "minProperties", "maxProperties", "propertyNames",
    "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
    "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties", "unevaluatedItems",
    "$ref", "$dynamicRef", "$recursiveRef", "nullable",
])  # fmt: skip
ANNOTATIONS = frozenset([
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$defs", "definitions", "$comment",
    "$vocabulary", "title", "description", "default", "examples", "example", "readOnly", "writeOnly", "deprecated",
    "contentEncoding", "contentMediaType", "contentSchema", "discriminator", "externalDocs", "xml",
])  # fmt: skip
KNOWN = ENFORCED | ANNOTATIONS
COUNTS = frozenset([
    "minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains", "minProperties", "maxProperties",
])  # fmt: skip
SCHEMAS = frozenset([
    "additionalItems", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems",
])  # fmt: skip
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
MAPPINGS = NAMED - {"definitions", "$defs", "dependencies"}
TYPE_NAMES = frozenset({"null", "boolean", "number", "integer", "string", "array", "object"})


def lint(schema: Any) -> int:
    """Refuse what is wrong with a schema. Returns the number of its draft (4, 6, 7, 2019 or 2020)."""
    if not isinstance(schema, (dict, bool)):
        raise ConstraintError(f"(root): a JSON Schema is an object or a boolean, not {type(schema).__name__}")
    _limits(schema)
    draft, _ = dialect(schema)
    for pointer, node in subschemas(schema):
        _keywords(pointer, node)
    if (fault := metaschema_fault(schema)) is not None:
        where, why = fault
        raise ConstraintError(f"{where or '(root)'}: this is no valid JSON Schema: {why}")
    return draft


def subschemas(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each subschema that is an object, with its pointer, in the order of the document."""
    stack: list[tuple[str, Any, bool]] = [("", schema, True)]
    while stack:
        pointer, node, is_schema = stack.pop()
        below: list[tuple[str, Any, bool]] = []
        if isinstance(node, dict):
            if is_schema:
                yield pointer, node
            for name, value in node.items():
                if not is_schema:
                    below.append((child(pointer, name), value, True))
                elif name in NAMED and isinstance(value, dict):
                    below.append((child(pointer, name), value, False))
                elif name in SCHEMAS or name == "items" or name in LISTS:
                    below.append((child(pointer, name), value, True))
        elif isinstance(node, list) and is_schema:
            below = [(child(pointer, index), part, True) for index, part in enumerate(node)]
        stack.extend(reversed(below))


def _limits(schema: Any) -> None:
    """Refuse a schema that is too large or too deep, and what is no JSON in it."""
    nodes = 0
    stack: list[tuple[str, Any, int]] = [("", schema, 0)]
    while stack:
        pointer, node, depth = stack.pop()
        nodes += 1
        if nodes > MOST_SCHEMA_VALUES:
            raise ConstraintError(f"(root): the schema is too large: more than {MOST_SCHEMA_VALUES} values in it")
        if depth > MOST_SCHEMA_LEVELS:
            raise ConstraintError(
                f"{pointer[:200]}...: the schema is nested more than {MOST_SCHEMA_LEVELS} levels deep; use $defs"
            )
        if (fault := _no_json(node)) is not None:
            raise ConstraintError(f"{pointer or '(root)'}: {fault}")
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        stack += [(child(pointer, name), value, depth + 1) for name, value in entries]


def _no_json(value: Any) -> str | None:
    """Return what is wrong with a value that no JSON text has, its items and members aside."""
    if isinstance(value, dict):
        return next((f"the key {name!r} is no string" for name in value if not isinstance(name, str)), None)
    if isinstance(value, tuple):
        return "a tuple is no JSON value; write a list"
    if not isinstance(value, (list, str, int, float, bool)) and value is not None:
        return f"{type(value).__name__} is no JSON value"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON number"
    if isinstance(value, int) and abs(value) >= MOST_INTEGER:
        return "an integer of more than 300 digits"
    return None


def _keywords(pointer: str, node: dict[str, Any]) -> None:
    for keyword, value in node.items():
        if keyword not in KNOWN:
            if (meant := misspelt(keyword)) is not None and meant not in node:
                raise ConstraintError(
                    f"{child(pointer, keyword)}: unknown keyword {keyword!r}; did you mean {meant!r}? "
                    f"(an annotation of your own may be named 'x-...')"
                )
            continue
        if keyword in _FITS:
            fits, said = _FITS[keyword]
            if not fits(value):
                raise ConstraintError(f"{child(pointer, keyword)}: {keyword} must be {said}, not {_brief(value)}")
        if keyword == "pattern":
            _text(child(pointer, keyword), value)
        elif keyword == "patternProperties":
            for text in value:
                _text(child(pointer, keyword, text), text)


@kept(1024)
def misspelt(keyword: str) -> str | None:
    """Return the keyword that an unknown one is surely a misspelling of."""
    if keyword.startswith(("x-", "x_", "$", "_")) or len(keyword) < 4:
        return None
    folded = keyword.lower().replace("_", "").replace("-", "")
    for known in sorted(ENFORCED):
        if len(known) >= 4 and _edits(folded, known.lower()) <= (1 if len(known) < 10 else 2):
            return known
    return None


def _edits(a: str, b: str) -> int:
    """Return how many letters must be inserted, dropped, changed or swapped between two words; 3 stands for more."""
    if abs(len(a) - len(b)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def _text(pointer: str, text: str) -> None:
    if len(text) > MOST_PATTERN_CHARACTERS:
        raise ConstraintError(f"{pointer}: a pattern of more than {MOST_PATTERN_CHARACTERS} characters")
    try:
        finder(text)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConstraintError(f"{pointer}: a pattern that cannot be read: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_types(value: Any) -> bool:
    if isinstance(value, str):
        return value in TYPE_NAMES
    return _are_names(value) and bool(value) and TYPE_NAMES.issuperset(value)


def _maps(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test of a mapping whose values all fit."""
    return lambda value: isinstance(value, dict) and all(fits(part) for part in value.values())


RIGHT: tuple[tuple[Collection[str], Callable[[Any], bool], str], ...] = (
    (COUNTS, lambda value: _is_number(value) and value >= 0 and value == int(value), "a whole number of 0 or more"),
    (["minimum", "maximum"], _is_number, "a number"),
    (["exclusiveMinimum", "exclusiveMaximum"], lambda value: isinstance(value, (int, float)), "a number"),
    (["multipleOf"], lambda value: _is_number(value) and value > 0, "a number above 0"),
    (["pattern", "$ref", "$dynamicRef", "$recursiveRef"], lambda value: isinstance(value, str), "a string"),
    (SCHEMAS, _is_schema, "a schema"),
    (["items"], lambda value: isinstance(value, list) or _is_schema(value), "a schema"),
    (
        LISTS,
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_schema, value)),
        "a list of schemas, not empty",
    ),
    (["required"], lambda value: isinstance(value, bool) or _are_names(value), "a list of names"),
    (["enum"], lambda value: isinstance(value, list) and bool(value), "a list of values, not empty"),
    (["dependentRequired"], _maps(_are_names), "a mapping of names to lists of names"),
    (
        ["dependencies"],
        _maps(lambda part: _are_names(part) or _is_schema(part)),
        "a mapping of names to lists of names or schemas",
    ),
    (MAPPINGS, _maps(_is_schema), "a mapping of names to schemas"),
    (["type"], _are_types, "one of the seven type names, or a list of them"),
)
"""Keywords, what their value must fulfil, and how a message says that."""
_FITS = {keyword: (fits, said) for keywords, fits, said in RIGHT for keyword in keywords}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


BOUNDS = [(f"min{what}", f"max{what}") for what in ("imum", "Length", "Items", "Properties")]


def crossed(schema: dict[str, Any]) -> tuple[str, str] | None:
    """Return the keyword of a lower bound that is above the upper one, with the reason; None if there is none."""
    for low, high in BOUNDS:
        if low in schema and high in schema and schema[low] > schema[high]:
            return low, f"{low} {schema[low]} is above {high} {schema[high]}"
    return None


def contradiction(schema: dict[str, Any]) -> tuple[str, str]:
    """Return the keyword to blame for a schema that nothing can match, and the reason."""
    if (bounds := crossed(schema)) is not None:
        return bounds
    for low, high in (("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum")):
        bounds_of = [schema[key] for key in (low, high) if not isinstance(schema.get(key, True), bool)]
        if len(bounds_of) == 2 and bounds_of[0] >= bounds_of[1]:
            return low, f"{low} {bounds_of[0]} leaves nothing below {high} {bounds_of[1]}"
    for keyword in ("enum", "const"):
        if keyword in schema:
            return (
                keyword,
                f"none of its values fits the keywords beside it ({', '.join(sorted(schema.keys() - {keyword}))})",
            )
    if isinstance(schema.get("required"), list):
        properties = schema.get("properties", {})
        for name in schema["required"]:
            if schema.get("additionalProperties") is False and name not in properties:
                return "required", f"{name!r} is required, and additionalProperties: false forbids it"
            if properties.get(name) is False:
                return "required", f"{name!r} is required, and its schema is false"
        if schema["required"]:
            return "required", "a required property that nothing can match"
    for keyword in ("pattern", "format", "multipleOf", "minItems", "minProperties", "type"):
        if keyword in schema:
            return keyword, "together with the keywords beside it no value is left"
    return "type", "no value is left"
