"""What an agent tells while it runs, and what it came to: typed, frozen events. Knows nothing of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ...lang.syntax import CallEvent
from ...lang.tools.result import ToolResult
from ...lang.tools.spec import ToolCall

Reason = Literal["answered", "max_steps", "max_tool_calls", "repeated", "paused", "budget", "timeout", "failed"]


@dataclass(frozen=True, slots=True)
class StepBegan:
    """The model begins turn `number`, the first being 1."""

    number: int


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool has returned, failed or was given up, and its result is a part of the text."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What an agent came to.

    Attributes:
        answer: The value of the final answer (`answer=`), or its text; None if there is none.
        reason: Why it stopped. "answered": the model gave its answer. "max_steps", "max_tool_calls", "repeated" (it
            made a call that it had made before): it was asked for its answer without tools, and gave it. "budget",
            "timeout", "failed": there is no answer. "paused": some calls wait for an approval.
        steps: Turns of the model.
        results: The results of all calls, in the order in which the calls were written.
        error: What is behind "budget", "timeout" and "failed".
        pending: Of "paused": the calls that wait.
        saved: Of "paused": JSON data with which `sgl.agent(..., resume=saved)` goes on, in another process too.
    """

    answer: Any
    reason: Reason
    steps: int
    results: tuple[ToolResult, ...] = ()
    error: BaseException | None = None
    pending: tuple[ToolCall, ...] = ()
    saved: dict[str, Any] | None = field(default=None, repr=False)


AgentEvent = CallEvent | StepBegan | ToolFinished | AgentResult
"""What `sgl.agent(stream=True)` gives."""
