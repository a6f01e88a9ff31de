"""Constraints as services take them: JSON Schemas, and texts and values wrapped in an object that has one.

Knows nothing of requests. A wrapped constraint is `{"answer": ...}`: strict services take objects only. What they
cannot take is refused by its place in the schema, before anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...lang.checking.check import Mismatch
from ...lang.constraint import Choices, Constraint, JsonSchema, Regex
from ...lang.errors import CapabilityError

_ANSWER = "answer"
_DEFINITIONS = ("$defs", "definitions")
_STRICT_LACKS = (
    *("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"),
    *("prefixItems", "contains", "uniqueItems", "propertyNames", "unevaluatedProperties", "unevaluatedItems"),
    *("minProperties", "maxProperties"),
)
"""Keywords that OpenAI's strict mode does not take (its guide of structured outputs)."""


def object_schema(constraint: Constraint, name: str, where: str) -> tuple[dict[str, Any], bool]:
    """The constraint as the schema of an object, and whether it is wrapped. Raises `CapabilityError`."""
    if isinstance(constraint, JsonSchema):
        schema = constraint.schema
        if isinstance(schema, dict) and schema.get("type") == "object":
            return schema, False
        return _wrapped(schema, name, where), True
    if isinstance(constraint, Choices):
        return _wrapped({"type": "string", "enum": list(constraint.choices)}, name, where), True
    if isinstance(constraint, Regex):
        return _wrapped({"type": "string", "pattern": f"^(?:{constraint.pattern})$"}, name, where), True
    raise refused(constraint, name, where)


def refused(constraint: Constraint, name: str, where: str) -> CapabilityError:
    return CapabilityError(
        f"{where}: {name} cannot enforce a constraint of kind {constraint.kind!r} by itself; ask with "
        "constrain='validate', or constrain on a sgl.Runtime(...)"
    )


def _wrapped(schema: Any, name: str, where: str) -> dict[str, Any]:
    definitions = {}
    if isinstance(schema, dict):
        definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
        schema = {key: value for key, value in schema.items() if key not in definitions}
    whole = {
        "type": "object",
        "properties": {_ANSWER: schema},
        "required": [_ANSWER],
        "additionalProperties": False,
        **definitions,
    }
    for pointer, part in _places(whole):
        ref = part.get("$ref")
        if isinstance(ref, str) and not ref.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS)):
            raise CapabilityError(
                f"{where}: {name} takes objects only, and within one {pointer}/$ref ({ref!r:.60}) would mean another "
                "place; move what it names into $defs"
            )
    return whole


def opened_object(text: str) -> str:
    """The text of a string, or the JSON of another value, that a reply has wrapped. Raises `Mismatch`."""
    try:
        reply = json.loads(text)
    except ValueError as error:
        raise Mismatch(f"the reply {text!r:.80} is not JSON: {error}") from None
    if not isinstance(reply, dict) or list(reply) != [_ANSWER]:
        raise Mismatch(f"the reply {text!r:.80} is not an object with {_ANSWER!r} alone")
    return json.dumps(reply[_ANSWER], ensure_ascii=False)


def opened_string(text: str) -> str:
    """The text that a reply has wrapped as a string. Raises `Mismatch`."""
    answer = json.loads(opened_object(text))
    if not isinstance(answer, str):
        raise Mismatch(f"the reply has {answer!r:.80}, not a string")
    return answer


def check_strict(schema: Any, name: str, where: str) -> None:
    """Raise `CapabilityError` for a schema that OpenAI's strict mode does not take as it is."""
    for pointer, part in _places(schema):
        fix = "; change the schema, or ask with constrain='validate'"
        for keyword in _STRICT_LACKS:
            if keyword in part:
                raise CapabilityError(f"{where}: the strict mode of {name} lacks {pointer}/{keyword}{fix}")
        properties = part.get("properties")
        if part.get("type") != "object" and properties is None:
            continue
        if part.get("additionalProperties") is not False:
            raise CapabilityError(
                f"{where}: the strict mode of {name} takes closed objects only, and {pointer or 'the root'} has no "
                f'"additionalProperties": false{fix}'
            )
        free = [key for key in properties or {} if key not in part.get("required", ())]
        if free:
            raise CapabilityError(
                f"{where}: the strict mode of {name} has no optional properties, and {pointer}/properties/{free[0]} is "
                f"not required{fix}"
            )


def _places(schema: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema within a schema, with its JSON pointer. Not those within `enum`, `const` and `default`."""
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "dependentSchemas", *_DEFINITIONS) and isinstance(value, dict):
            for name, part in value.items():
                yield from _places(part, f"{pointer}/{key}/{name}")
        elif isinstance(value, list) and key in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
            for number, part in enumerate(value):
                yield from _places(part, f"{pointer}/{key}/{number}")
        elif key not in ("enum", "const", "default", "examples"):
            yield from _places(value, f"{pointer}/{key}")


def as_pattern(choices: tuple[str, ...]) -> str:
    """A pattern of exactly these texts, in what all dialects share."""
    return "|".join("".join(f"\\{c}" if c in "\\.[]{}()*+?^$|" else c for c in choice) for choice in choices)
