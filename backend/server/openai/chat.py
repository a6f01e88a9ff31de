"""`/v1/chat/completions`: a conversation in, a message out, whole or as a stream. Knows nothing of HTTP.

A stream and a whole answer are written by the same `ChoiceWriter`, so they say the same.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....lang.chat import ChatTemplate
from ....lang.errors import OptionError
from ....lang.sampling import shown
from ....lang.syntax import ArgumentsDelta, CallBegan, CallEvent, CallReader, CallSyntax, TextDelta, ThinkingDelta
from ....lang.syntax.matching import shows_tools
from ...base import GenResult
from ...runtime.local import LocalBackend
from ...runtime.text.tokenizer import Tokenizer
from ..errors import RequestError
from ..fields import CHAT, MESSAGE, count, flag
from ..turns import Pieces, Turn, rendered_turns
from ..work import PromptRequest, RequestWork
from .asked import MOST_TOP_LOGPROBS, constraint_of, prepare, sampling_of, wants_usage
from .calling import API, Calling, calling_of, calls_of
from .logprobs import Shown, of_chat

_TOOL_ROLE = re.compile(r"""["']tool["']""")
"""What a chat template that knows the role of tools' results has in its source."""
_ROLES = ("system", "developer", "user", "assistant", "tool")
_RESULT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


@dataclass(frozen=True)
class ChatRequest:
    """A checked request."""

    ask: PromptRequest
    calling: Calling
    stream: bool
    usage: bool
    logprobs: bool


def read_chat(body: Mapping[str, Any], backend: LocalBackend) -> ChatRequest:
    """Check a body. Raises `RequestError`, and the errors of constraints, tools and templates."""
    CHAT.check(body)
    if (template := backend.chat_template) is None:
        raise RequestError(f"{API}: this model has no chat template; use /v1/completions, or pass --chat-template")
    controls = backend.tokenizer.control_texts
    messages = _messages(body.get("messages"))
    calling = calling_of(body, template, controls, messages)
    turns, options = _turns(messages, calling, template), _options(body)
    if calling.specs and shows_tools(template):
        options["tools"] = [spec.openai() for spec in calling.specs]
    prompt = rendered_turns(template, turns, controls, **options)
    calling = replace(calling, thinking=_thinking(calling.syntax, prompt, template))
    logprobs, top = flag(API, body, "logprobs"), body.get("top_logprobs")
    if top is not None and not logprobs:
        raise RequestError(f"{API}: top_logprobs needs logprobs: true", param="top_logprobs")
    tops = count(API, "top_logprobs", top or 0, MOST_TOP_LOGPROBS) if logprobs else None
    constraint = constraint_of(API, body)
    sampling = sampling_of(API, body, backend.options.context_length if constraint is None else None, tops)
    ask = PromptRequest(prompt, sampling, sampling.n or 1, calling.constraint(constraint))
    prepare(API, body, backend, ask.constraint, calling.allowed)
    return ChatRequest(ask, calling, flag(API, body, "stream"), wants_usage(API, body), logprobs)


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    options = body.get("chat_template_kwargs") or {}
    own = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name not in own for name in options):
        raise RequestError(
            f"{API}: chat_template_kwargs must be an object, with other names than {', '.join(own)}",
            param="chat_template_kwargs",
        )
    if not all(value is None or isinstance(value, (bool, int, float)) or _is_word(value) for value in options.values()):
        raise RequestError(
            f"{API}: chat_template_kwargs may have true, false, numbers and words: the template prints them as its own "
            "text",
            param="chat_template_kwargs",
        )
    return dict(options)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_. -]{0,64}", value) is not None


def _thinking(syntax: CallSyntax, prompt: Pieces, template: ChatTemplate) -> Any:
    """Whether reasoning comes first: the prompt has begun it, or the template speaks of it."""
    if syntax.thinking is None:
        return "none"
    if syntax.opens_thinking("".join(text for text, _ in prompt[-2:])):
        return "open"
    return "auto" if syntax.thinking.begin.strip() in template.source else "none"


# -- messages
def _messages(listed: Any) -> list[Mapping[str, Any]]:
    if not isinstance(listed, list) or not listed:
        raise RequestError(f"{API}: messages must be a list with at least one message", param="messages")
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
    return listed


def _turns(messages: Sequence[Mapping[str, Any]], calling: Calling, template: ChatTemplate) -> list[Turn]:
    """The turns that the template is rendered with."""
    knows_results = _TOOL_ROLE.search(template.source) is not None
    names: dict[str, str] = {}  # of calls, by id
    turns: list[Turn] = []
    results: list[str] = []
    for i, message in enumerate(messages):
        at, role = f"messages/{i}", message["role"]
        text = _text(message, at)
        if role == "tool":
            turn = _result(message, text, names, at)
            if knows_results:
                turns.append(turn)
            else:
                results.append(text)
            continue
        lead = ""
        if results:
            shown_as, said = calling.syntax.result_turn(results)
            results = []
            if shown_as == role:  # such turns may not follow one another
                lead = said + "\n"
            else:
                turns.append(Turn(shown_as, [(said, False)]))
        if role == "assistant":
            calls = calls_of(message, at)
            names |= {call.id: call.name for call in calls}
            try:
                content = calling.syntax.pieces(calls, text) if calls else [(text, False)]
            except OptionError as error:
                raise RequestError(f"{API}: {at}/tool_calls: {error}", param=f"{at}/tool_calls") from None
            turns.append(Turn(role, content))
        else:
            turns.append(Turn("system" if role == "developer" else role, [(lead + text, False)]))
    if results:
        shown_as, said = calling.syntax.result_turn(results)
        turns.append(Turn(shown_as, [(said, False)]))
    return _with_tools(turns, calling) if calling.specs and not shows_tools(template) else turns


def _with_tools(turns: list[Turn], calling: Calling) -> list[Turn]:
    """Show the tools at the end of the system's message: the template shows none."""
    told = calling.syntax.prompt(calling.specs)
    if turns[0].role == "system":
        return [Turn("system", [(f"{turns[0].text}\n\n{told}", False)]), *turns[1:]]
    return [Turn("system", [(told, False)]), *turns]


def _result(message: Mapping[str, Any], text: str, names: Mapping[str, str], at: str) -> Turn:
    answers = message.get("tool_call_id")
    if not isinstance(answers, str) or not _RESULT_ID.fullmatch(answers) or answers not in names:
        raise RequestError(
            f"{API}: {at}/tool_call_id must be the id of a call in a message before, got {shown(answers)}",
            param=f"{at}/tool_call_id",
        )
    return Turn("tool", [(text, False)], {"name": names[answers], "tool_call_id": answers})


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
        self._reader: CallReader | None = request.calling.reader(request.ask.constraint)
        self._syntax = request.calling.syntax
        self._shown = Shown(tokenizer) if request.logprobs else None
        self._tokenizer = tokenizer
        self._text = ""
        self._held = ""  # what may stand between a text and calls
        self._calls = 0
        self.finish: str | None = None

    def write(self, text: str, so_far: GenResult | None, result: GenResult | None) -> list[dict[str, Any]]:
        """The deltas of more text; `logprobs`, if they are wanted, are in the last one."""
        self._text += text
        deltas = self._deltas(text, result is not None)
        known = result or so_far
        if self._shown is not None and known is not None:
            tokens = self._shown.take(known.logprobs or (), self._text, result is not None)
            if tokens:
                deltas = deltas or [{}]
                deltas[-1] = {**deltas[-1], "logprobs": of_chat(tokens, self._tokenizer)}
        if result is not None:
            kind = result.finish_reason["type"]
            self.finish = "tool_calls" if self._calls and kind == "stop" else str(kind)
        return deltas

    def _deltas(self, text: str, done: bool) -> list[dict[str, Any]]:
        if self._reader is None:
            return [{"content": text}] if text else []
        events = self._reader.feed(text)
        if done:
            events = [*events, *self._reader.close()]
        found = [delta for event in events for delta in self._delta(event)]
        if done and self._held:
            found.append({"content": self._held})
            self._held = ""
        return found

    def _delta(self, event: CallEvent) -> list[dict[str, Any]]:
        if isinstance(event, ThinkingDelta):
            return [{"reasoning_content": event.text}] if event.text else []
        if isinstance(event, TextDelta):
            text = self._held + event.text
            ends = [lead[:i] for lead in (self._syntax.lead, self._syntax.alone) for i in range(len(lead), 0, -1)]
            self._held = max((end for end in ends if text.endswith(end)), key=len, default="")
            text = text[: len(text) - len(self._held)]
            return [{"content": text}] if text else []
        if isinstance(event, CallBegan):
            self._calls += 1
            held, self._held = self._syntax.content(self._held), ""
            call = {"index": event.index, "id": event.id, "type": "function"}
            begun = {"tool_calls": [{**call, "function": {"name": event.name, "arguments": ""}}]}
            return [{"content": held}, begun] if held else [begun]
        if isinstance(event, ArgumentsDelta):
            return [{"tool_calls": [{"index": event.index, "function": {"arguments": event.json}}]}]
        return []


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
    usage = usage_of(results, 1, request.ask.n)
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
        usage = usage_of([results[i] for i in sorted(results)], 1, request.ask.n)
        yield {**top, "choices": [], "usage": usage}
