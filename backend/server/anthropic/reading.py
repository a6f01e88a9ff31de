"""A body of `/v1/messages` as a conversation. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....lang.constraint import Constraint, json_schema
from ....lang.errors import ConstraintError, OptionError
from ....lang.sampling import Sampling, shown
from ....lang.tools.spec import ToolCall
from ..calling import ToolUse, named_tools, read_tools
from ..conversation import ConversationRequest, conversation, reasoning_option, template_of
from ..errors import RequestError
from ..fields import MESSAGES, flag
from ..serving import Serving
from ..transcripts import Said

API = "messages"
_SAMPLED = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop_sequences": "stop", "seed": "seed"}
"""Fields, and the options of `gen` that they are."""


@dataclass(frozen=True)
class MessagesRequest:
    """A checked request. `prompt_tokens`: of the prompt, where they are counted. `stops`: the texts that end it."""

    conversation: ConversationRequest
    prompt_tokens: int
    stops: tuple[str, ...]
    stream: bool


def read_messages(body: Mapping[str, Any], serving: Serving) -> MessagesRequest:
    """Check a body. Raises `RequestError`, and the errors of constraints, tools and templates."""
    return _read(body, serving, _sampling(body), flag(API, body, "stream"))


def count_tokens(body: Mapping[str, Any], serving: Serving) -> int:
    """The tokens of a body's prompt."""
    return _read(body, serving, Sampling.of(API, max_tokens=1), True).prompt_tokens


def _read(body: Mapping[str, Any], serving: Serving, sampling: Sampling, counts: bool) -> MessagesRequest:
    MESSAGES.check(body)
    template_of(API, serving.runtime)
    tools = _tools(body, serving)
    said = [*_system(body.get("system")), *_messages(body.get("messages"))]
    request = conversation(
        API, serving, said, tools, sampling, _format(body), "output_config/format", _thinking(body, serving)
    )
    tokens = request.count(serving.runtime.tokenizer) if counts else 0
    return MessagesRequest(request, tokens, sampling.stop or (), flag(API, body, "stream"))


def _sampling(body: Mapping[str, Any]) -> Sampling:
    if body.get("max_tokens") is None:
        raise RequestError(f"{API}: max_tokens is missing; say how many tokens may be written", param="max_tokens")
    given = {"max_tokens": body["max_tokens"]}
    given |= {option: body[name] for name, option in _SAMPLED.items() if body.get(name) not in (None, [])}
    for name, value in given.items():
        try:
            Sampling.of(API, **{name: value})
        except (OptionError, ConstraintError) as error:
            field = "stop_sequences" if name == "stop" else name
            raise RequestError(str(error).replace(f"{API}: {name}", f"{API}: {field}", 1), param=field) from None
    return Sampling.of(API, **given)


def _format(body: Mapping[str, Any]) -> Constraint | None:
    """The constraint of the text, which `output_config.format` says."""
    config = body.get("output_config")
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise RequestError(f"{API}: output_config must be an object, got {shown(config)}", param="output_config")
    if (form := config.get("format")) is None:
        return None
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        raise RequestError(
            f"{API}: output_config/format must be an object of type 'json_schema' with a schema, got {shown(form)}",
            param="output_config/format",
        )
    try:
        return json_schema(form.get("schema", {}))
    except (OptionError, ConstraintError) as error:
        raise RequestError(
            f"{API}: output_config/format: {error}", param="output_config/format", code="invalid_constraint"
        ) from None


def _thinking(body: Mapping[str, Any], serving: Serving) -> dict[str, Any]:
    """What the template is told of reasoning. Raises if reasoning is wanted of a model that writes none."""
    asked = body.get("thinking")
    if asked is None:
        return {}
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind not in ("enabled", "disabled", "adaptive"):
        raise RequestError(
            f"{API}: thinking must be an object whose type is 'enabled', 'disabled' or 'adaptive', got {shown(asked)}",
            param="thinking",
        )
    return reasoning_option(
        API, "thinking", serving.runtime, {"enabled": True, "disabled": False, "adaptive": None}[kind]
    )


# -- tools
def _tools(body: Mapping[str, Any], serving: Serving) -> ToolUse:
    choice = body.get("tool_choice")
    if choice is not None and not isinstance(choice, Mapping):
        raise RequestError(f"{API}: tool_choice must be an object, got {shown(choice)}", param="tool_choice")
    kind = "auto" if choice is None else choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise RequestError(
            f"{API}: tool_choice/type must be 'auto', 'any', 'tool' or 'none', got {shown(kind)}", param="tool_choice"
        )
    if not (listed := body.get("tools")):
        if kind in ("any", "tool"):
            raise RequestError(f"{API}: tool_choice is given without tools; give tools too", param="tool_choice")
        return ToolUse()
    if not isinstance(listed, list):
        raise RequestError(f"{API}: tools must be a list of objects, got {shown(listed)}", param="tools")
    raw = [_tool(tool, f"tools/{i}") for i, tool in enumerate(listed)]
    specs = read_tools(API, raw, serving.runtime.tokenizer.control_texts)
    one = choice is not None and flag(API, choice, "disable_parallel_tool_use")
    most = 1 if one else None
    if kind == "tool":
        name = choice.get("name") if choice is not None else None
        allowed = named_tools(API, [name], specs)
        return ToolUse(specs, allowed, allowed[0].name, most)
    return ToolUse(specs, specs, "required" if kind == "any" else str(kind), most)


def _tool(tool: Any, at: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise RequestError(f"{API}: {at} must be an object, got {shown(tool)}", param=at)
    if tool.get("type") not in (None, "custom"):
        raise RequestError(
            f"{API}: {at}: tools of type {shown(tool['type'])} are run by another service; give a tool with an "
            "input_schema",
            param=at,
        )
    if not isinstance(tool.get("input_schema"), Mapping):
        raise RequestError(f"{API}: {at}/input_schema must be a JSON Schema of an object", param=f"{at}/input_schema")
    return {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": dict(tool["input_schema"]),
    }


# -- messages
def _system(system: Any) -> list[Said]:
    if system is None:
        return []
    text = _texts(system, "system")
    return [Said("system", text, "system")] if text else []


def _messages(listed: Any) -> list[Said]:
    if not isinstance(listed, list) or not listed:
        raise RequestError(f"{API}: messages must be a list with at least one message", param="messages")
    said: list[Said] = []
    for i, message in enumerate(listed):
        at = f"messages/{i}"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant", "system"):
            raise RequestError(f"{API}: {at}/role must be 'user' or 'assistant', got {shown(role)}", param=f"{at}/role")
        content = message.get("content")
        if role == "system":
            said.append(Said("system", _texts(content, f"{at}/content"), at))
        else:
            said += _blocks(role, content, at)
    if said[-1].role == "assistant":
        raise RequestError(
            f"{API}: the last message must be the user's: this server does not go on with a message of the assistant",
            param="messages",
        )
    return said


def _blocks(role: str, content: Any, at: str) -> list[Said]:
    if isinstance(content, str):
        return [Said(role, content, at)]
    if not isinstance(content, list):
        raise RequestError(f"{API}: {at}/content must be a text or a list of blocks, got {shown(content)}", param=at)
    texts: list[str] = []
    calls: list[ToolCall] = []
    said: list[Said] = []
    for j, block in enumerate(content):
        where = f"{at}/content/{j}"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind in ("thinking", "redacted_thinking") and role == "assistant":
            continue  # chat templates leave out reasoning of turns before
        elif kind == "tool_use" and role == "assistant":
            calls.append(_call(block, where))
        elif kind == "tool_result" and role == "user":
            if texts:
                said.append(Said(role, "\n".join(texts), at))
                texts = []
            said.append(_result(block, where))
        else:
            raise RequestError(
                f"{API}: {where} must be a block of text, a call or a call's result, in its place, got {shown(kind)}; "
                "the model reads text only",
                param=where,
            )
    if texts or calls or not said:
        said.append(Said(role, "\n".join(texts) if role == "user" else "".join(texts), at, tuple(calls)))
    return said


def _call(block: Mapping[str, Any], at: str) -> ToolCall:
    name, given, number = block.get("name"), block.get("input"), block.get("id")
    if not isinstance(name, str) or not isinstance(given, Mapping) or not isinstance(number, str):
        raise RequestError(f"{API}: {at} must have an id, a name, and an input that is an object", param=at)
    return ToolCall(name, dict(given), number)


def _result(block: Mapping[str, Any], at: str) -> Said:
    content = block.get("content")
    text = "" if content is None else _texts(content, f"{at}/content")
    if flag(API, block, "is_error"):
        text = f"Error: {text}"
    return Said("tool", text, at, (), block.get("tool_use_id"), "tool_use_id")


def _texts(content: Any, at: str) -> str:
    """A text, or the texts of a list of blocks, a line each."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)
        for block in content
    ):
        return "\n".join(block["text"] for block in content)
    raise RequestError(
        f"{API}: {at} must be a text or a list of blocks of text, got {shown(content)}; the model reads text only",
        param=at,
    )
