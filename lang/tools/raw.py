"""Tools as others write them: raw ones, OpenAI's, Anthropic's and MCP's forms, read as a name, a text and a schema.

Knows nothing of functions. What a schema may say is looked at where it is enforced; here it must be valid JSON Schema
of an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..checking.dialect import metaschema_fault
from ..constraint import JsonSchema
from ..errors import ToolError

_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
_JOINS = frozenset([
    "$ref", "$dynamicRef", "$recursiveRef", "allOf", "oneOf", "not", "if", "then", "else", "patternProperties",
    "dependentSchemas", "dependencies", "unevaluatedProperties", "additionalProperties", "propertyNames",
])  # fmt: skip
"""Beside these a schema is not closed: others may name its properties, or it says itself what else it takes."""


class RawTool(NamedTuple):
    """A tool as it was written."""

    name: Any
    description: Any
    schema: Any


def read_raw(item: Mapping[str, Any]) -> RawTool:
    """Read any of the forms. Raises `ToolError` for a mapping that is none of them."""
    kind = item.get("type", "function")
    if kind != "function":
        raise ToolError(f"a tool of the type {kind!r:.60} runs at its provider; only functions can be called here")
    inner = item.get("function", item)
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise ToolError(
            f"a tool is a mapping with name, description and parameters, got {sorted(map(str, item))!r:.120}"
        )
    schema = next((inner[key] for key in _SCHEMA_KEYS if inner.get(key) is not None), None)
    return RawTool(inner["name"], inner.get("description") or "", schema)


def argument_schema(where: str, schema: object) -> JsonSchema:
    """The JSON Schema of a tool's arguments: an object, and closed where it says nothing of other properties.

    A model then invents no arguments. `where` begins errors. Raises `ToolError`.
    """
    if schema is None:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise ToolError(f"{where}: its parameters must be a JSON Schema of an object, got {schema!r:.80}")
    try:
        data = json.loads(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"{where}: its parameters hold something that is not JSON: {error}") from None
    if (fault := metaschema_fault(data)) is not None:
        pointer, why = fault
        raise ToolError(f"{where}, parameters {pointer or '(root)'}: this is no valid JSON Schema: {why}")
    kinds = data.get("type", "object")
    if kinds != "object" and "object" not in (kinds if isinstance(kinds, list) else ()):
        raise ToolError(f"{where}, parameters /type: arguments are an object, not {kinds!r:.60}")
    return JsonSchema(json.dumps(_closed({**data, "type": "object"}), ensure_ascii=False))


def _closed(schema: Any) -> Any:
    """Forbid properties that a schema does not name, wherever nothing beside it may name them."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if isinstance(properties := schema.get("properties"), dict):
        closed["properties"] = {name: _closed(part) for name, part in properties.items()}
        if not _JOINS & schema.keys() and "anyOf" not in schema:
            closed["additionalProperties"] = False
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    if isinstance(schema.get("anyOf"), list) and "properties" not in schema and not _JOINS & schema.keys():
        closed["anyOf"] = [_closed(part) for part in schema["anyOf"]]
    return closed
