"""The check of finished text: every kind of constraint, and the dialect of JSON Schema."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from sgl.lang.checking.check import Mismatch, check, parse_json
from sgl.lang.checking.dialect import dialect, metaschema_fault
from sgl.lang.constraint import Choices, Constraint, Either, Exactly, Grammar, JsonSchema, Regex, Sequenced


def schema(data: Any) -> JsonSchema:
    return JsonSchema(json.dumps(data))


@pytest.mark.parametrize(
    ("constraint", "text", "value"),
    [
        (Exactly("a"), "a", "a"),
        (Regex("[a-z]+"), "ab", "ab"),
        (Regex(r"\p{L}+"), "é", "é"),
        (Choices(("a", "b")), "b", "b"),
        (Grammar('root ::= "a"', "ebnf"), "anything", "anything"),
        (schema({"type": "object"}), '{"a": [1, null]}', {"a": [1, None]}),
        (Exactly("n: ") + schema({"type": "integer"}), "n: -12", "n: -12"),
        (schema({"type": "object"}) + Regex(" *") + schema({"type": "array"}), "{}  [1]", "{}  [1]"),
        (Regex("[a-z]*") + Regex("[a-m]+x"), "abcx", "abcx"),
        (schema({"type": "integer"}) + Regex("[0-9]x"), "123x", "123x"),
        (Regex("[a-z]+") | schema({"type": "integer"}), "5", 5),
        ((Exactly("a") | Choices(("b", "bc"))) + "c", "bcc", "bcc"),
    ],
)
def test_what_matches_has_a_value(constraint: Constraint, text: str, value: Any) -> None:
    assert check(constraint, text) == value


@pytest.mark.parametrize(
    ("constraint", "text", "said"),
    [
        (Exactly("a"), "b", "'a'"),
        (Regex("[a-z]+"), "ab\n", "[a-z]+"),
        (Regex("a"), "a\n", "match"),
        (Choices(("a", "b")), "c", "2 choices"),
        (schema({}), "{", "JSON"),
        (schema({}), '{"a": 1, "a": 2}', "twice"),
        (schema({}), "NaN", "NaN"),
        (schema({}), "-Infinity", "Infinity"),
        (schema({}), '"\\ud800"', "surrogate"),
        (schema({}), "[1e999]", "range"),
        (schema({}), "1 2", "JSON"),
        (schema({}), "[" * 100_000, "deep"),
        (schema({"properties": {"a": {"type": "integer"}}}), '{"a": "x"}', "/a"),
        (Exactly("n: ") + schema({"type": "integer"}), "n: 1.5", "sequence"),
        (Regex("[a-z]+") | schema({"type": "integer"}), "1.5", "branch"),
    ],
)
def test_what_does_not_match_says_why(constraint: Constraint, text: str, said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        check(constraint, text)
    assert said in caught.value.reason and isinstance(caught.value, ValueError)


DIALECT: list[tuple[Any, list[Any], list[Any]]] = [
    ({"pattern": "\\d"}, ["a1"], ["a", "١"]),
    ({"pattern": "^\\p{Lu}$"}, ["É"], ["é"]),
    ({"patternProperties": {"^\\d$": {"type": "integer"}}, "additionalProperties": False}, [{"1": 1}], [{"1": "x"}, {"a": 1}]),
    ({"format": "date"}, ["2024-02-29", 5], ["2023-02-29"]),
    ({"multipleOf": 0.01}, [19.99, 0.07, 1], [0.001]),
    ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, [4], [3]),
    ({"type": "integer", "nullable": True, "enum": [1]}, [1, None], [2]),
    ({"items": [{"type": "integer"}], "additionalItems": False}, [[1], []], [["a"], [1, 2]]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{"type": "integer"}]}, [[1]], [["a"]]),
    ({"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 2}], [{"a": 1}]),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "const": 3}, [3], [4]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"next": {"$ref": "#"}, "d": {"format": "date"}}},
     [{"next": {"d": "2024-02-29"}}], [{"next": {"d": "x"}}]),
    ({"maximum": 10**30}, [10**30], [10**30 + 1]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "valid", "invalid"), DIALECT)
def test_the_dialect(data: Any, valid: list[Any], invalid: list[Any]) -> None:
    for value in valid:
        assert check(schema(data), json.dumps(value)) == value
    for value in invalid:
        with pytest.raises(Mismatch):
            check(schema(data), json.dumps(value))


def test_drafts_are_told_by_their_uri_or_by_what_they_say() -> None:
    assert dialect({"$schema": "http://json-schema.org/draft-04/schema#"})[0] == 4
    assert dialect({"$schema": "https://json-schema.org/draft/2019-09/schema"})[0] == 2019
    assert dialect({})[0] == 2020
    assert dialect({"minimum": 1, "exclusiveMinimum": True})[0] == 4
    assert dialect({"items": [{}]})[0] == 2019


def test_a_fault_has_its_pointer() -> None:
    fault = metaschema_fault({"properties": {"a/b": {"type": "str"}}})
    assert fault is not None and fault[0] == "/properties/a~1b/type"
    assert metaschema_fault({"type": "string"}) is None


def test_a_type_gives_an_instance() -> None:
    @dataclass
    class Point:
        x: int

    source = json.dumps({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]})
    assert check(JsonSchema(source, Point), '{"x": 3}') == Point(3)
    with pytest.raises(Mismatch):
        check(JsonSchema(source, Point), '{"x": "y"}')


def test_parse_json_takes_what_json_is() -> None:
    assert parse_json(' {"a": [1, 1.5, null, true, "\\ud83d\\ude00"]} ') == {"a": [1, 1.5, None, True, "😀"]}


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)+b", "((a|a)*|(aa)*)*c", ".*.*.*.*b"])
def test_no_check_backtracks_for_ever(pattern: str) -> None:
    strings = JsonSchema(json.dumps({"items": {"pattern": f"^({pattern})$"}}))
    start = time.process_time()
    for constraint, text in (
        (Regex(pattern), "a" * 5000),
        (strings, json.dumps(["a" * 5000 + str(i) for i in range(4)])),
        (Sequenced((Regex(pattern), Regex("a*"), Exactly("!"))), "a" * 5000),
    ):  # fmt: skip
        with pytest.raises(Mismatch):
            check(constraint, text)
    assert time.process_time() - start < 4


def test_patterns_that_backtrack_still_match() -> None:
    assert check(Regex("(a+)+b|(a|aa)+"), "a" * 3000)
    assert check(Sequenced((Regex("(a|aa)+"), Regex("b*"), JsonSchema("{}"))), "a" * 3000 + "bb[1]")


def test_sequences_of_long_texts() -> None:
    parts = tuple(Either((Regex("a+"), Regex("a*b"), Exactly("ab"))) for _ in range(6))
    assert check(Sequenced(parts), "a" * 10_000)
    with pytest.raises(Mismatch):
        check(Sequenced(parts), "a" * 10_000 + "c")
    numbers = (JsonSchema('{"type": "number"}'),) * 3
    assert check(Sequenced((*numbers, Exactly("x"))), "1-2.53x")
    with pytest.raises(Mismatch):
        check(Sequenced((*numbers, Exactly("x"))), "1" * 5000)


def test_deep_text_is_a_mismatch() -> None:
    recursive = JsonSchema('{"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}')
    for constraint, deep in ((JsonSchema("{}"), 100_000), (recursive, 900)):
        with pytest.raises(Mismatch, match="deep"):
            check(constraint, "[" * deep + "]" * deep)
