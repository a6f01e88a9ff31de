"""A call of a tool, and what a model is told of a tool. Plain values; knows nothing of functions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..constraint import JsonSchema
from ..errors import ToolError

TOOL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""Names that OpenAI, Anthropic and MCP allow, and that every call syntax can write."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model has written.

    Attributes:
        name: The name of the tool.
        arguments: The arguments as plain JSON data: a dict of its own.
        id: What a result refers to: nine letters and digits, the same in every run of the same text.

    Example:
        >>> import sgl
        >>> call = sgl.ToolCall("add", {"a": 1, "b": 2}, "call00001")
        >>> call.openai()["function"]
        {'name': 'add', 'arguments': '{"a": 1, "b": 2}'}
    """

    name: str
    arguments: dict[str, Any]
    id: str

    def __hash__(self) -> int:
        return hash((self.name, self.id))

    def openai(self) -> dict[str, Any]:
        """Give the call in OpenAI's form, its arguments as JSON text.

        Example:
            >>> import sgl
            >>> sgl.ToolCall("now", {}, "call00000").openai()["id"]
            'call00000'
        """
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool.

    Attributes:
        name: Its name.
        description: What it does; may be empty.
        parameters: The JSON Schema of its arguments, an object. Calls are constrained by it.
    """

    name: str
    description: str
    parameters: JsonSchema

    def openai(self) -> dict[str, Any]:
        """Give the spec in OpenAI's form, which chat templates take.

        Example:
            >>> import sgl
            >>> @sgl.tool
            ... def now() -> str:
            ...     "Tell the time."
            ...     return "noon"
            >>> now.spec.openai()["function"]["description"]
            'Tell the time.'
        """
        function = {"name": self.name, "description": self.description, "parameters": shown(self.parameters.schema)}
        return {"type": "function", "function": function}


def check_name(where: str, name: object) -> None:
    """Refuse a name that not every call syntax can write. Raises `ToolError`."""
    if not isinstance(name, str) or not name:
        raise ToolError(f"{where}: its name must be a text that is not empty, got {name!r:.60}")
    if not TOOL_NAME.fullmatch(name):
        raise ToolError(
            f"{where}: its name may have letters, digits, _, - and . (at most 128, the first no - or .); "
            "give another one with name="
        )


def call_id(turn: int, index: int) -> str:
    """The id of a call: the `index`-th of the `turn`-th turn, both from 0. Nine letters and digits, as Mistral asks."""
    return f"c{_base36(turn, 5)}{_base36(index, 3)}"


def _base36(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


def shown(schema: Any) -> Any:
    """A schema as a model is shown it: that an object is closed is enforced, and not worth its tokens."""
    if isinstance(schema, list):
        return [shown(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
            kept[key] = {name: shown(part) for name, part in value.items()}
        elif key in ("enum", "const", "default", "examples", "required"):
            kept[key] = value
        elif key != "additionalProperties" or value is not False:
            kept[key] = shown(value)
    return kept
