"""What fuzzing found: numbers that the engine cannot count to, names beside a schema for the rest, hostile sizes."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sgl.backend.runtime.grammar.schema.lower import lower

from .schema_masks import Masks

BIG = 2**53 + 1
ENGINE_CRASHES = -(2**63) + 1  # llguidance 1.9.1 ends the process on this constant


@pytest.mark.parametrize(
    ("schema", "valid", "invalid", "exact"),
    [
        ({"type": "integer", "minimum": BIG, "maximum": BIG}, [BIG], [BIG + 3, 0], False),
        ({"enum": [BIG, "a"]}, [BIG, "a"], [0, "b"], False),
        ({"const": 2**63}, [2**63], ["a", 10**10], False),
        ({"const": [ENGINE_CRASHES]}, [[ENGINE_CRASHES]], [["a"], 1], False),
        ({"const": -(2**63)}, [-(2**63)], [1], False),
        ({"const": 2**60}, [2**60], [2**60 + 1, 2**60 - 1], True),
        ({"const": 123456789.12345679}, [123456789.12345679], [123456789, 2], False),
        ({"const": 0.1}, [0.1], [0.11, 0.2], True),
        ({"type": "integer", "minimum": 2**60}, [2**60, 2**70], [5, -(2**61)], False),
        ({"type": "integer", "maximum": 2**64}, [2**64, -5, 0], ["a"], False),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [2**63 - 1, 0, -(2**62), -(2**63), -(2**63) + 1023], [2**63], False),
        ({"type": "integer", "minimum": -(2**63) + 5}, [-(2**63) + 5, 0, 2**64], ["a"], False),
        ({"type": "integer", "exclusiveMinimum": -9223372036854774784}, [-9223372036854774783], ["a"], False),
        ({"type": "integer", "minimum": -9223372036854774784}, [-9223372036854774784, 0], [-9223372036854774785], True),
        ({"type": "integer", "exclusiveMaximum": 2**53 + 1}, [2**53, 0], [2**53 + 1], True),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3.0}, [1, 2], [0, 3], True),
        ({"type": "number", "maximum": 1e308, "minimum": -1e308}, [0, -5, 10**30], ["a"], False),
        ({"type": "number", "minimum": 2**60, "maximum": 2**62}, [2**60, 2**61], [5], False),
        ({"type": "number", "maximum": 123456789.12345679}, [123456789.12345679], [123456791], False),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.25}, [0.1, 0.25], [0.26, -1], False),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0.1, 1], [0, 1.1], True),
        ({"type": "array", "items": {"enum": [BIG, 1]}, "uniqueItems": True}, [[BIG, 1]], [["a"]], False),
    ],
)  # fmt: skip
def test_numbers_out_of_reach(schema: Any, valid: list[Any], invalid: list[Any], exact: bool) -> None:
    """The mask is as said, or wider and the check is told; it never refuses what is valid."""
    masks = Masks(schema)
    assert masks.lowered.fully_enforced is exact, masks.lowered
    assert all(masks.admits(value) and masks.passes(value) for value in valid), masks.lowered.engine_schema
    assert not any(masks.admits(value) or masks.passes(value) for value in invalid), masks.lowered.engine_schema


def test_the_keyword_out_of_reach_is_named() -> None:
    low = lower({"type": "object", "properties": {"n": {"type": "integer", "maximum": BIG}, "e": {"enum": [BIG]}}})
    assert set(low.checked) == {"/properties/n/maximum", "/properties/e/enum"}


@pytest.mark.parametrize("required", [[], ["a"]])
def test_a_name_beside_a_schema_of_the_rest(required: list[str]) -> None:
    """llguidance intersects a name's schema with that of a pattern that its name matches."""
    masks = Masks(
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "required": required,
            "additionalProperties": {"type": "string", "pattern": "^[a-c]+$"},
        }
    )
    assert masks.lowered.fully_enforced
    assert masks.admits({"a": True}) and masks.admits({"a": True, "b": "c"})
    assert not masks.admits({"a": "b"}) and not masks.admits({"a": True, "b": True})


def test_recursion_while_looking_for_what_is_empty() -> None:
    for schema, value in (
        ({"patternProperties": {"^.$": {"$ref": "#"}}, "required": ['q"', "c"], "properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"type": "object"}}}, {'q"': "a", "c": True}),
        ({"not": {"type": "object", "properties": {"e": {"minimum": 1000}, "b": {"not": {"$ref": "#"}}}}}, "c"),
        ({"$ref": "#/$defs/d0", "$defs": {"d0": {"items": {"$ref": "#/$defs/d1"}, "uniqueItems": False}, "d1": {"oneOf": [{"$ref": "#/$defs/d0"}, {}]}}}, None),
    ):  # fmt: skip
        assert Masks(schema).admits(value)


def test_additional_properties_leave_nothing_unevaluated() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "type": "object",
        "additionalProperties": {"type": "string"},
        "unevaluatedProperties": {"type": "array"},
    }
    masks = Masks(schema)
    assert masks.admits({"a": "b"}) and masks.passes({"a": "b"}) and not masks.passes({"a": []})


HOSTILE: dict[str, Any] = {
    "overlapping oneOf": {"oneOf": [{"type": "object", "properties": {f"p{i}": {"type": "integer"}}, "required": [f"p{i}"]} for i in range(40)]},
    "several contains": {"type": "array", "maxItems": 60, "allOf": [{"contains": {"const": i}} for i in range(4)]},
    "oneOf of oneOf": {"oneOf": [{"oneOf": [{"oneOf": [{"properties": {f"a{i}{j}{k}": {"minimum": k}}} for k in range(5)]} for j in range(5)]} for i in range(5)]},
    "anyOf in allOf": {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"type": "integer"}}}, {"required": [f"q{i}"]}]} for i in range(12)]},
    "counted names": {"type": "object", "properties": {f"p{i}": {} for i in range(30)}, "minProperties": 15, "additionalProperties": False},
    "intersected patterns": {"type": "string", "allOf": [{"pattern": "a.{20}b"}, {"pattern": "c.{20}d"}, {"pattern": "(x|y).{15}z"}]},
    "negated pattern": {"type": "string", "not": {"pattern": "^(a|b)*a(a|b){12}$"}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_bounded(name: str) -> None:
    start = time.process_time()
    assert not lower(HOSTILE[name]).fully_enforced
    assert time.process_time() - start < 4  # most take 0.2 s
    assert len(json.dumps(lower(HOSTILE[name]).engine_schema)) < 10**6
