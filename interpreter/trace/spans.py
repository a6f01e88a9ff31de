"""OpenTelemetry spans of programs and their calls, if the application uses OpenTelemetry.

Hears of a program through its record, as a trace does. Knows nothing of the data of a trace. Names and attributes
follow the semantic conventions for generative AI (`gen_ai.*`, status "development", v1.41).

1. This module is imported only where the application has imported `opentelemetry.trace` itself.
2. A program is an `invoke_workflow` span. Under it a gen or select is a `text_completion` span, and the run of a tool
   an `execute_tool` span. All are INTERNAL.
3. The parent of a program's span is the span that is current where the program starts. In the body of another program
   that opened no span of its own there, it is that program's span.
4. Texts are recorded only where OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is "true".
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from ...backend.base import GenResult, ScoreResult, Usage
from ...backend.contain import is_interruption, message_of
from ...lang.constraint import JsonSchema
from ...lang.expr import Gen
from ..record import BranchRecord, CallRecord, Listener, ProgramRecord, ToolRecord
from .data import results_of

log = logging.getLogger("sgl")

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_REQUEST = ("temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop")
"""The options of a gen that the conventions name, as `gen_ai.request.temperature` (`stop` as `stop_sequences`)."""


def _left_out(error: BaseException, what: str, *names: str) -> None:
    """Log what the application's telemetry raised. Raises an interruption."""
    if is_interruption(error):
        raise error
    log.error(what, *names, exc_info=error)


def start(record: ProgramRecord) -> Listener | None:
    """Begin the span of a program that starts here. None: the application collects no spans."""
    if isinstance(otel.get_tracer_provider(), (otel.ProxyTracerProvider, otel.NoOpTracerProvider)):
        return None
    from ... import __version__

    try:
        return ProgramSpan(record, otel.get_tracer("sgl", __version__))
    except BaseException as error:
        _left_out(error, "telemetry: the span of program %s could not be started", record.name)
        return None


class ProgramSpan:
    """The span of one program, and the spans of its calls. It ends when the body and every call have ended.

    A call's span is made when the call is over, with its true times. The span is handed to the processor in the thread
    that ends a step, so use a processor that exports elsewhere (`BatchSpanProcessor`).
    """

    def __init__(self, record: ProgramRecord, tracer: Tracer) -> None:
        self._tracer = tracer
        self._clock = time.time_ns() - time.monotonic_ns()
        self._around = otel.get_current_span()
        self._common = {"gen_ai.provider.name": "sgl", "gen_ai.request.model": _model(record)}
        caller = record.caller.listener if record.caller is not None else None
        parent = caller if isinstance(caller, ProgramSpan) and caller._around is self._around else None
        self.span: Span = tracer.start_span(
            f"invoke_workflow {record.name}",
            context=None if parent is None else parent.context,
            kind=SpanKind.INTERNAL,
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": record.name,
                **self._common,
                **({} if record.row is None else {"sgl.row": record.row}),
            },
            start_time=self._time(record.began),
        )
        self.context: Context = otel.set_span_in_context(self.span)
        self._left = 1  # the body, and calls that are not over
        self._body_over = False
        self._count = threading.Lock()
        self._last = record.began
        self._root = record.root
        self._error: BaseException | None = None  # of the body, or of a call on the program's own line

    # -- what it hears
    def called(self, branch: BranchRecord, call: CallRecord) -> None:
        try:
            if not self.span.is_recording():
                return  # not sampled, or over: a call that is said after the program's end has no span
        except BaseException as error:
            return _left_out(error, "telemetry: the span of %s could not be recorded", call.where)
        before = "".join(branch.unread()) if _captures() else None
        with self._count:
            self._left += 1

        def look() -> None:
            if call.handle.done:
                if branch is self._root:
                    self._error = self._error or call.handle.error
                self._over(call, before)

        call.handle.listen(look)

    def ran(self, branch: BranchRecord, tool: ToolRecord) -> None:
        try:
            if not self.span.is_recording():
                return
        except BaseException as error:
            return _left_out(error, "telemetry: the span of tool %s could not be recorded", tool.call.name)
        with self._count:
            self._left += 1

        def look() -> None:
            if tool.handle.done:
                try:
                    self._tool(tool)
                except BaseException as error:
                    _left_out(error, "telemetry: the span of tool %s could not be recorded", tool.call.name)
                self._one_less(tool.ended or tool.began)

        tool.handle.listen(look)

    def ended(self, record: ProgramRecord) -> None:
        with self._count:
            again, self._body_over = self._body_over, True  # a body can end while it is given up
        if not again:
            self._error = record.error or self._error
            self._one_less(record.ended or record.began)

    def _over(self, call: CallRecord, before: str | None) -> None:
        try:
            self._call(call, before)
        except BaseException as error:
            _left_out(error, "telemetry: the span of %s could not be recorded", call.where)
        self._one_less(call.ended or call.enqueued)

    def _one_less(self, when: float) -> None:
        with self._count:
            self._left -= 1
            self._last = max(self._last, when)
            last = not self._left
        if last:
            try:
                _fail(self.span, self._error, self._time(self._last))
                self.span.end(self._time(self._last))
            except BaseException as error:
                _left_out(error, "telemetry: the span of a program could not be ended")

    # -- a call
    def _call(self, call: CallRecord, before: str | None) -> None:
        handle = call.handle
        results = results_of(call)
        usage = sum((each.usage for each in results), Usage())
        ended = call.ended if call.ended is not None else time.monotonic()
        took = max((each.usage.queued + each.usage.running for each in results), default=ended - call.enqueued)
        span = self._tracer.start_span(
            f"text_completion {self._common['gen_ai.request.model']}",
            context=self.context,
            kind=SpanKind.INTERNAL,
            attributes={"gen_ai.operation.name": "text_completion", **self._common, **_request(call)},
            start_time=self._time(max(call.enqueued, ended - took)),
        )
        if span.is_recording():
            if results:
                span.set_attributes(_response(results, usage))
            if before is not None:
                span.set_attributes(_content(before, results))
            _fail(span, handle.error, self._time(ended))
        span.end(self._time(ended))

    def _tool(self, tool: ToolRecord) -> None:
        call, result = tool.call, tool.handle.value()
        ended = self._time(tool.ended if tool.ended is not None else time.monotonic())
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
            "gen_ai.tool.type": "function",
            "sgl.tries": result.tries,
        }
        if _captures():
            arguments = json.dumps(call.arguments)
            attributes.update({"gen_ai.tool.call.arguments": arguments, "gen_ai.tool.call.result": result.text})
        span = self._tracer.start_span(
            f"execute_tool {call.name}",
            context=self.context,
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            start_time=self._time(tool.began),
        )
        if result.exception is not None:
            _fail(span, result.exception, ended)
        elif result.error is not None:
            span.set_attribute("error.type", result.error)
            span.set_status(Status(StatusCode.ERROR, result.text if _captures() else result.error))
        span.end(ended)

    def _time(self, when: float) -> int:
        """Convert a moment on the monotonic clock to nanoseconds since 1970."""
        return self._clock + int(when * 1e9)


def _model(record: ProgramRecord) -> str:
    return str(getattr(record.backend, "model_name", None) or record.backend.capabilities.name)


def _captures() -> bool:
    return os.environ.get(_CAPTURE, "").strip().lower() == "true"


def _request(call: CallRecord) -> dict[str, Any]:
    said: dict[str, Any] = {"sgl.kind": call.kind, "sgl.where": call.where}
    if call.name is not None:
        said["sgl.name"] = call.name
    expr = call.expr
    if not isinstance(expr, Gen):
        return {**said, "sgl.choices": len(expr.choices), "gen_ai.output.type": "text"}
    for option in _REQUEST:
        if (value := getattr(expr.sampling, option)) is not None:
            name = "stop_sequences" if option == "stop" else option
            said[f"gen_ai.request.{name}"] = list(value) if isinstance(value, tuple) else value
    if expr.n != 1:
        said["gen_ai.request.choice.count"] = expr.n
    said["gen_ai.output.type"] = "json" if isinstance(expr.constraint, JsonSchema) else "text"
    return said


def _response(results: list[GenResult | ScoreResult], usage: Usage) -> dict[str, Any]:
    """Give the attributes of a response. The prompt that `n` samples share is counted once."""
    first = results[0].usage
    return {
        "gen_ai.response.finish_reasons": [_finish(each) for each in results],
        "gen_ai.usage.input_tokens": first.prompt,
        "gen_ai.usage.cache_read.input_tokens": first.reused,
        "gen_ai.usage.output_tokens": usage.generated,
        "sgl.usage.reused": first.reused,
        "sgl.usage.computed": usage.computed,
        "sgl.usage.forced": usage.forced,
        "sgl.queued": max(each.usage.queued for each in results),
    }


def _finish(result: GenResult | ScoreResult) -> str:
    return str(result.finish_reason["type"]) if isinstance(result, GenResult) else "stop"


def _content(before: str, results: list[GenResult | ScoreResult]) -> dict[str, str]:
    """Give the text that no earlier call has read, and what the call wrote, as messages of the conventions."""

    def message(role: str, text: str, **more: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": text}], **more}

    written = [message("assistant", each.text, finish_reason=_finish(each)) for each in results]
    return {
        "gen_ai.input.messages": json.dumps([message("user", before)]),
        "gen_ai.output.messages": json.dumps(written),
    }


def _fail(span: Span, error: BaseException | None, when: int) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.record_exception(error, timestamp=when)
        span.set_status(Status(StatusCode.ERROR, message_of(error)))
