"""The JSON data of a trace: what its file holds, what the page draws and what a replay compares.

Knows nothing of files and pages. Reads records that may still grow; waits for nothing and changes nothing.

Invariants
1. The runs of the prompts and the texts of the first samples along a branch spell exactly what was said there. They
   are of the calls of its ancestors before each fork, of its own calls, and of its tail.
2. Times are seconds since the trace began. Ids and step numbers are unique in one trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from ...backend.base import CallTrace, GenResult, ScoreResult, StepRecord, Usage
from ...backend.contain import message_of
from ...lang.choices import token_length_normalized
from ...lang.constraint import (
    Choices,
    Constraint,
    Control,
    Either,
    Exactly,
    Grammar,
    JsonSchema,
    Regex,
    Repeated,
    Sequenced,
)
from ...lang.expr import Gen, Sampling, Select
from ..arguments import Options
from ..plain import plain
from ..record import BranchRecord, CallRecord, ProgramRecord, ToolRecord
from ..source import error_line
from ..usage import spent
from .page import VERSION

_USAGE = tuple(f.name for f in fields(Usage) if f.name != "calls")
_SAMPLING = tuple(f.name for f in fields(Sampling))
_DESCRIPTION_CHARACTERS = 200


class TraceFrame:
    """What the parts of one trace share: its start time, and the numbers of its programs, calls and steps.

    `steps` holds the steps of each backend, by the backend's id. The step numbers of a backend are shifted, so that the
    steps of several backends differ.
    """

    def __init__(self, began: float, programs: Sequence[ProgramRecord], steps: dict[int, list[StepRecord]]) -> None:
        self.began = began
        self.ids = {id(record): i for i, record in enumerate(programs, 1)}
        self.steps: list[list[Any]] = []
        self._offsets: dict[int, int] = {}
        self._calls = 0
        for backend, records in steps.items():
            offset = self._offsets[backend] = max((step[0] for step in self.steps), default=0)
            self.steps += [self._step(record, offset) for record in list(records)]
        self.steps.sort(key=lambda step: (step[1], step[0]))

    def _step(self, step: StepRecord, offset: int) -> list[Any]:
        times = self.time(step.began), self.time(step.ended)
        return [step.number + offset, *times, step.rows, step.prompt_rows, step.branches]

    def time(self, when: float) -> float:
        return round(when - self.began, 6)

    def moment(self, when: float | None) -> float | None:
        return None if when is None else self.time(when)

    def call_id(self, kind: str) -> str:
        self._calls += 1
        return f"{kind}-{self._calls}"

    def step_number(self, record: ProgramRecord, number: int) -> int:
        """The number in this trace of a step of the program's backend. 0 stays 0: the token needed no step."""
        return number + self._offsets.get(id(record.backend), 0) if number else 0


def trace_data(
    programs: Sequence[ProgramRecord], steps: dict[int, list[StepRecord]], began: float, wall: float
) -> dict[str, Any]:
    """Give the whole trace. `began` is on the monotonic clock, `wall` is the same moment as a Unix time."""
    from ... import __version__

    frame = TraceFrame(began, programs, steps)
    return {
        "sgl_trace": VERSION,
        "created": datetime.fromtimestamp(wall, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sgl": __version__,
        "backend": _backends(programs),
        "programs": [program_data(record, frame) for record in programs],
        "steps": frame.steps,
    }


def _backends(programs: Sequence[ProgramRecord]) -> dict[str, Any]:
    """Give the names of the backends, and the options of the first one that are numbers or texts."""
    backends = list({id(record.backend): record.backend for record in programs}.values())
    about: dict[str, Any] = {"name": " and ".join(dict.fromkeys(each.capabilities.name for each in backends)) or None}
    options = getattr(backends[0], "options", None) if backends else None
    for name in getattr(type(options), "__dataclass_fields__", ()):
        value = getattr(options, name)
        if isinstance(value, (str, int, float, bool)):
            about[name] = value
    return about


# -- a program
def program_data(record: ProgramRecord, frame: TraceFrame) -> dict[str, Any]:
    """Give one program with its branches, parents first."""
    branches, error = _branches(record, frame), record.error
    ends = [frame.moment(record.ended), *(call["ended"] for branch in branches for call in branch["calls"])]
    failed = None if error is None else error_data(error, error_line(error))
    return {
        "id": frame.ids.get(id(record), 1),
        "name": record.name,
        "caller": frame.ids.get(id(record.caller)),
        "row": record.row,
        "module": getattr(record.program, "__module__", None) or "?",
        "args": _arguments(record),
        "options": _options(record.options),
        "seed": record.seed,
        "began": frame.time(record.began),
        "ended": None if None in ends else max(ends),
        "error": failed or branches[0]["error"],
        "value": record.value,
        **({"in_tool": True} if record.in_tool else {}),
        "branches": branches,
    }


def _arguments(record: ProgramRecord) -> dict[str, Any]:
    """Give the arguments by the names of the program's parameters; `*rest` is a list and `**more` a dict."""
    args, kwargs = record.given
    bound = inspect.signature(record.program).bind(None, *args, **kwargs)
    values = list(bound.arguments.items())[1:]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def _options(options: Options) -> dict[str, Any]:
    """Give the run-level options as `run` takes them."""
    said = _said(options.sampling)
    if "max_tokens" in said:
        said["max_new_tokens"] = said.pop("max_tokens")
    for name in ("seed", "timeout"):
        if (value := getattr(options, name)) is not None:
            said[name] = value
    if options.budget is not None:
        said["budget"] = dict(options.budget.limits)
    return {**said, "stream": True} if options.stream else said


def error_data(error: BaseException, where: str) -> dict[str, str]:
    return {"type": type(error).__name__, "message": message_of(error), "where": where}


# -- its branches
def _branches(record: ProgramRecord, frame: TraceFrame) -> list[dict[str, Any]]:
    """Give the branches of a program, parents first."""
    found: list[dict[str, Any]] = []
    todo: list[tuple[BranchRecord, str, str | None, int]] = [(record.root, "0", None, 0)]
    while todo:
        branch, name, parent, after = todo.pop()
        calls: list[dict[str, Any]] = []
        children: list[tuple[BranchRecord, str, str | None, int]] = []
        texts = list(branch.lead)
        for event in list(branch.events):
            if isinstance(event, str):
                texts.append(event)
            elif isinstance(event, BranchRecord):
                children.append((event, f"{name}.{len(children)}", name, len(calls)))
            else:
                calls.append(call_data(event, "".join(texts), record, frame))
                texts = []
        found.append(
            {
                "id": name,
                "parent": parent,
                "after": after,
                "label": branch.label,
                "error": next((call["error"] for call in calls if call["error"] is not None), None),
                "joined": branch.joined,
                "calls": calls,
                **({"tools": [tool_data(tool, frame) for tool in list(branch.tools)]} if branch.tools else {}),
                "tail": "".join(texts),
            }
        )
        todo += reversed(children)
    return found


def tool_data(tool: ToolRecord, frame: TraceFrame) -> dict[str, Any]:
    """Give one call of a tool. `text` is what the model is told, None while it runs."""
    result = tool.handle.result
    return {
        "name": tool.call.name,
        "arguments": plain(tool.call.arguments),
        "id": tool.call.id,
        "after": tool.after,
        "began": frame.time(tool.began),
        "ended": frame.moment(tool.ended),
        "text": None if result is None else result.text,
        "error": None if result is None else result.error,
        "value": None if result is None else plain(result.value),
        "tries": 0 if result is None else result.tries,
        "seconds": 0.0 if result is None else result.seconds,
        "truncated": result is not None and result.truncated,
    }


# -- a call
def results_of(call: CallRecord) -> list[GenResult | ScoreResult]:
    """Give the samples of a gen, or the one result of a select; empty while the call runs and when it failed."""
    result = None if call.handle.error is not None else call.handle.result
    return list(result) if isinstance(result, list) else [] if result is None else [result]


def call_data(call: CallRecord, before: str, record: ProgramRecord, frame: TraceFrame) -> dict[str, Any]:
    """Give one call. `before` is the text that no earlier call has read."""
    done, error = call.handle.done, call.handle.error
    results = results_of(call) if done else []
    traces = [result.trace for result in results if result.trace is not None]
    ended = max((trace.ended for trace in traces), default=call.ended)
    usage = spent(call.handle) if done else Usage()
    return {
        "id": frame.call_id(call.kind),
        "kind": call.kind,
        "name": call.name,
        "where": call.where,
        "params": _params(call.expr),
        "constraint": describe(call.expr.constraint) if isinstance(call.expr, Gen) and call.expr.constraint else None,
        "enqueued": frame.time(call.enqueued),
        "began": frame.moment(traces[0].began) if traces else None,
        "ended": frame.moment(ended) if done else None,
        "error": None if error is None else error_data(error, call.where),
        "usage": {name: getattr(usage, name) for name in _USAGE},
        "prompt": _prompt(before, traces[0] if traces else None),
        "samples": _samples(call, results, record, frame),
        "choices": _choices(call.expr, results),
    }


def _params(expr: Gen | Select) -> dict[str, Any]:
    """Give the options of the call itself."""
    if isinstance(expr, Select):
        said: dict[str, Any] = {} if not expr.temperature else {"temperature": expr.temperature}
        method = expr.method
        return said if method is token_length_normalized else {**said, "choices_method": plain(repr(method))}
    return {**_said(expr.sampling), **({} if expr.on_budget == "close" else {"on_budget": expr.on_budget})}


def _said(sampling: Sampling) -> dict[str, Any]:
    values = ((name, getattr(sampling, name)) for name in _SAMPLING)
    return {name: plain(value) for name, value in values if value is not None}


def _prompt(before: str, trace: CallTrace | None) -> list[list[Any]]:
    """Cut `before` into runs of (text, origin, tokens).

    The lengths of the runs come from the tokens, their text from the program. The two may differ by a begin token, or
    by the tokenizer's normal form. The first tokens of a select may hold the end of the prompt.
    """
    if trace is None or not trace.prompt:
        return [[before, "constant", None if trace is None else 0]] if before else []
    spelled = "".join(text for text, _, _ in trace.prompt)
    at = len(before) - len(spelled) if spelled != before and spelled.endswith(before) else 0
    runs: list[list[Any]] = []
    for text, reused, tokens in trace.prompt:
        begin, at = max(0, at), at + len(text)
        runs.append([before[begin : max(0, at)], "reused" if reused else "constant", tokens])
    runs[-1][0] += before[max(0, at) :]
    return runs


def _samples(
    call: CallRecord, results: Sequence[GenResult | ScoreResult], record: ProgramRecord, frame: TraceFrame
) -> list[dict[str, Any]]:
    if not results:
        partial = call.handle.text  # of a gen that runs or failed
        return [{"text": partial, "finish": None, "tokens": []}] if partial else []
    samples = []
    for result in results:
        stopped = {"type": "stop", "matched": result.text}
        finish = dict(result.finish_reason) if isinstance(result, GenResult) else stopped
        samples.append({"text": result.text, "finish": finish, "tokens": _tokens(result.trace, record, frame)})
    return samples


def _tokens(trace: CallTrace | None, record: ProgramRecord, frame: TraceFrame) -> list[list[Any]]:
    if trace is None:
        return []
    steps = (frame.step_number(record, step) for step in trace.steps)
    parts = zip(trace.texts, trace.token_ids, trace.logprobs, map(int, trace.forced), steps)
    return [list(token) for token in parts]


def _choices(expr: Gen | Select, results: Sequence[GenResult | ScoreResult]) -> list[dict[str, Any]] | None:
    """Give each choice with the log-probability of its whole text. A token whose probability is unknown counts 0."""
    if not (isinstance(expr, Select) and results and isinstance(score := results[0], ScoreResult)):
        return None
    totals = [sum(token.logprob or 0.0 for token in tokens) for tokens in score.scores.token_logprobs]
    return [
        {"text": text, "logprob": total, "picked": i == score.index}
        for i, (text, total) in enumerate(zip(expr.choices, totals))
    ]


# -- a constraint in words
def describe(constraint: Constraint) -> str:
    """Name a constraint in a few words, cut to 200 characters."""
    return _words(constraint)[:_DESCRIPTION_CHARACTERS]


def _words(constraint: Constraint) -> str:
    if isinstance(constraint, Exactly):
        return repr(constraint.text)
    if isinstance(constraint, Regex):
        return constraint.dtype.__name__ if constraint.dtype is not None else f"regex {constraint.pattern}"
    if isinstance(constraint, Choices):
        return f"choice of {', '.join(map(repr, constraint.choices))}"
    if isinstance(constraint, JsonSchema):
        of = constraint.type
        return f"JSON schema {constraint.source}" if of is None else f"schema {getattr(of, '__name__', of)}"
    if isinstance(constraint, Grammar):
        return f"{constraint.syntax} grammar"
    if isinstance(constraint, Sequenced):
        return " + ".join(map(_words, constraint.parts))
    if isinstance(constraint, Either):
        return " | ".join(map(_words, constraint.branches))
    if isinstance(constraint, Control):
        return f"control token {constraint.text}"
    if isinstance(constraint, Repeated):
        return f"repeat of ({_words(constraint.part)})"
    return constraint.kind
