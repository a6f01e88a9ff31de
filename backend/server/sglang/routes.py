"""The routes of SGLang's API."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ...waiting import suspend_on
from ..answer import answered
from ..errors import RequestError
from ..fields import flag
from ..serving import Serving
from ..wire import Json, read_json
from ..work import RequestWork
from . import generate as native


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""
    limit = serving.options.max_request_bytes

    @app.put("/generate", include_in_schema=False)
    @app.post("/generate")
    async def generate(request: Request) -> Response:
        said = await read_json(request, limit)
        call, stream = await serving.read(said, native.read_generate)
        work, rid = RequestWork(serving.runtime, call.calls, owner=call), said.get("rid")
        rid = rid if isinstance(rid, str) else None
        events = (lambda: native.events(work, rid, not call.single)) if stream else None

        async def whole() -> Any:
            await work.results()
            found = await suspend_on(call.results())
            if rid is not None and isinstance(found, dict):
                found["meta_info"]["id"] = rid
            return found

        return await answered(request, serving, work, whole, events, rid)

    @app.get("/get_model_info")
    @app.get("/model_info")
    async def get_model_info() -> Response:
        name = serving.runtime.model_name
        told: dict[str, Any] = {"model_path": name, "tokenizer_path": name, "is_generation": True, "server": "sgl"}
        told["chat_template"] = None
        if (template := serving.runtime.chat_template) is not None:
            told["chat_template"] = template.source
            told |= {"bos_token": template.bos_token, "eos_token": template.eos_token}
        return Json(told)

    @app.get("/server_info")
    @app.get("/get_server_info")
    async def server_info() -> Response:
        return Json(_plain(serving.runtime.get_server_info()))

    @app.get("/flush_cache", include_in_schema=False)
    @app.post("/flush_cache")
    async def flush_cache() -> Response:
        serving.transcripts.forget()
        done = serving.runtime.flush_cache()
        said = "The cache is empty." if done else "Requests run, and what they hold was kept."
        return PlainTextResponse(said + "\n", 200 if done else 400)

    @app.post("/abort_request")
    async def abort_request(request: Request) -> Response:
        asked = await read_json(request, limit)
        for name in asked:
            if name not in ("rid", "abort_all"):
                raise RequestError(
                    f"abort_request: unknown field {name!r:.120}; there are rid and abort_all", param=name
                )
        every, rid = flag("abort_request", asked, "abort_all"), asked.get("rid")
        if not every and not (isinstance(rid, str) and rid):
            raise RequestError("abort_request: give the rid of a request, or abort_all: true", param="rid")
        return Json({"aborted": serving.abort(None if every else rid)})


def _plain(value: Any) -> Any:
    """Plain data of an info that holds dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
