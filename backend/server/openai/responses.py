"""A body of `/v1/responses` as a conversation. Nothing is kept: a client sends all items.

Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....lang.sampling import shown
from ....lang.tools.spec import ToolCall
from ..conversation import ConversationRequest, conversation, reasoning_option, template_of
from ..errors import RequestError
from ..fields import RESPONSES, count, flag
from ..serving import Serving
from ..transcripts import Said
from .asked import MOST_TOP_LOGPROBS, constraint_field, constraint_of, sampling_of
from .chat import template_options
from .tools import arguments_of, tool_use

API = "responses"
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_LEFT_OUT = ("web_search", "web_search_preview", "web_search_2025_08_26")
"""Tools of other services that are left out with a warning, unless the model must use them."""
_LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True)
class ResponsesRequest:
    """A checked request. `body`: as it came, for the fields that an answer tells again.

    `spaces`: the namespaces of functions that are of one.
    """

    conversation: ConversationRequest
    body: Mapping[str, Any]
    stream: bool
    logprobs: bool
    spaces: Mapping[str, str]


def read_responses(body: Mapping[str, Any], serving: Serving) -> ResponsesRequest:
    """Check a body. Raises `RequestError`, and the errors of constraints, tools and templates."""
    RESPONSES.check(body)
    template_of(API, serving.runtime)
    said = _said(body)
    told, spaces = _with_tools(body)
    tools = tool_use(API, told, serving.runtime.tokenizer.control_texts)
    logprobs = _includes_logprobs(body)
    asked = count(API, "top_logprobs", body.get("top_logprobs") or 0, MOST_TOP_LOGPROBS)
    _check_text(body)
    constraint = constraint_of(API, body)
    default = serving.runtime.options.context_length if constraint is None else None
    sampling = sampling_of(API, body, default, asked if logprobs else None)
    options = {**template_options(API, body), **_reasoning(body, serving)}
    request = conversation(API, serving, said, tools, sampling, constraint, constraint_field(body), options)
    _check_stream_options(body)
    return ResponsesRequest(request, body, flag(API, body, "stream"), logprobs, spaces)


def _includes_logprobs(body: Mapping[str, Any]) -> bool:
    include = body.get("include") or []
    if not isinstance(include, list) or not all(isinstance(each, str) for each in include):
        raise RequestError(f"{API}: include must be a list of texts, got {shown(include)}", param="include")
    return _LOGPROBS in include


def _check_stream_options(body: Mapping[str, Any]) -> None:
    options = body.get("stream_options")
    if options is not None and (not isinstance(options, Mapping) or options.keys() - {"include_obfuscation"}):
        raise RequestError(
            f"{API}: stream_options may have include_obfuscation, got {shown(options)}", param="stream_options"
        )


def _check_text(body: Mapping[str, Any]) -> None:
    text = body.get("text")
    if text is not None and not isinstance(text, Mapping):
        raise RequestError(f"{API}: text must be an object, got {shown(text)}", param="text")
    if text is not None and text.get("verbosity") not in (None, "medium"):
        raise RequestError(
            f"{API}: text/verbosity is not supported by this server, and would change the text; say it in a message",
            param="text/verbosity",
            code="unsupported_field",
        )


def _reasoning(body: Mapping[str, Any], serving: Serving) -> dict[str, Any]:
    """What the template is told of reasoning. An effort is a wish; only "none" switches reasoning off."""
    asked = body.get("reasoning")
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        raise RequestError(f"{API}: reasoning must be an object, got {shown(asked)}", param="reasoning")
    return reasoning_option(API, "reasoning/effort", serving.runtime, False if asked.get("effort") == "none" else None)


def _with_tools(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The body, with its tools as functions, and the namespaces that functions are of."""
    tools = body.get("tools")
    if not isinstance(tools, list):
        return body, {}
    functions: list[dict[str, Any]] = []
    spaces: dict[str, str] = {}
    for i, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "function":
            functions.append(_function(tool))
        elif kind == "namespace" and isinstance(tool.get("tools"), list):
            own = [_function(each) for each in tool["tools"] if isinstance(each, Mapping)]
            spaces |= {str(each["name"]): str(tool.get("name")) for each in own}
            functions += own
        elif kind in _LEFT_OUT and _names(body.get("tool_choice")) != kind:
            RESPONSES.warn(f"tools of type {kind}")  # coding clients offer them to every server
        else:
            raise RequestError(
                f"{API}: tools/{i} must be of type 'function', got {shown(kind)}; this server runs no tools of its own",
                param=f"tools/{i}",
            )
    return {**body, "tools": functions}, spaces


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    return {"name": tool.get("name"), "description": tool.get("description") or "", "parameters": parameters}


def _names(choice: Any) -> Any:
    return choice.get("type") if isinstance(choice, Mapping) else None


# -- items
def _said(body: Mapping[str, Any]) -> list[Said]:
    """The messages of a conversation. Items that follow one another and make one message are one."""
    said: list[Said] = []
    instructions, given = body.get("instructions"), body.get("input")
    if instructions is not None and not isinstance(instructions, str):
        raise RequestError(f"{API}: instructions must be a text, got {shown(instructions)}", param="instructions")
    if instructions:
        said.append(Said("system", instructions, "instructions"))
    if isinstance(given, str):
        return [*said, Said("user", given, "input")]
    if not isinstance(given, list) or not given:
        raise RequestError(f"{API}: input must be a text or a list of items, got {shown(given)}", param="input")
    for i, item in enumerate(given):
        at = f"input/{i}"
        if not isinstance(item, Mapping):
            raise RequestError(f"{API}: {at} must be an object, got {shown(item)}", param=at)
        kind = item.get("type", "message")
        if kind == "message":
            _add_message(said, item, at)
        elif kind == "function_call":
            _add_call(said, item, at)
        elif kind == "function_call_output":
            text = _text(item.get("output"), f"{at}/output")
            said.append(Said("tool", text, at, (), item.get("call_id"), "call_id"))
        elif kind != "reasoning":  # chat templates leave out reasoning of turns before
            raise RequestError(
                f"{API}: {at} must be a message, a function_call, a function_call_output or reasoning, got "
                f"{shown(kind)}",
                param=at,
            )
    return said


def _add_message(said: list[Said], item: Mapping[str, Any], at: str) -> None:
    role = _ROLES.get(str(item.get("role")))
    if role is None:
        raise RequestError(
            f"{API}: {at}/role must be one of {', '.join(_ROLES)}, got {shown(item.get('role'))}", param=f"{at}/role"
        )
    text = _text(item.get("content"), f"{at}/content")
    last = said[-1] if said else None
    if last is not None and last.role == role == "system" and len(said) == 1:
        said[-1] = replace(last, text=f"{last.text}\n\n{text}")  # templates know one system message, the first
    else:
        said.append(Said(role, text, at))


def _add_call(said: list[Said], item: Mapping[str, Any], at: str) -> None:
    name, number = item.get("name"), item.get("call_id")
    if not isinstance(name, str) or not isinstance(number, str):
        raise RequestError(f"{API}: {at} must have a name and a call_id", param=at)
    call = ToolCall(name, arguments_of(API, item.get("arguments"), at), number)
    if said and said[-1].role == "assistant":
        said[-1] = replace(said[-1], calls=(*said[-1].calls, call))
    else:
        said.append(Said("assistant", "", at, (call,)))


def _text(content: Any, at: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{API}: {at} must be a text or a list of parts, got {shown(content)}", param=at)
    texts = []
    for j, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
        if kind not in ("input_text", "output_text", "text", "refusal") or not isinstance(text, str):
            raise RequestError(
                f"{API}: {at}/{j} must be a part of type 'input_text' or 'output_text' with a text, got {shown(kind)}; "
                "the model reads text only",
                param=f"{at}/{j}",
            )
        texts.append(text)
    return "".join(texts)
