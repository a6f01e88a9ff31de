"""Bodies in, JSON and event streams out, and a client that goes away. Knows nothing of what is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import RequestError

T = TypeVar("T")
StreamForm = Literal["data", "typed", "lines"]
MEDIA_TYPES: dict[StreamForm, str] = {
    "data": "text/event-stream",
    "typed": "text/event-stream",
    "lines": "application/x-ndjson",
}


async def read_json(request: Request, most_bytes: int) -> dict[str, Any]:
    """The body of a request, an object. Raises `RequestError`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise RequestError(f"the body has more than {most_bytes} bytes (--max-request-bytes)", status=413)
        chunks.append(chunk)
    try:
        body = json.loads(b"".join(chunks), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {str(error) or type(error).__name__:.200}") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def encoded(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Json(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encoded(content)


async def unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """The result of `work`, which is cancelled when the client goes away; None then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await each


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """A stream of events. The generator is closed when the client goes away, or when it is over.

    The first event is waited for before the status is sent, so that an error before it is a status of its own.
    `failed` makes the last event of an error after that.

    `form`: "data" (each event as data, "[DONE]" at the end), "typed" (each event's own `type` is the name of the event
    too), or "lines" (JSON, a line each).
    """

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        failed: Callable[[BaseException], tuple[int, Any]],
        form: StreamForm = "data",
    ) -> None:
        self._events, self._failed, self._form = events, failed, form
        self.media_type = MEDIA_TYPES[form]
        self.status_code = 200
        self.background = None
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for each in (sending, gone):
                if not each.done():
                    each.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await each
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        begun = False
        try:
            async for event in self._events:
                if not begun:
                    await self._begin(send)
                    begun = True
                await _chunk(send, self._framed(event))
        except Exception as error:
            status, body = self._failed(error)
            if not begun:
                await Json(body, status)({"type": "http"}, None, send)  # type: ignore[arg-type]
                return
            await _chunk(send, self._framed(body))
        if not begun:
            await self._begin(send)
        if self._form == "data":
            await _chunk(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _framed(self, event: Any) -> bytes:
        data = encoded(event)
        if self._form == "lines":
            return data + b"\n"
        name = b"event: " + event["type"].encode() + b"\n" if self._form == "typed" else b""
        return name + b"data: " + data + b"\n\n"

    async def _begin(self, send: Send) -> None:
        kind = f"{MEDIA_TYPES[self._form]}; charset=utf-8".encode()
        headers = [(b"content-type", kind), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _chunk(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def paced(events: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None, None]:
    """The same events, and None whenever `seconds` pass without one."""
    coming: asyncio.Future[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(events))
            await asyncio.wait((coming,), timeout=seconds)
            if not coming.done():
                yield None
                continue
            done, coming = coming, None
            try:
                event = done.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await coming


async def _next(events: AsyncIterator[T]) -> T:
    return await anext(events)
