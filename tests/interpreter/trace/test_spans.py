"""OpenTelemetry spans: parents, times, attributes, errors, and no content unless it was asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sgl
from sgl.interpreter.trace.recording import trace

pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode


class Spans(InMemorySpanExporter):
    """The finished spans of one test, by what they are of."""

    def named(self, name: str) -> list[Any]:
        return [span for span in self.get_finished_spans() if span.name == name]

    def program(self, name: str) -> Any:
        (found,) = self.named(f"invoke_workflow {name}")
        return found

    def call(self, name: str) -> Any:
        (found,) = [span for span in self.get_finished_spans() if span.attributes.get("sgl.name") == name]
        return found


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A provider for one test: the API's own can be set only once in a process."""

    def install(provider: Any) -> Any:
        monkeypatch.setattr(otel, "_TRACER_PROVIDER", provider)
        return provider

    yield install


@pytest.fixture
def spans(use: Any) -> Spans:
    exporter = Spans()
    use(TracerProvider()).add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def toy() -> Any:
    with sgl.Runtime.toy() as runtime:
        sgl.set_default_backend(runtime)
        yield runtime


@sgl.function
def inner(s: Any) -> None:
    s += "in" + sgl.gen("deep", max_tokens=3)


@sgl.function
def prog(s: Any, q: str = "why") -> None:
    s += q + sgl.gen("a", max_tokens=5, temperature=0.5, top_p=0.9, stop=["zz", "qq"], seed=3, n=2)
    s += "-" + sgl.select("b", ["yes", "no"])
    s += sgl.gen("c", regex="stop[0-9]", max_tokens=9)


def test_a_program_and_its_calls(toy: Any, spans: Spans) -> None:
    before = time.time_ns()
    state = prog.run("question")
    state.sync()
    after = time.time_ns()
    program, a, b, c = spans.program("prog"), spans.call("a"), spans.call("b"), spans.call("c")
    assert program.parent is None and len(spans.get_finished_spans()) == 4
    for span in (a, b, c):
        assert span.parent.span_id == program.context.span_id and span.kind is SpanKind.INTERNAL
        assert before <= program.start_time <= span.start_time <= span.end_time <= program.end_time <= after
        assert span.name == "text_completion toy" and span.status.status_code is StatusCode.UNSET
        assert span.attributes["gen_ai.operation.name"] == "text_completion"
        assert span.attributes["gen_ai.provider.name"] == "sgl"
        assert span.attributes["gen_ai.request.model"] == "toy"
        assert not any("messages" in key for key in span.attributes)
    assert a.end_time <= b.start_time + 1_000_000 and b.end_time <= c.start_time + 1_000_000
    results = state.get_meta_info("a")
    assert {k: v for k, v in a.attributes.items() if "request" in k or "response" in k or "usage.in" in k} == {
        "gen_ai.request.model": "toy",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("zz", "qq"),
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.finish_reasons": tuple(r["finish_reason"]["type"] for r in results),
        "gen_ai.usage.input_tokens": results[0]["prompt_tokens"],
    }
    assert a.attributes["gen_ai.usage.output_tokens"] == sum(r["generated"] for r in results)
    meta = state.get_meta_info("c")
    assert c.attributes["gen_ai.usage.cache_read.input_tokens"] == c.attributes["sgl.usage.reused"] == meta["reused"]
    assert c.attributes["sgl.usage.forced"] == meta["forced"] > 0
    assert c.attributes["sgl.queued"] == pytest.approx(meta["queued"])
    assert b.attributes["sgl.choices"] == 2 and "gen('c')" in c.attributes["sgl.where"]
    assert program.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert program.attributes["gen_ai.workflow.name"] == "prog"


def test_parents(toy: Any, spans: Spans) -> None:
    tracer = otel.get_tracer("test")

    @sgl.function
    def outer(s: Any, own_span: bool) -> None:
        s += "out" + sgl.gen("top", max_tokens=2)
        s.fork(2)[1].sync()
        if own_span:
            with tracer.start_as_current_span("mine"):
                inner.run()["deep"]
        else:
            inner.run()["deep"]
        s["top"]

    with tracer.start_as_current_span("request"):
        outer.run(own_span=False)
    found = {span.name: span for span in spans.get_finished_spans() if "completion" not in span.name}
    chain = [found[f"invoke_workflow {name}"] for name in ("inner", "outer")]
    assert chain[0].parent.span_id == chain[1].context.span_id
    assert chain[1].parent.span_id == found["request"].context.span_id
    assert spans.call("deep").parent.span_id == chain[0].context.span_id
    assert spans.call("top").parent.span_id == chain[1].context.span_id

    spans.clear()
    outer.run(own_span=True)
    (mine,) = spans.named("mine")
    assert spans.program("inner").parent.span_id == mine.context.span_id and mine.parent is None


def test_rows_streams_and_coroutines(toy: Any, spans: Spans) -> None:
    @sgl.function
    async def later(s: Any) -> None:
        s += "x" + sgl.gen("y", max_tokens=2)
        await s["y"]

    with otel.get_tracer("test").start_as_current_span("request") as request:
        inner.run_batch([{} for _ in range(4)])
        inner.run(stream=True)["deep"]
        asyncio.run(later.arun())
    rows = spans.named("invoke_workflow inner")
    assert sorted(s.attributes.get("sgl.row", -1) for s in rows) == [-1, 0, 1, 2, 3]
    for span in [*rows, spans.program("later")]:
        assert span.parent.span_id == request.get_span_context().span_id


def test_errors(toy: Any, spans: Spans) -> None:
    @sgl.function
    def fails(s: Any, how: str) -> None:
        s += "x" + sgl.gen("bad", regex="[0-9]{30}", max_tokens=4)
        if how == "body":
            raise LookupError("mine")
        if how == "read":
            s["bad"]

    with pytest.raises(sgl.ConstraintError):
        fails.run("read")
    program, call = spans.program("fails"), spans.call("bad")
    for span in (program, call):
        assert span.status.status_code is StatusCode.ERROR and span.attributes["error.type"] == "ConstraintError"
        assert [event.name for event in span.events] == ["exception"]
        assert "gen('bad')" in span.status.description
    spans.clear()
    fails.run("nothing is read").sync()
    assert spans.program("fails").attributes["error.type"] == "ConstraintError"
    spans.clear()
    with pytest.raises(LookupError):
        fails.run("body")
    assert spans.program("fails").attributes["error.type"] == "LookupError"
    assert spans.call("bad").attributes["error.type"] == "Cancelled"


def test_content_only_where_it_was_asked_for(toy: Any, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "True")
    state = prog.run("question ")
    state.sync()
    a, b = spans.call("a"), spans.call("b")
    assert json.loads(a.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "question "}]}
    ]
    written = json.loads(a.attributes["gen_ai.output.messages"])
    assert [m["parts"][0]["content"] for m in written] == state["a"]
    assert all(m["role"] == "assistant" and m["finish_reason"] for m in written)
    assert json.loads(b.attributes["gen_ai.input.messages"])[0]["parts"][0]["content"] == "-"


def test_with_a_trace_and_without_a_sampler(toy: Any, spans: Spans, use: Any) -> None:
    with trace() as t:
        inner.run()["deep"]
    assert len(t.programs) == 1 and spans.program("inner").end_time
    assert t.to_dict()["programs"][0]["branches"][0]["calls"][0]["samples"][0]["tokens"]
    untraced = inner.run()
    untraced["deep"]
    assert untraced._body.record.tokens is False
    assert untraced._line.segments[1].handle.result[0].trace is None, "no tokens are told of for spans alone"
    spans.clear()
    exporter = Spans()
    use(TracerProvider(sampler=ALWAYS_OFF)).add_span_processor(SimpleSpanProcessor(exporter))
    inner.run()["deep"]
    assert not exporter.get_finished_spans() and not spans.get_finished_spans()


def test_an_application_that_only_imports_the_api_costs_nothing(toy: Any, use: Any) -> None:
    use(None)
    state = inner.run()
    state["deep"]
    assert state._body.record is None


def test_an_exporter_that_raises_does_not_break_the_program(toy: Any, use: Any) -> None:
    class Broken(SimpleSpanProcessor):
        def on_start(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken at the start")

        def on_end(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken at the end")

    use(TracerProvider()).add_span_processor(Broken(Spans()))
    assert inner.run()["deep"]


def test_sgl_does_not_import_opentelemetry() -> None:
    code = (
        "import sys, sgl\n"
        "r = sgl.Runtime.toy()\n"
        "f = sgl.function(lambda s: s.__iadd__('x' + sgl.gen('y', max_tokens=2)))\n"
        "s = f.run(backend=r); s['y']\n"
        "assert s._body.record is None\n"
        "assert not any(m.startswith('opentelemetry') for m in sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("captures", [False, True])
def test_tools_have_spans_under_their_program(spans: Spans, monkeypatch: pytest.MonkeyPatch, captures: bool) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", str(captures).lower())

    @sgl.tool
    def look(where: str) -> str:
        if where == "nowhere":
            raise ValueError("nothing is there")
        time.sleep(0.01)
        return "a cat"

    @sgl.function
    def agent(s: Any) -> Any:
        return sgl.agent(s, [look]).answer

    calls = [{"name": "look", "arguments": {"where": where}} for where in ("here", "nowhere")]
    text = "\n".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)
    assert agent.run(backend=sgl.FakeBackend([text, "A cat."])).ret_value == "A cat."
    program = spans.program("agent")
    good, bad = sorted(spans.named("execute_tool look"), key=lambda span: span.attributes["gen_ai.tool.call.id"])
    for span in (good, bad):
        assert span.parent.span_id == program.context.span_id and span.kind is SpanKind.INTERNAL
        assert program.start_time <= span.start_time <= span.end_time <= program.end_time
        assert span.attributes["gen_ai.operation.name"] == "execute_tool"
        assert span.attributes["gen_ai.tool.name"] == "look" and span.attributes["gen_ai.tool.type"] == "function"
    assert good.end_time - good.start_time >= 10_000_000 and good.status.status_code is StatusCode.UNSET
    assert bad.attributes["error.type"] == "ValueError" and bad.status.status_code is StatusCode.ERROR
    assert good.attributes.get("gen_ai.tool.call.result") == ("a cat" if captures else None)
    assert good.attributes.get("gen_ai.tool.call.arguments") == ('{"where": "here"}' if captures else None)
