"""Reading a message while it is written: any cutting of the text gives the same events, which give the text again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.lang.syntax import (
    ArgumentsDelta,
    CallBegan,
    CallClosed,
    CallEvent,
    CallSyntax,
    TextDelta,
    ThinkingDelta,
    merged,
    syntax_named,
)

from .called import GET, NAMES, SPECS, numbered, some_calls

# Parts of marks, quotes, escapes, other scripts, line ends.
words = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "<", "</", "tool_call", "{", '"', "'", "\\", "é", "日", "<|", ",", "]", ")", "}", "<b>"]
    ),
    max_size=8,
).map("".join)
arguments = st.fixed_dictionaries(
    {"city": words, "days": st.integers(-(10**12), 10**12)},
    optional={
        "unit": st.sampled_from(["C", "F"]),
        "exact": st.booleans(),
        "tags": st.lists(words, max_size=3),
        "note": st.one_of(st.none(), words.filter(lambda text: text not in ("null", "None"))),
    },
)
calls = st.lists(st.one_of(arguments.map(lambda data: ("get", data)), st.just(("get_all", {}))), max_size=3)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[a:b] for a, b in zip([0, *ends], ends)]


def read(syntax: CallSyntax, pieces: list[str], thinking: Any = "none") -> list[CallEvent]:
    reader = syntax.reader(SPECS, thinking=thinking)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return merged(events + reader.close())


def joined(kind: type, events: list[CallEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(wanted=calls, text=words, thinking=words, places=st.lists(st.integers(0, 999), max_size=12))
def test_any_cutting_gives_the_same_events(
    name: str, wanted: list[tuple[str, dict[str, Any]]], text: str, thinking: str, places: list[int]
) -> None:
    syntax = syntax_named(name)
    made = numbered(syntax, *wanted[: None if syntax.parallel else 1])
    text = text if syntax.text_before_calls or not made else ""
    thinking = thinking if syntax.thinking else ""
    whole = syntax.render(made, text, thinking)
    mode = "auto" if thinking else "none"
    events = read(syntax, [whole], mode)
    assert read(syntax, cut(whole, places), mode) == events
    assert read(syntax, list(whole), mode) == events

    closed = [event.call for event in events if isinstance(event, CallClosed)]
    assert [(call.name, call.arguments) for call in closed] == [(call.name, call.arguments) for call in made]
    deltas = {e.index: e.json for e in events if isinstance(e, ArgumentsDelta)}
    for index, call in enumerate(closed):
        assert sgl.json_schema({"type": "object"}).parse(deltas[index]) == call.arguments
    said, thought = joined(TextDelta, events), joined(ThinkingDelta, events)
    assert syntax.render(closed, said, thought) == whole
    assert whole.endswith(syntax.calls_text(closed) if closed else said)
    assert syntax.content(said) == syntax.content(text) if made else said == text


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_closed_before_its_end_is_written(name: str) -> None:
    """A tool starts as soon as its arguments are known, though the model writes on."""
    syntax = syntax_named(name)
    whole = syntax.calls_text(some_calls(syntax))
    reader = syntax.reader(SPECS)
    for at, char in enumerate(whole):
        if any(isinstance(event, CallClosed) for event in reader.feed(char)):
            rest = whole[at + 1 :]
            assert (
                len(rest) >= len(syntax.calls_text(some_calls(syntax)[1:])) - len(syntax.opening)
                if syntax.parallel
                else True
            )
            return
    raise AssertionError("no call was closed")


@pytest.mark.parametrize("name", NAMES)
def test_a_string_is_told_while_it_is_written(name: str) -> None:
    syntax = syntax_named(name)
    city = "a long name of a town " * 20
    (call,) = numbered(syntax, ("get", {"city": city, "days": 1}))
    text = syntax.calls_text([call])
    reader = syntax.reader(SPECS)
    events = reader.feed(text[: text.index(city) + 200])
    assert isinstance(events[0], CallBegan) and events[0].name == "get"
    assert len("".join(e.json for e in events if isinstance(e, ArgumentsDelta))) > 150
    assert reader.inside_call and not reader.calls


def test_only_a_possible_beginning_of_a_call_is_held_back() -> None:
    reader = syntax_named("hermes").reader(SPECS)
    assert reader.feed("2 < 3") == [TextDelta("2 < 3")]
    assert reader.feed(" <tool_ca") == [TextDelta(" ")]
    assert reader.feed("n") == [TextDelta("<tool_can")]
    assert reader.feed(" <tool") == [TextDelta(" ")]
    assert reader.close() == [TextDelta("<tool")]


def test_a_name_that_begins_another_name_is_told_apart() -> None:
    for name in NAMES:
        syntax = syntax_named(name)
        (call,) = numbered(syntax, ("get_all", {}))
        assert [c.name for c in read_calls(syntax, syntax.calls_text([call]))] == ["get_all"]


def read_calls(syntax: CallSyntax, text: str) -> list[sgl.ToolCall]:
    return [event.call for event in read(syntax, list(text)) if isinstance(event, CallClosed)]


def test_an_answer_that_begins_like_a_call_is_text() -> None:
    """Llama's calls have no mark of their own: an answer in JSON may begin in the same way."""
    answer = '{"name": "gert", "age": 3}'
    for text in (answer, '{"name": "get", "age": 3}', '{"nam'):
        for pieces in ([text], list(text)):
            assert read(syntax_named("llama3"), pieces) == [TextDelta(text)]


def test_thinking_that_the_prompt_began() -> None:
    syntax = syntax_named("qwen3")
    assert syntax.opens_thinking("<|im_start|>assistant\n<think>\n") and not syntax.opens_thinking("<|im_start|>x")
    text = "I could write <tool_call> here.\n</think>\n\n" + syntax.calls_text(some_calls(syntax))
    events = read(syntax, list(text), "open")
    assert events[0] == ThinkingDelta("I could write <tool_call> here.\n")
    assert isinstance(events[1], CallBegan)


def test_ids_differ_from_turn_to_turn() -> None:
    syntax = syntax_named("hermes")
    text = syntax.calls_text(some_calls(syntax))
    ids = [
        event.id
        for turn in range(3)
        for event in syntax.reader(SPECS, turn=turn).feed(text)
        if isinstance(event, CallBegan)
    ]
    assert len(set(ids)) == 6


def test_text_that_no_model_of_the_family_writes_is_refused() -> None:
    syntax = syntax_named("hermes")
    for text, why in (
        ('<tool_call>\n{"name": "other", ', "the name of a tool"),
        ('<tool_call>\n{"nam_', "the name|should come"),
        ('<tool_call>\n{"name": "get", "arguments": {"city" 3', "call syntax 'hermes'"),
    ):
        with pytest.raises(sgl.ConstraintError, match=why):
            read(syntax, [text])
    with pytest.raises(sgl.OptionError, match="thinking must be one of"):
        syntax.reader([GET], thinking="yes")  # type: ignore[arg-type]
