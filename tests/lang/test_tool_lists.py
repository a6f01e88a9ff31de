"""Lists of tools, where one bad tool leaves the others, and results as text."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import sgl
from sgl.lang.tools.listing import tool_list
from sgl.lang.tools.result import cut_text, result_text


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Place(BaseModel):
    """A place."""

    name: str
    at: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


@sgl.tool
def module_level(x: int = 0) -> int:
    return x


def bound(tool: Any, arguments: dict[str, Any]) -> Any:
    args, kwargs = tool.parameters.bind(arguments, {})
    return tool.function(*args, **kwargs)


# -- lists
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_all_forms_of_a_tool_say_the_same() -> None:
    forms = [
        {"name": "f", "description": "F.", "parameters": SCHEMA},
        {"type": "function", "function": {"name": "f", "description": "F.", "parameters": SCHEMA, "strict": True}},
        {"type": "function", "name": "f", "description": "F.", "parameters": SCHEMA},
        {"name": "f", "description": "F.", "input_schema": SCHEMA},
        {"name": "f", "description": "F.", "inputSchema": SCHEMA},
    ]
    specs = {tool_list([form])[0].spec for form in forms}
    assert len(specs) == 1
    [spec] = specs
    assert spec.parameters.schema == {**SCHEMA, "additionalProperties": False}
    assert tool_list([spec])[0].spec == spec


def test_one_bad_tool_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="sgl")
    tools = tool_list(
        [
            {"name": "good", "parameters": SCHEMA},
            {"name": "bad", "parameters": {"type": "object", "properties": {"a": {"type": "intger"}}}},
            {"name": "no name"},
            {"name": "good", "parameters": {}},
            {"name": "list", "parameters": {"type": "array"}},
            {"name": "data", "parameters": {"type": "object", "default": {1, 2}}},
            module_level,
            {"name": "module_level"},
        ]
    )
    assert [tool.name for tool in tools] == ["good", "module_level"]
    assert [name for name, _ in tools.refused] == ["bad", "no name", "good", "list", "data", "module_level"]
    assert "tool bad, parameters /properties/a/type: " in tools.refused[0].why
    assert caplog.text.count("it is left out") == 6


def test_a_bad_function_is_an_error_and_no_list_is_one() -> None:
    def twice(x: int) -> int:
        return x

    with pytest.raises(sgl.ToolError, match="two tools have this name"):
        tool_list([twice, twice])
    for wrong in (twice, "twice", {"name": "f"}, sgl.tool(twice)):
        with pytest.raises(sgl.ToolError, match="tools must be a list of tools"):
            tool_list(wrong)  # type: ignore[arg-type]
    with pytest.raises(sgl.ToolError, match="a tool of the type 'web_search' runs at its provider"):
        tool_list([{"type": "web_search"}])
    with pytest.raises(sgl.ToolError, match="description without a function"):
        _ = tool_list([{"name": "f"}])[0].function


def test_a_class_is_a_tool_that_gives_an_instance() -> None:
    place, size = tool_list([Place, Size])
    assert (place.description, size.description) == ("A place.", "")
    assert bound(place, {"name": "Rome"}) == Place(name="Rome")
    assert bound(size, {"width": 3}) == Size(3)


def test_a_function_with_a_json_schema_gets_plain_data() -> None:
    @sgl.tool(parameters=SCHEMA)
    def raw(**arguments: Any) -> Any:
        return arguments

    assert bound(raw, {"a": 1}) == {"a": 1}
    with pytest.raises(ValueError, match="a"):
        bound(raw, {"a": "1"})


NAMES = st.sampled_from(["a", "b", "type"])
SCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"type": "string"}, {"type": "object"}, True]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner, "properties": st.dictionaries(NAMES, inner, max_size=2)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.sampled_from([1, "x", None]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "type", "zz"]), inner),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, SCHEMAS, max_size=3), st.dictionaries(NAMES, VALUES, max_size=3))
def test_a_closed_schema_admits_nothing_that_the_schema_does_not(properties: Any, value: Any) -> None:
    schema = {"type": "object", "properties": properties}
    closed = tool_list([{"name": "f", "parameters": schema}])[0].spec.parameters.schema
    if jsonschema.Draft202012Validator(closed).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


# -- results as text
class Strange:
    def __repr__(self) -> str:
        raise RuntimeError


class Silent:
    def __repr__(self) -> str:
        return "silent"


def test_values_as_text() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    values = {
        "text": "text",
        None: "null",
        3.5: "3.5",
        float("nan"): '"nan"',
        b"ab": '"ab"',
        b"\xff": '"base64:/w=="',
        datetime.date(2026, 1, 2): '"2026-01-02"',
        Colour.red: '"red"',
        frozenset([3, 1, 2]): "[1, 2, 3]",
        (1, Colour.blue): '[1, "blue"]',
    }
    for value, text in values.items():
        assert result_text(value) == text
    assert result_text({"p": Place(name="é"), 1: Size(1)}) == (
        '{"p": {"name": "é", "at": [0.0, 0.0]}, "1": {"width": 1, "height": 1}}'
    )
    assert result_text(circle) == '[1, "<list that holds itself>"]'
    assert result_text([Silent()]) == '["silent (not JSON: its Python repr)"]'
    assert "not JSON" in result_text(itertools.count())
    assert result_text(Strange()).startswith('"<Strange instance at ')
    assert len(result_text(10**20_000)) < 100


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
        lambda i: st.lists(i) | st.dictionaries(st.text() | st.integers(), i),
    )
)
def test_any_value_has_a_text(value: Any) -> None:
    text = result_text(value)
    if not isinstance(value, str):
        json.loads(text)


@given(st.text(max_size=200), st.integers(1, 60))
def test_a_cut_text_is_a_beginning_and_says_so(text: str, most: int) -> None:
    kept, truncated = cut_text(text, most, lambda t, n: t[:n])
    assert truncated == (len(text) > most)
    assert kept == text if not truncated else kept.startswith(text[:most] + "\n[truncated: ")
