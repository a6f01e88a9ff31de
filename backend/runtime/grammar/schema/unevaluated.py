"""unevaluatedProperties and unevaluatedItems, where what is evaluated does not depend on the value.

Owns: the names and patterns that the keywords beside them evaluate, through `$ref` and allOf. Where anyOf, oneOf, if,
not or dependentSchemas stand beside them, what is evaluated depends on the value: then they are only checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .objects import tidy_object
from .pieces import tidy_array
from .places import child
from .sets import ANY, EVERYTHING, ArraySet, Language, Loss, ObjectSet, Origin, ValueSet
from .typed import unreadable

if TYPE_CHECKING:
    from .read import SchemaReader

CONDITIONAL = frozenset(
    {"anyOf", "oneOf", "if", "not", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"}
)


@dataclass
class _Seen:
    """What has been evaluated. `all`: every member or item; `unsure`: it depends on the value."""

    names: dict[str, None] = field(default_factory=dict)
    patterns: dict[str, None] = field(default_factory=dict)
    items: int = 0
    all: bool = False
    unsure: bool = False


def unevaluated_properties(reader: SchemaReader, pointer: str, schema: dict[str, Any]) -> ValueSet:
    origin = Origin(pointer, "unevaluatedProperties")
    seen = _Seen()
    _visit(reader, pointer, schema, seen, True, set())
    if seen.all:
        return EVERYTHING
    if seen.unsure or any(unreadable(Language("ecma", text)) for text in seen.patterns):
        return replace(EVERYTHING, losses=frozenset({Loss(origin, "what is evaluated depends on the value")}))
    cond = reader.cond(child(pointer, "unevaluatedProperties"), schema["unevaluatedProperties"])
    kinds = tuple((frozenset({Language("ecma", text)}), ANY) for text in seen.patterns)
    made = ObjectSet(tuple((name, ANY) for name in seen.names), kinds, cond)
    return replace(EVERYTHING, objects=tuple(tidy_object(made)))


def unevaluated_items(reader: SchemaReader, pointer: str, schema: dict[str, Any]) -> ValueSet:
    origin = Origin(pointer, "unevaluatedItems")
    seen = _Seen()
    _visit(reader, pointer, schema, seen, False, set())
    if seen.all:
        return EVERYTHING
    if seen.unsure:
        return replace(EVERYTHING, losses=frozenset({Loss(origin, "what is evaluated depends on the value")}))
    cond = reader.cond(child(pointer, "unevaluatedItems"), schema["unevaluatedItems"])
    return replace(EVERYTHING, arrays=tuple(tidy_array(ArraySet((ANY,) * seen.items, cond))))


def _visit(
    reader: SchemaReader,
    pointer: str,
    schema: Any,
    seen: _Seen,
    properties: bool,
    visited: set[str],
    inner: bool = False,
) -> None:
    """Note what a schema evaluates in place."""
    if not isinstance(schema, dict) or pointer in visited:
        return
    visited.add(pointer)
    if schema.keys() & CONDITIONAL or (not properties and "contains" in schema):
        seen.unsure = True
    if properties:
        seen.names.update(dict.fromkeys(schema.get("properties", {})))
        seen.patterns.update(dict.fromkeys(schema.get("patternProperties", {})))
        seen.all |= "additionalProperties" in schema or (inner and "unevaluatedProperties" in schema)
    else:
        heads = schema["items"] if isinstance(schema.get("items"), list) else schema.get("prefixItems", [])
        seen.items = max(seen.items, len(heads))
        seen.all |= isinstance(schema.get("items"), (dict, bool)) or (inner and "unevaluatedItems" in schema)
        seen.all |= isinstance(schema.get("items"), list) and "additionalItems" in schema
    for index, part in enumerate(schema.get("allOf", [])):
        _visit(reader, child(pointer, "allOf", index), part, seen, properties, visited, True)
    if isinstance(schema.get("$ref"), str):
        target, found = reader.places.resolve(pointer, schema["$ref"])
        _visit(reader, target, found, seen, properties, visited, True)
