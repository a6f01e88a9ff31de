"""Tools and reasoning of one chat request: what the model may call, and how its text is read.

Knows nothing of prompts, nor of how a constraint is enforced.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....lang.chat import ChatTemplate
from ....lang.constraint import Constraint
from ....lang.errors import OptionError, ToolError, suggest
from ....lang.sampling import shown
from ....lang.syntax import CallReader, CallSyntax, ThinkingMode, syntax_of
from ....lang.tools.listing import tool_list
from ....lang.tools.spec import ToolCall, ToolSpec
from ..errors import RequestError
from ..fields import flag

API = "chat.completions"


@dataclass(frozen=True)
class Calling:
    """The tools of a request. `specs` are shown to the model, `allowed` may be called; `choice` and `most` say how."""

    syntax: CallSyntax
    specs: tuple[ToolSpec, ...] = ()
    allowed: tuple[ToolSpec, ...] = ()
    choice: str = "none"
    most: int | None = None
    thinking: ThinkingMode = "none"
    turn: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def constraint(self, answer: Constraint | None) -> Constraint | None:
        """The constraint of the message; `answer` is that of its text."""
        if not self.allowed and (answer is None or self.thinking == "none"):
            return answer
        choice = self.choice if self.allowed else "none"
        return self.syntax.constraint(
            self.allowed, choice=choice, calls=(1, self.most), answer=answer, thinking=self.thinking
        )

    def reader(self, constraint: Constraint | None) -> CallReader | None:
        """A reader of the message; None where its text is all there is."""
        if constraint is None or (not self.allowed and self.thinking == "none"):
            return None
        return self.syntax.reader(self.allowed, thinking=self.thinking, turn=self.turn)


def calling_of(
    body: Mapping[str, Any], template: ChatTemplate, controls: Collection[str], messages: Sequence[Mapping[str, Any]]
) -> Calling:
    """Read the tools of a request. Raises `RequestError` and `ToolError`."""
    syntax = syntax_of(template).for_tokens(set(controls))
    if not (tools := body.get("tools")):
        if body.get("tool_choice") not in (None, "none", "auto"):
            raise RequestError(f"{API}: tool_choice is given without tools; give tools too", param="tool_choice")
        return Calling(syntax)
    specs = _specs(tools, controls)
    choice, allowed = _choice(body.get("tool_choice"), specs)
    many = flag(API, body, "parallel_tool_calls", True)
    turn = sum(1 for message in messages if message.get("tool_calls"))
    return Calling(syntax, specs, allowed, choice, None if many else 1, "none", turn)


def _specs(tools: Any, controls: Collection[str]) -> tuple[ToolSpec, ...]:
    if not isinstance(tools, list) or not all(isinstance(each, Mapping) for each in tools):
        raise RequestError(f"{API}: tools must be a list of objects, got {shown(tools)}", param="tools")
    try:
        listed = tool_list(tools)
    except (OptionError, ToolError) as error:
        raise RequestError(f"{API}: tools: {error}", param="tools", code="invalid_tool") from None
    if listed.refused:
        raise RequestError(f"{API}: tools: {listed.refused[0].why}", param="tools", code="invalid_tool")
    for spec in listed.specs:
        said = json.dumps(spec.openai(), ensure_ascii=False)
        if (found := next((control for control in controls if control in said), None)) is not None:
            raise RequestError(
                f"{API}: tools: tool {spec.name}: its description or schema has {found!r}, a control token's name, "
                "which could end the turn that shows it; remove it",
                param="tools",
            )
    return listed.specs


def _choice(asked: Any, specs: tuple[ToolSpec, ...]) -> tuple[str, tuple[ToolSpec, ...]]:
    """The choice, and the tools that may be called."""
    if asked is None or asked in ("auto", "none", "required"):
        return asked or "auto", specs
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "function":
        name = _name(asked)
        return name, _named([name], specs)
    if kind == "allowed_tools":
        inner = asked.get("allowed_tools", asked)
        listed = inner.get("tools") if isinstance(inner, Mapping) else None
        if isinstance(listed, list) and listed and inner.get("mode") in ("auto", "required"):
            return inner["mode"], _named([_name(each) for each in listed], specs)
    raise RequestError(
        f"{API}: tool_choice must be 'auto', 'none', 'required', a function's name in an object, or allowed_tools, "
        f"got {shown(asked)}",
        param="tool_choice",
    )


def _name(item: Any) -> Any:
    function = item.get("function", item) if isinstance(item, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


def _named(names: list[Any], specs: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
    known = [spec.name for spec in specs]
    for name in names:
        if name not in known:
            raise RequestError(
                f"{API}: tool_choice names {shown(name)}, which is none of the tools{suggest(str(name)[:100], known)}",
                param="tool_choice",
            )
    return tuple(spec for spec in specs if spec.name in names)


def calls_of(message: Mapping[str, Any], at: str) -> list[ToolCall]:
    """The calls of an assistant's message that a client sends back."""
    listed = message.get("tool_calls") or []
    if not isinstance(listed, list):
        raise RequestError(f"{API}: {at}/tool_calls must be a list, got {shown(listed)}", param=f"{at}/tool_calls")
    calls = []
    for i, item in enumerate(listed):
        where = f"{at}/tool_calls/{i}"
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"{API}: {where} must have a function with name and arguments", param=where)
        written = function.get("arguments")
        try:
            arguments = json.loads(written) if isinstance(written, str) else written
        except (ValueError, RecursionError):
            arguments = None
        if written == "":
            arguments = {}
        if not isinstance(arguments, dict):
            raise RequestError(f"{API}: {where}/function/arguments must be the text of a JSON object", param=where)
        calls.append(ToolCall(function["name"], arguments, str(item.get("id") or "")))
    return calls
