"""Which family a model is of, read off its chat template.

A template is rendered with a conversation that has calls in it. The family whose own rendering of these calls stands in
what was printed is the model's. Knows nothing of models' names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ..chat import ChatTemplate
from ..errors import OptionError
from ..kept import kept
from ..tools.spec import ToolCall
from .call_syntax import CallSyntax
from .families import FAMILIES, PLAIN, syntax_named

_SCHEMA = {
    "type": "object",
    "properties": {
        "alpha": {"type": "string", "description": "A text."},
        "beta": {"type": "integer", "description": "A number."},
    },
    "required": ["alpha", "beta"],
}
_ARGUMENTS = {"alpha": "some text", "beta": 3}
_NAMES = ("probe_one", "probe_two")


def syntax_of(template: ChatTemplate | None, name: str | None = None) -> CallSyntax:
    """Find the call syntax of a model: by name, or by what its chat template prints.

    Args:
        template: the model's chat template; None if it has none.
        name: the name of a family, if it is known; default None.

    Returns:
        The syntax. A template that prints no calls gets the plain form: JSON between `<tool_call>` and `</tool_call>`.

    Raises:
        OptionError: no family has the name.

    Example:
        >>> import sgl
        >>> from sgl.lang.syntax import syntax_of
        >>> syntax_of(sgl.ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")).name
        'json'
    """
    if name is not None:
        return syntax_named(name)
    return PLAIN if template is None else _matched(template)


@kept(256)
def syntax_for(template: ChatTemplate | None, name: str | None, controls: frozenset[str]) -> CallSyntax:
    """The syntax of a model whose tokenizer has the control tokens `controls`. Errors are those of `syntax_of`."""
    return syntax_of(template, name).for_tokens(controls)


@kept(64)
def shows_tools(template: ChatTemplate) -> bool:
    """Whether a template prints the tools that it is given."""
    try:
        return _NAMES[0] in template.render([{"role": "user", "content": "Hello"}], tools=probe_tools())
    except OptionError:
        return False


def probe_tools() -> list[dict[str, Any]]:
    """Two tools in OpenAI's form."""
    return [
        {"type": "function", "function": {"name": name, "description": "Probes.", "parameters": _SCHEMA}}
        for name in _NAMES
    ]


@kept(64)
def _matched(template: ChatTemplate) -> CallSyntax:
    for printed, calls in _printed(template):
        own = {family: family.calls_text(calls) for family in FAMILIES if _can_write(family, calls)}
        fits = [family for family, text in own.items() if text in printed]
        if fits:
            return max(fits, key=lambda family: len(own[family]))
    return _mentioned(template)


def _printed(template: ChatTemplate) -> Iterator[tuple[str, list[ToolCall]]]:
    """What the template prints of some calls, and these: two, else one, in the forms that templates take."""
    for as_text, count, id_form in product((False, True), (2, 1), ("c0000000{1}", "functions.{0}:{1}")):
        calls = [ToolCall(name, dict(_ARGUMENTS), id_form.format(name, i)) for i, name in enumerate(_NAMES[:count])]
        arguments = json.dumps(_ARGUMENTS) if as_text else _ARGUMENTS
        told = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
            for call in calls
        ]
        for text in ("", None, "Some words."):
            messages: list[Mapping[str, Any]] = [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": text, "tool_calls": told},
            ]
            try:
                printed = template.render(messages, tools=probe_tools())
            except OptionError:
                continue
            yield printed, calls


def _can_write(family: CallSyntax, calls: Sequence[ToolCall]) -> bool:
    try:
        return bool(family.calls_text(calls))
    except OptionError:
        return False


def _mentioned(template: ChatTemplate) -> CallSyntax:
    """The family of which a template that prints no calls speaks where it shows tools: by the text that opens calls."""
    try:
        shown = template.render([{"role": "user", "content": "Hello"}], tools=probe_tools())
    except OptionError:
        return PLAIN
    fits = [family for family in FAMILIES if family.opening != family.trigger and family.opening in shown]
    return max(fits, key=lambda family: len(family.opening), default=PLAIN)
