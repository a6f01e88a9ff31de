"""`sgl.FakeBackend`: programs without a model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sgl


@sgl.function
def chat(s: sgl.ProgramState, q: str) -> None:
    s += sgl.user(q) + sgl.assistant(sgl.gen("a", stop="\n"))
    s += sgl.user("Sure?") + sgl.assistant(sgl.select("b", ["yes", "no"]))


def test_replies_in_order() -> None:
    backend = sgl.FakeBackend(["Paris\nand more", "no"])
    state = chat.run("Capital?", backend=backend)
    assert (state["a"], state["b"]) == ("Paris", "no")
    assert state.get_meta_info("a")["finish_reason"] == {"type": "stop", "matched": "\n"}
    assert state.text().count("<|im_start|>") == 4 and state.messages()[1] == {"role": "assistant", "content": "Paris"}
    assert [call.name for call in backend.calls] == ["a", "b"] and "Capital?" in backend.calls[0].prompt
    assert state.usage.total.calls == 2
    with pytest.raises(sgl.BackendError, match=r"call number 3, and FakeBackend was given 2 replies"):
        chat.run("Again?", backend=backend)["a"]


def test_replies_by_name_in_forks_and_batches() -> None:
    @sgl.function
    def fan(s: sgl.ProgramState, q: str) -> None:
        forks = s.fork(3)
        forks += sgl.gen("tip")
        forks.join()
        s += sgl.gen("end")

    backend = sgl.FakeBackend({"tip": [f"t{i}" for i in range(6)], "end": "done"})
    states = fan.run_batch([("x",), ("y",)], backend=backend)
    assert sorted(states[0]["tip"] + states[1]["tip"]) == [f"t{i}" for i in range(6)]
    assert {state["end"] for state in states} == {"done"}
    with pytest.raises(sgl.BackendError, match="did you mean 'tip'"):
        sgl.function(lambda s: s.user(sgl.gen("tipp"))).run(backend=sgl.FakeBackend({"tip": "x"}))["tipp"]
    assert chat.run("?", backend=sgl.FakeBackend({"a": "x"}))["b"] == "yes"


def test_replies_of_a_function_and_errors() -> None:
    backend = sgl.FakeBackend(lambda prompt: "no" if "Sure?" in prompt else "x")
    assert chat.run("?", backend=backend)["b"] == "no"
    error = TimeoutError("slow")
    state = chat.run("?", backend=sgl.FakeBackend([error]))
    for name in ("a", "b"):
        with pytest.raises(TimeoutError):
            state[name]
    assert state.error() is error


def test_constraints_are_checked_and_values_typed() -> None:
    ask = sgl.function(lambda s: s.user(sgl.gen("n", schema=list[int])))
    assert ask.run(backend=sgl.FakeBackend(["[1, 2]"])).value("n") == [1, 2]
    with pytest.raises(sgl.ConstraintError, match=r"gen\('n'\).*the reply breaks its constraint"):
        ask.run(backend=sgl.FakeBackend(["[1, x]"]))["n"]
    with pytest.raises(sgl.ConstraintError, match="none of the choices"):
        chat.run("?", backend=sgl.FakeBackend(["x", "maybe"]))["b"]
    with pytest.raises(sgl.CapabilityError, match="log-prob"):
        chat.run("?", backend=sgl.FakeBackend(["x"]), return_logprob=True)


@pytest.mark.parametrize("replies", ["text", 5, None])
def test_wrong_replies(replies: Any) -> None:
    with pytest.raises(sgl.OptionError, match="replies must be"):
        sgl.FakeBackend(replies)
    with pytest.raises(sgl.BackendError, match="must be a text or an error"):
        chat.run("?", backend=sgl.FakeBackend([5]))["a"]


def test_async_streams_samples_traces_compiling() -> None:
    @sgl.function
    async def ask(s: sgl.ProgramState) -> Any:
        s += sgl.user("x") + sgl.assistant(sgl.gen("a", schema=int))
        return await s.value("a")

    assert asyncio.run(ask.arun(backend=sgl.FakeBackend(["7"]))).ret_value == 7
    assert list(chat.run("?", stream=True, backend=sgl.FakeBackend(["x", "no"])).text_iter("a")) == ["x"]
    many = sgl.function(lambda s: s.user(sgl.gen("a", n=2)))
    assert many.run(backend=sgl.FakeBackend(["x", "y"]))["a"] == ["x", "y"]
    with sgl.trace() as traced:
        chat.run("?", backend=sgl.FakeBackend(["x y", "no"])).sync()
    assert "x y" in str(traced.html) or traced is not None
    assert chat.compile(sgl.FakeBackend(["x", "no"])).run("?")["b"] == "no"
    cancelled = sgl.function(lambda s: s.cancel()).run(backend=sgl.FakeBackend([]))
    assert isinstance(cancelled.error(), sgl.Cancelled)


def test_what_programs_ask_of_a_runtime_can_be_asked_of_it() -> None:
    with sgl.FakeBackend(["Paris", "no"]) as backend:
        assert backend.cache_prefix("You are brief.") == 3
        assert backend.cache_prefix(sgl.system("Be brief.")) > 0
        with pytest.raises(sgl.OptionError, match="cache_prefix"):
            backend.cache_prefix(sgl.gen("a"))
        with pytest.raises(sgl.OptionError, match="only text"):
            backend.cache_prefix(3)  # type: ignore[arg-type]
        assert backend.flush_cache() and backend.calls == []
        assert chat.run("Capital?", backend=backend)["a"] == "Paris"
