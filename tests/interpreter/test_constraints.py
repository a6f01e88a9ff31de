"""Constraints as a program says them, on the toy model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pytest
from pydantic import BaseModel

import sgl
from sgl.lang.errors import CapabilityError, ConstraintError, OptionError, Truncated

from .fake import FakeBackend


@pytest.fixture
def runtime() -> sgl.Runtime:
    return sgl.Runtime.toy()


def run(runtime, *exprs, **options):  # type: ignore[no-untyped-def]
    @sgl.function
    def program(s):  # type: ignore[no-untyped-def]
        s += "Write: "
        for expr in exprs:
            s += expr

    return program.run(backend=runtime, seed=options.pop("seed", 1), **options)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    colour: Colour


class Node(BaseModel):
    tag: Literal["leaf", "tree"]
    inner: list[Node] = []


@pytest.mark.parametrize("seed", range(3))
def test_every_keyword_and_its_value(runtime: sgl.Runtime, seed: int) -> None:
    state = run(
        runtime,
        sgl.gen("regex", regex=r"[a-f]{3,6}"),
        sgl.gen("json", json_schema={"type": "array", "items": {"type": "boolean"}, "maxItems": 3}),
        sgl.gen("text", json_schema='{"enum": [1, "two", null]}'),
        sgl.gen("point", schema=Point),
        sgl.gen("node", schema=Node, max_tokens=80),
        sgl.gen("number", dtype=int),
        sgl.gen("bool", dtype="bool"),
        sgl.gen("float", dtype=float),
        sgl.gen_int("int"),
        sgl.gen_string("string", max_tokens=12),
        sgl.gen("lark", lark='start: "a" | "b" start "c"', max_tokens=30),
        sgl.gen("ebnf", ebnf='root ::= "x" | "y" root', max_tokens=30),
        sgl.gen("joined", constraint="<" + sgl.regex(r"\d+") + ">" + (sgl.choice(["a", "b"]) | sgl.schema(bool))),
        sgl.gen("type", constraint=list[Colour], max_tokens=60),
        seed=seed,
    )
    assert re.fullmatch("[a-f]{3,6}", state["regex"]) and state.value("regex") == state["regex"]
    assert state.value("json") == json.loads(state["json"])
    assert state.value("text") in (1, "two", None) and isinstance(state["text"], str)
    assert isinstance(state.value("point"), Point) and isinstance(state.value("point").colour, Colour)
    assert isinstance(state.value("node"), Node)
    assert type(state.value("number")) is int and state.value("number") == int(state["number"])
    assert state["bool"] in ("True", "False") and state.value("bool") is (state["bool"] == "True")
    assert type(state.value("float")) is float and type(state.value("int")) is int
    assert state["string"][0] == state["string"][-1] == '"' and state.value("string") == state["string"][1:-1]
    assert re.fullmatch("b*ac*", state["lark"]) and state["lark"].count("b") == state["lark"].count("c")
    assert re.fullmatch("y*x", state["ebnf"])
    assert re.fullmatch(r"<\d+>(a|b|true|false)", state["joined"])
    assert all(isinstance(c, Colour) for c in state.value("type"))
    receipt = state.get_meta_info("point")["constraint"]
    assert receipt["enforced"] and receipt["complete"] and receipt["checked"] == [] and receipt["kind"] == "json_schema"


def test_samples_streams_joins_and_usage(runtime: sgl.Runtime) -> None:
    state = run(runtime, sgl.gen("x", schema=Point, n=3))
    assert len(state.value("x")) == 3 and all(isinstance(p, Point) for p in state.value("x"))
    assert state.usage.total.forced > 0 and "forced" in repr(state.usage)

    streamed = run(runtime, sgl.gen("x", schema=Point), stream=True)
    assert "".join(streamed.text_iter("x")) == streamed["x"]

    @sgl.function
    def forks(s):  # type: ignore[no-untyped-def]
        s += "One of "
        group = s.fork(3)
        for branch in group:
            branch += sgl.gen("c", schema=Colour)
        group.join()

    assert all(isinstance(c, Colour) for c in forks.run(backend=runtime).value("c"))


def test_think_is_a_span_of_its_own(runtime: sgl.Runtime) -> None:
    state = run(runtime, sgl.gen("x", schema=Point, think=20))
    assert isinstance(state.value("x"), Point)
    reasoning = state["x_reasoning_content"]
    assert state.text() == f"Write: <think>\n{reasoning}\n</think>\n\n{state['x']}"
    for wrong in (0, True, "10", -3):
        with pytest.raises(OptionError, match="think"):
            sgl.gen("x", schema=Point, think=wrong)
    with pytest.raises(OptionError, match="n=2"):
        sgl.gen("x", schema=Point, think=5, n=2)


def test_budgets(runtime: sgl.Runtime) -> None:
    state = run(runtime, sgl.gen("x", regex=r"[ab]{40}", max_tokens=10))
    with pytest.raises(ConstraintError, match=r"gen\('x'\).* leave 10;"):
        state["x"]
    state = run(runtime, sgl.gen("x", regex=r"[^!]{1,900}!", max_tokens=10, on_budget="error"))
    with pytest.raises(Truncated, match=r"gen\('x'\).*10 tokens") as caught:
        state["x"]
    assert len(caught.value.text) >= 5
    state = run(runtime, sgl.gen("x", regex=r"[ab]{40}", max_tokens=10, on_budget="partial"))
    assert re.fullmatch("[ab]{5,}", state["x"])
    with pytest.raises(Truncated, match="on_budget"):
        state.value("x")
    with pytest.raises(OptionError, match="on_budget"):
        sgl.gen("x", on_budget="close")
    with pytest.raises(OptionError, match="on_budget"):
        sgl.gen("x", regex="a", on_budget="shrug")
    # without max_tokens the budget is the context that is left, not 128 tokens
    assert len(run(runtime, sgl.gen("x", regex=r"[ab]{300}"))["x"]) == 300
    # a run's default budget holds for constrained gens too
    with pytest.raises(ConstraintError, match="leave 5;"):
        run(runtime, sgl.gen("x", regex=r"[ab]{300}"), max_new_tokens=5)["x"]


def test_the_constant_that_follows_may_end_a_text() -> None:
    plain = sgl.Runtime.toy()
    [word] = plain.tokenizer.encode([("and", False)], first=False)
    runtime = sgl.Runtime.toy(favour={word: 50.0, **dict.fromkeys(plain.tokenizer.eos_ids, -50.0)})
    state = run(runtime, sgl.gen("x", regex=r"[0-9]+", temperature=0.0) + "and more")
    assert len(state["x"]) == 1 and state.text() == f"Write: {state['x']}and more"
    assert state.get_meta_info("x")["finish_reason"] == {"type": "stop", "matched": None}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regex": ""}, "empty"),
        ({"regex": "(a"}, "regex"),
        ({"regex": r"(\w)\1"}, "position"),
        ({"regex": "[^\\s\\S]"}, "no text at all"),
        ({"regex": "a\ud800b"}, "surrogate"),
        ({"regex": 3}, "must be a string"),
        ({"json_schema": "{"}, "not valid JSON"),
        ({"json_schema": "[1]"}, "JSON object"),
        ({"json_schema": {"const": {1, 2}}}, "not JSON"),
        ({"json_schema": Point}, "schema="),
        ({"schema": lambda: 3}, "schema"),
        ({"schema": "Point"}, "string"),
        ({"ebnf": " "}, "empty"),
        ({"constraint": "abc"}, "ambiguous"),
        ({"constraint": {"type": "object"}}, "sgl.json_schema"),
        ({"regex": "a", "schema": Point}, "regex= and schema= together"),
        ({"dtype": "integer"}, "dtype"),
    ],
)
def test_bad_constraints_say_where_and_what(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(match)) as caught:
        sgl.gen("answer", **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith("gen('answer')")


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "strin"}, "strin"),
        (
            {"type": "object", "properties": {"a": {"type": "array", "minItems": 3, "maxItems": 1}}, "required": ["a"]},
            "/a",
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref"),
        ({"$ref": "https://example.com/x.json"}, "$ref"),
        ({"type": "object", "requried": ["a"]}, "required"),
        (
            {
                "$ref": "#/$defs/n",
                "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
            },
            "n",
        ),
        (False, "false"),
    ],
)
def test_bad_schemas_fail_where_they_are_said(runtime: sgl.Runtime, schema: object, match: str) -> None:
    steps = runtime.engine.steps
    with pytest.raises(ConstraintError, match=re.escape(match)):
        run(runtime, sgl.gen("answer", json_schema=schema))["answer"]  # type: ignore[arg-type]
    assert runtime.engine.steps == steps


def test_a_backend_without_constraints_says_so() -> None:
    with pytest.raises(CapabilityError, match="regex"):
        run(FakeBackend(), sgl.gen("x", regex="a+"))["x"]


def test_joints_that_cannot_be_told_apart_are_refused(runtime: sgl.Runtime) -> None:
    for constraint in (
        sgl.json_schema({"type": "integer"}) + sgl.regex(r"\d"),
        sgl.regex(r"[a-z{]+") + sgl.schema(Point),
        sgl.schema(Point) | sgl.regex(r"\{x\}"),
    ):
        with pytest.raises(ConstraintError):
            runtime.accepts(constraint, "1")
    assert runtime.accepts(sgl.json_schema({"type": "integer"}) + " " + sgl.regex(r"\d"), "12 3")


def test_constraints_are_values() -> None:
    assert sgl.regex("a") == sgl.regex("a") and hash(sgl.regex("a")) == hash(sgl.regex("a"))
    schema = {"type": "object", "properties": {"zebra": {}, "apple": {}, "mango": {}}}
    constraint = sgl.json_schema(schema)
    assert list(constraint.schema["properties"]) == ["zebra", "apple", "mango"]  # type: ignore[attr-defined]
    schema["properties"]["late"] = {}  # type: ignore[index]
    assert constraint != sgl.json_schema(schema)
    assert ("a" + sgl.regex("b")) + "c" == "a" + (sgl.regex("b") + "c")


def test_explain_prints_a_table() -> None:
    text = str(
        sgl.explain(sgl.json_schema({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}))
    )
    assert "/properties/a" in text and "format" in text and "enforced" in text


def test_explain_says_what_is_refused_and_what_is_checked() -> None:
    assert not sgl.explain(sgl.json_schema({"type": "integer", "minimum": 3, "maximum": 2})).ok
    joint = sgl.explain(sgl.json_schema({"type": "integer"}) + sgl.regex("[0-9]"))
    assert not joint.ok and "run into each other" in repr(joint)
    partly = sgl.explain(sgl.json_schema({"type": "array", "uniqueItems": True, "items": {"type": "string"}}))
    assert partly.ok and not partly.fully_enforced and "checked" in str(partly)
    assert "<table>" in partly._repr_html_()
