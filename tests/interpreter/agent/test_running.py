"""Tools at work: every call has its result, in order, whatever the tools do."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.interpreter.agent import trying
from sgl.interpreter.agent.running import ToolRunner

FOREVER = 60.0


def calls(*named: tuple[str, dict[str, Any]]) -> list[sgl.ToolCall]:
    return [sgl.ToolCall(name, arguments, f"call{i:05d}") for i, (name, arguments) in enumerate(named)]


def in_thread(*args: Any, **kwargs: Any) -> list[sgl.ToolResult]:
    return sgl.run_tools(*args, **kwargs)


def in_loop(*args: Any, **kwargs: Any) -> list[sgl.ToolResult]:
    return asyncio.run(sgl.arun_tools(*args, **kwargs))


both = pytest.mark.parametrize("run", [in_thread, in_loop])
Run = Callable[..., list[sgl.ToolResult]]


class Panic(BaseException):
    """As a panic of Rust code comes: no `Exception`."""


RAISERS = [ValueError, SystemExit, KeyboardInterrupt, Panic, StopIteration, GeneratorExit, StopAsyncIteration]


@sgl.tool
def double(x: int) -> int:
    return 2 * x


@sgl.tool
async def triple(x: int) -> int:
    await asyncio.sleep(0)
    return 3 * x


@both
@pytest.mark.parametrize("raised", RAISERS)
def test_what_a_tool_raises_is_its_result(run: Run, raised: type[BaseException]) -> None:
    @sgl.tool
    def plain() -> None:
        raise raised("a bug")

    if raised in (KeyboardInterrupt,) and run is in_loop:
        async_tools: list[Any] = []  # on the main thread it may be Ctrl-C
    else:

        @sgl.tool
        async def coroutine() -> None:
            raise raised("a bug")

        async_tools = [coroutine]
    tools = [double, plain, *async_tools]
    found = run(calls(("double", {"x": 1}), *((t.name, {}) for t in tools[1:]), ("double", {"x": 2})), tools)
    assert [found[0].value, found[-1].value] == [2, 4]
    for result in found[1:-1]:
        said = f"{raised.__name__}: a bug"
        if raised is StopIteration and result.call.name == "coroutine":
            said = "RuntimeError: coroutine raised StopIteration"  # Python's own words
        assert (result.error, result.text) == ("raised", f"Error: {said}")


@both
def test_a_tool_that_hangs_is_given_up(run: Run) -> None:
    release = threading.Event()

    @sgl.tool(timeout=0.05)
    def hangs() -> None:
        release.wait(FOREVER)

    ended = []

    @sgl.tool(timeout=0.05)
    async def sleeps() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            ended.append(True)

    try:
        found = run(calls(("hangs", {}), ("sleeps", {}), ("double", {"x": 1})), [hangs, sleeps, double])
    finally:
        release.set()
    assert [r.error for r in found] == ["timeout", "timeout", None]
    assert found[0].text == "Error (timeout): hangs did not return within 0.05 s"
    assert ended == [True]


def test_an_async_tool_that_blocks_its_loop_stops_nobody_else() -> None:
    release = threading.Event()

    @sgl.tool(timeout=0.05)
    async def blocks() -> None:
        release.wait(FOREVER)

    try:
        assert sgl.run_tools(calls(("blocks", {})), [blocks])[0].error == "timeout"
        assert sgl.run_tools(calls(("triple", {"x": 2})), [triple])[0].value == 6
    finally:
        release.set()


def test_threads_that_are_left_behind_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "MOST_LEFT_BEHIND", 2)
    monkeypatch.setattr(trying, "_left", set())
    release = threading.Event()

    @sgl.tool(timeout=0.02, parallel_safe=False)
    def hangs() -> None:
        release.wait(FOREVER)

    found = sgl.run_tools(calls(*[("hangs", {})] * 3), [hangs])
    assert [r.error for r in found] == ["timeout"] * 3
    assert "not started" in found[2].text
    release.set()


@both
def test_a_time_for_all_tries(run: Run) -> None:
    @sgl.tool(retries=100)
    async def sleeps() -> None:
        await asyncio.sleep(FOREVER)

    [found] = run(calls(("sleeps", {})), [sleeps], timeout=0.05)
    assert found.error == "timeout"


@both
def test_retries(run: Run) -> None:
    tried = {"flaky": 0, "wrong": 0}

    @sgl.tool(retries=3)
    def flaky() -> str:
        tried["flaky"] += 1
        if tried["flaky"] < 3:
            raise OSError("busy")
        return "done"

    @sgl.tool(retries=3)
    def wrong() -> str:
        tried["wrong"] += 1
        raise sgl.ToolError("there is no such city; ask for another")

    found = run(calls(("flaky", {}), ("wrong", {})), [flaky, wrong])
    assert (found[0].text, found[0].tries) == ("done", 3)
    assert (found[1].text, found[1].tries) == ("Error: there is no such city; ask for another", 1)
    assert tried == {"flaky": 3, "wrong": 1}


@both
def test_calls_that_fit_no_tool(run: Run) -> None:
    found = run(
        calls(("duoble", {"x": 1}), ("double", {}), ("double", {"x": "one"}), ("double", {"x": 1, "y": 2})), [double]
    )
    assert [r.error for r in found] == ["unknown", "arguments", "arguments", "arguments"]
    assert "did you mean 'double'" in found[0].text
    assert found[1].text.startswith("Error (arguments): x: ")


@both
def test_approvals(run: Run) -> None:
    asked: list[Any] = []

    @sgl.tool(requires_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    def approve(call: sgl.ToolCall) -> Any:
        asked.append(call.arguments["amount"])
        return [True, False, "too much", None, sgl.ToolCall(call.name, {"amount": 40}, call.id)][asked[-1]]

    async def approve_async(call: sgl.ToolCall) -> Any:
        await asyncio.sleep(0)
        return approve(call)

    for answer in (approve, approve_async):
        asked.clear()
        asked_for = [*(("pay", {"amount": i}) for i in range(5)), ("double", {"x": 1})]
        found = run(calls(*asked_for), [pay, double], approve=answer)
        assert [r.text for r in found] == [
            "paid 0",
            "Error (denied): the call was not approved",
            "Error (denied): too much",
            "Error (denied): approve= gave None; it gives True, False, a reason, the call or sgl.PAUSE",
            "paid 40",
            "2",
        ]
        assert found[4].call.arguments == {"amount": 40}
        assert asked == [0, 1, 2, 3, 4]


def test_an_approval_that_raises_is_a_denial() -> None:
    @sgl.tool(requires_approval=True)
    def pay() -> str:
        return "paid"

    [found] = sgl.run_tools(calls(("pay", {})), [pay], approve=lambda call: 1 / 0)
    assert (found.error, found.text) == (
        "denied",
        "Error (denied): the approval failed: ZeroDivisionError: division by zero",
    )


def test_what_cannot_be_run_is_an_error_before_anything_runs() -> None:
    @sgl.tool(requires_approval=True)
    def pay() -> str:
        return "paid"

    @sgl.tool
    def look(db: sgl.Injected[dict]) -> str:  # type: ignore[type-arg]
        return str(db)

    with pytest.raises(sgl.ToolError, match="tool pay: it requires approval, so say approve="):
        sgl.run_tools([], [pay])
    with pytest.raises(sgl.ToolError, match=r"tool look: the program gives its parameter 'db', so say given="):
        sgl.run_tools([], [look])
    with pytest.raises(sgl.ToolError, match="without a function"):
        sgl.run_tools([], [{"name": "f"}])
    with pytest.raises(sgl.OptionError, match="calls are ToolCall"):
        sgl.run_tools(["f"], [double])  # type: ignore[list-item]
    assert sgl.run_tools(calls(("look", {})), [look], given={"db": {"a": 1}})[0].text == "{'a': 1}"


@both
def test_long_results_are_cut(run: Run) -> None:
    @sgl.tool(max_result_tokens=5)
    def long() -> str:
        return "word " * 1000

    @sgl.tool(max_result_tokens=None)
    def whole() -> str:
        return "word " * 10_000

    found = run(calls(("long", {}), ("whole", {})), [long, whole])
    assert found[0].truncated and found[0].text.endswith("[truncated: 4,980 of 5,000 characters are not shown]")
    assert not found[1].truncated and len(found[1].text) == 50_000
    [by_words] = run(calls(("long", {})), [long], cut=lambda text, n: "".join(w + " " for w in text.split()[:n]))
    assert by_words.text.startswith("word " * 5 + "\n[truncated")


@both
def test_a_plain_function_around_an_async_one(run: Run) -> None:
    @sgl.tool
    def around(x: int) -> Any:
        return triple(x)

    assert run(calls(("around", {"x": 2})), [around])[0].text == "6"


@both
def test_tools_see_the_programs_context(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @sgl.tool
    def plain() -> str:
        return variable.get()

    @sgl.tool
    async def coroutine() -> str:
        return variable.get()

    token = variable.set("mine")
    try:
        assert [r.text for r in run(calls(("plain", {}), ("coroutine", {})), [plain, coroutine])] == ["mine", "mine"]
    finally:
        variable.reset(token)


def test_tools_may_run_tools() -> None:
    @sgl.tool
    def outer(depth: int) -> int:
        if not depth:
            return 0
        found = sgl.run_tools(calls(*[("outer", {"depth": depth - 1})] * 2), [outer], most_parallel=1)
        return 1 + sum(r.value for r in found)

    assert sgl.run_tools(calls(("outer", {"depth": 3})), [outer], most_parallel=1)[0].value == 7


WORK = st.tuples(st.sampled_from(["sync", "async", "alone", "fails"]), st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(WORK, max_size=8), st.integers(1, 4), st.booleans())
def test_results_are_in_the_order_of_the_calls(works: list[tuple[str, int]], most: int, from_loop: bool) -> None:
    lock, inside, most_seen, mixed = threading.Lock(), [0], [0], []

    def begin() -> None:
        with lock:
            inside[0] += 1
            most_seen[0] = max(most_seen[0], inside[0])

    def end() -> None:
        with lock:
            inside[0] -= 1

    @sgl.tool(name="sync")
    def plain(i: int, wait: int) -> int:
        begin()
        time.sleep(wait / 1000)
        end()
        return i

    @sgl.tool(name="async")
    async def coroutine(i: int, wait: int) -> int:
        begin()
        await asyncio.sleep(wait / 1000)
        end()
        return i

    @sgl.tool(parallel_safe=False)
    def alone(i: int, wait: int) -> int:
        begin()
        mixed.append(inside[0])
        time.sleep(wait / 1000)
        mixed.append(inside[0])
        end()
        return i

    @sgl.tool
    def fails(i: int, wait: int) -> int:
        raise ValueError(i)

    run = in_loop if from_loop else in_thread
    asked = calls(*((name, {"i": i, "wait": wait}) for i, (name, wait) in enumerate(works)))
    found = run(asked, [plain, coroutine, alone, fails], most_parallel=most)
    assert [r.call for r in found] == asked
    for i, (result, (name, _)) in enumerate(zip(found, works)):
        assert (result.text, result.error) == (
            (f"Error: ValueError: {i}", "raised") if name == "fails" else (str(i), None)
        )
    assert most_seen[0] <= most and set(mixed) <= {1}


def test_a_cancelled_task_cancels_its_tools() -> None:
    ended = []

    @sgl.tool
    async def sleeps(i: int) -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            ended.append(i)

    async def main() -> None:
        task = asyncio.create_task(sgl.arun_tools(calls(("sleeps", {"i": 0}), ("sleeps", {"i": 1})), [sleeps]))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert sorted(ended) == [0, 1]


@given(st.integers(0, 3), st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_cancelled_runner_has_every_result_at_once(started: int, waits: bool) -> None:
    begun, release = threading.Event(), threading.Event()

    @sgl.tool
    def hangs() -> None:
        begun.set()
        release.wait(FOREVER)

    runner = ToolRunner([hangs, double])
    handles = [runner.start(call) for call in calls(*[("hangs", {})] * started)]
    if waits and started:
        assert begun.wait(FOREVER)
    runner.cancel()
    assert [handle.value().error for handle in handles] == ["cancelled"] * started
    later = runner.start(calls(("double", {"x": 1}))[0])
    over = threading.Event()
    later.listen(over.set)
    assert over.wait(FOREVER) and later.value().value == 2
    release.set()
