"""An agent that is paused and goes on, here or in another process: the same text, the same tokens, the same answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.runtime.model.load.store import DEFAULT_MODEL, cache_folder, is_pulled
from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
from sgl.interpreter.agent.saving import _digest

RAN: list[tuple[int, int]] = []


@sgl.tool(requires_approval=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    RAN.append((a, b))
    return a + b


@sgl.tool
def fails(why: str) -> str:
    """Fail."""
    raise ValueError(why)


TOOLS = [add, fails]
WRITES = {"min_tool_calls": 4, "parallel": 3, "max_steps": 6, "max_tokens": 160, "temperature": 1.0}


@sgl.function
def ask(s: Any, saved: Any, options: Any) -> Any:
    if saved is None:
        s += sgl.system("Use the tools.", tools=TOOLS) + sgl.user("Go on.")
    return sgl.agent(s, TOOLS, resume=saved, **options)


def yes(call: sgl.ToolCall) -> bool:
    return True


def later(call: sgl.ToolCall) -> Any:
    return sgl.PAUSE


def outcome(state: Any) -> list[Any]:
    result = state.ret_value
    told = [[r.call.openai(), r.text, r.error] for r in result.results]
    return [state.text(), state.messages(), result.answer, result.reason, result.steps, told]


CHILD = """
import json, sys
import sgl
from sgl_paused import ask, outcome, yes
saved, seed, writes = json.load(sys.stdin)
make = {"toy": lambda: sgl.Runtime.toy(speculative_num_draft_tokens=0), "real": sgl.Runtime}[sys.argv[1]]
with make() as runtime:
    state = ask.run(saved, {**writes, "approve": yes}, backend=runtime, seed=seed)
    print(json.dumps([outcome(state), state.usage.total.generated, state.usage.total.computed]))
"""


@pytest.mark.parametrize(
    ("model", "seed"),
    [
        ("toy", 0),
        ("toy", 1),
        pytest.param(
            "real",
            0,
            marks=[
                pytest.mark.model,
                pytest.mark.slow,
                pytest.mark.skipif(
                    not is_pulled(DEFAULT_MODEL, cache_folder()), reason=f"run `sgl models pull {DEFAULT_MODEL}` first"
                ),
            ],
        ),
    ],
)
def test_another_process_goes_on_as_if_there_had_been_no_pause(model: str, seed: int, tmp_path: Path) -> None:
    writes = (
        WRITES if model == "toy" else {**WRITES, "min_tool_calls": 1, "parallel": 2, "max_steps": 3, "max_tokens": 60}
    )
    with sgl.Runtime.toy(speculative_num_draft_tokens=0) if model == "toy" else sgl.Runtime() as runtime:
        whole = ask.run(None, {**writes, "approve": yes}, backend=runtime, seed=seed)
        expected, written, rows = outcome(whole), whole.usage.total.generated, whole.usage.total.computed
        paused = ask.run(None, {**writes, "approve": later}, backend=runtime, seed=seed)
        before, first = paused.usage.total.generated, paused.ret_value
    assert first.reason == "paused" and first.answer is None and first.pending
    assert {call.name for call in first.pending} == {"add"}
    (tmp_path / "sgl_paused.py").write_text(Path(__file__).read_text())
    paths = os.pathsep.join([str(tmp_path), str(Path(sgl.__file__).parents[1])])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, model],
        input=json.dumps([first.saved, seed + 100, writes]),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found, after, computed = json.loads(child.stdout)
    assert found == json.loads(json.dumps(expected))
    assert before + after == written  # nothing is sampled again
    assert computed == rows or model == "real"  # the whole text once; speculation computes rows besides


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.booleans(), max_size=6))
def test_any_number_of_pauses_changes_nothing(seed: int, answers: list[bool]) -> None:
    whole = ask.run(None, {**WRITES, "approve": yes}, backend=TOY, seed=seed)
    expected, saved, left = outcome(whole), None, list(answers)

    def approve(call: sgl.ToolCall) -> Any:
        return sgl.PAUSE if left and left.pop() else True

    for _ in range(len(answers) + 1):
        state = ask.run(saved, {**WRITES, "approve": approve}, backend=TOY, seed=seed if saved is None else 0)
        if state.ret_value.reason != "paused":
            break
        saved = json.loads(json.dumps(state.ret_value.saved))
        assert [call.id for call in state.ret_value.pending] == [
            r.call.id for r in state.ret_value.results if r.error == "paused"
        ]
        TOY.flush_cache()
    assert outcome(state) == expected


@pytest.mark.parametrize("knows", [True, False], ids=["tool turns", "turns of the user"])
def test_templates_of_both_kinds_and_turns_after_it(knows: bool) -> None:
    """A template without the role of tools holds results back; the program goes on after the agent in both."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        + ("{# 'tool' #}" if knows else "")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @sgl.function
    def longer(s: Any, saved: Any, approve: Any) -> Any:
        if saved is None:
            s += sgl.user("Go on.")
        result = sgl.agent(s, TOOLS, resume=saved, approve=approve, **WRITES)
        if result.reason != "paused":
            s += sgl.user("And?") + sgl.assistant(sgl.gen("more", max_tokens=12, temperature=1.0))
        return result

    tokenizer = toy_tokenizer()
    model = ToyModel(tokenizer.vocab_size + 5, context_length=1 << 14)
    with sgl.Runtime.of(model, tokenizer, chat_template=sgl.ChatTemplate(source)) as runtime:
        for seed in range(3):
            whole = longer.run(None, yes, backend=runtime, seed=seed)
            paused = longer.run(None, later, backend=runtime, seed=seed)
            after = longer.run(paused.ret_value.saved, yes, backend=runtime) if paused.ret_value.saved else paused
            assert outcome(after) == outcome(whole) and after["more"] == whole["more"]


def script(*turns: Any) -> sgl.FakeBackend:
    def text(turn: Any) -> str:
        if isinstance(turn, str):
            return turn
        return "\n".join(f"<tool_call>{json.dumps({'name': n, 'arguments': a})}</tool_call>" for n, a in turn)

    return sgl.FakeBackend(list(map(text, turns)))


BOTH = [("fails", {"why": "so"}), ("add", {"a": 1, "b": 2}), ("fails", {"why": "no"})]


def test_the_other_tools_of_the_turn_end_and_are_not_run_again() -> None:
    RAN.clear()
    first = ask.run(None, {"approve": later}, backend=script(BOTH)).ret_value
    assert [r.error for r in first.results] == ["raised", "paused", "raised"] and not RAN
    assert [call.arguments for call in first.pending] == [{"a": 1, "b": 2}]
    asked = []

    def approve(call: sgl.ToolCall) -> Any:
        asked.append(call.name)
        return dataclasses.replace(call, arguments={"a": 5, "b": 5})

    last = ask.run(first.saved, {"approve": approve}, backend=script("Ten.")).ret_value
    assert (last.answer, last.reason, last.steps) == ("Ten.", "answered", 2)
    assert [r.text for r in last.results] == ["Error: ValueError: so", "10", "Error: ValueError: no"]
    assert asked == ["add"] and RAN == [(5, 5)]


def test_limits_count_over_the_pause() -> None:
    options = {"max_steps": 2, "max_tool_calls": 1, "on_error": "keep", "budget": {"calls": 2}, "timeout": 600}
    first = ask.run(None, {**options, "approve": later}, backend=script(BOTH[1:2])).ret_value
    last = ask.run(first.saved, {**options, "approve": yes}, backend=script("Three.")).ret_value
    assert (last.steps, last.reason) == (2, "max_steps")
    spent = ask.run(first.saved, {**options, "budget": {"calls": 1}, "approve": yes}, backend=script("x")).ret_value
    assert spent.reason == "budget"
    late = ask.run(first.saved, {**options, "timeout": first.saved["seconds"] / 2, "approve": yes}, backend=script("x"))
    assert late.ret_value.reason == "timeout"
    call = BOTH[1:2]
    again = ask.run(first.saved, {"approve": yes}, backend=script(call, "Three.")).ret_value
    assert again.reason == "repeated" and [r.text for r in again.results] == ["3", "3"]


def test_streams_async_programs_and_a_program_that_goes_on() -> None:
    @sgl.function
    async def program(s: Any, saved: Any, approve: Any) -> Any:
        if saved is None:
            s += sgl.user("Go on.")
        events = [event async for event in sgl.agent(s, TOOLS, resume=saved, approve=approve, stream=True)]
        return events[-1]

    first = asyncio.run(program.arun(None, later, backend=script(BOTH)))
    assert first.ret_value.reason == "paused"
    assert [m["role"] for m in first.messages()] == ["user", "assistant", "tool", "tool", "tool"]
    assert "waits for an approval" in first.messages()[3]["content"]
    last = asyncio.run(program.arun(first.ret_value.saved, yes, backend=script("Three."))).ret_value
    assert last.answer == "Three."


def test_run_tools_says_which_calls_wait() -> None:
    calls = [sgl.ToolCall("add", {"a": 1, "b": b}, f"call0000{b}") for b in (1, 2)]
    found = sgl.run_tools(calls, TOOLS, approve=lambda call: call.arguments["b"] == 1 or sgl.PAUSE)
    assert [r.error for r in found] == [None, "paused"] and repr(sgl.PAUSE) == "sgl.PAUSE"


def test_what_does_not_fit_is_refused() -> None:
    backend = script(BOTH)
    another = script("x")
    another.capabilities = dataclasses.replace(another.capabilities, saves=lambda: "other tokens")
    saved = ask.run(None, {"approve": later}, backend=backend).ret_value.saved

    def refused(data: Any, words: str, program: Any = ask, on: Any = None) -> None:
        with pytest.raises(sgl.OptionError, match=words):
            program.run(data, {"approve": yes}, backend=on or script("x"))

    refused("text", "takes the `saved` of an agent")
    refused({**saved, "sgl_agent": 2}, "of version 2")
    refused({**saved, "steps": 0}, "damaged")
    refused({name: part for name, part in saved.items() if name != "roles"}, "damaged")
    refused({**saved, "steps": object()}, "damaged")
    refused(saved, "paused on FakeBackend, and this backend is Runtime", on=TOY)
    refused(saved, "another chat template", on=sgl.FakeBackend(["x"], chat_template=sgl.ChatTemplate("{{ messages }}")))

    @sgl.function
    def said(s: Any, saved: Any, options: Any) -> Any:
        s += sgl.user("Hello.")
        return sgl.agent(s, TOOLS, resume=saved, **options)

    @sgl.function
    def others(s: Any, saved: Any, options: Any) -> Any:
        return sgl.agent(s, [fails], resume=saved, **options)

    @sgl.function
    def forked(s: Any, saved: Any, options: Any) -> Any:
        return sgl.agent(s.fork(1)[0], TOOLS, resume=saved, **options)

    refused(saved, "without text", said)
    refused(saved, "without text", forked)
    refused(saved, "'add' is not in tools= now", others)
    refused(saved, "another model of the name FakeBackend", on=another)


def test_other_tools_are_named() -> None:
    def program(tools: list[Any]) -> Any:
        @sgl.function
        def run(s: Any, saved: Any, approve: Any) -> Any:
            return sgl.agent(s, tools, resume=saved, approve=approve)

        return run

    first = program(TOOLS).run(None, later, backend=script(BOTH)).ret_value.saved

    def told(*tools: Any) -> str:
        with pytest.raises(sgl.OptionError) as caught:
            program(list(tools)).run(first, yes, backend=script("x"))
        return str(caught.value)

    @sgl.tool(name="fails")
    def differs(why: int) -> str:
        """Fail."""
        return "x"

    assert "'times' was not there" in told(add, fails, sgl.tool(name="times")(differs.function))
    assert "'fails' has another description or other parameters" in told(add, differs)
    assert program([fails, add]).run(first, yes, backend=script("Three.")).ret_value.answer == "Three."


def parts_of(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in some JSON data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for name, part in inner for place in parts_of(part, (*at, name)))]


FORGED = st.sampled_from([None, True, -1, 2**70, 0.5, "", "x", [], {}, [[]], {"a": 1}, [None], float("nan")])


@pytest.mark.parametrize("name", ["toy", "fake"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_data_give_typed_errors(name: str, data: Any) -> None:
    """Whoever forges a state with its digest gets a typed error, or an agent that goes on. Nothing hangs."""
    saved = json.loads(json.dumps(SAVED[name]()))
    *above, last = data.draw(st.sampled_from([place for place in parts_of(saved) if place]))
    part = saved
    for each in above:
        part = part[each]
    if isinstance(part, dict) and data.draw(st.booleans()):
        del part[last]
    else:
        part[last] = data.draw(FORGED)
    if data.draw(st.booleans()) and isinstance(saved, dict):
        saved["digest"] = _digest({name: part for name, part in saved.items() if name != "digest"})
    backend = TOY if name == "toy" else script("Three.")
    try:
        ask.run(saved, {**WRITES, "approve": yes, "on_error": "keep", "max_steps": 2}, backend=backend).text()
    except (sgl.SglError, ValueError) as error:
        assert type(error).__module__.startswith("sgl."), error


@pytest.mark.parametrize("cut", [1, 2, 100, 1000])
def test_a_truncated_text_is_refused(cut: int) -> None:
    text = json.dumps(SAVED["toy"]())
    for data in (text[:-cut], {"sgl_agent": 1}, {"sgl_agent": 1, "digest": text[:cut]}, [], 7, b"x", deep()):
        with pytest.raises(sgl.OptionError, match="resume="):
            ask.run(data, {"approve": yes}, backend=TOY)


def deep() -> Any:
    found: Any = []
    for _ in range(100_000):
        found = [found]
    return {"sgl_agent": 1, "text": found}


def paused(backend: Any, **options: Any) -> Any:
    for seed in range(20):
        result = ask.run(None, {**options, "approve": later}, backend=backend, seed=seed).ret_value
        if result.reason == "paused":
            return result.saved
    raise AssertionError("no agent was paused")


def test_forks_after_the_pause_have_the_noise_of_the_forks_without_it() -> None:
    @sgl.function
    def program(s: Any, saved: Any, approve: Any) -> Any:
        if saved is None:
            s += sgl.user("Go on.")
            s.fork(2)
        result = sgl.agent(s, TOOLS, resume=saved, approve=approve, **WRITES)
        if result.reason != "paused":
            for branch in s.fork(2):
                branch += sgl.user("And?") + sgl.assistant(sgl.gen("more", max_tokens=8, temperature=1.0))
                found.append(branch["more"])
        return result

    found: list[str] = []
    for seed in range(3):
        program.run(None, yes, backend=TOY, seed=seed)
        saved = program.run(None, later, backend=TOY, seed=seed).ret_value.saved
        if saved is not None:
            program.run(json.loads(json.dumps(saved)), yes, backend=TOY, seed=50)
            assert found[-2:] == found[-4:-2]
    assert len(found) > 2


TOY = sgl.Runtime.toy()
SAVED = {"toy": cache(lambda: paused(TOY, **WRITES)), "fake": cache(lambda: paused(script(BOTH)))}
