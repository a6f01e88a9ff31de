"""What every request passes: the key, room, counts and the access log. Plain ASGI; knows nothing of bodies."""

from __future__ import annotations

import hmac
import logging
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import body, in_form_of
from .flags import keys_of
from .serving import Serving
from .wire import Json

if TYPE_CHECKING:
    from .spans import RequestSpan

log = logging.getLogger("sgl.access")
OPEN = frozenset(["/", "/health", "/ready"])
"""Routes that need no key and compute nothing: probes have none, and the page asks for one."""
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
        self._keys = [key.encode() for key in keys_of(serving.options)]
        self._under_way: Counter[bytes] = Counter()

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
        serving, key = self.serving, self._key(scope)
        span = self._span(scope) if computes else None
        try:
            if (refusal := self._refusal(path, computes, key)) is not None:
                await refusal(scope, receive, told)
            else:
                serving.under_way += computes
                self._under_way[key] += computes
                try:
                    await self.app(scope, receive, told)
                finally:
                    serving.under_way -= computes
                    self._under_way[key] -= computes
        finally:
            route = scope.get("route")
            known = getattr(route, "path", None) or (path if path in WORK or path in OPEN else "other")
            serving.metrics.requests[known, status] += 1
            if span is not None:
                span.end(status, scope.get("sgl.work"))
            if log.isEnabledFor(logging.INFO):
                client = scope.get("client") or ("-", 0)
                milliseconds = 1000 * (time.monotonic() - began)
                log.info("%s %s %r %d %.1f ms", client[0], scope["method"], path, status, milliseconds)

    def _span(self, scope: Scope) -> RequestSpan | None:
        if "opentelemetry.trace" not in sys.modules:  # the application uses it: importing it costs nothing
            return None
        from .spans import started

        return started(scope, self.serving.model)

    def _key(self, scope: Scope) -> bytes:
        """The key that a request has; empty if it has none that is known."""
        if not self._keys:
            return b""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        given = given or next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
        kind, _, rest = given.partition(b" ")
        given = rest.strip() if kind.lower() == b"bearer" else given
        same = [key for key in self._keys if hmac.compare_digest(given, key)]  # looks at each: takes the same time
        return same[0] if same else b""

    def _refusal(self, path: str, computes: bool, key: bytes) -> Json | None:
        """Why a request may not enter; None if it may."""
        if self._keys and not key and path not in OPEN:
            said = "a key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            return Json(in_form_of(path, 401, body(said, 401)), 401, {"WWW-Authenticate": "Bearer"})
        if not computes:
            return None
        under_way, most = self.serving.under_way, self.serving.options.max_requests_per_key
        if under_way >= self.serving.most:
            said = f"{under_way} requests are under way, and no more are queued; try again"
        elif most is not None and self._under_way[key] >= most:
            said = f"{most} requests are under way with this key (--max-requests-per-key); try again when one has ended"
        else:
            return None
        return Json(in_form_of(path, 429, body(said, 429)), 429, {"Retry-After": str(RETRY_SECONDS)})
