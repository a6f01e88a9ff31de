"""The routes of OpenAI's API."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from ..answer import answered
from ..serving import Serving
from ..wire import Json, read_json
from . import chat, completions, items, responses


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""
    limit = serving.options.max_request_bytes

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        read = await serving.read(await read_json(request, limit), chat.read_chat)
        work = serving.begin([read.conversation.ask], "chat.completions", read.conversation.remember)
        stream = (lambda: chat.events(read, work, serving.model)) if read.stream else None
        return await answered(request, serving, work, lambda: chat.answer(read, work, serving.model), stream)

    @app.post("/v1/completions")
    async def text_completions(request: Request) -> Response:
        read = await serving.read(await read_json(request, limit), completions.read_completion)
        work = serving.begin(read.asks, "completions")
        stream = (lambda: completions.events(read, work, serving.model)) if read.stream else None
        return await answered(request, serving, work, lambda: completions.answer(read, work, serving.model), stream)

    @app.post("/v1/responses")
    async def responded(request: Request) -> Response:
        body = await read_json(request, limit)
        read = await serving.read(body, responses.read_responses)
        work = serving.begin([read.conversation.ask], "responses", read.conversation.remember)
        stream = partial(items.events, read, work, serving.model) if read.stream else None
        whole = partial(items.answer, read, work, serving.model)
        return await answered(request, serving, work, whole, stream, form="typed")

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [_model(serving)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        serving.check(name)
        return Json(_model(serving))


def _model(serving: Serving) -> dict[str, Any]:
    options = serving.runtime.options
    return {
        "id": serving.model,
        "object": "model",
        "created": 0,
        "owned_by": "sgl",
        "root": serving.runtime.model_name,
        "max_model_len": options.context_length,
    }
