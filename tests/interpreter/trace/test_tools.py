"""Tools in a trace, and a replay that gives their recorded results in place of running them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

import sgl

RAN: list[Any] = []
WORLD = {"factor": 1}


@sgl.tool
def times(a: int, b: int) -> int:
    """Multiply."""
    RAN.append((a, b))
    return WORLD["factor"] * a * b


@sgl.tool(requires_approval=True)
def fails(why: str) -> str:
    """Fail."""
    RAN.append(why)
    raise ValueError(why)


@sgl.function
def note(s: Any) -> None:
    s += "Note: " + sgl.gen("note", max_tokens=3)


@sgl.tool
async def asks(a: int) -> str:
    """Run a program, and another tool."""
    RAN.append(a)
    state = await note.arun(backend=TOY)
    [inner] = await sgl.arun_tools([sgl.ToolCall("times", {"a": a, "b": 2}, "call00000")], [times])
    return f"{state['note']} {inner.text}"


TOOLS = [times, fails, asks]
OPTIONS = {"min_tool_calls": 3, "parallel": 3, "max_steps": 4, "max_tokens": 120, "temperature": 1.0}


def yes(call: sgl.ToolCall) -> bool:
    RAN.append(call.name)
    return True


@sgl.function
def ask(s: Any, called: Any = 5) -> Any:
    s += sgl.system("Use the tools.", tools=TOOLS) + sgl.user("Go on.")
    found = [sgl.agent(branch, TOOLS, approve=yes, **OPTIONS) for branch in s.fork(2)]
    last = sgl.agent(s, TOOLS, approve=yes, **OPTIONS)
    more = sgl.run_tools([sgl.ToolCall("times", {"a": called, "b": 7}, "call00009")], [times])
    return [[r.text for r in each.results] for each in (*found, last)], more[0].value


@sgl.function
async def ask_async(s: Any) -> Any:
    s += sgl.system("Use the tools.", tools=TOOLS) + sgl.user("Go on.")
    result = await sgl.agent(s, TOOLS, approve=yes, **OPTIONS)
    return [r.text for r in result.results]


@pytest.fixture(autouse=True)
def clean() -> Any:
    RAN.clear()
    WORLD["factor"] = 1
    yield
    TOY.check()


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_runs_no_tool(seed: int, tmp_path: Path) -> None:
    with sgl.trace(tmp_path / "run.json") as traced:
        state = ask.run(backend=TOY, seed=seed)
        asyncio.run(ask_async.arun(backend=TOY, seed=seed))
    ran = len(RAN)
    assert ran and state.ret_value[1] == 35
    WORLD["factor"] = 3  # the tools would say something else now
    assert (report := sgl.replay(traced)), report
    both = {"ask": ask, "ask_async": ask_async}
    assert (report := sgl.replay(tmp_path / "run.json", both, backend=TOY)), report
    assert len(RAN) == ran
    changed = sgl.replay(traced, tools="run").difference
    assert changed is not None and changed.what == "the result" and changed.recorded != changed.now, changed
    WORLD["factor"] = 1
    assert (report := sgl.replay(traced, tools="run")), report
    assert len(RAN) > 2 * ran


def test_what_is_recorded_of_a_tool() -> None:
    with sgl.trace() as traced:
        state = ask.run(backend=TOY, seed=1)
        within = state.trace
    data = traced.to_dict()
    program = next(each for each in data["programs"] if each["name"] == "ask")
    assert [len(each.get("tools", ())) for each in within["branches"]] == [
        len(each.get("tools", ())) for each in program["branches"]
    ]
    results, _ = state.ret_value
    for branch, texts in zip(("0.0", "0.1", "0"), results):
        (found,) = [each for each in program["branches"] if each["id"] == branch]
        tools = found["tools"][: -1 if branch == "0" else None]
        assert set(texts) == {tool["text"] for tool in tools}
        for tool in tools:
            written = found["calls"][tool["after"] - 1]
            assert f'"{tool["name"]}"' in written["samples"][0]["text"]
            assert written["enqueued"] <= tool["began"] <= tool["ended"]
            assert tool["error"] == ("raised" if tool["name"] == "fails" else None)
    assert all(each.get("in_tool") for each in data["programs"] if each["name"] == "note")
    assert "in_tool" not in program
    found = re.search(r'<script id="trace" type="application/json">(.*?)</script>', traced.html())
    assert found is not None
    assert _told(json.loads(found[1])) == _told(data)  # numbers apart, which JavaScript may not hold


def test_a_call_that_the_trace_does_not_have_is_a_difference_and_not_run() -> None:
    with sgl.trace() as traced:
        ask.run(backend=TOY, seed=2)
    data, ran = traced.to_dict(), len(RAN)
    data["programs"][0]["args"] = {"called": 6}
    report = sgl.replay(data, ask, backend=TOY)
    assert report.difference.what == "the call of a tool", report
    assert {report.difference.recorded, report.difference.now} & {'times({"a": 6, "b": 7})', 'times({"a": 5, "b": 7})'}
    assert len(RAN) == ran

    branch = next(each for each in data["programs"][0]["branches"] if each["id"] == "0")
    lost = branch["tools"].pop(0)
    data["programs"][0]["args"] = {"called": 5}
    report = sgl.replay(data, ask, backend=TOY)
    assert (report.difference.what, report.difference.branch) == ("the call of a tool", "0"), report
    assert lost["name"] in report.difference.now and len(RAN) == ran


def test_equal_calls_have_their_results_in_order() -> None:
    count = iter(range(100))

    @sgl.tool
    def tick() -> int:
        """Count."""
        return next(count)

    @sgl.function
    def program(s: Any) -> Any:
        call = sgl.ToolCall("tick", {}, "call00000")
        found = [sgl.run_tools([call], [tick])[0].value for _ in range(3)]
        s += f"{found} " + sgl.gen("x", max_tokens=3)
        return found

    with sgl.trace() as traced:
        state = program.run(backend=TOY)  # kept: a state that is dropped cancels what it has not written
        assert state.ret_value == [0, 1, 2] and state.text()
    assert (report := sgl.replay(traced)), report
    assert next(count) == 3
    assert not sgl.replay(traced, tools="run")


def test_a_program_that_returns_what_its_agent_gave() -> None:
    """How long a tool took is no difference, nor is what a result says of itself."""

    @sgl.tool(max_result_tokens=5)
    def long() -> str:
        """Take time."""
        time.sleep(0.002)
        return "word " * 40

    @sgl.function
    def program(s: Any) -> Any:
        s += sgl.user("Go on.")
        return sgl.agent(s, [long], min_tool_calls=1, max_steps=3, max_tokens=60)

    with sgl.trace() as traced:
        results = program.run(backend=TOY, seed=1).ret_value.results
    assert results and all(result.truncated for result in results)
    for tools in ("recorded", "run"):
        report = sgl.replay(traced, tools=tools)
        assert report, report


def test_a_tool_that_runs_while_the_trace_is_looked_at() -> None:
    @sgl.tool
    def sleeps() -> str:
        """Sleep."""
        seen.append(traced.to_dict()["programs"][0]["branches"][0].get("tools"))
        time.sleep(0.01)
        return "awake"

    @sgl.function
    def program(s: Any) -> Any:
        return sgl.agent(s, [sleeps]).answer

    seen: list[Any] = []
    with sgl.trace() as traced:
        backend = sgl.FakeBackend(['<tool_call>{"name": "sleeps", "arguments": {}}</tool_call>', "Good."])
        started = program.run(backend=backend)
    assert started.ret_value == "Good."
    assert seen in ([None], [[]]) or seen[0][0]["text"] is None
    (tool,) = traced.to_dict()["programs"][0]["branches"][0]["tools"]
    assert tool["text"] == "awake" and tool["ended"] - tool["began"] >= 0.01


def test_bad_input() -> None:
    with sgl.trace() as traced:
        ask.run(backend=TOY, seed=1)
    with pytest.raises(sgl.OptionError, match="tools must be 'recorded' or 'run'"):
        sgl.replay(traced, tools="mock")  # type: ignore[arg-type]
    data = traced.to_dict()
    next(each for each in data["programs"][0]["branches"] if "tools" in each)["tools"][0].pop("text")
    with pytest.raises(sgl.OptionError, match="a tool in it has no 'text'"):
        sgl.replay(data, ask, backend=TOY)


def _told(data: Any) -> list[Any]:
    branches = [branch for program in data["programs"] for branch in program["branches"]]
    return [(tool["name"], tool["text"], tool["after"]) for branch in branches for tool in branch.get("tools", ())]


TOY = sgl.Runtime.toy()
