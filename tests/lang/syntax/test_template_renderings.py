"""A finished call is the same text, and the same tokens, in a template's rendering, in ours, and under the mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import sgl
from sgl.lang.syntax import FAMILIES, CallClosed, CallSyntax, shows_tools, syntax_named, syntax_of

from .called import NAMES, SPECS, message, runtime_with, some_calls, template_of

USER = {"role": "user", "content": "Hello <tool_call> [TOOL_CALLS]"}


def printed(syntax: CallSyntax, calls: list[sgl.ToolCall], text: str) -> str:
    """What the family's template prints as the assistant's message."""
    before = template_of(syntax.name).render([USER]) + "<|im_start|>assistant\n"
    whole = template_of(syntax.name).render([USER, message(calls, text)])
    assert whole.startswith(before) and whole.endswith("<|im_end|>\n")
    return whole[len(before) : -len("<|im_end|>\n")]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Any]:
    with runtime_with(tuple(dict.fromkeys(text for family in FAMILIES for text in family.controls))) as made:
        yield made


@pytest.mark.parametrize("text", ["", "Let me see."])
@pytest.mark.parametrize("name", NAMES)
def test_the_templates_text_is_ours(name: str, text: str) -> None:
    syntax = syntax_named(name)
    if text and not syntax.text_before_calls:
        with pytest.raises(sgl.OptionError, match="not both"):
            syntax.render(some_calls(syntax), text)
        return
    assert syntax.render(some_calls(syntax), text) == printed(syntax, some_calls(syntax), text)


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_allows_each_of_the_templates_tokens(runtime: Any, name: str) -> None:
    syntax = syntax_named(name).for_tokens(runtime.tokenizer.control_texts)
    assert syntax.controls == syntax_named(name).controls
    calls = some_calls(syntax)
    text = "Let me see." if syntax.text_before_calls else ""
    whole = printed(syntax, calls, text)
    tokens = runtime.tokenizer.encode(whole, special_tokens=True)
    assert runtime.tokenizer.encode(syntax.pieces(calls, text)) == tokens
    reader = syntax.reader(SPECS)
    events = reader.feed(whole) + reader.close()
    assert [e.call.arguments for e in events if isinstance(e, CallClosed)] == [call.arguments for call in calls]
    prepared = runtime.engine.grammars.prepare(syntax.constraint(SPECS))
    matcher, row = prepared.compiled.matcher(), prepared.vocabulary.new_row()
    for at, token in enumerate(tokens):
        matcher.fill(row)
        assert row[token >> 5] >> (token & 31) & 1, runtime.tokenizer.spell(tokens[:at])
        assert matcher.accept(token)
    assert matcher.can_end()
    prepared.check(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_required_call_is_generated_and_read(runtime: Any, name: str) -> None:
    """Nonsense of the toy model under the mask is a call of each family's, with arguments of the schema."""
    syntax = syntax_named(name).for_tokens(runtime.tokenizer.control_texts)
    constraint = syntax.constraint(SPECS, choice="get", calls=(1, 1))

    @sgl.function
    def ask(s: Any) -> None:
        s += sgl.gen("call", constraint=constraint, max_tokens=400, temperature=1.0)

    text = ask.run(backend=runtime, seed=3)["call"]
    reader = syntax.reader(SPECS)
    (call,) = [event.call for event in reader.feed(text) if isinstance(event, CallClosed)]
    SPECS[0].parameters.parse(sgl.lang.syntax.values.as_json(call.arguments))


@pytest.mark.parametrize("name", NAMES)
def test_a_template_shows_its_family(name: str) -> None:
    assert syntax_of(template_of(name)).name == name
    assert not shows_tools(template_of(name))


def test_a_family_is_named_or_plain() -> None:
    chatml = sgl.ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
    assert syntax_of(chatml).name == "json" == syntax_of(None).name
    assert syntax_of(chatml, "Qwen3").name == "hermes"
    with pytest.raises(sgl.OptionError, match=r"no call syntax is called 'qwen33'.*did you mean 'qwen3'"):
        syntax_of(None, "qwen33")


def test_a_template_that_only_shows_tools_is_known_by_what_it_says_of_calls() -> None:
    source = (
        '{% if tools %}{{ tools | tojson }} Call: <tool_call>\\n{"name": "NAME", ...}</tool_call>{% endif %}'
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    ).replace("\\n", "\n")
    assert syntax_of(sgl.ChatTemplate(source)).name == "hermes"
    assert shows_tools(sgl.ChatTemplate(source))
