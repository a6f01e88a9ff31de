"""What is refused, and that the error names the place; what is hostile, and that it ends in time."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

from typing import Any

import pytest

from sgl.backend.runtime.grammar.coverage import explain
from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.lang.constraint import Choices, Exactly, Grammar, JsonSchema, Regex
from sgl.lang.errors import ConstraintError

from ...watchdog import within
from .schema_masks import Masks

REFUSED: list[tuple[str, Any, list[str]]] = [
    ("no schema", 3, ["(root)", "int"]),
    ("false", False, ["(root)", "false"]),
    ("a wrong type name", {"properties": {"a": {"type": "str"}}}, ["/properties/a/type", "str"]),
    ("a wrong bound", {"properties": {"a": {"minLength": "3"}}}, ["/properties/a/minLength"]),
    ("a negative length", {"minLength": -1}, ["/minLength"]),
    ("an empty enum", {"enum": []}, ["/enum"]),
    ("multipleOf 0", {"multipleOf": 0}, ["/multipleOf"]),
    ("required that is a name", {"type": "object", "required": "a"}, ["/required"]),
    ("minimum above maximum", {"properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}}, ["/properties/a", "minimum"]),
    ("minLength above maxLength", {"type": "string", "minLength": 5, "maxLength": 3}, ["minLength", "(root)"]),
    ("minItems above maxItems", {"type": "array", "minItems": 5, "maxItems": 3}, ["minItems"]),
    ("exclusive bounds that touch", {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, ["(root)"]),
    ("an enum of another type", {"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}, "required": ["a"]}, ["/properties/a", "enum"]),
    ("required but forbidden", {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, ["required", "'b'"]),
    ("a pattern that nothing matches", {"type": "string", "pattern": "a$b"}, ["pattern"]),
    ("patterns that exclude each other", {"type": "string", "pattern": "^a", "allOf": [{"pattern": "^b"}]}, ["(root)"]),
    ("a surrogate", {"const": "a\ud800"}, ["surrogate"]),
    ("a broken pattern", {"properties": {"a": {"pattern": "("}}}, ["/properties/a/pattern"]),
    ("minimun", {"type": "integer", "minimun": 3}, ["/minimun", "'minimum'"]),
    ("requried", {"properties": {"a": {"requried": ["b"]}}}, ["/properties/a/requried", "'required'"]),
    ("addtionalProperties", {"addtionalProperties": False}, ["'additionalProperties'"]),
    ("min_length", {"type": "string", "min_length": 3}, ["'minLength'"]),
    ("one_of", {"one_of": [{}]}, ["'oneOf'"]),
    ("a remote reference", {"$ref": "https://example.com/a.json"}, ["/$ref", "$defs"]),
    ("a reference to nothing", {"properties": {"a": {"$ref": "#/$defs/b"}}}, ["/properties/a/$ref", "#/$defs/b"]),
    ("a reference to itself", {"$ref": "#"}, ["$ref"]),
    ("references in a circle", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, ["/$defs/a"]),
    ("allOf in a circle", {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, ["/$defs/a"]),
    ("a circle with siblings", {"$ref": "#/$defs/a", "$defs": {"a": {"minimum": 3, "$ref": "#/$defs/b"}, "b": {"maximum": 5, "$ref": "#/$defs/a"}}}, ["in place"]),
    ("recursion without a base case", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["c"]}}}, ["/$defs/n", "base case"]),
    ("endless arrays", {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, ["base case"]),
    ("a depth of 5000", None, ["deep"]),
    ("a million values", {"enum": list(range(10**5))}, ["large"]),
    ("NaN", {"minimum": float("nan")}, ["/minimum"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "schema", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused_by_name(name: str, schema: Any, said: list[str]) -> None:
    if name == "a depth of 5000":
        schema = {}
        for _ in range(5000):
            schema = {"items": schema}
    with pytest.raises(ConstraintError) as caught:
        lower(schema)
    for word in said:
        assert word in str(caught.value)


def test_an_impossible_branch_is_dropped_with_a_note() -> None:
    lowered = lower({"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2}, {"type": "string"}]})
    assert lowered.engine_schema == {"type": "string"} and lowered.fully_enforced
    assert any((row.pointer == "/anyOf/0" and "nothing" in row.note) or "no value" in row.note for row in lowered.rows)


def test_an_impossible_optional_property_is_left_out_with_a_note() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "enum": ["x"]}, "b": {}}}
    masks = Masks(schema)
    assert masks.admits({"b": 1}) and not masks.admits({"a": "x"}) and not masks.admits({"a": {}})
    assert any(row.pointer == "/properties/a" and "no value" in row.note for row in masks.lowered.rows)


def test_annotations_and_unknown_keywords_have_rows() -> None:
    rows = lower({"type": "string", "format": "zip", "title": "t", "x-a": 1, "foo": 2, "then": {}}).rows
    assert {row.keyword: row.status for row in rows} == {
        "type": "enforced", "format": "annotation", "title": "annotation", "x-a": "annotation",
        "foo": "annotation", "then": "annotation",
    }  # fmt: skip


def test_every_keyword_has_one_row() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"$ref": "#/$defs/s"}},
        "$defs": {"s": {"type": "string", "maxLength": 3}},
    }
    lowered = lower(schema)
    seen = [(row.pointer, row.keyword) for row in lowered.rows]
    assert len(seen) == len(set(seen))
    assert {("", "type"), ("/properties/a", "uniqueItems"), ("/$defs/s", "maxLength")} <= set(seen)
    assert lowered.checked == ("/properties/a/uniqueItems",) and not lowered.fully_enforced


def _tagged(depth: int) -> Any:
    if depth == 0:
        return {"type": "string"}
    branches = [
        {"type": "object", "properties": {key: _tagged(depth - 1)}, "required": [key], "additionalProperties": False}
        for key in (f"k{depth}", f"j{depth}")
    ]
    return {"oneOf": branches}


HOSTILE: dict[str, Any] = {
    "an enum of 2000": {"enum": [f"v{i}" for i in range(2000)]},
    "integers of 2000": {"enum": list(range(2000))},
    "maxLength 100000": {"type": "string", "maxLength": 100_000},
    "oneOf of depth 8": _tagged(8),
    "400 properties": {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(400)}},
    "oneOf of 100": {"oneOf": [{"type": "object", "required": [f"k{i}"]} for i in range(100)]},
    "allOf of 20 ifs": {"type": "object", "allOf": [{"if": {"required": [f"a{i}"]}, "then": {"required": [f"b{i}"]}} for i in range(20)]},
    "anyOf times anyOf": {"allOf": [{"anyOf": [{"required": [f"k{i}{j}"]} for j in range(6)]} for i in range(6)]},
    "patterns that overlap": {"type": "object", "patternProperties": {f"{c}.*{d}": {"minLength": i} for i, (c, d) in enumerate(zip("abcdefgh", "hgfedcba"))}},
    "a pattern of repeats": {"type": "string", "pattern": "^(a{1,50}){1,50}$", "not": {"pattern": "(a{3}){5}"}},
    "uniqueItems of twelve": {"type": "array", "items": {"enum": list(range(12))}, "uniqueItems": True},
    "contains twice": {"type": "array", "allOf": [{"contains": {"const": 1}}, {"contains": {"const": 2}}], "maxItems": 12},
    "minProperties 3 of 30": {"type": "object", "properties": {f"p{i}": {} for i in range(30)}, "minProperties": 3},
    "nots in nots": {"not": {"not": {"not": {"not": {"properties": {"a": {"not": {"required": ["b"]}}}}}}}},
    "a depth of 100": None,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end_in_time(name: str) -> None:
    schema = HOSTILE[name]
    if schema is None:
        schema = {"type": "integer"}
        for _ in range(50):
            schema = {"type": "object", "properties": {"a": schema}}
    with within(10):
        Masks(schema)


def test_explain_is_a_table() -> None:
    told = explain(JsonSchema('{"type": "array", "uniqueItems": true, "title": "x"}'))
    assert [row.status for row in told.rows] == ["enforced", "checked", "annotation"]
    assert told.ok and not told.fully_enforced
    head, *lines = str(told).splitlines()
    assert head.split() == ["pointer", "keyword", "how", "note"] and len(lines) == 3
    assert "<table>" in told._repr_html_()


def test_explain_says_what_is_refused() -> None:
    told = explain(Exactly("n: ") + JsonSchema('{"type": "integer", "minimum": 3, "maximum": 2}'))
    assert [row.status for row in told.rows] == ["enforced", "refused"] and not told.ok
    assert "minimum" in told.rows[1].note and told.rows[1].pointer.startswith("part 2")
    assert explain(Regex(r"(a)\1")).rows[0].status == "refused"
    assert explain(Regex("a$b")).rows[0].status == "refused"


def test_explain_takes_every_kind() -> None:
    union = Regex("[a-z]+") | Choices(("a", "b")) | Exactly("c")
    assert [row.keyword for row in explain(union).rows] == ["regex", "choices", "text"]
    assert explain(union).fully_enforced
    grammar = Grammar('root ::= "a"', "ebnf")
    assert explain(grammar).rows[0].keyword == "ebnf" and explain(grammar).fully_enforced
    assert [row.keyword for row in explain(grammar | Exactly("c")).rows] == ["ebnf", "text"]
    assert explain(grammar | Exactly("c")).fully_enforced


def test_lowering_is_kept() -> None:
    assert lower({"type": "integer"}) is lower({"type": "integer"})
