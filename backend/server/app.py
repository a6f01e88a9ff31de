"""The routes. Each reads a body, starts its work, and answers whole or as a stream.

Knows nothing of what fields mean, nor of how a server is started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ...lang.errors import SglError
from ...lang.sampling import Sampling
from ..runtime.local import LocalBackend
from ..waiting import suspend_on
from . import chat, completions, native
from .asked import flag
from .errors import RequestError, body, told
from .flags import ServeOptions
from .gate import Gate
from .serving import Serving
from .wire import Events, Json, read_json, unless_gone
from .work import Ask, Work

log = logging.getLogger("sgl")
LATER = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings", "/api/chat", "/api/generate")
"""Routes of later versions."""
GONE = 499
"""The status of an answer that nobody reads any more, for the log."""


def build_app(runtime: LocalBackend, options: ServeOptions | None = None) -> FastAPI:
    """Make the application over a runtime. Its `state.serving` is what all requests share."""
    from ... import __version__

    serving = Serving(runtime, options or ServeOptions())
    app = FastAPI(title="sgl", version=__version__, docs_url=None, redoc_url=None)
    app.state.serving = serving
    app.add_middleware(Gate, serving=serving)
    app.add_exception_handler(SglError, _failed)
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(404, _no_route)
    app.add_exception_handler(405, _no_route)
    _add_openai(app, serving)
    _add_native(app, serving)
    _add_operation(app, serving)
    return app


async def _failed(request: Request, error: Exception) -> Response:
    status, said = _told(error)
    return Json(said, status)


def _told(error: BaseException) -> tuple[int, Any]:
    status, said = told(error)
    if status >= 500 and not isinstance(error, RequestError):
        log.error("a request failed", exc_info=error)
    return status, said


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if request.url.path in LATER:
        return Json(
            body(f"{request.url.path} is not supported by this version of sgl yet", 404, None, "not_supported"), 404
        )
    known = sorted({route.path for route in request.app.routes if hasattr(route, "path")})
    said = f"there is no {request.method} {request.url.path}; there are: {', '.join(known)}"
    return Json(body(said[:2000], status), status)


async def _answered(
    request: Request,
    serving: Serving,
    work: Work,
    whole: Callable[[], Awaitable[Any]],
    stream: Callable[[], AsyncGenerator[Any, None]] | None,
    rid: str | None = None,
) -> Response:
    """Answer with `whole()`, or as a stream. The work ends with the answer, or when the client goes away."""
    if stream is None:
        with serving.tracked(work, rid):
            answer = await unless_gone(request, whole())
        return Response(status_code=GONE) if answer is None else Json(answer)

    events = stream()

    async def tracked() -> AsyncGenerator[Any, None]:
        with serving.tracked(work, rid):
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()

    return Events(tracked(), _told)


def _add_openai(app: FastAPI, serving: Serving) -> None:
    limit = serving.options.max_request_bytes

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        read = await serving.read(await read_json(request, limit), chat.read_chat)
        work = serving.begin([read.ask], "chat.completions")
        stream = (lambda: chat.events(read, work, serving.model)) if read.stream else None
        return await _answered(request, serving, work, lambda: chat.answer(read, work, serving.model), stream)

    @app.post("/v1/completions")
    async def text_completions(request: Request) -> Response:
        read = await serving.read(await read_json(request, limit), completions.read_completion)
        work = serving.begin(read.asks, "completions")
        stream = (lambda: completions.events(read, work, serving.model)) if read.stream else None
        return await _answered(request, serving, work, lambda: completions.answer(read, work, serving.model), stream)

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


def _add_native(app: FastAPI, serving: Serving) -> None:
    limit = serving.options.max_request_bytes

    @app.api_route("/generate", methods=["POST", "PUT"])
    async def generate(request: Request) -> Response:
        said = await read_json(request, limit)
        call, stream = await serving.read(said, native.read_generate)
        work, rid = Work(serving.runtime, call.calls, owner=call), said.get("rid")
        rid = rid if isinstance(rid, str) else None
        batch = isinstance(said.get("text"), list) or isinstance((said.get("input_ids") or [0])[0], list)
        events = (lambda: native.events(work, rid, batch)) if stream else None

        async def whole() -> Any:
            found = await suspend_on(call.results())
            if rid is not None and isinstance(found, dict):
                found["meta_info"]["id"] = rid
            return found

        return await _answered(request, serving, work, whole, events, rid)

    @app.get("/get_model_info")
    @app.get("/model_info")
    async def get_model_info() -> Response:
        name = serving.runtime.model_name
        return Json({"model_path": name, "tokenizer_path": name, "is_generation": True})

    @app.get("/server_info")
    @app.get("/get_server_info")
    async def server_info() -> Response:
        return Json(_plain(serving.runtime.get_server_info()))

    @app.api_route("/flush_cache", methods=["GET", "POST"])
    async def flush_cache() -> Response:
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


def _add_operation(app: FastAPI, serving: Serving) -> None:
    @app.get("/health")
    async def health() -> Response:
        serving.check_open()
        return PlainTextResponse("")

    @app.get("/health_generate")
    async def health_generate() -> Response:
        serving.check_open()
        ask = Ask([("a", False)], Sampling.of("health_generate", max_tokens=1, temperature=0, ignore_eos=True))
        work = serving.begin([ask], "health_generate")
        began = time.monotonic()
        with serving.tracked(work):
            await work.results()
        return Json({"seconds": round(time.monotonic() - began, 6)})

    @app.get("/metrics")
    async def metrics() -> Response:
        text = serving.metrics.text(serving.runtime.get_server_info(), serving.model)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _plain(value: Any) -> Any:
    """Plain data of an info that holds dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
