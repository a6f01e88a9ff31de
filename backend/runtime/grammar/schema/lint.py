"""What is refused before a schema is read: broken, misspelt, hostile or contradictory ones.

Owns: the keywords that are known, limits of size and depth, misspellings of keywords, values of the wrong type, and the
naming of what contradicts what in one place. Every error names the JSON pointer. Knows nothing of sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .....lang.checking.check import dialect, metaschema_fault
from .....lang.checking.dialect import finder
from .....lang.errors import ConstraintError
from .places import NAMED, child

MOST_NODES = 60_000  # objects, arrays and values of a schema
MOST_DEPTH = 120  # how deep they are nested
MOST_TEXT = 20_000  # characters of a pattern

ENFORCED = frozenset(
    [
        "type",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "properties",
        "patternProperties",
        "additionalProperties",
        "required",
        "minProperties",
        "maxProperties",
        "propertyNames",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$ref",
        "$dynamicRef",
        "$recursiveRef",
        "nullable",
    ]
)
ANNOTATIONS = frozenset(
    [
        "$schema",
        "$id",
        "id",
        "$anchor",
        "$dynamicAnchor",
        "$recursiveAnchor",
        "$defs",
        "definitions",
        "$comment",
        "$vocabulary",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "readOnly",
        "writeOnly",
        "deprecated",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
        "externalDocs",
        "xml",
    ]
)
KNOWN = ENFORCED | ANNOTATIONS
COUNTS = frozenset(
    ["minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains", "minProperties", "maxProperties"]
)
SCHEMAS = frozenset(
    [
        "additionalItems",
        "contains",
        "additionalProperties",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
        "unevaluatedProperties",
        "unevaluatedItems",
    ]
)
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
MAPPINGS = NAMED - {"definitions", "$defs", "dependencies"}


def lint(schema: Any) -> int:
    """Refuse what is wrong with a schema; the number of its draft (4, 6, 7, 2019 or 2020)."""
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
    """Each subschema that is an object, with its pointer."""
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
    nodes = 0
    stack: list[tuple[str, Any, int]] = [("", schema, 0)]
    while stack:
        pointer, node, depth = stack.pop()
        nodes += 1
        if nodes > MOST_NODES:
            raise ConstraintError(f"(root): the schema is too large: more than {MOST_NODES} values in it")
        if depth > MOST_DEPTH:
            raise ConstraintError(
                f"{pointer[:200]}...: the schema is nested more than {MOST_DEPTH} levels deep; use $defs"
            )
        if isinstance(node, dict):
            for name, value in node.items():
                if not isinstance(name, str):
                    raise ConstraintError(f"{pointer or '(root)'}: the key {name!r} is no string")
                stack.append((child(pointer, name), value, depth + 1))
        elif isinstance(node, (list, tuple)):
            if isinstance(node, tuple):
                raise ConstraintError(f"{pointer or '(root)'}: a tuple is no JSON value; write a list")
            stack += [(child(pointer, index), value, depth + 1) for index, value in enumerate(node)]
        elif not isinstance(node, (str, int, float, bool)) and node is not None:
            raise ConstraintError(f"{pointer or '(root)'}: {type(node).__name__} is no JSON value")
        elif isinstance(node, float) and (node != node or node in (float("inf"), float("-inf"))):
            raise ConstraintError(f"{pointer or '(root)'}: {node} is no JSON number")
        elif isinstance(node, int) and not isinstance(node, bool) and abs(node) >= 10**300:
            raise ConstraintError(f"{pointer or '(root)'}: an integer of more than 300 digits")


def _keywords(pointer: str, node: dict[str, Any]) -> None:
    for keyword, value in node.items():
        if keyword not in KNOWN:
            if (meant := misspelt(keyword)) is not None and meant not in node:
                raise ConstraintError(
                    f"{child(pointer, keyword)}: unknown keyword {keyword!r}; did you mean {meant!r}? "
                    f"(an annotation of your own may be named 'x-...')"
                )
            continue
        if (why := _wrong(keyword, value)) is not None:
            raise ConstraintError(f"{child(pointer, keyword)}: {keyword} must be {why}, not {_brief(value)}")
        if keyword == "pattern":
            _text(child(pointer, keyword), value)
        elif keyword == "patternProperties":
            for text in value:
                _text(child(pointer, keyword, text), text)


def misspelt(keyword: str) -> str | None:
    """The keyword that an unknown one is surely a misspelling of."""
    if keyword.startswith(("x-", "x_", "$", "_")) or len(keyword) < 4:
        return None
    folded = keyword.lower().replace("_", "").replace("-", "")
    for known in sorted(ENFORCED):
        if len(known) >= 4 and _edits(folded, known.lower()) <= (1 if len(known) < 10 else 2):
            return known
    return None


def _edits(a: str, b: str) -> int:
    """Letters to insert, drop, change or swap to get from one word to the other (3 stands for more)."""
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
    if "\0" in re.sub(r"\[\^[^\]]*\]", "", text):
        raise ConstraintError(f"{pointer}: a pattern with a NUL character; JSON text cannot hold one")
    if len(text) > MOST_TEXT:
        raise ConstraintError(f"{pointer}: a pattern of more than {MOST_TEXT} characters")
    try:
        finder(text)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConstraintError(f"{pointer}: a pattern that cannot be read: {error}") from None


def _wrong(keyword: str, value: Any) -> str | None:
    """What the value of a keyword should have been, or None."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if keyword in COUNTS:
        return None if number and value >= 0 and value == int(value) else "a whole number of 0 or more"
    if keyword in ("minimum", "maximum"):
        return None if number else "a number"
    if keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        return None if number or isinstance(value, bool) else "a number"
    if keyword == "multipleOf":
        return None if number and value > 0 else "a number above 0"
    if keyword in ("pattern", "$ref", "$dynamicRef", "$recursiveRef"):
        return None if isinstance(value, str) else "a string"
    if keyword in SCHEMAS:
        return None if isinstance(value, (dict, bool)) else "a schema"
    if keyword == "items":
        return None if isinstance(value, (dict, bool, list)) else "a schema"
    if keyword in LISTS:
        fits = isinstance(value, list) and value and all(isinstance(part, (dict, bool)) for part in value)
        return None if fits else "a list of schemas, not empty"
    if keyword == "required":
        fits = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return None if fits or isinstance(value, bool) else "a list of names"
    if keyword == "enum":
        return None if isinstance(value, list) and value else "a list of values, not empty"
    if keyword == "dependentRequired":
        fits = isinstance(value, dict) and all(_names(names) for names in value.values())
        return None if fits else "a mapping of names to lists of names"
    if keyword == "dependencies":
        fits = isinstance(value, dict) and all(
            _names(part) or isinstance(part, (dict, bool)) for part in value.values()
        )
        return None if fits else "a mapping of names to lists of names or schemas"
    if keyword in MAPPINGS:
        fits = isinstance(value, dict) and all(isinstance(part, (dict, bool)) for part in value.values())
        return None if fits else "a mapping of names to schemas"
    if keyword == "type":
        return None if _types(value) else "one of the seven type names, or a list of them"
    return None


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _types(value: Any) -> bool:
    known = ("null", "boolean", "number", "integer", "string", "array", "object")
    if isinstance(value, str):
        return value in known
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name in known for name in value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


BOUNDS = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)


def crossed(schema: dict[str, Any]) -> tuple[str, str] | None:
    """The bounds of a schema of which the lower one is above the upper one, if there are such."""
    for low, high in BOUNDS:
        if low in schema and high in schema and schema[low] > schema[high]:
            return low, f"{low} {schema[low]} is above {high} {schema[high]}"
    return None


def contradiction(schema: dict[str, Any]) -> tuple[str, str]:
    """Which keyword of a schema that nothing can match to name, and why."""
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
