"""A grammar engine that does not return: that call fails in time, and no other call or program waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sgl
from sgl.backend.runtime.grammar.engines import watched, xgrammar
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import ConstraintError

DIGITS = "root ::= [0-9] [0-9] [0-9] [0-9] [a-z]\n"
HANGS = "root ::= [a-z] [a-z] [a-z] [a-z] [a-z]\n"
METHODS = ["fill", "accept", "forced", "can_end", "fork"]


@sgl.function
def constrained(s: Any, grammar: str) -> None:
    s += "a text: " + sgl.gen("a", ebnf=grammar, max_tokens=9)


@sgl.function
async def constrained_async(s: Any, grammar: str) -> None:
    s += "a text: " + sgl.gen("a", ebnf=grammar, max_tokens=9)


class Slow:
    """xgrammar's matcher, but for texts that begin with a letter: there a method does not return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, how: Callable[[threading.Event], None]) -> None:
        self.end, self.calls, self.on = threading.Event(), 0, True
        real = getattr(xgrammar.XGrammarMatcher, method)

        def slow(matcher: Any, *args: Any) -> Any:
            if self.on and matcher.compiled in self.grammars:
                self.calls += 1
                how(self.end)
            return real(matcher, *args)

        monkeypatch.setattr(xgrammar.XGrammarMatcher, method, slow)
        self.grammars: list[Any] = []


def sleeps(end: threading.Event) -> None:
    end.wait(60)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Slow]]:
    made: list[Slow] = []
    monkeypatch.setattr(watched, "CALL_SECONDS", 0.3)

    def make(runtime: Runtime, method: str) -> Slow:
        made.append(Slow(monkeypatch, method, sleeps))
        prepared = runtime.engine.grammars.prepare(sgl.ebnf(HANGS))
        made[-1].grammars.append(prepared.compiled.inner)  # type: ignore[attr-defined]
        return made[-1]

    yield make
    for each in made:
        each.end.set()


def fails(state: Any) -> None:
    with pytest.raises(ConstraintError, match=r"grammar engine took more than .*ebnf"):
        state["a"]


@pytest.mark.parametrize("method", METHODS)
def test_one_call_fails_and_the_others_go_on(slow: Callable[..., Slow], method: str) -> None:
    runtime = Runtime.toy(grammar_backend="xgrammar")
    engine = slow(runtime, method)
    with runtime.engine.drive.held():  # all in one step
        bad = [constrained.run(HANGS, backend=runtime) for _ in range(3)]
        good = [constrained.run(DIGITS, backend=runtime) for _ in range(3)]
    for state in good:
        assert len(state["a"]) == 5
    for state in bad:
        fails(state)
    assert engine.calls > 0
    engine.on = False
    assert len(constrained.run(HANGS, backend=runtime)["a"]) == 5
    runtime.check()


@pytest.mark.parametrize("method", METHODS[:2])
def test_coroutines(slow: Callable[..., Slow], method: str) -> None:
    runtime = Runtime.toy(grammar_backend="xgrammar")
    slow(runtime, method)

    async def main() -> list[Any]:
        rows = [HANGS, DIGITS, HANGS, DIGITS]
        return await asyncio.gather(
            *(constrained_async.arun(grammar, backend=runtime) for grammar in rows), return_exceptions=True
        )

    states = asyncio.run(main())
    assert len(states[1]["a"]) == len(states[3]["a"]) == 5
    fails(states[0])
    fails(states[2])
    runtime.check()


@pytest.mark.parametrize("program", [constrained, constrained_async])
@pytest.mark.parametrize("method", METHODS[:2])
def test_rows_of_a_batch(slow: Callable[..., Slow], method: str, program: Any) -> None:
    runtime = Runtime.toy(grammar_backend="xgrammar")
    slow(runtime, method)
    rows = [{"grammar": grammar} for grammar in (HANGS, DIGITS, DIGITS, HANGS)]
    states = program.run_batch(rows, backend=runtime, on_error="keep")
    assert sorted(states.errors) == [0, 3] and all(isinstance(e, ConstraintError) for e in states.errors.values())
    with pytest.raises(ConstraintError):
        program.run_batch(rows, backend=runtime)
    runtime.check()


def test_a_call_that_returns_late_is_not_mixed_up() -> None:
    ended = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "CALL_SECONDS", 0.1)
        with pytest.raises(watched.LateCall):
            watched.in_time(lambda: ended.wait(20), "a constraint")
    ended.set()
    assert [watched.in_time(lambda i=i: i, "a constraint") for i in range(5)] == [*range(5)]  # type: ignore[misc]
    with pytest.raises(SystemExit):
        watched.in_time(lambda: exec("raise SystemExit(3)"), "a constraint")


def test_the_end_of_the_process_waits_for_calls_that_were_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(watched, "_left_behind", [])
    soon, never = threading.Event(), threading.Event()
    for ended in (soon, never):
        with pytest.raises(watched.LateCall):
            watched.in_time(lambda: ended.wait(20), "a constraint")  # noqa: B023
    threading.Timer(0.2, soon.set).start()
    monkeypatch.setattr(watched, "EXIT_SECONDS", 1.0)
    watched._wait_for_those_left_behind()
    assert [thread.is_alive() for thread in watched._left_behind] == [False, True]
    never.set()


@pytest.mark.model
@pytest.mark.parametrize("grammar", ['root ::= ("a"?)* "b"\n', 'root ::= ("a" | "")+ "b"\n'])
def test_a_mask_of_xgrammar_that_never_returns(grammar: str) -> None:
    runtime = sgl.Runtime()
    other = constrained.run(DIGITS, backend=runtime)
    began = time.monotonic()
    try:
        text = constrained.run(grammar, backend=runtime)["a"]
    except ConstraintError:
        assert time.monotonic() - began < 60
    else:
        assert text.endswith("b")  # the grammar was rewritten
    assert len(other["a"]) == 5
    runtime.shutdown()
