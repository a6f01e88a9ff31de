"""Keyword by keyword, both ways: what a schema admits its mask admits, and what it does not neither mask nor check lets by."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest

from sgl.lang.checking.dialect import validator_for

from .schema_masks import Masks

OBJ: dict[str, Any] = {"type": "object"}
ARR: dict[str, Any] = {"type": "array"}

# name, schema, valid, invalid; a name that ends in "?" may be left to the check
CASES: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("anything", {}, [1, "a", None, True, [1], {"a": 1}], []),
    ("type", {"type": "integer"}, [0, -5, 10**20], ["1", None, 1.5, True]),
    ("types", {"type": ["string", "null"]}, ["", None], [1, False, []]),
    ("number", {"type": "number"}, [0, 1.5, -2], ["1", True]),
    ("enum", {"enum": ["a", 1, None, [1, {"x": 2}], {"k": "v"}, 1.5, True]}, ["a", 1, None, [1, {"x": 2}], {"k": "v"}, 1.5, True],
     ["b", 2, False, [], [1, {"x": 3}], {}, {"k": "v", "z": 1}]),
    ("enum beside type", {"type": "string", "enum": ["a", 1]}, ["a"], [1, "b"]),
    ("enum beside pattern", {"enum": ["ab", "b"], "pattern": "^a"}, ["ab"], ["b"]),
    ("const 1 is no true", {"const": 1}, [1], [True, 2]),
    ("const false", {"const": False}, [False], [0, True, None]),
    ("const object", {"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {"a": [1, None], "b": 1}, {}]),
    ("const empty", {"const": {}}, [{}], [{"a": 1}, []]),
    ("minimum", {"type": "integer", "minimum": 3}, [3, 4, 300], [2, -3, 0]),
    ("exclusive", {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}, [4, 5], [3, 6]),
    ("exclusive, draft 4", {"type": "integer", "minimum": 3, "exclusiveMinimum": True}, [4], [3]),
    ("real bounds", {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1.25}, [0.5, 1.2, 1], [0.4, 1.25, 2]),
    ("negative bounds", {"type": "number", "minimum": -1.5, "maximum": -0.25}, [-1.5, -1, -0.25], [0, -0.2, -1.6, -2]),
    ("bounds without a type", {"minimum": 3}, [3, "a", None, [], {}], [2]),
    ("multipleOf", {"type": "integer", "multipleOf": 3}, [0, 3, -9], [1, 4]),
    ("multipleOf decimal", {"type": "number", "multipleOf": 0.01}, [0.01, 19.99, 1], [0.001, 0.015]),
    ("multipleOf hard?", {"type": "number", "multipleOf": 0.07}, [0.07, 7], [0.08]),
    ("multipleOf both", {"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer"}, [0, 12, 24], [4, 6, 8]),
    ("length", {"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü", "\n\"", "😀😀"], ["a", "abcd", ""]),
    ("pattern is a search", {"type": "string", "pattern": "b+"}, ["b", "abba"], ["a", ""]),
    ("pattern alternatives", {"type": "string", "pattern": "^a|b$"}, ["ax", "xb"], ["xa", "bx"]),
    ("pattern with length", {"type": "string", "pattern": "^a", "maxLength": 2}, ["a", "ab"], ["abc", "b"]),
    ("pattern digits are ASCII", {"type": "string", "pattern": "^\\d$"}, ["1"], ["١", "a"]),
    ("patterns", {"type": "string", "allOf": [{"pattern": "a"}, {"pattern": "b"}]}, ["ab", "ba"], ["a", "b"]),
    ("format date", {"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31"], ["2023-02-29", "2024-13-01", "24-1-1"]),
    ("format and pattern", {"type": "string", "format": "date", "pattern": "^2"}, ["2024-02-29"], ["1999-12-31"]),
    ("format unknown", {"type": "string", "format": "zip"}, ["x"], [1]),
    ("format regex?", {"type": "string", "format": "regex"}, ["a+"], ["("]),
    ("items", {**ARR, "items": {"type": "integer"}}, [[], [1, 2]], [["a"], [1, "a"], {}]),
    ("item counts", {**ARR, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ("prefixItems", {**ARR, "prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, [[], [1], [1, "a"]], [["a"], [1, 2]]),
    ("items list", {**ARR, "items": [{"type": "integer"}], "additionalItems": False}, [[], [1]], [["a"], [1, 2]]),
    ("tuple", {**ARR, "prefixItems": [{}, {}], "items": False, "minItems": 2}, [[1, 2]], [[1], [1, 2, 3]]),
    ("uniqueItems of an enum", {**ARR, "items": {"enum": ["a", "b", 1]}, "uniqueItems": True}, [[], ["a", 1], [1, "b", "a"]], [["a", "a"], ["c"]]),
    ("uniqueItems of booleans", {**ARR, "items": {"type": "boolean"}, "uniqueItems": True}, [[], [True, False]], [[True, True]]),
    ("uniqueItems of one", {**ARR, "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 1]]),
    ("uniqueItems?", {**ARR, "uniqueItems": True}, [[], [1, 2]], [[1, 1]]),
    ("contains, bounded", {**ARR, "contains": {"const": 1}, "maxItems": 3}, [[1], [2, 1], [2, 2, 1]], [[], [2, 2], [2, 2, 2]]),
    ("contains?", {**ARR, "contains": {"const": 1}}, [[1], [2, 1]], [[], [2]]),
    ("contains what items are", {**ARR, "items": {"$ref": "#/$defs/i"}, "contains": {"$ref": "#/$defs/i"}, "$defs": {"i": {"type": "integer"}}}, [[1], [1, 2]], [[], ["a"]]),
    ("minContains 0", {**ARR, "contains": {"const": 1}, "minContains": 0}, [[], [2]], [{}]),
    ("properties", {**OBJ, "properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}], [{"a": "x"}, []]),
    ("required", {**OBJ, "properties": {"a": {}}, "required": ["a", "z"]}, [{"a": 1, "z": 2}], [{"a": 1}, {}, {"z": 1}]),
    ("closed", {**OBJ, "properties": {"a": {}}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}, {"a": 1, "b": 2}]),
    ("additional schema", {**OBJ, "properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, [{"a": "x", "b": 1}], [{"b": "x"}]),
    ("false property", {**OBJ, "properties": {"a": False}}, [{}, {"b": 1}], [{"a": 1}]),
    ("patternProperties", {**OBJ, "patternProperties": {"^a": {"type": "integer"}}}, [{"a": 1}, {"b": "x"}, {"ab": 2, "c": 3}], [{"a": "x"}]),
    ("patterns that overlap", {**OBJ, "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 5}}, "additionalProperties": False},
     [{"a": 1}, {"ab": 5}, {"xb": "y"}], [{"ab": 4}, {"ab": "x"}, {"x": 1}, {"xb": 1}]),
    ("pattern over a name", {**OBJ, "properties": {"ab": {"minimum": 3}}, "patternProperties": {"^a": {"type": "integer"}}}, [{"ab": 3}], [{"ab": "x"}, {"ab": 2}, {"ac": "x"}]),
    ("a pattern of every name", {**OBJ, "properties": {"a": {}}, "patternProperties": {".*": {"type": "integer"}}}, [{"a": 1, "b": 2}], [{"a": "x"}, {"b": "x"}]),
    ("names with quotes", {**OBJ, "properties": {'q"': {"type": "integer"}, "t\t": {"type": "null"}}}, [{'q"': 1}, {"t\t": None}, {"x": 1}], [{'q"': "x"}, {"t\t": 1}]),
    ("propertyNames pattern", {**OBJ, "propertyNames": {"pattern": "^[a-z]+$"}}, [{}, {"ab": 1}], [{"A": 1}, {"a1": 1}]),
    ("propertyNames enum", {**OBJ, "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}}, [{"a": 1, "b": 2}], [{"c": 1}, {"a": "x"}]),
    ("propertyNames length", {**OBJ, "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    ("minProperties", {**OBJ, "properties": {"a": {}, "b": {}}, "minProperties": 1}, [{"a": 1}, {"b": 1}, {"c": 1}, {"a": 1, "b": 2}], [{}]),
    ("minProperties, closed", {**OBJ, "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "additionalProperties": False}, [{"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}], [{}, {"a": 1}]),
    ("maxProperties", {**OBJ, "properties": {"a": {}, "b": {}}, "maxProperties": 1}, [{}, {"a": 1}, {"c": 1}], [{"a": 1, "b": 1}, {"a": 1, "c": 1}, {"c": 1, "d": 1}]),
    ("dependentRequired", {**OBJ, "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
    ("dependentSchemas", {**OBJ, "dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}}}}, [{"b": "x"}, {"a": 1, "b": 1}], [{"a": 1, "b": "x"}]),
    ("dependencies", {**OBJ, "dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, [{}, {"a": 1, "b": 1}, {"c": 1, "d": 1}], [{"a": 1}, {"c": 1}]),
    ("allOf", {"allOf": [{"type": "integer"}, {"minimum": 3}]}, [3], [2, "a"]),
    ("allOf objects", {"allOf": [{**OBJ, "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}]}, [{"a": 1, "b": 1}], [{"a": 1}, {"b": 1}]),
    ("allOf closed", {"allOf": [{**OBJ, "properties": {"a": {}, "b": {}}, "additionalProperties": False}, {"properties": {"a": {"type": "integer"}, "c": {}}}]}, [{"a": 1, "b": 1}], [{"c": 1}, {"a": "x"}]),
    ("anyOf", {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [5, "a"], ["ab", None]),
    ("anyOf beside", {**OBJ, "properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{}, {"a": "x"}]),
    ("oneOf disjoint", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None, 1.5]),
    ("oneOf overlapping", {"oneOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "maximum": 4}]}, [1, 5], [2, 3, 4]),
    ("oneOf required", {**OBJ, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ("oneOf tagged", {"oneOf": [{**OBJ, "properties": {"t": {"const": "a"}, "v": {"type": "integer"}}, "required": ["t"]}, {**OBJ, "properties": {"t": {"const": "b"}, "v": {"type": "string"}}, "required": ["t"]}]}, [{"t": "a", "v": 1}, {"t": "b", "v": "x"}], [{"t": "a", "v": "x"}, {"t": "c"}, {}]),
    ("oneOf closed", {"oneOf": [{**OBJ, "properties": {"a": {}}, "additionalProperties": False}, {**OBJ, "properties": {"b": {}}, "additionalProperties": False}]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ("oneOf patterns", {"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["ax", "xb"], ["ab", "x"]),
    ("oneOf same twice", {"oneOf": [{"const": 1}, {"const": 1}, {"const": 2}]}, [2], [1]),
    ("oneOf integer and number?", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, [1.5], [1]),
    ("oneOf lists", {"oneOf": [{**ARR, "items": {"type": "integer"}, "minItems": 1}, {**ARR, "items": {"type": "string"}, "minItems": 1}]}, [[1], ["a"]], [[], [1, "a"]]),
    ("not type", {"not": {"type": "string"}}, [1.5, None, [], {}], ["a"]),
    ("not integer?", {"not": {"type": "integer"}}, ["a", None, [], {}, 1.5], [1]),
    ("not const", {"type": "string", "not": {"const": "a"}}, ["", "b", "ab"], ["a"]),
    ("not enum", {"not": {"enum": ["a", 1, None]}}, ["b", 2, [], True], ["a", 1, None]),
    ("not required", {**OBJ, "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}]),
    ("not any required", {**OBJ, "not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}}, [{}, {"c": 1}], [{"a": 1}, {"b": 1}]),
    ("not both required", {**OBJ, "not": {"required": ["a", "b"]}}, [{}, {"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]),
    ("not pattern", {"type": "string", "not": {"pattern": "^a"}}, ["", "b", "ba"], ["a", "ab"]),
    ("not length", {"type": "string", "not": {"minLength": 2}}, ["", "a"], ["ab"]),
    ("not bounds", {"type": "integer", "not": {"minimum": 3, "maximum": 5}}, [2, 6], [3, 5]),
    ("not a property", {**OBJ, "not": {"properties": {"a": {"type": "string"}}, "required": ["a"]}}, [{}, {"a": 1}], [{"a": "x"}]),
    ("not not", {"not": {"not": {"type": "integer"}}}, [1], ["a"]),
    ("not without keys", {**OBJ, "not": {"maxProperties": 0}}, [{"a": 1}], [{}]),
    ("not propertyNames false", {"not": {"propertyNames": False}}, [{"a": 1}], [{}, 1]),
    ("not multipleOf?", {"type": "integer", "not": {"multipleOf": 3}}, [1], [3]),
    ("not items, bounded", {**ARR, "maxItems": 2, "not": {"items": {"type": "string"}}}, [[1], [1, "a"]], [[], ["a"]]),
    ("not object", {"not": {**OBJ, "properties": {"a": {}}, "additionalProperties": False}, "maxProperties": 1}, [1, {"b": 1}], [{}, {"a": 1}]),
    ("if then else", {**OBJ, "if": {"properties": {"t": {"const": 1}}, "required": ["t"]}, "then": {"required": ["x"]}, "else": {"required": ["y"]}}, [{"t": 1, "x": 1}, {"t": 2, "y": 1}, {"y": 1}], [{"t": 1}, {"t": 1, "y": 1}, {"t": 2}]),
    ("if then", {"if": {"type": "string"}, "then": {"maxLength": 1}}, [5, "a"], ["ab"]),
    ("then alone", {"type": "integer", "then": {"minimum": 5}}, [1], ["a"]),
    ("ref", {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, [1], ["a"]),
    ("ref with siblings", {"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, [3], [2, "a"]),
    ("ref in draft 7", {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "minimum": 3, "definitions": {"a": {"type": "integer"}}}, [3, 2], ["a"]),
    ("ref escapes", {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "integer"}}}, [1], ["a"]),
    ("ref to an id", {"$id": "http://x.y/z", "$ref": "other", "$defs": {"a": {"$id": "http://x.y/other", "type": "integer"}}}, [1], ["a"]),
    ("ref to an anchor", {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "integer"}}}, [1], ["a"]),
    ("recursion", {**OBJ, "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}, "additionalProperties": False}, [{}, {"v": 1, "next": {"next": {"v": 2}}}], [{"next": {"v": "x"}}, {"next": 1}]),
    ("recursion through allOf", {"$ref": "#/$defs/n", "$defs": {"b": {**OBJ, "properties": {"v": {"type": "integer"}}}, "n": {"allOf": [{"$ref": "#/$defs/b"}, {"properties": {"c": {**ARR, "items": {"$ref": "#/$defs/n"}}}}]}}},
     [{"v": 1, "c": [{"v": 2}]}], [{"c": [{"v": "x"}]}, {"c": [1]}]),
    ("recursive oneOf", {"$ref": "#/$defs/n", "$defs": {"n": {"oneOf": [{"type": "integer"}, {**ARR, "items": {"$ref": "#/$defs/n"}}]}}}, [1, [1, [2, []]]], ["a", [["a"]]]),
    ("nullable", {"type": "string", "maxLength": 1, "nullable": True}, [None, "a"], ["ab", 1]),
    ("unevaluated", {**OBJ, "allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}, "unevaluatedProperties": False}, [{"b": 1, "a": 1}], [{"c": 1}]),
    ("unevaluated, unsure?", {**OBJ, "anyOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}], "unevaluatedProperties": False}, [{"a": 1}], [{"c": 1}]),
    ("unevaluatedItems", {**ARR, "prefixItems": [{}], "unevaluatedItems": False}, [[], [1]], [[1, 2]]),
    ("branch that nothing matches", {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2}, {"type": "string"}]}, ["a"], [3]),
    ("bounds of int64?", {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [0, -5, 2**62, -(2**63), -(2**63) + 1], [2**63, -(2**63) - 1]),
    ("bounds beyond", {"type": "number", "maximum": 1.7976931348623157e308}, [0, 1e17], ["a"]),
    ("annotations", {"type": "integer", "title": "t", "x-y": 1, "example": 3, "deprecated": True}, [1], ["a"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "schema", "valid", "invalid"), CASES, ids=[case[0] for case in CASES])
def test_both_ways(name: str, schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    masks = Masks(schema)
    assert masks.lowered.fully_enforced is not name.endswith("?"), masks.lowered.rows
    for value in valid:
        assert masks.passes(value), value
        orders = itertools.permutations(value.items()) if isinstance(value, dict) and len(value) < 5 else [None]
        assert any(masks.admits(value if order is None else dict(order)) for order in orders), value
    for value in invalid:
        assert not masks.passes(value), value
        if masks.lowered.fully_enforced:
            assert not masks.admits(value), value


def test_the_table_agrees_with_plain_jsonschema() -> None:
    skip = ("multipleOf", "nullable", "format", "exclusive, draft", "dependencies", "items list", "pattern digits")
    for name, schema, valid, invalid in CASES:
        if name.startswith(skip):
            continue
        plain = jsonschema.validators.validator_for(schema)(schema)
        assert all(plain.is_valid(value) for value in valid), name
        assert not any(plain.is_valid(value) for value in invalid), name


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_what_is_drawn_passes(case: tuple[str, Any, list[Any], list[Any]]) -> None:
    masks, rng = Masks(case[1]), random.Random(1)
    validator = validator_for(case[1])
    for _ in range(6):
        text = masks.draw(rng)
        if text is not None and masks.lowered.fully_enforced:
            assert validator.is_valid(json.loads(text)), text


def test_another_spelling_of_a_key_is_no_way_round() -> None:
    """llguidance's own additionalProperties take "\\u0061" for a key that is not "a"."""
    masks = Masks({**OBJ, "properties": {"a": {"type": "integer"}}})
    assert not masks.admits_text('{"\\u0061": "x"}')
    assert masks.admits_text('{"b": "x"}')


@pytest.mark.parametrize("kept", ['"', "\\"])
def test_a_class_without_a_quote_has_none(kept: str) -> None:
    """llguidance admits every escape where a class has all control characters."""
    masks = Masks({"type": "string", "pattern": f"^[^{kept * 2 if kept != chr(34) else kept}]*$"})
    assert masks.admits("a\n") and not masks.admits(f"a{kept}")
    masks = Masks({"type": "object", "properties": {f"a{kept}": {"type": "integer"}}})
    assert masks.admits({f"a{kept}": 1}) and masks.admits({f"b{kept}": "x"}) and not masks.admits({f"a{kept}": "x"})


def test_properties_keep_their_order() -> None:
    masks = Masks(
        {**OBJ, "properties": {"zebra": {}, "apple": {}, "mango": {}}, "required": ["zebra", "apple", "mango"]}
    )
    assert masks.admits({"zebra": 1, "apple": 2, "mango": 3})
    assert not masks.admits({"apple": 2, "mango": 3, "zebra": 1})
