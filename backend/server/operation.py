"""The routes of operation: health, readiness and metrics."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response

from ...lang.sampling import Sampling
from .errors import RequestError
from .serving import Serving
from .wire import Json
from .work import PromptRequest


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""

    @app.get("/health")
    async def health() -> Response:
        serving.check_alive()
        return PlainTextResponse("")

    @app.get("/ready")
    async def ready() -> Response:
        serving.check_open()
        if serving.draining:
            raise RequestError("the server is about to shut down", status=503)
        return PlainTextResponse("")

    @app.get("/health_generate")
    async def health_generate() -> Response:
        serving.check_open()
        ask = PromptRequest(
            [("a", False)], Sampling.of("health_generate", max_tokens=1, temperature=0, ignore_eos=True)
        )
        work = serving.begin([ask], "health_generate")
        began = time.monotonic()
        with serving.tracked(work):
            await work.results()
        return Json({"seconds": round(time.monotonic() - began, 6)})

    @app.get("/metrics")
    async def metrics() -> Response:
        text = serving.metrics.text(serving.runtime.get_server_info(), serving.model)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
