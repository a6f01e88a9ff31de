"""An answer to a request: whole, or as a stream of events. The work ends with it, or when the client goes away."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .errors import RequestError, in_form_of, told
from .serving import Serving
from .wire import Events, Json, StreamForm, unless_gone
from .work import RequestWork

log = logging.getLogger("sgl")
GONE = 499
"""The status of an answer that nobody reads any more, for the log."""


async def answered(
    request: Request,
    serving: Serving,
    work: RequestWork,
    whole: Callable[[], Awaitable[Any]],
    stream: Callable[[], AsyncGenerator[Any, None]] | None,
    rid: str | None = None,
    form: StreamForm = "data",
) -> Response:
    """Answer with `whole()`, or with the events of `stream()` if it is given, in this form."""
    request.scope["sgl.work"] = work  # for the span, which is around the answer
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

    return Events(tracked(), partial(failed, request.url.path), form)


def failed(path: str, error: BaseException) -> tuple[int, Any]:
    """The status and body of an error on a route. One that is not the client's goes to the log."""
    status, said = told(error)
    if status >= 500 and not isinstance(error, RequestError):
        log.error("a request failed", exc_info=error)
    return status, in_form_of(path, status, said)
