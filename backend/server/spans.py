"""OpenTelemetry spans of requests, if the application uses OpenTelemetry. Knows nothing of bodies.

A request is one span of kind SERVER, from its first byte to its last. Its parent is the span that the client names
(`traceparent`). Where the application's own instrumentation has begun a span of the request, it is INTERNAL, under it.
Names and attributes follow the semantic conventions for generative AI (`gen_ai.*`, status "development", v1.41). No
text is recorded. Imported only where the application has imported `opentelemetry.trace` itself, as
`opentelemetry-instrument sgl serve` does.
"""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry import propagate
from opentelemetry import trace as otel
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import Scope

from ..base import Usage
from ..contain import is_interruption, message_of
from .work import RequestWork

log = logging.getLogger("sgl")
_OPERATIONS = {"/v1/completions": "text_completion", "/api/generate": "text_completion", "/generate": "text_completion"}
_REQUEST = ("temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop")
"""The options of a gen that the conventions name, as `gen_ai.request.temperature` (`stop` as `stop_sequences`)."""


class RequestSpan:
    """The span of one request."""

    def __init__(self, scope: Scope, model: str) -> None:
        path = scope["path"]
        operation = _OPERATIONS.get(path, "chat")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation, "gen_ai.provider.name": "sgl", "gen_ai.request.model": model,
            "http.request.method": scope["method"], "http.route": path,
        }  # fmt: skip
        if (server := scope.get("server")) is not None:
            attributes |= {"server.address": server[0], "server.port": server[1] or 0}
        from ... import __version__

        tracer = otel.get_tracer("sgl", __version__)
        inside = otel.get_current_span().get_span_context().is_valid
        self._span = tracer.start_span(
            f"{operation} {model}",
            context=None if inside else propagate.extract(headers),
            kind=SpanKind.INTERNAL if inside else SpanKind.SERVER,
            attributes=attributes,
        )

    def end(self, status: int, work: RequestWork | None) -> None:
        """End it, with the status of the answer, and what the request's gens were and became.

        What the application's telemetry raises goes to the log.
        """
        try:
            self._end(status, work)
        except BaseException as error:
            _left_out(error)

    def _end(self, status: int, work: RequestWork | None) -> None:
        span = self._span
        span.set_attribute("http.response.status_code", status)
        error = None
        if work is not None:
            span.set_attributes({**_asked(work), **_became(work)})
            error = next((handle.error for _, handle in work.calls if handle.error is not None), None)
            if error is None and not all(handle.done for _, handle in work.calls):
                status = 499  # nobody reads the answer any more
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, message_of(error)))
        elif status >= 400:
            span.set_attribute("error.type", str(status))
            if status >= 499:  # a client's mistake is no failure of the server
                span.set_status(Status(StatusCode.ERROR))
        span.end()


def started(scope: Scope, model: str) -> RequestSpan | None:
    """Begin the span of a request. None: the application collects no spans, or its telemetry failed."""
    if isinstance(otel.get_tracer_provider(), (otel.ProxyTracerProvider, otel.NoOpTracerProvider)):
        return None
    try:
        return RequestSpan(scope, model)
    except BaseException as error:
        _left_out(error)
        return None


def _left_out(error: BaseException) -> None:
    if is_interruption(error):
        raise error
    log.error("telemetry: the span of a request could not be recorded", exc_info=error)


def _asked(work: RequestWork) -> dict[str, Any]:
    if not work.asks:
        return {}
    ask, said = work.asks[0], {}
    for option in _REQUEST:
        if (value := getattr(ask.sampling, option)) is not None:
            name = "stop_sequences" if option == "stop" else option
            said[f"gen_ai.request.{name}"] = list(value) if isinstance(value, tuple) else value
    if ask.n != 1:
        said["gen_ai.request.choice.count"] = ask.n
    return said


def _became(work: RequestWork) -> dict[str, Any]:
    """What the gens became. A prompt counts once, however many samples it has."""
    results = [result for _, handle in work.calls for result in handle.result or ()]
    usages = [[result.usage for result in h.result or ()] or ([h.usage] if h.usage else []) for _, h in work.calls]
    firsts = sum((each[0] for each in usages[:: work.asks[0].n if work.asks else 1] if each), Usage())
    said: dict[str, Any] = {
        "gen_ai.usage.input_tokens": firsts.prompt,
        "gen_ai.usage.cache_read.input_tokens": firsts.reused,
        "gen_ai.usage.output_tokens": sum(usage.generated for each in usages for usage in each),
        "sgl.queued": max((usage.queued for each in usages for usage in each), default=0.0),
    }
    if results:
        said["gen_ai.response.finish_reasons"] = [str(result.finish_reason["type"]) for result in results]
    return said
