"""OpenTelemetry spans of requests, as an application that collects spans gets them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sgl import Runtime

from .served import Served, run, served, slowed

PROVIDER = TracerProvider()
SPANS = InMemorySpanExporter()
PROVIDER.add_span_processor(SimpleSpanProcessor(SPANS))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(otel, "get_tracer_provider", lambda: PROVIDER)
    monkeypatch.setattr(otel, "get_tracer", PROVIDER.get_tracer)
    SPANS.clear()
    with served(slowed(Runtime.toy(), 0.002), api_key="k") as here:
        here.http.headers["Authorization"] = "Bearer k"
        yield here


def spans(count: int) -> list[Any]:
    """The spans, when there are so many."""
    end = time.monotonic() + 20
    while len(SPANS.get_finished_spans()) < count:
        assert time.monotonic() < end, SPANS.get_finished_spans()
        time.sleep(0.01)
    return list(SPANS.get_finished_spans())


ROUTES: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/chat/completions", "chat", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}),
    ("/v1/completions", "text_completion", {"prompt": "Hi", "max_tokens": 3, "temperature": 0.5, "stop": ["zz"]}),
    ("/v1/responses", "chat", {"input": "Hi", "max_output_tokens": 3}),
    ("/v1/messages", "chat", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}),
    ("/api/chat", "chat", {"messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 3}}),
    ("/generate", "text_completion", {"text": "Hi", "sampling_params": {"max_new_tokens": 3}}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "operation", "body"), ROUTES)
def test_a_request_is_a_span(server: Served, path: str, operation: str, body: dict[str, Any], stream: bool) -> None:
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{parent}-01"}
    answer = server.http.post(path, json={**body, "stream": stream}, headers=headers)
    assert answer.status_code == 200
    (span,) = spans(1)
    assert span.name == f"{operation} toy" and span.kind is SpanKind.SERVER
    assert f"{span.context.trace_id:032x}" == trace_id and f"{span.parent.span_id:016x}" == parent
    said = span.attributes
    assert said["gen_ai.operation.name"] == operation and said["gen_ai.request.model"] == "toy"
    assert said["http.route"] == path and said["http.response.status_code"] == 200
    assert said["gen_ai.usage.input_tokens"] > 1 and 1 <= said["gen_ai.usage.output_tokens"] <= 3
    assert said["gen_ai.response.finish_reasons"][0] in ("length", "stop")
    assert span.status.status_code is StatusCode.UNSET and "error.type" not in said
    if "stop" in body:
        assert said["gen_ai.request.stop_sequences"] == ("zz",) and said["gen_ai.request.temperature"] == 0.5


def test_samples_count_their_prompt_once(server: Served) -> None:
    body = {"prompt": "Hello", "max_tokens": 2, "ignore_eos": True, "n": 3}
    usage = server.http.post("/v1/completions", json=body).json()["usage"]
    (span,) = spans(1)
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 6
    assert span.attributes["gen_ai.request.choice.count"] == 3


def test_a_refused_request_is_a_span_with_its_status(server: Served) -> None:
    server.http.post("/v1/chat/completions", json={}, headers={"Authorization": "Bearer no"})
    server.http.post("/v1/chat/completions", json={"messages": 3})
    first, second = spans(2)
    assert (first.attributes["error.type"], second.attributes["error.type"]) == ("401", "400")
    assert first.status.status_code is second.status.status_code is StatusCode.UNSET


def test_a_client_that_goes_away_is_told(server: Served) -> None:
    body = {"prompt": "a", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=server.http.headers) as answer:
        next(answer.iter_lines())
    (span,) = spans(1)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] in ("499", "Cancelled")
    server.idle()


def test_telemetry_that_fails_costs_no_answer(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no telemetry")

    monkeypatch.setattr(otel, "get_tracer", failing)
    assert server.chat(max_tokens=1).status_code == 200


def test_a_request_is_under_the_span_of_other_instrumentation(server: Served) -> None:
    app, tracer = server.server.config.loaded_app, PROVIDER.get_tracer("other")

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("POST"):
            await app(scope, receive, send)

    transport = httpx.ASGITransport(instrumented)

    async def ask() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://a", headers=server.http.headers) as client:
            return (await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})).status_code

    assert run(ask()) == 200
    inner, outer = spans(2)
    assert inner.kind is SpanKind.INTERNAL and inner.parent.span_id == outer.context.span_id
