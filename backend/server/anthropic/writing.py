"""A message of `/v1/messages`, whole or as a stream. Knows nothing of HTTP.

The whole message is made of the events of a stream, so the two say the same.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from ....lang.syntax import ArgumentsDelta, CallBegan, CallEvent, TextDelta, ThinkingDelta
from ...base import GenResult
from ..wire import paced
from ..work import RequestWork
from .reading import MessagesRequest

PING_SECONDS = 5.0
"""Silence after which a stream says that it lives."""
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageWriter:
    """Turns the text of a message into the events of its content blocks."""

    def __init__(self, request: MessagesRequest) -> None:
        self._request = request
        self._reader = request.conversation.reader()
        self._index = -1
        self._kind: str | None = None

    def write(self, text: str, result: GenResult | None) -> list[dict[str, Any]]:
        """The events of more text. `result` comes with the last of it."""
        found = [told for event in self._reader.read(text, result) for told in self._told(event)]
        return [*found, *self._close()] if result is not None else found

    def stop(self, result: GenResult) -> dict[str, Any]:
        """Why the message ended."""
        matched = result.finish_reason.get("matched")
        if self._reader.finish == "stop" and matched in self._request.stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": matched}
        return {"stop_reason": _STOPS[str(self._reader.finish)], "stop_sequence": None}

    def _told(self, event: CallEvent) -> list[dict[str, Any]]:
        if isinstance(event, TextDelta):
            begun = self._open("text", {"type": "text", "text": ""})
            return [*begun, self._delta({"type": "text_delta", "text": event.text})]
        if isinstance(event, ThinkingDelta):
            begun = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return [*begun, self._delta({"type": "thinking_delta", "thinking": event.text})]
        if isinstance(event, CallBegan):
            call = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            return self._open("tool_use", call, again=True)
        if isinstance(event, ArgumentsDelta):
            return [self._delta({"type": "input_json_delta", "partial_json": event.json})]
        return []

    def _open(self, kind: str, block: dict[str, Any], again: bool = False) -> list[dict[str, Any]]:
        if self._kind == kind and not again:
            return []
        closed = self._close()
        self._kind, self._index = kind, self._index + 1
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _close(self) -> list[dict[str, Any]]:
        if self._kind is None:
            return []
        self._kind = None
        return [{"type": "content_block_stop", "index": self._index}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _usage(result: GenResult) -> dict[str, Any]:
    cached = min(result.usage.reused, result.usage.prompt)
    return {
        "input_tokens": result.usage.prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": len(result.token_ids),
    }


def _head(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    number = f"msg_{secrets.token_hex(12)}"
    message = {"id": number, "type": "message", "role": "assistant", "model": model, "content": []}
    return {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}


async def answer(request: MessagesRequest, work: RequestWork, model: str) -> dict[str, Any]:
    """The whole message."""
    (result,) = await work.results()
    writer = MessageWriter(request)
    content = _content(writer.write(result.text, result))
    return {**_head(model, _usage(result)), "content": content, **writer.stop(result)}


def _content(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks that the events of a stream make."""
    blocks: list[dict[str, Any]] = []
    written: list[str] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            written.append("")
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            written[-1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
    for block, text in zip(blocks, written):
        if block["type"] == "tool_use":
            block["input"] = _parsed(text)
        else:
            block[block["type"]] = text
    return blocks


def _parsed(text: str) -> Any:
    """The arguments of a call; those of one that was cut off are none."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


async def events(request: MessagesRequest, work: RequestWork, model: str) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream. While nothing is written, `ping` says that the server lives."""
    usage = {"input_tokens": request.prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    begin = {"type": "message_start", "message": _head(model, {**usage, "output_tokens": 0})}
    writer = MessageWriter(request)
    begun = False
    async for growth in paced(work.growths(), PING_SECONDS):
        if not begun:
            begun = True
            yield begin
        if growth is None:
            yield {"type": "ping"}
            continue
        for event in writer.write(growth.text, growth.result):
            yield event
        if growth.result is not None:
            yield {"type": "message_delta", "delta": writer.stop(growth.result), "usage": _usage(growth.result)}
    yield {"type": "message_stop"}
