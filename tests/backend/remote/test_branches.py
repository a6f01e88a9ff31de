"""Branches over a service: forks, errors, retries, cancellation, time limits, async programs. Any service would do."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

import sgl

from .doubles import Asked, Double, Reply, error_reply, event, generate_events, served


def on(double: Double, **options: Any) -> Any:
    return sgl.RuntimeEndpoint(double.url, **{"timeout": 20, **options})


@sgl.function
def ask(s: sgl.ProgramState, question: str = "Q") -> None:
    s += question + sgl.gen("answer", max_tokens=8)


def echo(asked: Asked) -> Reply:
    return Reply(generate_events([f"<{asked.data['text']}>"]))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl.backend.remote.failures.FIRST_WAIT", 0.01)


def test_forks_go_side_by_side_from_the_same_text() -> None:
    together = threading.Barrier(3)

    def answer(asked: Asked) -> Reply:
        if asked.data["text"] != "a":
            together.wait(20)
        return echo(asked)

    @sgl.function
    def tree(s: sgl.ProgramState) -> None:
        s += "a" + sgl.gen("root")
        forks = s.fork(3)
        for i, fork in enumerate(forks):
            fork += f"|{i}" + sgl.gen("leaf")
        forks.join()

    with served(answer) as double, on(double) as backend:
        state = tree.run(backend=backend)
        assert state["leaf"] == [f"<a<a>|{i}>" for i in range(3)] and state.text() == "a<a>"
        assert state.usage.total.calls == 4


def test_a_batch_keeps_its_concurrency() -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(generate_events(["x"]), pause=0.01)

    with served(answer) as double, on(double, max_concurrency=3) as backend:
        states = ask.run_batch([{"question": str(i)} for i in range(12)], backend=backend)
        assert [state["answer"] for state in states] == ["x"] * 12
    assert double.most_at_once <= 3


def test_a_dropped_parent_leaves_its_forks() -> None:
    held = threading.Event()

    def answer(asked: Asked) -> Reply:
        held.wait(20)
        return echo(asked)

    def body(s: sgl.ProgramState) -> Any:
        s += "a" + sgl.gen("root")
        child = s.fork(1)[0]
        child += sgl.gen("leaf")
        return child

    with served(answer) as double, on(double) as backend:
        child = sgl.function(body).run(backend=backend).ret_value
        held.set()
        assert child["leaf"] == "<a<a>>"


def test_an_error_belongs_to_its_branch_and_has_the_words_of_the_service() -> None:
    def answer(asked: Asked) -> Reply:
        if "bad" in asked.data["text"]:
            return error_reply(400, "this is no good", **{"x-request-id": "req-7"})
        return echo(asked)

    @sgl.function
    def both(s: sgl.ProgramState) -> None:
        forks = s.fork(2)
        forks[0].__iadd__("bad" + sgl.gen("x") + sgl.gen("y"))
        forks[1].__iadd__("fine" + sgl.gen("x"))
        forks.join()

    with served(answer) as double, on(double) as backend:
        state = both.run(backend=backend)
        with pytest.raises(
            sgl.ServiceError, match=r"gen\('x'\) at test_branches.py.*status 400: this is no good"
        ) as got:
            state["x"][0]
        assert state["x"][1] == "<fine>"
        assert (got.value.status, got.value.request_id) == (400, "req-7")
    assert len(double.asked) == 2  # not sent again, and nothing after it was sent


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_asked_again(status: int, quick: None) -> None:
    with served([error_reply(status, "busy"), Reply(generate_events(["ok"]))]) as double, on(double) as backend:
        assert ask.run(backend=backend)["answer"] == "ok"
    assert len(double.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_does_not_pass_is_not_asked_again(status: int) -> None:
    with (
        served(error_reply(status, "no")) as double,
        on(double) as backend,
        pytest.raises(sgl.ServiceError, match=f"status {status}: no"),
    ):
        ask.run(backend=backend)["answer"]
    assert len(double.asked) == 1


def test_retries_end(quick: None) -> None:
    with (
        served(error_reply(503, "down")) as double,
        on(double, retries=3) as backend,
        pytest.raises(sgl.ServiceError, match="503: down"),
    ):
        ask.run(backend=backend)["answer"]
    assert len(double.asked) == 4


def test_retry_after_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("sgl.backend.remote.caller.asyncio.sleep", noted)
    busy = error_reply(429, "slowly", **{"Retry-After": "7"})
    with served([busy, Reply(generate_events(["ok"]))]) as double, on(double) as backend:
        assert ask.run(backend=backend)["answer"] == "ok"
    assert slept == [7.0]
    with (
        served(error_reply(429, "tomorrow", **{"Retry-After": "9999"})) as double,
        on(double) as backend,
        pytest.raises(sgl.ServiceError, match="tomorrow"),
    ):
        ask.run(backend=backend)["answer"]
    assert len(double.asked) == 1


def test_a_connection_lost_before_the_answer_is_made_again(quick: None) -> None:
    with served([Reply(then="drop"), Reply(generate_events(["ok"]))]) as double, on(double) as backend:
        assert ask.run(backend=backend)["answer"] == "ok"
    assert len(double.asked) == 2


def test_a_stream_that_began_is_not_asked_for_again(quick: None) -> None:
    begun = generate_events(["half", " more"])[:1]
    for then, words in (("drop", "could not be reached"), ("end", "stream ended before the answer did")):
        with served(Reply(begun, then=then)) as double, on(double) as backend:
            state = ask.run(backend=backend, stream=True)
            seen = []
            with pytest.raises(sgl.ServiceError, match=words):
                for piece in state.text_iter("answer"):
                    seen.append(piece)
            assert seen == ["half"]
        assert len(double.asked) == 1


def test_garbage_and_errors_within_a_stream(quick: None) -> None:
    for events, words in (
        ([b"data: {nonsense\n\n"], "answered what cannot be read.*not JSON"),
        ([event([1])], "not an object"),
        ([event({"error": {"message": "out of memory"}})], "out of memory"),
        ([event({"text": 3, "meta_info": {}})], "have no text"),
        ([], "stream ended before"),
    ):
        with (
            served(Reply(events)) as double,
            on(double, retries=0) as backend,
            pytest.raises(sgl.ServiceError, match=words),
        ):
            ask.run(backend=backend)["answer"]


def test_nobody_there() -> None:
    with pytest.raises(sgl.ServiceError, match="could not be reached: ConnectionRefusedError") as caught:
        ask.run(backend=sgl.RuntimeEndpoint("http://127.0.0.1:9", retries=0))["answer"]
    assert caught.value.status is None


def test_a_silent_service_is_given_up() -> None:
    with (
        served(Reply(generate_events(["a", "b"])[:1], then="hang")) as double,
        on(double, timeout=0.2) as backend,
        pytest.raises(sgl.ServiceError, match="could not be reached: Timeout"),
    ):
        ask.run(backend=backend)["answer"]


def closes(double: Double) -> bool:
    end = time.monotonic() + 20
    while not double.closed and time.monotonic() < end:
        time.sleep(0.01)
    return double.closed > 0


def test_cancelling_closes_the_stream() -> None:
    with served(Reply(generate_events(["a", "b"])[:1], then="hang")) as double, on(double) as backend:
        state = ask.run(backend=backend, stream=True)
        assert next(iter(state.text_iter("answer"))) == "a"
        state.cancel()
        with pytest.raises(sgl.Cancelled):
            state["answer"]
        assert closes(double)


def test_time_limits_close_the_stream() -> None:
    for options in ({"timeout": 0.2}, {}):
        program = ask if options else sgl.function(lambda s: s.__iadd__("Q" + sgl.gen("answer", timeout=0.2)))
        with served(Reply(then="hang")) as double, on(double) as backend:
            with pytest.raises(sgl.ProgramTimeout, match=r"timeout=0\.2 s"):
                program.run(backend=backend, **options)["answer"]
            assert closes(double)


def test_a_dropped_program_closes_its_stream() -> None:
    with served(Reply(generate_events(["a", "b"])[:1], then="hang")) as double, on(double) as backend:
        state = ask.run(backend=backend)
        while not double.asked:
            time.sleep(0.01)
        line = weakref.ref(state._line)
        del state
        gc.collect()
        assert line() is None  # nothing of the request keeps the program
        assert closes(double)


def test_shutdown_fails_what_runs() -> None:
    with served(Reply(then="hang")) as double:
        backend = on(double)
        state = ask.run(backend=backend)
        backend.shutdown()
        backend.shutdown()
        with pytest.raises(sgl.BackendError, match="was shut down"):
            state["answer"]
        with pytest.raises(sgl.BackendError, match="was shut down; make a new backend"):
            ask.run(backend=backend)


def test_async_programs_leave_the_loop_free() -> None:
    go = threading.Event()

    def answer(asked: Asked) -> Reply:
        go.wait(20)
        return echo(asked)

    @sgl.function
    async def late(s: sgl.ProgramState, word: str) -> str:
        s += word + sgl.gen("x")
        return await s["x"]

    async def main(backend: Any) -> list[Any]:
        runs = [asyncio.ensure_future(late.arun(word, backend=backend)) for word in "abc"]
        await asyncio.sleep(0.05)  # a blocked loop would never come to the next line
        go.set()
        return [(await run).ret_value for run in runs]

    with served(answer) as double, on(double) as backend:
        assert asyncio.run(main(backend)) == ["<a>", "<b>", "<c>"]


def test_an_async_stream() -> None:
    async def main(backend: Any) -> list[str]:
        return [piece async for piece in ask.run(backend=backend, stream=True).text_async_iter("answer")]

    with served(Reply(generate_events(["a", "b", "c"]), pause=0.02)) as double, on(double) as backend:
        assert "".join(asyncio.run(main(backend))) == "abc"


def test_user_code_that_fails_on_the_loop_fails_its_call_alone() -> None:
    class Method:
        requires_unconditional_logprobs = False

        def __call__(self, **scores: Any) -> Any:
            raise SystemExit("a choice method")

    def answer(asked: Asked) -> Reply:
        from .test_endpoint import scored_reply

        return scored_reply(asked) if "return_logprob" in asked.data or not asked.data.get("stream") else echo(asked)

    with served(answer) as double, on(double) as backend:
        state = sgl.function(lambda s: s.__iadd__("a" + sgl.select("x", ["b", "c"], choices_method=Method()))).run(
            backend=backend
        )
        with pytest.raises(SystemExit, match="a choice method"):
            state["x"]
        assert ask.run(backend=backend)["answer"] == "<Q>"


def test_a_budget_is_kept() -> None:
    @sgl.function
    def many(s: sgl.ProgramState) -> None:
        for i in range(5):
            s += sgl.gen(f"x{i}")

    with served(Reply(generate_events(["a", "b"]))) as double, on(double) as backend:
        state = many.run(backend=backend, budget=3)
        assert state["x1"] == "ab"
        with pytest.raises(sgl.BudgetExceeded):
            state["x2"]
    assert len(double.asked) == 2


def test_a_trace_of_a_run() -> None:
    with served(Reply(generate_events(["a", "b"]))) as double, on(double) as backend:
        with sgl.trace() as trace:
            assert ask.run(backend=backend)["answer"] == "ab"
        assert "answer" in str(trace.to_dict() if hasattr(trace, "to_dict") else trace)


INTERRUPTED = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
import sgl
ask = sgl.function(lambda s: s.__iadd__("Q" + sgl.gen("answer")))
state = ask.run(backend=sgl.RuntimeEndpoint({url!r}))
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    state["answer"]
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_and_the_end_of_a_process() -> None:
    import sgl as package

    root = str(__import__("pathlib").Path(package.__file__).resolve().parents[1])
    with served(Reply(then="hang")) as double:
        script = INTERRUPTED.format(root=root, url=double.url)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
        assert closes(double)
