"""The routes of the page: `/`, and `/live`, which it asks once a second."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from ..serving import Serving
from ..wire import Json

MOST_ROWS = 200
"""Rows of the tree in one answer."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_TOLD = (
    "max_total_tokens", "free_tokens", "cached_tokens", "running", "queued", "attached", "steps", "computed_tokens",
    "preemptions", "context_length",
)  # fmt: skip


def add_routes(app: FastAPI, serving: Serving) -> None:
    """Add the routes to an application."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_page(), headers=HEADERS)

    @app.get("/live")
    async def live() -> Response:
        return Json(await asyncio.to_thread(_live, serving))


@cache
def _page() -> str:
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def _live(serving: Serving) -> dict[str, Any]:
    runtime = serving.runtime
    info = runtime.get_server_info()
    rows, left_out = runtime.tree_rows(MOST_ROWS, texts=serving.options.show_texts)
    metrics = serving.metrics
    return {
        "model": serving.model,
        "chats": runtime.chat_template is not None,
        **{name: info[name] for name in _TOLD},
        "speculation": info["speculation"],
        "requests": sum(metrics.requests.values()),
        "under_way": serving.under_way,
        "generated": metrics.generated,
        "tree": rows,
        "left_out": left_out,
    }
