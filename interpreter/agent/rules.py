"""What an agent may do: its limits, and what each turn is asked. Knows nothing of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from ...backend.base import Usage
from ...lang.errors import OptionError, ProgramTimeout
from ...lang.expr import Seq
from ...lang.messages import assistant
from ...lang.tools.call import call
from ..usage import Budget

MOST_STEPS = 10
"""Steps of an agent that does not say how many it may take."""


class AgentRules:
    """The arguments of `sgl.agent` that limit it, checked."""

    def __init__(
        self,
        answer: Any,
        max_steps: int,
        min_tool_calls: int,
        max_tool_calls: int | None,
        parallel: int | None,
        budget: Any,
        timeout: float | None,
        on_error: str,
        validate: Callable[[Any], object] | None,
        repairs: int,
        sampling: dict[str, Any],
    ) -> None:
        _check_count("max_steps", max_steps, 1)
        _check_count("repairs", repairs, 0)
        _check_count("min_tool_calls", min_tool_calls, 0)
        if max_tool_calls is not None:
            _check_count("max_tool_calls", max_tool_calls, 0)
        if parallel is not None:
            _check_count("parallel", parallel, 1)
        if on_error not in ("raise", "keep"):
            raise OptionError(f"agent: on_error must be 'raise' or 'keep', got {on_error!r:.60}")
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0):
            raise OptionError(f"agent: timeout must be a number of seconds above 0, got {timeout!r:.60}")
        if validate is not None and not callable(validate):
            raise OptionError(f"agent: validate must be a function of the answer, got {validate!r:.60}")
        self.answer, self.max_steps, self.max_tool_calls, self.repairs = answer, max_steps, max_tool_calls, repairs
        self.on_error, self._min_tool_calls = on_error, min_tool_calls
        self._parallel, self._validate, self._sampling = parallel, validate, sampling
        self._budget = None if budget is None else Budget("agent", budget)
        self._timeout = timeout
        self._began = time.monotonic()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def turn(self, name: str, tools: Sequence[Any], made: int, last: bool) -> Seq:
        """The turn of one step, after `made` calls. In the last one no tool can be called."""
        left = {} if self._deadline is None else {"timeout": self.seconds_left()}
        choice = "none" if last or not tools else "required" if made < self._min_tool_calls else "auto"
        return assistant(call(name, tools, choice, (1, self._parallel), self.answer, **{**self._sampling, **left}))

    def check(self, now: Usage, began: Usage) -> None:
        """Raise `BudgetExceeded` or `ProgramTimeout` if nothing is left for a further turn."""
        if self._budget is not None:
            spent = {f.name: getattr(now, f.name) - getattr(began, f.name) for f in fields(Usage)}
            self._budget.check(Usage(**spent), "agent")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise ProgramTimeout(f"agent: its timeout of {self._timeout:g} seconds has passed")

    def seconds_left(self) -> float | None:
        """Seconds until the timeout, above 0; None without one."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 1e-3)

    def seconds_used(self) -> float:
        """Seconds that count against the timeout."""
        return time.monotonic() - self._began

    def used(self, seconds: float) -> None:
        """Count what the agent has used before it was paused."""
        self._began -= seconds
        self._deadline = None if self._deadline is None else self._deadline - seconds

    def complaint(self, answer: Any) -> str | None:
        """What the validator says against an answer, for the model to read; None if nothing."""
        if self._validate is None:
            return None
        try:
            self._validate(answer)
        except Exception as error:
            return f"This answer was refused: {str(error) or type(error).__name__:.500}. Give another answer."
        return None


def _check_count(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"agent: {what} must be a whole number of at least {least}, got {value!r:.60}")
