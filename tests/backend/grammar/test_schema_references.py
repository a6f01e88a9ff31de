"""References: names of all kinds (`urn:`, relative and absolute `$id`, anchors), and the drafts' own metaschemas."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import json
from typing import Any

import pytest

from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.lang.errors import ConstraintError

from .schema_masks import Masks

INT = {"type": "integer"}
DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "urn:example:root", "$ref": "urn:example:a", "$defs": {"a": {"$id": "urn:example:a", **INT}}},
        {"$id": "urn:uuid:deadbeef-1234-ffff-ffff-4321feebdaed", "$ref": "urn:uuid:deadbeef-1234-ffff-ffff-4321feebdaed#/$defs/b", "$defs": {"b": INT}},
        {"$id": "urn:example:weather?=op=map", "$ref": "#/$defs/b", "$defs": {"b": INT}},
        {"$id": "urn:example:w", "$ref": "urn:example:w#some", "$defs": {"b": {"$anchor": "some", **INT}}},
        {"$id": "tag:example.com,2024:s", "$ref": "tag:example.com,2024:b", "$defs": {"b": {"$id": "tag:example.com,2024:b", **INT}}},
        {"$id": "http://x.org/root.json", "$ref": "b/c.json", "$defs": {"b": {"$id": "b/", "$defs": {"c": {"$id": "c.json", **INT}}}}},
        {"$id": "http://x.org/a/root.json", "$ref": "/item.json", "$defs": {"i": {"$id": "/item.json", **INT}}},
        {"$ref": "item", "$defs": {"i": {"$id": "item", **INT}}},
        {"$ref": "http://x.org/i#a", "$defs": {"i": {"$id": "http://x.org/i", "$defs": {"z": {"$anchor": "a", **INT}}}}},
        {"$dynamicRef": "#a", "$defs": {"i": {"$dynamicAnchor": "a", **INT}}},
        {"$schema": DRAFTS[0], "id": "http://x.org/r", "allOf": [{"$ref": "b"}], "definitions": {"A": {"id": "b", **INT}}},
        {"$schema": DRAFTS[2], "allOf": [{"$ref": "#foo"}], "definitions": {"A": {"$id": "#foo", **INT}}},
        {"$ref": DRAFTS[2] + "#/definitions/nonNegativeInteger"},
    ],
)  # fmt: skip
def test_names(schema: dict[str, Any]) -> None:
    masks = Masks(schema)
    assert masks.lowered.fully_enforced
    assert masks.admits(1) and masks.passes(1)
    assert not masks.admits("a") and not masks.passes("a")


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_schema_as_value(draft: str) -> None:
    masks = Masks({"type": "object", "properties": {"s": {"$ref": draft}}, "required": ["s"]})
    for schema in ({"type": "integer"}, {"properties": {"a": {"type": ["string", "null"]}}}, {"minLength": 3}):
        assert masks.admits({"s": schema}) and masks.passes({"s": schema})
    for schema in ({"type": 1}, {"minLength": -1}, {"properties": {"a": {"type": "text"}}}, 3):
        assert not masks.admits({"s": schema}) and not masks.passes({"s": schema})


def test_a_part_of_a_metaschema() -> None:
    masks = Masks({"$ref": "https://json-schema.org/draft/2020-12/meta/validation"})
    assert masks.admits({"type": "integer"}) and not masks.admits({"type": 1})


@pytest.mark.parametrize(
    "uri", ["http://localhost:1234/integer.json", "urn:example:nowhere", "http://json-schema.org/draft-99/schema"]
)
def test_nothing_is_fetched(uri: str) -> None:
    with pytest.raises(ConstraintError, match="nothing is fetched"):
        lower({"$ref": uri})


def test_the_schema_of_a_user_is_left_alone() -> None:
    schema = {"$ref": DRAFTS[4], "$defs": {"mine": INT}}
    before = json.dumps(schema)
    lower(schema)
    assert json.dumps(schema) == before
