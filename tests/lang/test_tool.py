"""`@sgl.tool`: what a model is told of a function, and JSON data as its arguments."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import functools
import pickle
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import sgl
from sgl.lang.tools.listing import tool_list
from sgl.lang.tools.spec import call_id


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
def module_level(later: Later, maybe: int | None = None) -> str:
    """Take a type that is defined below."""
    return f"{later.x} {maybe}"


class Later(BaseModel):
    x: int


def schema_of(tool: Any) -> Any:
    return tool.spec.parameters.schema


def bound(tool: Any, arguments: dict[str, Any], **given: Any) -> Any:
    args, kwargs = tool.parameters.bind(arguments, given)
    return tool.function(*args, **kwargs)


# -- what a model is told
GOOGLE = """Look something up.

    It may take a while.

    Args:
        query: What to look for,
            in words.
        count (int): How many.

    Returns:
        str: What was found.
    """
NUMPY = """Look something up.

    It may take a while.

    Parameters
    ----------
    query : str
        What to look for,
        in words.
    count : int, optional
        How many.

    Returns
    -------
    str
        What was found.
    """
SPHINX = """Look something up.

    It may take a while.

    :param query: What to look for,
        in words.
    :param int count: How many.
    :returns: What was found.
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_tool_and_its_parameters(docstring: str) -> None:
    def look(query: str, count: int = 3) -> str:
        return query * count

    look.__doc__ = docstring
    spec = sgl.tool(look).spec
    assert spec.description == "Look something up.\n\nIt may take a while."
    assert spec.parameters.schema == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for, in words."},
            "count": {"type": "integer", "description": "How many.", "default": 3},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


def test_a_spec_in_openais_form() -> None:
    @sgl.tool(name="look-up", description="Look.")
    def look(query: str) -> str:
        return query

    assert look.spec.openai() == {
        "type": "function",
        "function": {
            "name": "look-up",
            "description": "Look.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        },
    }


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    properties = {"additionalProperties": False, "properties": {"type": "object", "additionalProperties": False}}
    [tool] = tool_list([{"name": "x", "parameters": {"type": "object", "properties": properties}}])
    shown = tool.spec.openai()["function"]["parameters"]
    assert shown["properties"] == {"additionalProperties": False, "properties": {"type": "object"}}


def test_arguments_become_instances() -> None:
    @sgl.tool
    def plan(
        place: Place,
        size: Size,
        colour: Colour = Colour.red,
        /,
        when: datetime.date = datetime.date(2026, 1, 2),
        *,
        kind: Literal["a", "b"] = "a",
        level: Annotated[int, Field(ge=1, description="Its own.")] = 1,
        share: float = Field(0.5, le=1, description="A share."),
        tags: list[str] = Field(default_factory=list),  # noqa: B008
    ) -> Any:
        """Plan.

        Args:
            level: not this one
        """
        return place, size, colour, when, kind, level, share, tags

    schema = schema_of(plan)
    assert list(schema["properties"]) == ["place", "size", "colour", "when", "kind", "level", "share", "tags"]
    assert schema["required"] == ["place", "size"]
    assert schema["properties"]["level"] == {"type": "integer", "minimum": 1, "description": "Its own.", "default": 1}
    assert schema["properties"]["share"]["description"] == "A share."
    assert (
        schema["properties"]["colour"]["default"] == "red" and schema["properties"]["when"]["default"] == "2026-01-02"
    )
    given = {"place": {"name": "Rome"}, "size": {"width": 2}, "when": "2026-03-04"}
    expected = (Place(name="Rome"), Size(2), Colour.red, datetime.date(2026, 3, 4), "a", 1, 0.5, [])
    assert bound(plan, given) == expected
    assert bound(plan, {**given, "colour": "blue"})[2] is Colour.blue
    with pytest.raises(ValueError, match="level"):
        bound(plan, {**given, "level": 0})
    with pytest.raises(ValueError, match="unknown"):
        bound(plan, {**given, "unknown": 0})


def test_a_default_that_is_no_json_stays_with_the_function() -> None:
    nothing = object()

    @sgl.tool
    def look(query: str, cache: Any = nothing, far: float = float("inf")) -> Any:
        return query, cache, far

    assert "default" not in schema_of(look)["properties"]["cache"]
    assert schema_of(look)["required"] == ["query"]
    assert bound(look, {"query": "x"}) == ("x", nothing, float("inf"))


def test_an_alias_is_what_the_model_writes() -> None:
    @sgl.tool
    def between(start: Annotated[int, Field(alias="from")], end: int = 9) -> Any:
        """Between.

        Args:
            start: the first
        """
        return start, end

    assert schema_of(between)["properties"]["from"] == {"type": "integer", "description": "the first"}
    assert bound(between, {"from": 3}) == (3, 9)


def test_types_that_are_defined_later_or_locally() -> None:
    class Local(BaseModel):
        y: int

    @sgl.tool
    def local(one: Local, many: list[Local] | None = None) -> int:
        return one.y

    assert bound(local, {"one": {"y": 4}}) == 4
    assert bound(module_level, {"later": {"x": 1}}) == "1 None"


def test_parameters_that_the_program_gives() -> None:
    @sgl.tool(inject=("token",))
    def look(
        query: str, s: sgl.ProgramState, table: sgl.Injected[dict[str, int]], token="", size: sgl.Injected[int] = 7
    ):  # type: ignore[no-untyped-def]
        return query, s, table, token, size

    assert list(schema_of(look)["properties"]) == ["query"]
    assert look.parameters.needed({}) == "s"
    args, kwargs = look.parameters.bind({"query": "q"}, {sgl.ProgramState: "S", "table": {"a": 1}, "token": "t"})
    assert look(*args, **kwargs) == ("q", "S", {"a": 1}, "t", 7)
    with pytest.raises(ValueError, match="token"):
        look.parameters.bind({"query": "q", "token": "stolen"}, {})


def test_a_partials_arguments_are_not_told() -> None:
    def look(query: str, key: str) -> str:
        return f"{query} {key}"

    tool = sgl.tool(functools.partial(look, key="secret"))
    assert tool.name == "look" and "secret" not in tool.spec.parameters.source
    assert bound(tool, {"query": "x"}) == "x secret"


def test_methods() -> None:
    class Shop:
        def __init__(self, stock: int) -> None:
            self.stock = stock

        @sgl.tool
        def left(self, of: str = "all") -> int:
            """What is left."""
            return self.stock

        @staticmethod
        @sgl.tool
        def price(item: str) -> int:
            return len(item)

        @classmethod
        @sgl.tool
        def kind(cls, item: str) -> str:
            return cls.__name__ + item

        def plain(self, item: str) -> str:
            return item * self.stock

    one, two = Shop(1), Shop(2)
    tools = tool_list([two.left, Shop.price, Shop.kind, two.plain])
    assert [list(schema_of(t)["properties"]) for t in tools] == [["of"], ["item"], ["item"], ["item"]]
    assert [bound(t, {"item": "ab"} if i else {}) for i, t in enumerate(tools)] == [2, 2, "Shopab", "abab"]
    assert one.left() == 1 and two.left() == 2 and Shop.price("abc") == 3
    with pytest.raises(sgl.ToolError, match=r"tool left: it is a method; take it from an object"):
        _ = Shop.left.function


def test_a_class_may_hold_a_tool_that_is_no_method_of_it() -> None:
    class Box:
        held = module_level

    assert Box().held is module_level and module_level.function(Later(x=1)) == "1 None"


def test_a_tool_is_still_the_function() -> None:
    assert module_level(Later(x=2)) == "2 None"
    assert module_level.__doc__ == "Take a type that is defined below."
    assert copy.copy(module_level).name == "module_level"


def test_a_call_is_a_value() -> None:
    call = sgl.ToolCall("f", {"a": [1]}, call_id(0, 1))
    assert hash(call) == hash(pickle.loads(pickle.dumps(call))) and call == pickle.loads(pickle.dumps(call))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40_000)), unique=True))
def test_ids_are_nine_letters_and_digits_and_differ(places: list[tuple[int, int]]) -> None:
    ids = [call_id(turn, index) for turn, index in places]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)


# -- what is refused
BAD = {
    "def f(x): pass": r"tool f, parameter x: it has no type; write one, such as x: str",
    "def f(*xs: int): pass": r"tool f, parameter \*xs: .*take one list",
    "def f(**xs: int): pass": r"tool f, parameter \*\*xs: .*take one dict",
    "def f(x: 'Nowhere'): pass": r"tool f, parameter x: the name 'Nowhere' .* cannot be resolved",
    "def f(x: type): pass": r"tool f, parameter x: ",
    "def f(x: int): yield x": r"tool f: it is a generator; return a list",
    "f = lambda: 1": r"tool <lambda>: its name may have letters",
    "f = print": r"tool print, parameter \*args",
    "f = 3": r"3 is no tool",
    "class f: pass": r"tool f: it is a class, but no pydantic model",
}


@pytest.mark.parametrize("code", BAD)
def test_a_function_that_cannot_be_a_tool(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(sgl.ToolError, match=BAD[code]):
        tool_list([names["f"]])


OPTIONS: dict[str, dict[str, Any]] = {
    r"timeout must be seconds above 0, or None": {"timeout": 0},
    r"retries must be a whole number": {"retries": -1},
    r"max_result_tokens must be": {"max_result_tokens": 0},
    r"inject= names 'quary', which is no parameter; did you mean 'query'": {"inject": ("quary",)},
    r"its name may have": {"name": "look up"},
    r"description must be a text": {"description": 3},
    r"parameters /type: arguments are an object, not 'string'": {"parameters": {"type": "string"}},
}


@pytest.mark.parametrize("message", OPTIONS)
def test_an_option_that_is_wrong(message: str) -> None:
    def look(query: str) -> str:
        return query

    with pytest.raises(sgl.ToolError, match=f"^tool look.*: {message}|^tool look[^:]*{message}"):
        sgl.tool(**OPTIONS[message])(look)


def test_a_decorator_in_the_wrong_place() -> None:
    with pytest.raises(sgl.ToolError, match=r"write @staticmethod above @sgl\.tool"):
        sgl.tool(staticmethod(lambda x: x))
    with pytest.raises(sgl.ToolError, match="it is a tool already"):
        sgl.tool(module_level)
