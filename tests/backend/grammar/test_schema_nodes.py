"""The lowered schema as nodes: each is yielded once, walks end, and the JSON for the engine says the same."""

from __future__ import annotations

import json

import pytest

import sgl
from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.backend.runtime.grammar.schema.nodes import (
    ANYTHING,
    IMPOSSIBLE,
    ArraySchema,
    EnumSchema,
    LoweredSchema,
    NumberSchema,
    ObjectSchema,
    ReferenceSchema,
    SchemaNode,
    SchemaVisitor,
    StringSchema,
    UnionSchema,
    spelled_schema,
)
from sgl.backend.runtime.runtime import Runtime

LIST = LoweredSchema(
    ReferenceSchema("list"),
    {
        "list": UnionSchema(
            (
                EnumSchema((None,)),
                ObjectSchema(
                    {"head": NumberSchema(True, minimum=1), "tail": ReferenceSchema("list")},
                    {},
                    IMPOSSIBLE,
                    ("head", "tail"),
                ),
            )
        )
    },
)


class Depth(SchemaVisitor[[int], int]):
    """The deepest that a node lies in values; a definition within itself counts 100."""

    def visit_object(self, node: ObjectSchema, depth: int) -> int:
        return max(self.visit(member, depth + 1) for member in node.properties.values())

    def visit_array(self, node: ArraySchema, depth: int) -> int:
        return self.visit(node.rest, depth + 1)

    def visit_union(self, node: UnionSchema, depth: int) -> int:
        return max(self.visit(branch, depth) for branch in node.branches)

    def otherwise(self, node: SchemaNode, depth: int) -> int:
        return depth

    def again(self, node: SchemaNode) -> int:
        return 100


def test_a_definition_within_itself_is_noticed() -> None:
    assert Depth(LIST).visit(LIST.root, 0) == 100
    straight = LoweredSchema(ReferenceSchema("a"), {"a": ArraySchema((), ReferenceSchema("b")), "b": StringSchema()})
    walk = Depth(straight)
    assert walk.visit(straight.root, 0) == 1 and walk.visit(straight.root, 3) == 4


def test_a_chain_of_definitions_ends_before_the_stack_does() -> None:
    count = 5_000
    chain = {f"s{i}": ArraySchema((), ReferenceSchema(f"s{i + 1}")) for i in range(count)}
    long = LoweredSchema(ReferenceSchema("s0"), {**chain, f"s{count}": StringSchema()})
    assert Depth(long).visit(long.root, 0) == 100


def test_an_open_walk_is_closed_again_after_an_error() -> None:
    class Failing(Depth):
        def otherwise(self, node: SchemaNode, depth: int) -> int:
            raise LookupError

    walk = Failing(LIST)
    for _ in range(2):
        with pytest.raises(LookupError):
            walk.visit(LIST.root, 0)


def test_each_node_is_yielded_once_in_the_order_of_the_text() -> None:
    kinds = [node.kind for node in LIST.nodes()]
    assert kinds == ["reference", "union", "enum", "object", "number", "reference", "never"]
    assert len({id(node) for node in LIST.nodes()}) == len(kinds)


def test_the_spelling_says_every_limit() -> None:
    whole = ObjectSchema(
        {"n": NumberSchema(False, 0.5, True, 9, False, 0.5), "s": StringSchema(1, 3, ("a", "b")), "no": IMPOSSIBLE},
        {"^x": ArraySchema((ANYTHING,), IMPOSSIBLE, 1, 2)},
        ANYTHING,
        ("n",),
        1,
        4,
    )
    text, pair = (
        {"type": "string"},
        {"type": "array", "prefixItems": [{}], "items": False, "minItems": 1, "maxItems": 2},
    )
    assert spelled_schema(LoweredSchema(whole)) == {
        "type": "object",
        "required": ["n"],
        "minProperties": 1,
        "maxProperties": 4,
        "properties": {
            "n": {"type": "number", "exclusiveMinimum": 0.5, "maximum": 9, "multipleOf": 0.5},
            "s": {**text, "minLength": 1, "maxLength": 3, "pattern": "a", "allOf": [{**text, "pattern": "b"}]},
            "no": False,
        },
        "patternProperties": {"^x": pair},
    }
    assert spelled_schema(LIST)["$ref"] == "#/$defs/list" and list(spelled_schema(LIST)["$defs"]) == ["list"]


def test_what_is_lowered_is_spelled_from_its_nodes() -> None:
    lowered = lower({"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "integer", "minimum": 3}}})
    assert json.dumps(lowered.engine_schema) == json.dumps(spelled_schema(lowered.document))


@pytest.mark.parametrize("schema", [{}, {"type": "array"}, {"type": "object"}, {"type": "array", "items": {}}])
def test_within_other_text_keys_that_repeat_are_left_to_the_check(schema: dict[str, object]) -> None:
    prepared = Runtime.toy().engine.grammars.prepare("say " + sgl.json_schema(schema))
    assert prepared.checked == ("repeated keys",)
