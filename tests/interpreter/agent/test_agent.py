"""`sgl.agent`: a call, its result, an answer; every limit and every fault, with a script in place of the model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl


@sgl.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@sgl.tool
def fails(why: str) -> str:
    """Fail."""
    raise ValueError(why)


def writes(*calls: tuple[str, dict[str, Any]], text: str = "") -> str:
    """What a model writes that calls tools, in the plain syntax."""
    body = "\n".join(
        "<tool_call>" + json.dumps({"name": name, "arguments": arguments}) + "</tool_call>" for name, arguments in calls
    )
    return text + body


@sgl.function
def ask(s: Any, tools: Any, options: Any) -> Any:
    s += sgl.system("Use the tools.", tools=tools) + sgl.user("Go on.")
    return sgl.agent(s, tools, **options)


def run(replies: list[str], tools: Any = (add, fails), **options: Any) -> tuple[sgl.AgentResult, Any]:
    state = ask.run(tools, options, backend=sgl.FakeBackend(replies))
    return state.ret_value, state


def roles(state: Any) -> list[str]:
    return [message["role"] for message in state.messages()]


def test_a_call_its_result_and_an_answer() -> None:
    result, state = run([writes(("add", {"a": 2, "b": 3})), "It is 5."])
    assert (result.answer, result.reason, result.steps) == ("It is 5.", "answered", 2)
    assert [(r.call.name, r.text, r.value) for r in result.results] == [("add", "5", 5)]
    assert roles(state) == ["system", "user", "assistant", "tool", "assistant"]


def test_results_come_in_the_order_of_their_calls() -> None:
    """The slow tool is called first. Both run at the same time: each waits for the other."""
    meet = threading.Barrier(2, timeout=60)

    @sgl.tool
    def slow(n: int) -> int:
        meet.wait()
        time.sleep(0.05)
        return n

    @sgl.tool
    async def quick(n: int) -> int:
        await asyncio.to_thread(meet.wait)
        return n

    result, state = run([writes(("slow", {"n": 1}), ("quick", {"n": 2})), "Done."], (slow, quick))
    assert [r.value for r in result.results] == [1, 2]
    assert [m["content"] for m in state.messages() if m["role"] == "tool"] == ["1", "2"]


def test_errors_of_tools_are_said_to_the_model() -> None:
    replies = [writes(("fails", {"why": "no disk"})), "Sorry."]
    backend = sgl.FakeBackend(replies)
    result = ask.run((add, fails), {}, backend=backend).ret_value
    assert result.reason == "answered" and result.results[0].error == "raised"
    assert "Error: ValueError: no disk" in backend.calls[1].prompt


def test_a_repeated_call_is_not_run_again() -> None:
    count = []

    @sgl.tool
    def counted(x: int) -> int:
        count.append(x)
        return x

    result, state = run([writes(("counted", {"x": 1})), writes(("counted", {"x": 1})), "One."], (counted,))
    assert (result.reason, result.answer, count) == ("repeated", "One.", [1])
    assert roles(state).count("tool") == 2 and len({r.call.id for r in result.results}) == 2


def test_the_last_step_and_the_last_call() -> None:
    two = [writes(("add", {"a": i, "b": 0})) for i in range(2)]
    result, _ = run([*two, "Enough."], max_steps=3)
    assert (result.reason, result.steps, result.answer) == ("max_steps", 3, "Enough.")
    result, state = run([writes(*[("add", {"a": i, "b": 0}) for i in range(3)]), "Enough."], max_tool_calls=2)
    assert (result.reason, [r.error for r in result.results]) == ("max_tool_calls", [None, None, "limit"])
    assert roles(state).count("tool") == 3


def test_a_typed_answer_and_its_validator() -> None:
    def even(answer: int) -> None:
        if answer % 2:
            raise ValueError("it must be even")

    backend = sgl.FakeBackend([writes(("add", {"a": 2, "b": 3})), "5", "6"])
    result = ask.run((add,), {"answer": int, "validate": even}, backend=backend).ret_value
    assert (result.answer, result.reason) == (6, "answered")
    assert "it must be even" in backend.calls[2].prompt
    with pytest.raises(sgl.SglError, match="refused 2 times"):
        run(["1", "3"], answer=int, validate=even, repairs=1)
    kept, _ = run(["1", "3"], answer=int, validate=even, repairs=1, on_error="keep")
    assert (kept.reason, kept.answer) == ("failed", None) and "even" in str(kept.error)


def test_events_while_it_runs() -> None:
    @sgl.function
    def watched(s: Any) -> list[Any]:
        s += sgl.user("Go on.")
        return list(sgl.agent(s, (add,), stream=True))

    replies = [writes(("add", {"a": 2, "b": 3}), text="Let me see. "), "It is 5."]
    events = watched.run(backend=sgl.FakeBackend(replies)).ret_value
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "StepBegan" and kinds[-1] == "AgentResult"
    assert kinds.index("CallClosed") < kinds.index("ToolFinished") < kinds.index("AgentResult")
    assert "".join(e.text for e in events if isinstance(e, sgl.TextDelta)).startswith("Let me see.")

    @sgl.function
    async def awaited(s: Any) -> Any:
        s += sgl.user("Go on.")
        kinds = [type(event).__name__ async for event in sgl.agent(s, (add,), stream=True)]
        return kinds

    state = asyncio.run(awaited.arun(backend=sgl.FakeBackend(replies)))
    assert state.ret_value == kinds


def test_an_async_program_awaits_it() -> None:
    loops = []

    @sgl.tool
    async def where() -> str:
        """Where it runs."""
        loops.append(asyncio.get_running_loop())
        return "here"

    @sgl.function
    async def program(s: Any) -> Any:
        s += sgl.user("Go on.")
        result = await sgl.agent(s, (where,))
        return result.answer, asyncio.get_running_loop() is loops[0]

    backend = sgl.FakeBackend([writes(("where", {})), "Here."])
    assert asyncio.run(program.arun(backend=backend)).ret_value == ("Here.", True)


def test_a_cancelled_task_between_two_parallel_tools_leaves_a_whole_transcript() -> None:
    begun = threading.Event()

    @sgl.tool
    async def hangs() -> str:
        """Hang."""
        begun.set()
        await asyncio.sleep(3600)
        return ""

    states = []

    @sgl.function
    async def program(s: Any) -> None:
        states.append(s)
        s += sgl.user("Go on.")
        await sgl.agent(s, (add, hangs))

    async def main() -> None:
        backend = sgl.FakeBackend([writes(("add", {"a": 1, "b": 1}), ("hangs", {}))])
        task = asyncio.create_task(program.arun(backend=backend))
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    spoken = [(m.role, "".join(p.text for p in m.parts)) for m in states[0]._line.roles.messages]
    assert [role for role, _ in spoken] == ["user", "assistant", "tool", "tool"]
    assert spoken[2][1] == "2" and "cancelled" in spoken[3][1]


def test_time_budget_and_denials() -> None:
    @sgl.tool
    def sleeps(seconds: float) -> str:
        """Sleep."""
        time.sleep(seconds)
        return "awake"

    reply = writes(("sleeps", {"seconds": 5.0}))
    kept, _ = run([reply, "Never."], (sleeps,), timeout=0.3, on_error="keep")
    assert kept.reason == "timeout" and kept.results[0].error == "timeout"
    with pytest.raises(sgl.ProgramTimeout, match=r"timeout of 0\.3 seconds"):
        run([reply, "Never."], (sleeps,), timeout=0.3)
    calls = [writes(("add", {"a": i, "b": i})) for i in range(5)]
    spent, _ = run([*calls, "Never."], budget={"calls": 2}, on_error="keep")
    assert spent.reason == "budget" and isinstance(spent.error, sgl.BudgetExceeded) and spent.steps == 2

    @sgl.tool(requires_approval=True)
    def deletes(path: str) -> str:
        """Delete a file."""
        raise AssertionError("it was not approved")

    denied, _ = run([writes(("deletes", {"path": "/"})), "Well."], (deletes,), approve=lambda call: "not this one")
    assert denied.results[0].error == "denied" and "not this one" in denied.results[0].text


def test_bad_input() -> None:
    for options, words in [
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1"),
        ({"on_error": "ignore"}, "'raise' or 'keep'"),
        ({"timeout": -1}, "seconds above 0"),
        ({"parallel": 0}, "parallel must be"),
        ({"validate": 3}, "a function of the answer"),
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"budget": {"callz": 3}}, "did you mean 'calls'"),
    ]:
        with pytest.raises(sgl.OptionError, match=words):
            run(["x"], **options)
    with pytest.raises(sgl.OptionError, match="the state of a program"):
        sgl.agent("s", [add])  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 2), st.integers(1, 3))
def test_any_model_finishes(seed: int, least: int, parallel: int) -> None:
    """The toy model writes nonsense; the grammar leads it to valid calls, and the loop to an end."""
    options = {"min_tool_calls": least, "parallel": parallel, "max_steps": 4, "max_tokens": 120}
    state = ask.run((add, fails), options, backend=TOY, seed=seed)
    result = state.ret_value
    assert state.error() is None and result.steps <= 4 and len(result.results) >= least
    assert roles(state).count("tool") == len(result.results)
    for each in result.results:
        assert each.call.name in ("add", "fails") and each.error in (None, "raised")
    assert isinstance(result.answer, str) and "<tool_call>" not in result.answer


TOY = sgl.Runtime.toy()
