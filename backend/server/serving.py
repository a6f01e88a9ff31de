"""`Serving`: one runtime, its requests under way, and what is counted. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ...lang.errors import Cancelled
from ..base import GenResult, Handle
from ..runtime.local import LocalBackend
from .errors import RequestError
from .flags import ServeOptions
from .metrics import Metrics
from .transcripts import Transcripts
from .work import PromptRequest, RequestWork

T = TypeVar("T")
LARGE_BODY = 8192
"""Characters of a body from which on it is read beside the event loop."""
_SLOW = (
    "tools", "response_format", "output_config", "format", "regex", "ebnf", "json_schema", "structural_tag",
    "sampling_params",
)  # fmt: skip
"""Fields with constraints and tools, of any API: these are compiled."""


class Serving:
    """What all requests share."""

    def __init__(self, runtime: LocalBackend, options: ServeOptions) -> None:
        self.runtime, self.options = runtime, options
        self.model = options.served_model_name or runtime.model_name
        self.most = runtime.options.max_running + options.max_queued_requests
        self.metrics = Metrics()
        self.transcripts = Transcripts()
        self.under_way = 0
        self.draining = False  # requests are taken, and a load balancer is told to send no more
        self.ending = False
        self._works: dict[RequestWork, str | None] = {}

    def check(self, model: Any) -> None:
        """Raise `RequestError` if a request names another model."""
        if model not in (None, self.model, "default"):
            raise RequestError(
                f"there is no model {model!r:.120}; this server has {self.model!r}",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip

    async def read(self, body: dict[str, Any], read: Callable[[dict[str, Any], Serving], T]) -> T:
        """`read(body, self)`, on a thread where it may take long."""
        self.check_open()
        self.check(body.get("model"))
        compiles = any(body.get(name) for name in _SLOW) or isinstance(body.get("text"), dict)  # /v1/responses' format
        if compiles or _longer(body, LARGE_BODY):
            return await asyncio.to_thread(read, body, self)
        return read(body, self)

    def begin(
        self, asks: Sequence[PromptRequest], where: str, finished: Callable[[GenResult], None] | None = None
    ) -> RequestWork:
        """Start some asks, whose constraints are prepared. `finished` is told each result, before it is answered."""
        work = RequestWork.of(self.runtime, asks, where, self.options.request_timeout)
        work.finished = finished
        return work

    @contextmanager
    def tracked(self, work: RequestWork, rid: str | None = None) -> Iterator[RequestWork]:
        """Count a request's work while it runs, and end it afterwards, however that comes."""
        began = time.monotonic()
        self._works[work] = rid
        try:
            yield work
        finally:
            del self._works[work]
            work.close()
            metrics = self.metrics
            metrics.whole.note(time.monotonic() - began)
            if work.first is not None:
                metrics.first.note(work.first - began)
            for _, handle in work.calls:
                self._count(handle)

    def _count(self, handle: Handle[Any]) -> None:
        usages = [result.usage for result in handle.result or ()] or ([handle.usage] if handle.usage else [])
        for usage in usages:
            self.metrics.prompt += usage.prompt
            self.metrics.cached += usage.reused
            self.metrics.generated += usage.generated

    def abort(self, rid: str | None) -> int:
        """Abort the requests with an id, or all; how many there were."""
        works = [work for work, own in self._works.items() if rid is None or own == rid]
        for work in works:
            work.abort(Cancelled("the request was aborted"))
        return len(works)

    def check_open(self) -> None:
        """Raise if no request can be taken."""
        if self.ending:
            raise RequestError("the server is shutting down", status=503)
        self.check_alive()

    def check_alive(self) -> None:
        """Raise if the engine has ended: no request can be taken any more."""
        if (closed := self.runtime.engine.closed) is not None:
            raise RequestError(str(closed) or "the runtime is closed", status=503)


def _longer(value: Any, most: int) -> bool:
    """Whether the texts in a body have more than `most` characters; looks at no more than it must."""
    left, stack = most, [value]
    while stack and left >= 0:
        part = stack.pop()
        if isinstance(part, str):
            left -= len(part)
        elif isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, list):
            left -= len(part)
            stack += part[: max(0, left)]
    return left < 0
