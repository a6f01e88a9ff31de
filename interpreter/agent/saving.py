"""A paused agent as JSON data, and back: the text it has come to, what it did, and the calls that wait.

Knows nothing of the loop, nor of who decides. The text goes on with the same tokens and the same noise, so what comes
after is what would have come without the pause.

1. Data that was changed on the way is refused: it holds a digest of itself. So is data of another shape, whoever made
   it.
2. The text is put back whole or not at all, on a state without text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from ...backend.base import Usage
from ...backend.contain import message_of
from ...backend.shapes import AnyShape, maybe, misfit, short
from ...backend.waiting import AtHandle, Flow
from ...lang.errors import CapabilityError, OptionError
from ...lang.tools.listing import ToolList
from ...lang.tools.result import ToolResult
from ...lang.tools.spec import ToolCall
from ..line import Line
from ..transcript import Segment
from .events import Reason

SAVED_VERSION = 1
"""The version of the data, as its "sgl_agent" says."""


@dataclass
class AgentWork:
    """What an agent has done. A result that is None is one that waits.

    `made`: the result of each call that was started, by its name and arguments. `waiting`: the calls whose results are
    not said yet, in order. `results`: what was said. `spent`, `seconds`: against its budget and its timeout.
    """

    steps: int = 0
    repaired: int = 0
    why: Reason | None = None
    made: dict[str, ToolResult | None] = field(default_factory=dict)
    waiting: list[tuple[ToolCall, ToolResult | None]] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    spent: Usage = field(default_factory=Usage)
    seconds: float = 0.0


def call_key(call: ToolCall) -> str:
    """What calls have in common that ask for the same: name and arguments."""
    return json.dumps([call.name, call.arguments], sort_keys=True)


# -- saving
def saved(line: Line, work: AgentWork, tools: ToolList) -> Flow[dict[str, Any]]:
    """Give the agent on `line` as JSON data. Waits until everything said so far is done."""
    can = line.backend.capabilities
    if can.saves is None:
        raise CapabilityError(f"agent: it cannot be paused, as backend {can.name!r} cannot save a text")
    handle = line.branch.saved()
    if not handle.done:
        yield AtHandle(line.backend, handle)
    data = {
        "sgl_agent": SAVED_VERSION,
        "model": can.name,
        "identity": can.saves(),
        "template": _digest(_template(line)),
        "tools": _tools(tools),
        "text": [list(piece) for segment in line.segments for piece in _pieces(segment)],
        "branch": handle.value(),
        "roles": line.roles.saved(),
        "turns": line.turns,
        "steps": work.steps,
        "repaired": work.repaired,
        "why": work.why,
        "made": [[key, _result_data(result)] for key, result in work.made.items()],
        "waiting": [[_call_data(call), _result_data(result)] for call, result in work.waiting],
        "results": list(map(_result_data, work.results)),
        "spent": {f.name: getattr(work.spent, f.name) for f in fields(Usage)},
        "seconds": work.seconds,
    }
    return {**data, "digest": _digest(data)}


def _pieces(segment: Segment) -> list[tuple[str, bool]]:
    return [(segment.text, segment.markup)] if segment.handle is None else segment.pieces


def _template(line: Line) -> Any:
    template = line.backend.chat_template
    return None if template is None else [template.source, template.bos_token, template.eos_token]


def _tools(tools: ToolList) -> dict[str, str]:
    return {spec.name: _digest(spec.openai()) for spec in tools.specs}


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _call_data(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments, "id": call.id}


def _result_data(result: ToolResult | None) -> dict[str, Any] | None:
    """A result without what the tool returned or raised, which need not be JSON."""
    if result is None:
        return None
    kept = {f.name: getattr(result, f.name) for f in fields(ToolResult) if f.compare}
    return {**kept, "call": _call_data(result.call)}


# -- going on
def restored(line: Line, data: Any, tools: ToolList) -> AgentWork:
    """Put the text of a saved agent on `line`, and give what it did. Raises `OptionError` if it does not fit."""
    _check_whole(data)
    _check_fits(line, data, tools)
    work = AgentWork(
        data["steps"],
        data["repaired"],
        data["why"],
        {key: _result(result) for key, result in data["made"]},
        [(ToolCall(**call), _result(result)) for call, result in data["waiting"]],
        [result for each in data["results"] if (result := _result(each)) is not None],
        Usage(**data["spent"]),
        data["seconds"],
    )
    line.restore(data["branch"], data["text"], data["roles"], data["turns"])
    return work


def _result(data: dict[str, Any] | None) -> ToolResult | None:
    return None if data is None else ToolResult(**{**data, "call": ToolCall(**data["call"])})


def _check_whole(data: Any) -> None:
    """Raise `OptionError` for what `saved` did not give."""
    if not isinstance(data, dict) or "sgl_agent" not in data:
        raise OptionError(f"agent: resume= takes the `saved` of an agent that was paused, got {short(data)}")
    if data["sgl_agent"] != SAVED_VERSION:
        raise OptionError(
            f"agent: resume= got an agent of version {short(data['sgl_agent'])}, and this sgl reads version "
            f"{SAVED_VERSION}: go on with the sgl that paused it"
        )
    try:
        wrong = misfit(data, _SAVED)
        if wrong is None and data["digest"] != _digest({name: part for name, part in data.items() if name != "digest"}):
            wrong = "its digest is another one"
        if wrong is None and (conversation := data["roles"]["conversation"]) is not None:
            datetime.fromisoformat(conversation["began"])
    except (TypeError, ValueError, RecursionError) as error:  # no JSON data
        wrong = message_of(error)
    if wrong is not None:
        raise OptionError(
            f"agent: resume= got damaged data ({wrong:.200}): it is not what the paused agent gave; keep it as it is"
        )


def _check_fits(line: Line, data: dict[str, Any], tools: ToolList) -> None:
    """Raise `OptionError` for another model, template or list of tools, and where there is text."""
    can, began = line.backend.capabilities, "agent: resume= got an agent that was paused"
    if data["model"] != can.name:
        raise OptionError(f"{began} on {data['model']}, and this backend is {can.name}: pass backend= with that model")
    if can.saves is None or data["identity"] != can.saves():
        raise OptionError(
            f"{began} on another model of the name {can.name}: its tokens or its sizes differ; use the one that "
            "paused it"
        )
    if data["template"] != _digest(_template(line)):
        raise OptionError(f"{began} with another chat template: pass chat_template=")
    then, now = data["tools"], _tools(tools)
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            what = "is not in tools= now" if name not in now else "was not there" if name not in then else ""
            raise OptionError(
                f"{began} with other tools: {name!r} {what or 'has another description or other parameters now'}; "
                "pass the tools that it had"
            )
    if line.segments or line.roles.messages or line.log is not None:
        raise OptionError(
            "agent: resume= puts back the whole text, so it needs a program's own state without text: say nothing "
            "before sgl.agent(s, ..., resume=...)"
        )


# -- what the data look like
_CALL = {"name": str, "arguments": dict, "id": str}
_RESULT = {"call": _CALL, "text": str, "error": maybe(str), "seconds": float, "truncated": bool, "tries": int}
_MESSAGES = [(str, AnyShape(str, int), maybe(str), [(str, str)])]
_SAVED: dict[str, Any] = {
    "sgl_agent": int,
    "model": str,
    "identity": str,
    "template": str,
    "tools": dict,
    "text": [(str, bool)],
    "branch": dict,
    "roles": {
        "messages": [(str, str)],
        "results": [str],
        "conversation": maybe({"began": str, "options": dict, "tail": str, "said": _MESSAGES, "held": _MESSAGES}),
    },
    "turns": int,
    "steps": int,
    "repaired": int,
    "why": maybe(str),
    "made": [(str, maybe(_RESULT))],
    "waiting": [(_CALL, maybe(_RESULT))],
    "results": [_RESULT],
    "spent": {f.name: float for f in fields(Usage)},
    "seconds": float,
    "digest": str,
}
