"""What `unevaluatedProperties` and `unevaluatedItems` speak of: what the keywords beside them have not evaluated.

Knows nothing of sets. Keywords are followed through `$ref` and allOf. Where anyOf, oneOf, if, not or dependentSchemas
stand beside them, what is evaluated depends on the value, and nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .places import SchemaPlaces, child

CONDITIONAL = frozenset(
    {"anyOf", "oneOf", "if", "not", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"}
)


@dataclass
class Evaluated:
    """The names, patterns and first items that are evaluated. `all`: all are; `unsure`: it depends on the value."""

    names: dict[str, None] = field(default_factory=dict)
    patterns: dict[str, None] = field(default_factory=dict)
    items: int = 0
    all: bool = False
    unsure: bool = False


def evaluated(places: SchemaPlaces, pointer: str, schema: dict[str, Any], properties: bool) -> Evaluated:
    """Return which properties (or items) of a value a schema evaluates, but for its own keyword for the rest."""
    seen = Evaluated()
    visited: set[str] = set()
    stack: list[tuple[str, Any]] = [(pointer, schema)]
    while stack:
        at, part = stack.pop()
        if not isinstance(part, dict) or at in visited:
            continue
        visited.add(at)
        if part.keys() & CONDITIONAL or (not properties and "contains" in part):
            seen.unsure = True
        _note(seen, part, properties, inner=at != pointer)
        below = [(child(at, "allOf", index), branch) for index, branch in enumerate(part.get("allOf", []))]
        if isinstance(part.get("$ref"), str):
            below.append(places.resolve(at, part["$ref"]))
        stack.extend(reversed(below))
    return seen


def _note(seen: Evaluated, schema: dict[str, Any], properties: bool, inner: bool) -> None:
    """Add what the keywords of one schema evaluate. `inner`: the schema is not the one that asks."""
    if properties:
        seen.names.update(dict.fromkeys(schema.get("properties", {})))
        seen.patterns.update(dict.fromkeys(schema.get("patternProperties", {})))
        seen.all |= "additionalProperties" in schema or (inner and "unevaluatedProperties" in schema)
        return
    items = schema.get("items")
    heads = items if isinstance(items, list) else schema.get("prefixItems", [])
    seen.items = max(seen.items, len(heads))
    seen.all |= isinstance(items, (dict, bool)) or (inner and "unevaluatedItems" in schema)
    seen.all |= isinstance(items, list) and "additionalItems" in schema
