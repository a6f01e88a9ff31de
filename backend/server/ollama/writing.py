"""Answers of `/api/chat` and `/api/generate`, whole or as a stream of lines. Knows nothing of HTTP.

A whole answer is made of the lines of a stream, so the two say the same.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from datetime import datetime, timezone
from typing import Any

from ....lang.syntax import CallClosed, CallEvent, TextDelta, ThinkingDelta
from ...base import GenResult
from ..work import RequestWork
from .reading import OllamaRequest


class LineWriter:
    """Turns the text of an answer into lines. `chat`: of a chat, else of a prompt."""

    def __init__(self, request: OllamaRequest, model: str, chat: bool) -> None:
        self._reader = None if request.conversation is None else request.conversation.reader()
        self._model, self._chat = model, chat
        self._began = time.monotonic_ns()
        self._first: int | None = None

    def write(self, text: str, result: GenResult | None) -> list[dict[str, Any]]:
        """The lines of more text. `result` comes with the last of it."""
        self._first = self._first or time.monotonic_ns()
        events: list[CallEvent] = [TextDelta(text)] if text else []
        if self._reader is not None:
            events = self._reader.read(text, result)
        lines = [self._line(told) for event in events if (told := _told(event))]
        return [*lines, self.last(result)] if result is not None else lines

    def last(self, result: GenResult) -> dict[str, Any]:
        """The last line: why it ended, counts, and durations in nanoseconds."""
        now = time.monotonic_ns()
        first = self._first or now
        return {
            **self._line({"content": ""}),
            "done": True,
            "done_reason": "length" if result.finish_reason["type"] == "length" else "stop",
            "total_duration": now - self._began,
            "load_duration": 0,
            "prompt_eval_count": result.usage.prompt,
            "prompt_eval_duration": first - self._began,
            "eval_count": len(result.token_ids),
            "eval_duration": now - first,
        }

    def _line(self, told: dict[str, Any]) -> dict[str, Any]:
        head = {"model": self._model, "created_at": _now(), "done": False}
        if self._chat:
            return {**head, "message": {"role": "assistant", "content": "", **told}}
        told = {("response" if name == "content" else name): value for name, value in told.items()}
        return {**head, "response": "", **told}


def _told(event: CallEvent) -> dict[str, Any]:
    if isinstance(event, TextDelta):
        return {"content": event.text}
    if isinstance(event, ThinkingDelta):
        return {"thinking": event.text}
    if isinstance(event, CallClosed):
        return {"tool_calls": [{"function": {"name": event.call.name, "arguments": event.call.arguments}}]}
    return {}


def loaded(model: str, chat: bool) -> dict[str, Any]:
    """The answer to a request that asks for nothing but the model."""
    said = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": _now(), **said, "done": True, "done_reason": "load"}


async def answer(request: OllamaRequest, work: RequestWork, model: str, chat: bool) -> dict[str, Any]:
    """The whole answer."""
    writer = LineWriter(request, model, chat)
    (result,) = await work.results()
    *lines, last = writer.write(result.text, result)
    into = last["message"] if chat else last
    for line in lines:
        for name, value in (line["message"] if chat else line).items():
            if name in ("content", "response", "thinking", "tool_calls"):
                into[name] = into[name] + value if name in into else value
    return last


async def events(
    request: OllamaRequest, work: RequestWork, model: str, chat: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The lines of a stream."""
    writer = LineWriter(request, model, chat)
    async for growth in work.growths():
        for line in writer.write(growth.text, growth.result):
            yield line


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
