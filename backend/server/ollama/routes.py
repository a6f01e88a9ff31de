"""The routes of Ollama's API."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from ....lang.syntax import syntax_of
from ..answer import answered
from ..serving import Serving
from ..wire import Json, read_json
from . import reading, writing

_DETAILS = {
    "parent_model": "", "format": "sgl", "family": "", "families": [], "parameter_size": "", "quantization_level": "",
}  # fmt: skip


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""

    @app.post("/api/chat")
    async def chat(request: Request) -> Response:
        return await _answer(request, serving, True)

    @app.post("/api/generate")
    async def generate(request: Request) -> Response:
        return await _answer(request, serving, False)

    @app.get("/api/tags")
    @app.get("/api/ps")
    async def tags() -> Response:
        return Json({"models": [_model(serving)]})

    @app.get("/api/version")
    async def version() -> Response:
        return Json({"version": app.version})

    @app.post("/api/show")
    async def show(request: Request) -> Response:
        body = await read_json(request, serving.options.max_request_bytes)
        serving.check(_named(body).get("model"))
        template = serving.runtime.chat_template
        can = ["completion"]
        if template is not None:
            can.append("tools")
            form = syntax_of(template).thinking
            can += ["thinking"] if form is not None and form.begin.strip() in template.source else []
        info = {"general.basename": serving.model, "sgl.context_length": serving.runtime.options.context_length}
        source = "" if template is None else template.source
        return Json({"details": _DETAILS, "model_info": info, "capabilities": can, "template": source})


async def _answer(request: Request, serving: Serving, chat: bool) -> Response:
    body = _named(await read_json(request, serving.options.max_request_bytes))
    if reading.loads_only(body, chat):
        serving.check_open()
        serving.check(body.get("model"))
        return Json(writing.loaded(serving.model, chat))
    read = await serving.read(body, reading.read_chat if chat else reading.read_generate)
    finished = None if read.conversation is None else read.conversation.remember
    work = serving.begin([read.ask], "api/chat" if chat else "api/generate", finished)
    stream = partial(writing.events, read, work, serving.model, chat) if read.stream else None
    whole = partial(writing.answer, read, work, serving.model, chat)
    return await answered(request, serving, work, whole, stream, form="lines")


def _named(body: dict[str, Any]) -> dict[str, Any]:
    """The body, with the model's name as this server has it: Ollama's clients put ":latest" at its end."""
    name = body.get("model", body.get("name"))
    if isinstance(name, str):
        body = {**body, "model": name.removesuffix(":latest")}
        body.pop("name", None)
    return body


def _model(serving: Serving) -> dict[str, Any]:
    name = serving.model
    at = "1970-01-01T00:00:00Z"
    return {"name": name, "model": name, "modified_at": at, "size": 0, "digest": "", "details": _DETAILS}
