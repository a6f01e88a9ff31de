"""Records as the JSON data of a trace: what the file holds, the page draws and a replay compares.

Owns: the format (version 1, as `docs/` says), and every choice of what is written of a program. Reads records that may
still grow, waits for nothing, and changes nothing.

Invariants
- Along a branch (its ancestors' calls before the fork, its own, then its tail) the runs of each prompt and each first
  sample's text spell exactly what was said there.
- Times are seconds since the trace began; ids and step numbers are unique in one trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from ...backend.base import CallTrace, GenResult, ScoreResult, StepRecord, Usage
from ...lang.choices import token_length_normalized
from ...lang.constraint import Choices, Constraint, Either, Exactly, Grammar, JsonSchema, Regex, Sequenced
from ...lang.expr import Gen, Sampling, Select
from ..arguments import Options
from ..plain import plain
from ..record import BranchRecord, CallRecord, ProgramRecord
from ..source import error_line
from ..usage import spent
from .page import VERSION

_USAGE = tuple(f.name for f in fields(Usage) if f.name != "calls")
_SAMPLING = tuple(f.name for f in fields(Sampling))


class Frame:
    """What the parts of one trace share: when it began, the ids of its programs, the numbers of its calls, and what is
    added to a backend's step numbers so that those of several backends differ."""

    def __init__(self, began: float, programs: Sequence[ProgramRecord], steps: dict[int, list[StepRecord]]) -> None:
        self.began = began
        self.ids = {id(record): i for i, record in enumerate(programs, 1)}
        self.steps: list[list[Any]] = []
        self._offsets: dict[int, int] = {}
        self._calls = 0
        taken = 0
        for backend, records in steps.items():
            self._offsets[backend] = taken
            self.steps += [self._step(record, taken) for record in list(records)]
            taken = max([taken, *(step[0] for step in self.steps)])
        self.steps.sort(key=lambda step: (step[1], step[0]))

    def _step(self, step: StepRecord, offset: int) -> list[Any]:
        number = step.number + offset
        return [number, self.time(step.began), self.time(step.ended), step.rows, step.prompt_rows, step.branches]

    def time(self, when: float) -> float:
        return round(when - self.began, 6)

    def moment(self, when: float | None) -> float | None:
        return None if when is None else self.time(when)

    def call_id(self, kind: str) -> str:
        self._calls += 1
        return f"{kind}-{self._calls}"

    def step_of(self, record: ProgramRecord, number: int) -> int:
        """The number of a backend's step in this trace; 0: the token needed none."""
        return number + self._offsets.get(id(record.backend), 0) if number else 0


def trace_data(
    programs: Sequence[ProgramRecord], steps: dict[int, list[StepRecord]], began: float, wall: float
) -> dict[str, Any]:
    """The whole trace. `began` is on the monotonic clock, `wall` the same moment as a Unix time."""
    from ... import __version__

    frame = Frame(began, programs, steps)
    return {
        "sgl_trace": VERSION,
        "created": datetime.fromtimestamp(wall, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sgl": __version__,
        "backend": _backends(programs),
        "programs": [program_data(record, frame) for record in programs],
        "steps": frame.steps,
    }


def _backends(programs: Sequence[ProgramRecord]) -> dict[str, Any]:
    """The backends' names, and what the first says of itself in plain numbers and texts."""
    backends = list({id(record.backend): record.backend for record in programs}.values())
    about: dict[str, Any] = {"name": " and ".join(dict.fromkeys(each.capabilities.name for each in backends)) or None}
    options = getattr(backends[0], "options", None) if backends else None
    for name in getattr(type(options), "__dataclass_fields__", ()):
        value = getattr(options, name)
        if isinstance(value, (str, int, float, bool)):
            about[name] = value
    return about


# -- a program
def program_data(record: ProgramRecord, frame: Frame) -> dict[str, Any]:
    """One program with its branches, parents first."""
    branches, calls = _branches(record, frame)
    ends = [call.ended for call in calls]
    running = record.ended is None or None in ends
    error = record.error
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
        "ended": None if running else frame.moment(max(t for t in (record.ended, *ends) if t is not None)),
        "error": failed or branches[0]["error"],
        "value": record.value,
        "branches": branches,
    }


def _arguments(record: ProgramRecord) -> dict[str, Any]:
    """The arguments by the names of the program's parameters; `*rest` is a list and `**more` a dict."""
    args, kwargs = record.given
    bound = inspect.signature(record.program).bind(None, *args, **kwargs)
    values = list(bound.arguments.items())[1:]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def _options(options: Options) -> dict[str, Any]:
    """What was said to `run`, as `run` takes it."""
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
    return {"type": type(error).__name__, "message": str(error), "where": where}


# -- its branches
def _branches(record: ProgramRecord, frame: Frame) -> tuple[list[dict[str, Any]], list[CallRecord]]:
    found: list[dict[str, Any]] = []
    every: list[CallRecord] = []
    todo: list[tuple[BranchRecord, str, str | None, int]] = [(record.root, "0", None, 0)]
    while todo:
        branch, name, parent, after = todo.pop()
        calls: list[dict[str, Any]] = []
        children: list[tuple[BranchRecord, str, str | None, int]] = []
        texts, error = list(branch.lead), None
        for event in list(branch.events):
            if isinstance(event, str):
                texts.append(event)
            elif isinstance(event, BranchRecord):
                children.append((event, f"{name}.{len(children)}", name, len(calls)))
            else:
                calls.append(call_data(event, "".join(texts), record, frame))
                every.append(event)
                error = error or calls[-1]["error"]
                texts = []
        found.append(
            {
                "id": name,
                "parent": parent,
                "after": after,
                "label": branch.label,
                "error": error,
                "joined": branch.joined,
                "calls": calls,
                "tail": "".join(texts),
            }
        )
        todo += reversed(children)
    return found, every


# -- a call
def call_data(call: CallRecord, before: str, record: ProgramRecord, frame: Frame) -> dict[str, Any]:
    """One call; `before` is the text it was the first to read."""
    handle = call.handle
    done, error = handle.done, handle.error
    over = handle.result if done and error is None else None
    results: list[GenResult] = over if isinstance(over, list) else []
    score = over if isinstance(over, ScoreResult) else None
    finished: list[GenResult | ScoreResult] = [*results, *([] if score is None else [score])]
    traces = [each.trace for each in finished if each.trace is not None]
    usage = spent(handle) if done else Usage()
    ended = max(trace.ended for trace in traces) if traces else call.ended
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
        "samples": _samples(call, results, score, lambda number: frame.step_of(record, number)),
        "choices": None if score is None else _choices(call.expr, score),
    }


def _params(expr: Gen | Select) -> dict[str, Any]:
    """What was said of it."""
    if isinstance(expr, Select):
        said: dict[str, Any] = {} if not expr.temperature else {"temperature": expr.temperature}
        method = expr.method
        return said if method is token_length_normalized else {**said, "choices_method": plain(repr(method))}
    return {**_said(expr.sampling), **({} if expr.on_budget == "close" else {"on_budget": expr.on_budget})}


def _said(sampling: Sampling) -> dict[str, Any]:
    values = ((name, getattr(sampling, name)) for name in _SAMPLING)
    return {name: plain(value) for name, value in values if value is not None}


def _prompt(before: str, trace: CallTrace | None) -> list[list[Any]]:
    """`before` as runs of (text, origin, tokens). The tokens say how long each run is; the text is the program's own,
    which theirs may differ from: by a begin token that it does not have, by a tokenizer's normal form, by the end that
    a select's first tokens took over. (A call that was not finished tells of no tokens.)"""
    if trace is None or not trace.prompt:
        return [[before, "constant", None if trace is None else 0]] if before else []
    spelled = "".join(text for text, _, _ in trace.prompt)
    skip = len(spelled) - len(before) if spelled != before and spelled.endswith(before) else 0
    runs: list[list[Any]] = []
    at = -skip
    for text, reused, tokens in trace.prompt:
        begin, at = max(0, at), at + len(text)
        runs.append([before[begin : max(0, at)], "reused" if reused else "constant", tokens])
    runs[-1][0] += before[max(0, at) :]
    return runs


def _samples(
    call: CallRecord, results: list[GenResult], score: ScoreResult | None, step_of: Callable[[int], int]
) -> list[dict[str, Any]]:
    if score is not None:
        finish = {"type": "stop", "matched": score.text}
        return [{"text": score.text, "finish": finish, "tokens": _tokens(score.trace, step_of)}]
    if results:
        return [{"text": r.text, "finish": dict(r.finish_reason), "tokens": _tokens(r.trace, step_of)} for r in results]
    partial = call.handle.text  # of a gen that runs or failed
    return [{"text": partial, "finish": None, "tokens": []}] if partial else []


def _tokens(trace: CallTrace | None, step_of: Callable[[int], int]) -> list[list[Any]]:
    if trace is None:
        return []
    parts = zip(trace.texts, trace.token_ids, trace.logprobs, trace.forced, trace.steps)
    return [[text, token, logprob, int(forced), step_of(step)] for text, token, logprob, forced, step in parts]


def _choices(expr: Gen | Select, score: ScoreResult) -> list[dict[str, Any]]:
    """Each choice with the log-probability of its whole text (an unknown token counts 0)."""
    assert isinstance(expr, Select)
    totals = [sum(token.logprob or 0.0 for token in tokens) for tokens in score.scores.token_logprobs]
    return [
        {"text": text, "logprob": total, "picked": i == score.index}
        for i, (text, total) in enumerate(zip(expr.choices, totals))
    ]


def describe(constraint: Constraint, most: int = 200) -> str:
    """A constraint in a few words."""
    return _words(constraint)[:most]


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
    return constraint.kind
