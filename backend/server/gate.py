"""What every request passes: the key, room, counts and the access log. Plain ASGI; knows nothing of bodies."""

from __future__ import annotations

import hmac
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import body, in_form_of
from .serving import Serving
from .wire import Json

log = logging.getLogger("sgl.access")
OPEN = frozenset(["/", "/health", "/health_generate"])
"""Routes that need no key: probes have none, and the page asks for one."""
WORK = frozenset([
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate",
    "/generate",
])  # fmt: skip
"""Routes that compute, and of which only so many run at a time."""
RETRY_SECONDS = 1


class RequestGate:
    """Middleware. Refuses with 401 and 429, counts, and logs a line a request without its contents."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self.app, self.serving = app, serving
        key = serving.options.api_key
        self._keys = None if key is None else {f"Bearer {key}".encode(), key.encode()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 499

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        computes = path in WORK
        serving = self.serving
        try:
            if path not in OPEN and not self._may_enter(scope):
                said = "a key is missing or wrong; send it as 'Authorization: Bearer KEY'"
                await Json(in_form_of(path, 401, body(said, 401)), 401, {"WWW-Authenticate": "Bearer"})(
                    scope, receive, told
                )
            elif computes and serving.under_way >= serving.most:
                said = f"{serving.under_way} requests are under way, and no more are queued; try again"
                await Json(in_form_of(path, 429, body(said, 429)), 429, {"Retry-After": str(RETRY_SECONDS)})(
                    scope, receive, told
                )
            else:
                serving.under_way += computes
                try:
                    await self.app(scope, receive, told)
                finally:
                    serving.under_way -= computes
        finally:
            route = scope.get("route")
            known = getattr(route, "path", None) or (path if path in WORK or path in OPEN else "other")
            serving.metrics.requests[known, status] += 1
            if log.isEnabledFor(logging.INFO):
                client = scope.get("client") or ("-", 0)
                milliseconds = 1000 * (time.monotonic() - began)
                log.info("%s %s %r %d %.1f ms", client[0], scope["method"], path, status, milliseconds)

    def _may_enter(self, scope: Scope) -> bool:
        if self._keys is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        given = given or next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
        return bool(sum(hmac.compare_digest(given, key) for key in self._keys))  # looks at each: takes the same time


def _refusal(path: str, status: int, said: str, headers: dict[str, str]) -> Json:
    return Json(in_form_of(path, status, body(said, status)), status, headers)
