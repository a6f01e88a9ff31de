"""`/v1/chat/completions`: a conversation in, a message out, whole or as a stream. Knows nothing of HTTP.

A stream and a whole answer are written by the same `ChoiceWriter`, so they say the same.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....lang.sampling import shown
from ....lang.syntax import ArgumentsDelta, CallBegan, CallEvent, TextDelta, ThinkingDelta
from ...base import GenResult
from ...runtime.text.tokenizer import Tokenizer
from ..conversation import ConversationRequest, conversation, template_of
from ..errors import RequestError
from ..fields import CHAT, MESSAGE, count, flag
from ..serving import Serving
from ..transcripts import Said
from ..work import RequestWork
from .asked import MOST_TOP_LOGPROBS, constraint_field, constraint_of, sampling_of, wants_usage
from .logprobs import Shown, of_chat
from .tools import calls_of, tool_use

API = "chat.completions"
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ChatRequest:
    """A checked request."""

    conversation: ConversationRequest
    stream: bool
    usage: bool
    logprobs: bool


def read_chat(body: Mapping[str, Any], serving: Serving) -> ChatRequest:
    """Check a body. Raises `RequestError`, and the errors of constraints, tools and templates."""
    CHAT.check(body)
    template_of(API, serving.runtime)
    said, tools = _messages(body.get("messages")), tool_use(API, body, serving.runtime.tokenizer.control_texts)
    logprobs, top = flag(API, body, "logprobs"), body.get("top_logprobs")
    if top is not None and not logprobs:
        raise RequestError(f"{API}: top_logprobs needs logprobs: true", param="top_logprobs")
    tops = count(API, "top_logprobs", top or 0, MOST_TOP_LOGPROBS) if logprobs else None
    constraint = constraint_of(API, body)
    sampling = sampling_of(API, body, serving.runtime.options.context_length if constraint is None else None, tops)
    at, options = constraint_field(body), template_options(API, body)
    request = conversation(API, serving, said, tools, sampling, constraint, at, options)
    return ChatRequest(request, flag(API, body, "stream"), wants_usage(API, body), logprobs)


def template_options(api: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Further variables of the chat template that a request gives. Raises `RequestError`."""
    options = body.get("chat_template_kwargs") or {}
    own = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name not in own for name in options):
        raise RequestError(
            f"{api}: chat_template_kwargs must be an object, with other names than {', '.join(own)}",
            param="chat_template_kwargs",
        )
    if not all(value is None or isinstance(value, (bool, int, float)) or _is_word(value) for value in options.values()):
        raise RequestError(
            f"{api}: chat_template_kwargs may have true, false, numbers and words: the template prints them as its own "
            "text",
            param="chat_template_kwargs",
        )
    return dict(options)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_. -]{0,64}", value) is not None


# -- messages
def _messages(listed: Any) -> list[Said]:
    if not isinstance(listed, list) or not listed:
        raise RequestError(f"{API}: messages must be a list with at least one message", param="messages")
    said = []
    for i, message in enumerate(listed):
        at = f"messages/{i}"
        if not isinstance(message, Mapping):
            raise RequestError(f"{API}: {at} must be an object, got {shown(message)}", param=at)
        MESSAGE.check(message, f"{at}/")
        if message.get("role") not in _ROLES:
            raise RequestError(
                f"{API}: {at}/role must be one of {', '.join(_ROLES)}, got {shown(message.get('role'))}",
                param=f"{at}/role",
            )
        role = "system" if message["role"] == "developer" else message["role"]
        calls = calls_of(API, message, at) if role == "assistant" else ()
        said.append(Said(role, _text(message, at), at, calls, message.get("tool_call_id")))
    return said


def _text(message: Mapping[str, Any], at: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        return ""
    if not isinstance(content, list):
        raise RequestError(f"{API}: {at}/content must be a text or a list of parts, got {shown(content)}", param=at)
    texts = []
    for j, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
            raise RequestError(
                f"{API}: {at}/content/{j} must be a part of type 'text' with a text, got {shown(kind)}; the model "
                "reads text only",
                param=f"{at}/content/{j}",
            )
        texts.append(part[kind])
    return "".join(texts)


# -- answers
class ChoiceWriter:
    """Turns the text of one choice into deltas. `finish`: why it ended."""

    def __init__(self, request: ChatRequest, tokenizer: Tokenizer) -> None:
        self._reader = request.conversation.reader()
        self._shown = Shown(tokenizer) if request.logprobs else None
        self._tokenizer = tokenizer
        self._text = ""

    @property
    def finish(self) -> str | None:
        return self._reader.finish

    def write(self, text: str, so_far: GenResult | None, result: GenResult | None) -> list[dict[str, Any]]:
        """The deltas of more text; `logprobs`, if they are wanted, are in the last one."""
        self._text += text
        deltas = [delta for event in self._reader.read(text, result) if (delta := _delta(event))]
        known = result or so_far
        if self._shown is not None and known is not None:
            tokens = self._shown.take(known.logprobs or (), self._text, result is not None)
            if tokens:
                deltas = deltas or [{}]
                deltas[-1] = {**deltas[-1], "logprobs": of_chat(tokens, self._tokenizer)}
        return deltas


def _delta(event: CallEvent) -> dict[str, Any]:
    if isinstance(event, ThinkingDelta):
        return {"reasoning_content": event.text}
    if isinstance(event, TextDelta):
        return {"content": event.text}
    if isinstance(event, CallBegan):
        call = {"index": event.index, "id": event.id, "type": "function"}
        return {"tool_calls": [{**call, "function": {"name": event.name, "arguments": ""}}]}
    if isinstance(event, ArgumentsDelta):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.json}}]}
    return {}


def usage_of(results: Sequence[GenResult], prompts: int, each: int) -> dict[str, Any]:
    """The usage of `prompts` prompts with `each` samples: a prompt counts once."""
    groups = [results[i * each : (i + 1) * each] for i in range(prompts)]
    prompt = sum(group[0].usage.prompt for group in groups)
    cached = sum(min(result.usage.reused for result in group) for group in groups)
    written = sum(len(result.token_ids) for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def head(kind: str, id_begin: str, model: str) -> dict[str, Any]:
    """The fields that each answer begins with."""
    return {"id": f"{id_begin}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


async def answer(request: ChatRequest, work: RequestWork, model: str) -> dict[str, Any]:
    """The whole answer."""
    results = await work.results()
    choices = []
    for i, result in enumerate(results):
        writer = ChoiceWriter(request, work.backend.tokenizer)
        message, logprobs = _joined(writer.write(result.text, None, result))
        logprobs = logprobs or ({"content": [], "refusal": None} if request.logprobs else None)
        choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": writer.finish})
    usage = usage_of(results, 1, request.conversation.ask.n)
    return {**head("chat.completion", "chatcmpl", model), "choices": choices, "usage": usage}


def _joined(deltas: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """The message that deltas make, and its log-probabilities."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for name, parts in texts.items():
            parts.append(delta.get(name, ""))
        for part in delta.get("tool_calls", ()):
            if part["index"] == len(calls):
                calls.append({key: value for key, value in part.items() if key != "index"})
            else:
                function = calls[part["index"]]["function"]
                calls[part["index"]]["function"] = {
                    **function,
                    "arguments": function["arguments"] + part["function"]["arguments"],
                }
    content = "".join(texts["content"])
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    message["refusal"] = None
    if thinking := "".join(texts["reasoning_content"]):
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message, next((delta["logprobs"] for delta in deltas if "logprobs" in delta), None)


async def events(request: ChatRequest, work: RequestWork, model: str) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a stream."""
    top = head("chat.completion.chunk", "chatcmpl", model)
    more: dict[str, Any] = {"usage": None} if request.usage else {}
    writers = [ChoiceWriter(request, work.backend.tokenizer) for _ in work.calls]
    begun: set[int] = set()
    results: dict[int, GenResult] = {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        logprobs = delta.pop("logprobs", None)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**top, "choices": [choice], **more}

    async for growth in work.growths(request.logprobs):
        i, writer = growth.index, writers[growth.index]
        if i not in begun:
            begun.add(i)
            yield chunk(i, {"role": "assistant", "content": ""})
        for delta in writer.write(growth.text, growth.so_far, growth.result):
            yield chunk(i, delta)
        if growth.result is not None:
            results[i] = growth.result
            yield chunk(i, {}, writer.finish)
    if request.usage:
        usage = usage_of([results[i] for i in sorted(results)], 1, request.conversation.ask.n)
        yield {**top, "choices": [], "usage": usage}
