"""The application: all routes behind one gate, and errors as answers. Knows nothing of what fields mean."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from ...lang.errors import SglError
from ..runtime.local import LocalBackend
from . import operation
from .answer import failed
from .anthropic import routes as anthropic_routes
from .errors import body, in_form_of
from .flags import ServeOptions, texts
from .gate import RequestGate
from .ollama import routes as ollama_routes
from .openai import routes as openai_routes
from .page import routes as page_routes
from .serving import Serving
from .sglang import routes as sglang_routes
from .wire import Json

LATER = ("/v1/embeddings", "/api/embed")
"""Routes of later versions."""


def build_app(runtime: LocalBackend, options: ServeOptions | None = None) -> FastAPI:
    """Make the application over a runtime. Its `state.serving` is what all requests share."""
    from ... import __version__

    serving = Serving(runtime, options or ServeOptions())
    quiet: Any = {
        "tracing": False,
        "metrics": False,
        "logs": False,
    }  # FastAPI's own, which tell of contents; see spans.py
    app = FastAPI(title="sgl", version=__version__, docs_url=None, redoc_url=None, telemetry=quiet)
    app.state.serving = serving
    app.add_middleware(RequestGate, serving=serving)
    if origins := texts(serving.options.allow_origin):  # around the gate: a browser asks first, without a key
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["Retry-After"],
        )  # fmt: skip
    app.add_exception_handler(SglError, _failed)
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(404, _no_route)
    app.add_exception_handler(405, _no_route)
    for routes in (openai_routes, anthropic_routes, ollama_routes, sglang_routes, operation, page_routes):
        routes.add_routes(app, serving)
    return app


async def _failed(request: Request, error: Exception) -> Response:
    status, said = failed(request.url.path, error)
    return Json(said, status)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if request.url.path in LATER:
        said = f"{request.url.path} is not supported by this version of sgl yet"
        return Json(in_form_of(request.url.path, 404, body(said, 404, None, "not_supported")), 404)
    known = sorted({route.path for route in request.app.routes if hasattr(route, "path")})
    said = f"there is no {request.method} {request.url.path}; there are: {', '.join(known)}"
    return Json(in_form_of(request.url.path, status, body(said[:2000], status)), status)
