"""`sgl.agent`: the model calls tools until it has an answer.

The loop is one flow, so threads, event loops and streams share it. It says what any program can say: `sgl.call`,
`s.tool_result`. Knows nothing of grammars, nor of how a tool is run.

1. A tool starts when its arguments are closed, while the model writes on. Results are said in the order of the calls.
2. The last step has no tools, so the loop ends with an answer, whatever the model would rather do.
3. What goes wrong in a tool is said to the model. What ends the loop is the `reason` of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from ...backend.base import Handle, Usage
from ...backend.waiting import AtHandle, Flow, StreamFlow, Wait, iterate, iterate_async
from ...lang.errors import BudgetExceeded, OptionError, ProgramTimeout, ToolError
from ...lang.messages import user
from ...lang.syntax import CallClosed, TextDelta
from ...lang.tools.listing import ToolList, tool_list
from ...lang.tools.result import ToolResult
from ...lang.tools.spec import ToolCall
from ..state import ProgramState
from .events import AgentEvent, AgentResult, Reason, StepBegan, ToolFinished
from .rules import MOST_STEPS, AgentRules
from .running import ToolRunner
from .saving import AgentWork, call_key, restored, saved


def agent(
    s: ProgramState,
    tools: Iterable[Any],
    *,
    answer: Any = None,
    max_steps: int = MOST_STEPS,
    min_tool_calls: int = 0,
    max_tool_calls: int | None = None,
    parallel: int | None = None,
    budget: Any = None,
    timeout: float | None = None,
    on_error: Literal["raise", "keep"] = "raise",
    validate: Callable[[Any], object] | None = None,
    repairs: int = 2,
    approve: Callable[[ToolCall], Any] | None = None,
    resume: Mapping[str, Any] | None = None,
    given: Mapping[Any, Any] | None = None,
    name: str = "step",
    stream: bool = False,
    **sampling: Any,
) -> Any:
    """Let the model call tools until it gives an answer. The turns become a part of the program's text.

    Say the task before: `s += sgl.system("...", tools=tools) + sgl.user(task)`. Each step is a turn of the assistant,
    `sgl.call(name, tools)`, whose tools run at the same time; then come their results. Nothing is computed twice.

    Args:
        s: The program's state; no role is open.
        tools: As in `sgl.call`.
        answer: The type or the constraint of the final answer; default free text.
        max_steps: Most turns of the model, at least 1, the answer included; default 10. The last one has no tools.
        min_tool_calls: Calls that come before an answer, at least; default 0. A small model calls nothing by itself:
            with 1 the grammar leads it through a call, its result and an answer.
        max_tool_calls: Most calls in all; default none. After them the model is asked for its answer.
        parallel: Most calls in one turn; default any number.
        budget: As in `run(budget=...)`, of what the agent adds; default none.
        timeout: Seconds for the whole loop; default none.
        on_error: What happens at an error of the loop itself, such as a budget that is spent: "raise" (default), or
            "keep": it is the result's `error`. Errors of tools are always said to the model.
        validate: A function of the answer. What it raises is said to the model, which answers again; default none.
        repairs: How many times it may answer again; default 2.
        approve: A function that is asked about each call of a tool with `requires_approval=True`. Where it gives
            `sgl.PAUSE`, the agent ends when its other tools have, with the reason "paused".
        resume: The `saved` of an agent that was paused; default none. Its text is put back on a state without text, its
            waiting calls are asked about again, and it goes on as if there had been no pause.
        given: Values of the tools' injected parameters, by name or by type.
        name: The variable of each turn; default "step".
        stream: Give the events of the loop, an `AgentResult` last: an iterator, or in an async program an async one.
        **sampling: Sampling options of each turn, as in `sgl.call`.

    Returns:
        An `sgl.AgentResult`; in an async program it is awaited. With `stream=True` the events.

    Raises:
        OptionError: An argument is wrong; `resume` is damaged, or of another model, chat template, list of tools or
            version (the message says which); or the state has text.
        BudgetExceeded: The budget is spent (`on_error="raise"`); `ProgramTimeout`: the time is over.

    Example:
        >>> import sgl
        >>> @sgl.tool
        ... def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> @sgl.function
        ... def ask(s, question):
        ...     s += sgl.system("Use the tools.", tools=[add]) + sgl.user(question)
        ...     return sgl.agent(s, [add], max_steps=3, max_tokens=60)
        >>> result = ask.run("2 + 2?", backend=sgl.Runtime.toy()).ret_value
        >>> result.steps <= 3 and result.reason in ("answered", "max_steps", "repeated")
        True
    """
    if not isinstance(s, ProgramState):
        raise OptionError(f"agent: the first argument is the state of a program, got {s!r:.60}")
    s._open("sgl.agent(s, ...)")
    rules = AgentRules(
        answer,
        max_steps,
        min_tool_calls,
        max_tool_calls,
        parallel,
        budget,
        timeout,
        on_error,
        validate,
        repairs,
        sampling,
    )
    known = tool_list(tools)
    given = {ProgramState: s, **(given or {})}
    runner = ToolRunner(known, approve=approve, given=given, loop=s._body.loop, record=s._line.record)
    loop = _AgentLoop(s, known, runner, rules, name)
    if resume is not None:
        loop.resume(resume)
    if not stream:
        return s._run("sgl.agent(...)", loop.result)
    return iterate_async(loop.events()) if s._body.is_on_its_loop() else iterate(loop.events())


class _AgentLoop:
    """One agent at work. `_why` is why the next turn is to be the last one, if it is."""

    def __init__(self, s: ProgramState, tools: ToolList, runner: ToolRunner, rules: AgentRules, name: str) -> None:
        self._s, self._tools, self._runner, self._rules, self._name = s, tools, runner, rules, name
        self._began = s._line.ledger.total()
        self._why: Reason | None = None
        self._made: dict[str, Handle[ToolResult]] = {}  # by name and arguments
        self._waiting: list[tuple[ToolCall, Handle[ToolResult]]] = []  # calls whose results are not said yet
        self._results: list[ToolResult] = []
        self._steps = self._repaired = 0
        self._again: list[tuple[ToolCall, ToolResult | None]] = []  # calls from before a pause, to be answered

    def resume(self, data: Any) -> None:
        """Put back what was saved. The calls that wait are started with the loop."""
        work = restored(self._s._line, data, self._tools)
        self._steps, self._repaired, self._why, self._results = work.steps, work.repaired, work.why, work.results
        self._began = _minus(self._began, work.spent)
        self._rules.used(work.seconds)
        self._made = {key: _over(result) for key, result in work.made.items() if result is not None}
        self._again = work.waiting

    def result(self) -> Flow[AgentResult]:
        """The flow of an agent that nobody watches."""
        last: Any = None
        for item in self.events():
            if isinstance(item, Wait):
                yield item
            else:
                last = item
        assert isinstance(last, AgentResult)
        return last

    def events(self) -> StreamFlow[AgentEvent]:
        """The flow of the loop. Whatever ends it, each call that was written has a result in the text."""
        try:
            for call, result in self._again:
                if result is None:
                    self._start(call)
                else:
                    self._waiting.append((call, _over(result)))
            yield from self._turns()
        except Exception as error:
            if self._rules.on_error == "raise":
                raise
            yield self._ended(None, _reason_of(error), error)
        finally:
            self._runner.cancel()
            while self._waiting:
                self._say_next()

    def _turns(self) -> StreamFlow[AgentEvent]:
        while True:
            if self._waiting and (yield from self._say_results()):
                return
            self._rules.check(self._s._line.ledger.total(), self._began)
            self._steps += 1
            last = self._steps >= self._rules.max_steps + self._repaired
            self._why = self._why or ("max_steps" if last else None)
            yield StepBegan(self._steps)
            self._s += self._rules.turn(self._name, self._tools, len(self._results), self._why is not None)
            said = ""
            for event in self._s._events(self._name):
                yield event
                said += event.text if isinstance(event, TextDelta) else ""
                if isinstance(event, CallClosed):
                    self._start(event.call)
            if self._waiting:
                continue
            typed = self._rules.answer is not None
            answer = yield from self._s._read(self._name, "typed" if typed else "value")
            answer = answer if typed else said  # without reasoning
            if (complaint := self._rules.complaint(answer)) is None:
                yield self._ended(answer, self._why or "answered")
                return
            if self._repaired == self._rules.repairs:
                raise ToolError(f"agent: the answer was refused {self._repaired + 1} times, at last with: {complaint}")
            self._repaired += 1
            self._s += user(complaint)

    def _start(self, call: ToolCall) -> None:
        """Start a tool, unless this call was made before or there were enough of them."""
        key = call_key(call)
        if (before := self._made.get(key)) is not None:
            self._why = self._why or "repeated"
            handle = before
        elif self._rules.max_tool_calls is not None and len(self._made) >= self._rules.max_tool_calls:
            self._why = self._why or "max_tool_calls"
            handle = _over(ToolResult(call, "Error: not run, since there were enough calls. Answer now.", "limit"))
        else:
            handle = self._made[key] = self._runner.start(call, self._rules.seconds_left())
        self._waiting.append((call, handle))

    def _say_results(self) -> Generator[AgentEvent | Wait, None, bool]:
        """Say the results in order. Whether the agent pauses at one of them."""
        while self._waiting:
            _, handle = self._waiting[0]
            if not handle.done:
                yield AtHandle(self._s._line.backend, handle)
            if handle.value().error == "paused":
                yield from self._pause()
                return True
            yield ToolFinished(self._say_next())
        return False

    def _pause(self) -> StreamFlow[AgentEvent]:
        """End here, when the other tools have ended, too."""
        for _, handle in self._waiting:
            if not handle.done:
                yield AtHandle(self._s._line.backend, handle)
        found = [(call, replace(handle.value(), call=call)) for call, handle in self._waiting]
        work = AgentWork(
            self._steps,
            self._repaired,
            self._why,
            {key: _unless_paused(handle.value()) for key, handle in self._made.items()},
            [(call, _unless_paused(result)) for call, result in found],
            self._results,
            _minus(self._s._line.ledger.total(), self._began),
            self._rules.seconds_used(),
        )
        data = yield from saved(self._s._line, work, self._tools)
        results = (*self._results, *(result for _, result in found))
        pending = tuple(call for call, result in found if result.error == "paused")
        yield AgentResult(None, "paused", self._steps, results, pending=pending, saved=data)

    def _say_next(self) -> ToolResult:
        """Say the result of the oldest call."""
        call, handle = self._waiting.pop(0)
        result = handle.value() if handle.done else ToolResult(call, "Error: cancelled.", error="cancelled")
        result = replace(result, call=call)
        self._s.tool_result(call, result)
        self._results.append(result)
        return result

    def _ended(self, answer: Any, reason: Reason, error: BaseException | None = None) -> AgentResult:
        return AgentResult(answer, reason, self._steps, tuple(self._results), error)


def _over(result: ToolResult) -> Handle[ToolResult]:
    """The handle of a tool that need not run."""
    handle = Handle[ToolResult]("tool")
    handle.finish(result)
    return handle


def _unless_paused(result: ToolResult) -> ToolResult | None:
    return None if result.error == "paused" else result


def _minus(total: Usage, part: Usage) -> Usage:
    return Usage(**{f.name: getattr(total, f.name) - getattr(part, f.name) for f in fields(Usage)})


def _reason_of(error: BaseException) -> Reason:
    return (
        "budget" if isinstance(error, BudgetExceeded) else "timeout" if isinstance(error, ProgramTimeout) else "failed"
    )
