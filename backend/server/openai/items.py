"""What `/v1/responses` answers: the items of a response, whole or as a stream of events. Knows nothing of HTTP.

The whole response is what the events of a stream end with, so the two say the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from ....lang.syntax import ArgumentsDelta, CallBegan, CallEvent, TextDelta, ThinkingDelta
from ...base import GenResult
from ...runtime.text.tokenizer import Tokenizer
from ..answer import failed
from ..work import RequestWork
from .logprobs import Shown, of_chat
from .responses import ResponsesRequest

Event = dict[str, Any]
_AGAIN = (
    "instructions", "metadata", "temperature", "top_p", "max_output_tokens", "reasoning", "text", "truncation", "user",
    "prompt_cache_key", "safety_identifier", "max_tool_calls",
)  # fmt: skip
"""Fields of a request that its response tells again."""


class ResponseWriter:
    """Turns the text of a response into events. Items come one after another; at most one is open."""

    def __init__(self, request: ResponsesRequest, model: str, tokenizer: Tokenizer) -> None:
        self._request, self._tokenizer = request, tokenizer
        self._reader = request.conversation.reader()
        self._shown = Shown(tokenizer) if request.logprobs else None
        self._number = 0
        self._text = self._reasoning = ""
        self._items: list[dict[str, Any]] = []
        self._open: str | None = None
        self._response = _response(request, model)

    def begin(self) -> list[Event]:
        """The events that a stream begins with."""
        now = {**self._response, "status": "in_progress", "output": []}
        return [self._event(f"response.{kind}", response=now) for kind in ("created", "in_progress")]

    def write(self, text: str, so_far: GenResult | None, result: GenResult | None) -> list[Event]:
        """The events of more text. `result` comes with the last of it."""
        self._text += text
        found = [told for event in self._reader.read(text, result) for told in self._told(event)]
        self._add_logprobs(found, result or so_far, result is not None)
        return found

    def end(self, result: GenResult) -> list[Event]:
        """The last events; the very last has the whole response."""
        cut = self._reader.finish == "length"
        status = "incomplete" if cut else "completed"
        return [*self._close(status), self._event(f"response.{status}", response=self.whole(result))]

    def whole(self, result: GenResult) -> dict[str, Any]:
        """The whole response."""
        cut = self._reader.finish == "length"
        return {
            **self._response,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "completed_at": None if cut else time.time(),
            "output": self._items,
            "usage": self._usage(result),
        }

    def fail(self, message: str) -> Event:
        """The last event of a response that failed."""
        error = {"code": "server_error", "message": message}
        return self._event("response.failed", response={**self._response, "status": "failed", "error": error})

    def _usage(self, result: GenResult) -> dict[str, Any]:
        written = len(result.token_ids)
        thought = min(written, self._tokenizer.count(self._reasoning)) if self._reasoning else 0
        cached = min(result.usage.reused, result.usage.prompt)
        return {
            "input_tokens": result.usage.prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": result.usage.prompt + written,
        }

    # -- items
    def _told(self, event: CallEvent) -> list[Event]:
        if isinstance(event, TextDelta):
            begun = self._begin_message() if self._open != "message" else []
            self._part["text"] += event.text
            return [*begun, self._of_part("response.output_text.delta", delta=event.text, logprobs=[])]
        if isinstance(event, ThinkingDelta):
            begun = self._begin_reasoning() if self._open != "reasoning" else []
            self._part["text"] += event.text
            self._reasoning += event.text
            return [*begun, self._of_part("response.reasoning_text.delta", delta=event.text)]
        if isinstance(event, CallBegan):
            call = {"type": "function_call", "call_id": event.id, "name": event.name, "arguments": ""}
            if (space := self._request.spaces.get(event.name)) is not None:
                call["namespace"] = space
            return [*self._close(), self._add("function_call", "fc", call)]
        if isinstance(event, ArgumentsDelta):
            self._items[-1]["arguments"] += event.json
            return [self._of_item("response.function_call_arguments.delta", delta=event.json)]
        return self._close()

    def _begin_message(self) -> list[Event]:
        begun = [*self._close(), self._add("message", "msg", {"type": "message", "role": "assistant", "content": []})]
        return [*begun, self._add_part({"type": "output_text", "text": "", "annotations": [], "logprobs": []})]

    def _begin_reasoning(self) -> list[Event]:
        begun = [*self._close(), self._add("reasoning", "rs", {"type": "reasoning", "summary": [], "content": []})]
        return [*begun, self._add_part({"type": "reasoning_text", "text": ""})]

    def _add(self, kind: str, name: str, item: dict[str, Any]) -> Event:
        self._open = kind
        self._items.append({"id": f"{name}_{secrets.token_hex(12)}", **item, "status": "in_progress"})
        return self._of_output("response.output_item.added", item=_copied(self._items[-1]))

    def _add_part(self, part: dict[str, Any]) -> Event:
        self._items[-1]["content"].append(part)
        return self._of_part(
            "response.content_part.added", part={**part, **({"logprobs": []} if "logprobs" in part else {})}
        )

    @property
    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self._items[-1]["content"][-1]
        return part

    def _close(self, status: str = "completed") -> list[Event]:
        """End the item that is open."""
        if self._open is None:
            return []
        kind, self._open = self._open, None
        found = []
        if kind == "function_call":
            done = {"arguments": self._items[-1]["arguments"], "name": self._items[-1]["name"]}
            found.append(self._of_item("response.function_call_arguments.done", **done))
        else:
            part = self._part
            more = {"logprobs": part["logprobs"]} if kind == "message" else {}
            name = "response.output_text.done" if kind == "message" else "response.reasoning_text.done"
            found.append(self._of_part(name, text=part["text"], **more))
            found.append(self._of_part("response.content_part.done", part=dict(part)))
        self._items[-1]["status"] = status
        return [*found, self._of_output("response.output_item.done", item=_copied(self._items[-1]))]

    def _add_logprobs(self, events: list[Event], known: GenResult | None, done: bool) -> None:
        """Put the log-probabilities of new tokens on the last delta of text among `events`, and on its part."""
        if self._shown is None or known is None:
            return
        tokens = self._shown.take(known.logprobs or (), self._text, done)
        last = next((e for e in reversed(events) if e["type"] == "response.output_text.delta"), None)
        if tokens and last is None and self._open == "message":  # their text was told before
            last = self._of_part("response.output_text.delta", delta="", logprobs=[])
            events.append(last)
        if tokens and last is not None:
            told = of_chat(tokens, self._tokenizer)["content"]
            last["logprobs"] = told
            self._items[last["output_index"]]["content"][-1]["logprobs"] += told

    # -- events
    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _of_output(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, output_index=len(self._items) - 1, **fields)

    def _of_item(self, kind: str, **fields: Any) -> Event:
        return self._of_output(kind, item_id=self._items[-1]["id"], **fields)

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)


def _new(part: dict[str, Any]) -> dict[str, Any]:
    return {name: [] if isinstance(value, list) else value for name, value in part.items()}


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is now: it grows after the event that tells of it."""
    return {**item, "content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)


def _response(request: ResponsesRequest, model: str) -> dict[str, Any]:
    body = request.body
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": time.time(),
        "model": model,
        "error": None,
        "incomplete_details": None,
        "tools": body.get("tools") or [],
        "tool_choice": body.get("tool_choice") or "auto",
        "parallel_tool_calls": body.get("parallel_tool_calls", True) is not False,
        "previous_response_id": None,
        "background": False,
        "store": False,
        "service_tier": "default",
        "usage": None,
        **{name: body.get(name) for name in _AGAIN},
    }


async def answer(request: ResponsesRequest, work: RequestWork, model: str) -> dict[str, Any]:
    """The whole response."""
    (result,) = await work.results()
    writer = ResponseWriter(request, model, work.backend.tokenizer)
    writer.write(result.text, None, result)
    whole: dict[str, Any] = writer.end(result)[-1]["response"]
    return whole


async def events(request: ResponsesRequest, work: RequestWork, model: str) -> AsyncGenerator[Event, None]:
    """The events of a stream."""
    writer = ResponseWriter(request, model, work.backend.tokenizer)
    begun = False
    try:
        async for growth in work.growths(request.logprobs):
            if not begun:
                begun = True
                for event in writer.begin():
                    yield event
            for event in writer.write(growth.text, growth.so_far, growth.result):
                yield event
            if growth.result is not None:
                for event in writer.end(growth.result):
                    yield event
    except Exception as error:
        if not begun:  # it is a status of its own
            raise
        yield writer.fail(failed("/v1/responses", error)[1]["error"]["message"])
