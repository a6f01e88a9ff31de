"""Bodies of `/api/chat` and `/api/generate` as what the model is asked. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....lang.constraint import Constraint, json_schema
from ....lang.errors import ConstraintError, OptionError
from ....lang.sampling import Sampling, shown
from ....lang.tools.spec import ToolCall, call_id
from ..calling import ToolUse, prepare, read_tools
from ..conversation import ConversationRequest, conversation, reasoning_option
from ..errors import RequestError
from ..fields import OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_MESSAGE, OLLAMA_OPTIONS, FieldTable, flag
from ..serving import Serving
from ..transcripts import Said
from ..work import PromptRequest

_SAMPLED = {
    "num_predict": "max_tokens", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "seed": "seed", "stop": "stop", "repeat_penalty": "repetition_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}  # fmt: skip
"""Ollama's options, and the options of `gen` that they are."""


@dataclass(frozen=True)
class OllamaRequest:
    """A checked request. `conversation` is None where the prompt is continued as it is."""

    ask: PromptRequest
    conversation: ConversationRequest | None
    stream: bool


def read_chat(body: Mapping[str, Any], serving: Serving) -> OllamaRequest:
    """Check a body of `/api/chat`. Raises `RequestError`."""
    table = OLLAMA_CHAT
    table.check(body)
    tools = ToolUse()
    if body.get("tools"):
        specs = read_tools(table.api, body["tools"], serving.runtime.tokenizer.control_texts)
        tools = ToolUse(specs, specs, "auto")
    said = _messages(table.api, body.get("messages"))
    return _asked(table, body, serving, said, tools)


def read_generate(body: Mapping[str, Any], serving: Serving) -> OllamaRequest:
    """Check a body of `/api/generate`. Raises `RequestError`."""
    table = OLLAMA_GENERATE
    table.check(body)
    for name in ("prompt", "system"):
        if not isinstance(body.get(name, ""), str):
            raise RequestError(f"{table.api}: {name} must be a text, got {shown(body[name])}", param=name)
    prompt, system = body.get("prompt", ""), body.get("system", "")
    if flag(table.api, body, "raw") or serving.runtime.chat_template is None:
        if system:
            raise RequestError(
                f"{table.api}: system needs the chat template; put it into the prompt, or leave out raw", param="system"
            )
        constraint = _format(table.api, body)
        prepare(table.api, "format", serving.runtime, constraint)
        sampling = _sampling(table.api, body, serving, constraint)
        return OllamaRequest(PromptRequest([(prompt, True)], sampling, 1, constraint), None, _streams(table.api, body))
    said = [Said("system", system, "system")] if system else []
    return _asked(table, body, serving, [*said, Said("user", prompt, "prompt")], ToolUse())


def loads_only(body: Mapping[str, Any], chat: bool) -> bool:
    """Whether a body asks for nothing but the model, which is loaded already."""
    return body.get("messages" if chat else "prompt") in (None, "", [])


def _asked(
    table: FieldTable, body: Mapping[str, Any], serving: Serving, said: list[Said], tools: ToolUse
) -> OllamaRequest:
    constraint = _format(table.api, body)
    sampling = _sampling(table.api, body, serving, constraint)
    wanted = None if body.get("think") is None else flag(table.api, body, "think")
    options = reasoning_option(table.api, "think", serving.runtime, wanted)
    request = conversation(table.api, serving, said, tools, sampling, constraint, "format", options)
    return OllamaRequest(request.ask, request, _streams(table.api, body))


def _streams(api: str, body: Mapping[str, Any]) -> bool:
    return flag(api, body, "stream", True)


def _format(api: str, body: Mapping[str, Any]) -> Constraint | None:
    form = body.get("format")
    if form is None or form == "":
        return None
    if form == "json":
        return json_schema({"type": "object"})
    if not isinstance(form, Mapping):
        raise RequestError(f"{api}: format must be 'json' or a JSON Schema, got {shown(form)}", param="format")
    try:
        return json_schema(dict(form))
    except (OptionError, ConstraintError) as error:
        raise RequestError(f"{api}: format: {error}", param="format", code="invalid_constraint") from None


def _sampling(api: str, body: Mapping[str, Any], serving: Serving, constraint: Constraint | None) -> Sampling:
    options = body.get("options") or {}
    if not isinstance(options, Mapping):
        raise RequestError(f"{api}: options must be an object, got {shown(options)}", param="options")
    OLLAMA_OPTIONS.check(options, "options/")
    given = {_SAMPLED[name]: value for name, value in options.items() if name in _SAMPLED and value is not None}
    if given.get("max_tokens") in (-1, -2):
        del given["max_tokens"]  # no end but the context's
    if given.get("top_k") == 0:
        del given["top_k"]
    if given.get("stop") == []:
        del given["stop"]
    if isinstance(given.get("seed"), int) and given["seed"] < 0:
        del given["seed"]
    if constraint is None:
        given.setdefault("max_tokens", serving.runtime.options.context_length)
    for name, value in given.items():
        try:
            Sampling.of(api, **{name: value})
        except (OptionError, ConstraintError) as error:
            own = next(key for key, option in _SAMPLED.items() if option == name)
            raise RequestError(
                str(error).replace(f"{api}: {name}", f"{api}: options/{own}", 1), param=f"options/{own}"
            ) from None
    return Sampling.of(api, **given)


# -- messages
def _messages(api: str, listed: Any) -> list[Said]:
    if not isinstance(listed, list):
        raise RequestError(f"{api}: messages must be a list of messages, got {shown(listed)}", param="messages")
    said: list[Said] = []
    waiting: list[ToolCall] = []  # calls without a result so far
    turn = 0
    for i, message in enumerate(listed):
        at = f"messages/{i}"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("system", "user", "assistant", "tool"):
            raise RequestError(
                f"{api}: {at}/role must be 'system', 'user', 'assistant' or 'tool', got {shown(role)}",
                param=f"{at}/role",
            )
        OLLAMA_MESSAGE.check(message, f"{at}/")
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise RequestError(f"{api}: {at}/content must be a text, got {shown(text)}", param=f"{at}/content")
        if role == "tool":
            said.append(Said(role, text, at, (), _answered(waiting, message), "tool_name"))
        elif role == "assistant" and message.get("tool_calls"):
            calls = tuple(_calls(api, message["tool_calls"], turn, f"{at}/tool_calls"))
            waiting, turn = list(calls), turn + 1
            said.append(Said(role, text, at, calls))
        else:
            said.append(Said(role, text, at))
    return said


def _answered(waiting: list[ToolCall], message: Mapping[str, Any]) -> str | None:
    """The id of the call that a result is of: the first without one, of that name if one is given."""
    name = message.get("tool_name") or message.get("name")
    for i, call in enumerate(waiting):
        if name is None or call.name == name:
            return waiting.pop(i).id
    return None


def _calls(api: str, listed: Any, turn: int, at: str) -> list[ToolCall]:
    if not isinstance(listed, list):
        raise RequestError(f"{api}: {at} must be a list, got {shown(listed)}", param=at)
    calls = []
    for i, item in enumerate(listed):
        function = item.get("function") if isinstance(item, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        arguments = function.get("arguments", {}) if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise RequestError(f"{api}: {at}/{i} must have a function with a name and arguments", param=f"{at}/{i}")
        calls.append(ToolCall(name, dict(arguments), call_id(turn, i)))
    return calls
