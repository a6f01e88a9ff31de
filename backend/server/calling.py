"""Tools and reasoning of one chat request: what the model may call, and how its text is read.

Knows nothing of prompts, nor of how a constraint is enforced.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...lang.constraint import Constraint
from ...lang.errors import ConstraintError, OptionError, ToolError, suggest
from ...lang.sampling import shown
from ...lang.syntax import CallReader, CallSyntax, ThinkingMode
from ...lang.tools.listing import tool_list
from ...lang.tools.spec import ToolSpec
from ..runtime.local import LocalBackend
from .errors import RequestError


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


@dataclass(frozen=True)
class ToolUse:
    """What a request says of tools. `specs` are shown, `allowed` may be called, at most `most` in one message."""

    specs: tuple[ToolSpec, ...] = ()
    allowed: tuple[ToolSpec, ...] = ()
    choice: str = "none"
    most: int | None = None


def read_tools(api: str, tools: Any, controls: Collection[str]) -> tuple[ToolSpec, ...]:
    """The tools of a request: a list of objects with name, description and parameters, or of OpenAI's form.

    Raises `RequestError` for the first that cannot be one; it names the tool, and where in it.
    """
    if not isinstance(tools, list) or not all(isinstance(each, Mapping) for each in tools):
        raise RequestError(f"{api}: tools must be a list of objects, got {shown(tools)}", param="tools")
    try:
        listed = tool_list(tools)
    except (OptionError, ToolError) as error:
        raise RequestError(f"{api}: tools: {error}", param="tools", code="invalid_tool") from None
    if listed.refused:
        raise RequestError(f"{api}: tools: {listed.refused[0].why}", param="tools", code="invalid_tool")
    for spec in listed.specs:
        said = json.dumps(spec.openai(), ensure_ascii=False)
        if (found := next((control for control in controls if control in said), None)) is not None:
            raise RequestError(
                f"{api}: tools: tool {spec.name}: its description or schema has {found!r}, a control token's name, "
                "which could end the turn that shows it; remove it",
                param="tools",
            )
    return listed.specs


def named_tools(api: str, names: Sequence[Any], specs: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools with these names. Raises `RequestError` for a name that none has."""
    known = [spec.name for spec in specs]
    for name in names:
        if name not in known:
            raise RequestError(
                f"{api}: tool_choice names {shown(name)}, which is none of the tools{suggest(str(name)[:100], known)}",
                param="tool_choice",
            )
    return tuple(spec for spec in specs if spec.name in names)


def prepare(
    api: str, name: str, backend: LocalBackend, constraint: Constraint | None, tools: Sequence[ToolSpec] = ()
) -> None:
    """Compile the constraint of a request, which field `name` says.

    Raises `RequestError` with the field, or the tool, that cannot be enforced.
    """
    if constraint is None:
        return
    try:
        for tool in tools:
            backend.prepare(tool.parameters, f"tools: tool {tool.name}, parameters")
        backend.prepare(constraint, name)
    except ConstraintError as error:
        param = "tools" if str(error).startswith("tools") else name
        raise RequestError(f"{api}: {error}", param=param, code="invalid_constraint") from None
