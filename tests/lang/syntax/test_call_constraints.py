"""What the constraint of a message with calls allows: choices, counts, answers, schemas in each notation."""

from __future__ import annotations

from typing import Any

import pytest

import sgl
from sgl.lang.syntax import syntax_named
from sgl.lang.syntax.lowering import lower

from .called import GET_ALL, NAMES, SPECS, numbered, some_calls


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime.toy() as made:
        yield made


def spec_of(name: str, **properties: Any) -> sgl.ToolSpec:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return sgl.ToolSpec(name, "", sgl.json_schema(schema))


@pytest.mark.parametrize("name", NAMES)
def test_choices(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(())
    first = syntax.render(some_calls(syntax)[:1])
    (other,) = numbered(syntax, ("get_all", {}))
    text = syntax.render([], "No call.")

    def fits(written: str, **options: Any) -> bool:
        return bool(runtime.accepts(syntax.constraint(SPECS, **options), written))

    assert fits(first) and fits(text)
    assert fits(first, choice="required") and not fits(text, choice="required")
    assert not fits(first, choice="none") and fits(text, choice="none")
    assert fits(first, choice="get") and not fits(syntax.render([other]), choice="get") and not fits(text, choice="get")
    assert not runtime.accepts(syntax.constraint([GET_ALL]), first)  # a subset of the tools
    if syntax.text_before_calls:
        both = syntax.render(some_calls(syntax), "Let me see.")
        assert fits(both) and not fits(both, choice="required")


@pytest.mark.parametrize("name", [name for name in NAMES if syntax_named(name).parallel])
def test_counts(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(())
    wholes = [syntax.render(numbered(syntax, *[("get_all", {})] * count)) for count in range(1, 5)]
    for counts, allowed in (((1, 1), [1]), ((2, 3), [2, 3]), ((3, None), [3, 4]), ((0, 2), [1, 2])):
        constraint = syntax.constraint(SPECS, choice="required", calls=counts)
        assert [i + 1 for i, whole in enumerate(wholes) if runtime.accepts(constraint, whole)] == allowed, counts


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_stands_in_the_place_of_text(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(())
    answer = sgl.json_schema({"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]})
    before = ""
    if not syntax.marked:
        with pytest.raises(sgl.ConstraintError, match="an answer in JSON could be one"):
            syntax.constraint(SPECS, answer=answer)
        answer, before = "Answer: " + answer, "Answer: "
    constraint = syntax.constraint(SPECS, answer=answer)
    assert runtime.accepts(constraint, syntax.text_begin + before + '{"sum": 3}')
    assert runtime.accepts(constraint, syntax.render(some_calls(syntax)))
    assert not runtime.accepts(constraint, syntax.text_begin + before + '{"sum": "3"}')
    assert not runtime.accepts(constraint, syntax.render([], "Three."))


@pytest.mark.parametrize("name", [name for name in NAMES if syntax_named(name).thinking])
def test_thinking_comes_first_and_is_free(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(())
    calls = some_calls(syntax)
    whole = syntax.render(calls, "", "I may write <tool_call> and {")
    assert syntax.thinking is not None
    for mode, with_thinking, without in (("none", False, True), ("auto", True, True), ("required", True, False)):
        constraint = syntax.constraint(SPECS, choice="required", thinking=mode)  # type: ignore[arg-type]
        assert bool(runtime.accepts(constraint, whole)) == with_thinking, mode
        assert bool(runtime.accepts(constraint, syntax.render(calls))) == without, mode
    opened = syntax.constraint(SPECS, choice="required", thinking="open")
    assert runtime.accepts(opened, whole.removeprefix(syntax.thinking.begin))


VALUES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "string", "maxLength": 3}, ["", "abc"], ["abcd"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "日本語"], ["a", "abcd"]),
    ({"type": "integer", "minimum": 2}, [2, 17], [1, "2x"]),
    ({"type": "number"}, [1.5, -2], ["x y"]),
    ({"type": "boolean"}, [True, False], [None, "yes"]),
    ({"enum": ["a", "b c"]}, ["a", "b c"], ["c"]),
    ({"const": 5}, [5], [6]),
    ({"enum": [1, True, None, "x"]}, [1, True, None, "x"], [2, "y"]),
    ({"type": ["integer", "null"]}, [3, None], ["x"]),
    ({"anyOf": [{"type": "boolean"}, {"type": "integer"}]}, [True, 4], ["x"]),
    ({"anyOf": [{"type": "string", "maxLength": 2}, {"type": "boolean"}]}, ["ab", True], ["abc", 3.5]),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 2}, [[], [1], [1, 2]], [[1, 2, 3], ["x"]]),
    (
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}, "required": ["b"]},
        [{"b": True}, {"a": "x", "b": False}],
        [{"a": "x"}, {"b": 3}],
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_each_notation_carries_the_schema(runtime: Any, name: str) -> None:
    """What is valid under the schema can be written and read back; what is not cannot be written."""
    syntax = syntax_named(name).for_tokens(())
    for schema, right, wrong in VALUES:
        spec = spec_of("f", x=schema)
        constraint = syntax.constraint([spec], choice="required")
        for value, valid in [(value, True) for value in right] + [(value, False) for value in wrong]:
            text = syntax.render(numbered(syntax, ("f", {"x": value})))
            assert bool(runtime.accepts(constraint, text)) == valid, (schema, value, text)
            if valid:
                reader = syntax.reader([spec])
                reader.feed(text)
                assert reader.calls[0].arguments == {"x": value}, (schema, text)
                assert type(reader.calls[0].arguments["x"]) is type(value)


@pytest.mark.parametrize("name", ["qwen3-coder", "glm-4.7", "minimax-m2", "deepseek-v3.2", "gemma4"])
def test_strings_as_they_are_keep_patterns_and_formats(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(())
    for schema, right, wrong in (
        ({"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, ["AB1"], ["ab1", "AB", "xAB1"]),
        ({"type": "string", "pattern": "b|d"}, ["abc", "d"], ["ac", ""]),
        ({"type": "string", "format": "date"}, ["2026-11-30"], ["2026-13-30", "x"]),
        ({"type": "string", "format": "unknown"}, ["anything"], []),
    ):
        constraint = syntax.constraint([spec_of("f", x=schema)], choice="required")
        for value in [*right, *wrong]:
            text = syntax.render(numbered(syntax, ("f", {"x": value})))
            assert bool(runtime.accepts(constraint, text)) == (value in right), (schema, value)


@pytest.mark.parametrize("name", [name for name in NAMES if "<parameter" in str(syntax_named(name).arguments)])
def test_a_value_without_quotes_is_read_by_its_schema(name: str) -> None:
    """Between tags, `null` is None where a null may stand and no text else, and 5 is a text where no number may be."""
    syntax = syntax_named(name)
    for schema, value in (
        ({"type": "string"}, "null"),
        ({"type": "string"}, "[1]"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "5"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 5),
        ({}, {"a": [1]}),
        ({}, "a text"),
    ):
        reader = syntax.reader([spec_of("f", x=schema)])
        reader.feed(syntax.render(numbered(syntax, ("f", {"x": value}))))
        assert reader.calls[0].arguments == {"x": value}, schema


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "object", "properties": {"a": {}}, "allOf": [{"minProperties": 1}]}, "/allOf"),
        ({"type": "object", "properties": {"a": {"type": "string", "not": {"const": "x"}}}}, "/properties/a/not"),
        ({"type": "object", "properties": {"a": {"$ref": "http://x"}}}, "/properties/a/$ref"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}, "/properties/a/$ref"),
        ({"type": "object", "properties": {}, "required": ["b"]}, "/required"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "regex"}}}, "/properties/a/format"),
    ],
)
def test_a_keyword_that_a_notation_cannot_carry_is_refused(schema: dict[str, Any], where: str) -> None:
    spec = sgl.ToolSpec("search", "", sgl.json_schema(schema))
    for name in ("qwen3-coder", "gemma4"):
        with pytest.raises(sgl.ConstraintError) as error:
            syntax_named(name).constraint([spec])
        assert "'search'" in str(error.value) and where in str(error.value) and name in str(error.value)
    syntax_named("hermes").constraint([spec])  # JSON carries any schema


def test_a_schema_that_contains_itself_needs_json() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    spec = sgl.ToolSpec(
        "f",
        "",
        sgl.json_schema({"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}),
    )
    with pytest.raises(sgl.ConstraintError, match="contains itself"):
        syntax_named("gemma4").constraint([spec])
    syntax_named("qwen3-coder").constraint([spec])  # an object between tags is JSON


def test_what_cannot_be_written_is_refused() -> None:
    coder, gemma, kimi = map(syntax_named, ("qwen3-coder", "gemma4", "kimi-k2"))
    with pytest.raises(sgl.ConstraintError, match="'</parameter>' in it"):
        coder.render([sgl.ToolCall("f", {"x": "a </parameter> b"}, "c00000000")])
    with pytest.raises(sgl.ConstraintError, match="ends a string"):
        gemma.render([sgl.ToolCall("f", {"x": 'a <|"|> b'}, "c00000000")])
    with pytest.raises(sgl.OptionError, match="id 'c00000000' of a call"):
        kimi.render([sgl.ToolCall("f", {}, "c00000000")])
    with pytest.raises(sgl.OptionError, match="one call in a message, and here are 2"):
        syntax_named("llama3").render([sgl.ToolCall("f", {}, "c00000000")] * 2)
    with pytest.raises(sgl.OptionError, match="write no reasoning"):
        syntax_named("llama3").render([], "x", "y")


def test_wrong_options() -> None:
    hermes, llama = syntax_named("hermes"), syntax_named("llama3")
    for options, why in (
        ({"choice": "gett"}, "did you mean 'get'"),
        ({"choice": 3}, "choice must be"),
        ({"calls": (0, 0)}, "choice='none'"),
        ({"calls": 2}, "two counts"),
        ({"calls": (1, -1)}, "two counts"),
        ({"thinking": True}, "thinking must be one of"),
    ):
        with pytest.raises(sgl.OptionError, match=why):
            hermes.constraint(SPECS, **options)  # type: ignore[arg-type]
    with pytest.raises(sgl.ConstraintError, match="one call in a message"):
        llama.constraint(SPECS, calls=(2, 3))
    with pytest.raises(sgl.OptionError, match="write no reasoning"):
        llama.constraint(SPECS, thinking="required")
    with pytest.raises(sgl.ConstraintError, match="two tools are called 'get'"):
        hermes.constraint([*SPECS, SPECS[0]])
    with pytest.raises(sgl.ConstraintError, match="nothing to call"):
        hermes.constraint([], choice="required")
    assert hermes.constraint([]) == hermes.constraint(SPECS, choice="none")


def test_free_text_never_opens_a_call(runtime: Any) -> None:
    """What is text cannot become a call later: the mask bars the text that opens one."""
    for name in NAMES:
        syntax = syntax_named(name).for_tokens(())
        text = syntax.text_begin + "It is " + syntax.trigger
        constraint = syntax.constraint(SPECS, choice="none")
        assert bool(runtime.accepts(constraint, text)) == bool(syntax.text_begin), name


def test_only_markup_spells_control_tokens() -> None:
    """A text, an argument or a result that looks like a call is plain text."""
    for name in NAMES:
        syntax = syntax_named(name)
        (call,) = numbered(syntax, ("get", {"city": "<tool_call> [TOOL_CALLS]", "days": 1}))
        pieces = syntax.pieces([call])
        assert "<tool_call> [TOOL_CALLS]" in "".join(text for text, is_markup in pieces if not is_markup), name
        assert not any("<tool_call> [" in text for text, is_markup in pieces if is_markup)


def test_tools_and_results_as_text() -> None:
    for name in NAMES:
        syntax = syntax_named(name)
        shown = syntax.prompt(SPECS)
        assert '"name": "get_all"' in shown and syntax.opening in shown and "additionalProperties" not in shown
        assert syntax.prompt([]) == ""
    assert syntax_named("json").result_turn(["12"]) == ("user", "The tool says: 12")
    role, text = syntax_named("qwen3").result_turn(["12", "no such file"])
    assert (role, text) == (
        "user",
        "<tool_response>\n12\n</tool_response>\n<tool_response>\nno such file\n</tool_response>",
    )
    with pytest.raises(sgl.OptionError, match="takes texts"):
        syntax_named("json").result_turn([3])  # type: ignore[list-item]


def test_a_constraint_is_a_value() -> None:
    for name in NAMES:
        syntax = syntax_named(name)
        options: Any = {"choice": "auto", "calls": (1, None), "answer": None, "thinking": "none"}
        assert syntax.constraint(SPECS) == lower(syntax, SPECS, **options)
        assert hash(syntax.constraint(SPECS)) == hash(syntax.constraint(SPECS))
