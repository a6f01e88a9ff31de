"""The quick look at a schema's validity in its draft, against `jsonschema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl.lang.checking import dialect
from sgl.lang.checking.metaschema import surely_valid

ROWS = [
    json.loads(line)["schema"]
    for line in (Path(__file__).parents[2] / "data" / "schemas.jsonl").read_text().splitlines()
]
DRAFTS = sorted(dialect._URIS)
NAMES = [
    "type", "properties", "items", "required", "enum", "const", "minimum", "exclusiveMinimum", "maxLength", "pattern",
    "multipleOf", "allOf", "anyOf", "not", "$ref", "$id", "$defs", "definitions", "dependencies", "dependentRequired",
    "additionalProperties", "patternProperties", "uniqueItems", "title", "default", "$schema", "$vocabulary", "$anchor",
]  # fmt: skip
LEAVES = st.sampled_from([None, True, False, 0, 1, -1, 1.0, 0.5, "string", "integer", "a", "^a$", "#/x", "#"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


def by_jsonschema(draft: int, schema: Any) -> bool:
    base = dialect._bases()[draft]
    valid: bool = base(base.META_SCHEMA).is_valid(schema)
    return valid


@pytest.mark.parametrize("draft", DRAFTS)
def test_real_schemas_are_judged_as_by_jsonschema(draft: int) -> None:
    for schema in ROWS:
        assert surely_valid(dialect._URIS[draft], schema) == by_jsonschema(draft, schema), schema


@pytest.mark.parametrize("draft", DRAFTS)
@given(schema=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_what_jsonschema_finds_invalid_is_never_surely_valid(draft: int, schema: Any) -> None:
    assert not surely_valid(dialect._URIS[draft], schema) or by_jsonschema(draft, schema)


def test_jsonschema_is_asked_only_for_the_fault_of_an_invalid_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    bases = dialect._bases()
    monkeypatch.setattr(dialect, "_bases", lambda: asked.append(1) or bases)
    tools = [{"properties": {"name": {"const": f"tool_{i}"}}, "required": ["name"]} for i in range(128)]
    assert dialect.metaschema_fault({"oneOf": tools, "x-test": "asked only for faults"}) is None
    assert asked == []
    fault = dialect.metaschema_fault({"oneOf": [{"minItems": -1}]})
    assert fault is not None and fault[0] == "/oneOf/0/minItems"
    assert asked
