"""The routes of Anthropic's API."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from ..answer import answered
from ..serving import Serving
from ..wire import Json, read_json
from . import reading, writing


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""
    limit = serving.options.max_request_bytes

    @app.post("/v1/messages")
    async def messages(request: Request) -> Response:
        read = await serving.read(await read_json(request, limit), reading.read_messages)
        work = serving.begin([read.conversation.ask], "messages", read.conversation.remember)
        stream = (lambda: writing.events(read, work, serving.model)) if read.stream else None
        whole = partial(writing.answer, read, work, serving.model)
        return await answered(request, serving, work, whole, stream, form="typed")

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> Response:
        count = await serving.read(await read_json(request, limit), reading.count_tokens)
        return Json({"input_tokens": count})
