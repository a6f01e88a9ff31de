"""Tools, the choice among them, and calls that a client sends back, as OpenAI's APIs have them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ....lang.sampling import shown
from ....lang.tools.spec import ToolCall, ToolSpec
from ..calling import ToolUse, named_tools, read_tools
from ..errors import RequestError
from ..fields import flag


def tool_use(api: str, body: Mapping[str, Any], controls: Collection[str]) -> ToolUse:
    """Read the tools of a request. Raises `RequestError`."""
    if not (tools := body.get("tools")):
        if body.get("tool_choice") not in (None, "none", "auto"):
            raise RequestError(f"{api}: tool_choice is given without tools; give tools too", param="tool_choice")
        return ToolUse()
    specs = read_tools(api, tools, controls)
    choice, allowed = _choice(api, body.get("tool_choice"), specs)
    many = flag(api, body, "parallel_tool_calls", True)
    return ToolUse(specs, allowed, choice, None if many else 1)


def _choice(api: str, asked: Any, specs: tuple[ToolSpec, ...]) -> tuple[str, tuple[ToolSpec, ...]]:
    """The choice, and the tools that may be called."""
    if asked is None or asked in ("auto", "none", "required"):
        return asked or "auto", specs
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "function":
        name = _name(asked)
        return name, named_tools(api, [name], specs)
    if kind == "allowed_tools":
        inner = asked.get("allowed_tools", asked)
        listed = inner.get("tools") if isinstance(inner, Mapping) else None
        if isinstance(listed, list) and listed and inner.get("mode") in ("auto", "required"):
            return inner["mode"], named_tools(api, [_name(each) for each in listed], specs)
    raise RequestError(
        f"{api}: tool_choice must be 'auto', 'none', 'required', a function's name in an object, or allowed_tools, "
        f"got {shown(asked)}",
        param="tool_choice",
    )


def _name(item: Any) -> Any:
    function = item.get("function", item) if isinstance(item, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


def calls_of(api: str, message: Mapping[str, Any], at: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message that a client sends back."""
    listed = message.get("tool_calls") or []
    if not isinstance(listed, list):
        raise RequestError(f"{api}: {at}/tool_calls must be a list, got {shown(listed)}", param=f"{at}/tool_calls")
    calls = []
    for i, item in enumerate(listed):
        where = f"{at}/tool_calls/{i}"
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"{api}: {where} must have a function with name and arguments", param=where)
        arguments = arguments_of(api, function.get("arguments"), f"{where}/function")
        calls.append(ToolCall(function["name"], arguments, str(item.get("id") or "")))
    return tuple(calls)


def arguments_of(api: str, written: Any, at: str) -> dict[str, Any]:
    """The arguments of a call, which clients send as text."""
    try:
        arguments = json.loads(written or "{}") if isinstance(written, str) else written
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestError(f"{api}: {at}/arguments must be the text of a JSON object", param=at)
    return arguments
