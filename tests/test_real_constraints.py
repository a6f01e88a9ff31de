"""Constraints on the real model: typed records from real text, and the equalities that the toy model shows exactly."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

import sgl

pytestmark = pytest.mark.model
DATA = Path(__file__).resolve().parents[1] / "examples" / "data" / "gsm8k-200.jsonl"
PROBLEMS = [json.loads(line)["question"] for line in DATA.read_text().splitlines()]


class Quantity(BaseModel):
    what: str = Field(max_length=40)
    number: float


class Record(BaseModel):
    topic: Literal["money", "time", "distance", "counting", "other"]
    people: list[str] = Field(max_length=4)
    quantities: list[Quantity] = Field(min_length=1, max_length=4)
    asked_for: str = Field(max_length=80)


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime(random_seed=0) as runtime:
        yield runtime
        runtime.check()


@sgl.function
def extract(s: sgl.ProgramState, problem: str, slowly: bool = False) -> None:
    s += sgl.user(f"Describe this problem as JSON.\n\n{problem}")
    s += sgl.assistant(sgl.gen("record", schema=Record, max_tokens=160, return_logprob=slowly or None))


def test_records_are_instances(runtime: Any) -> None:
    states = extract.run_batch([{"problem": p} for p in PROBLEMS[:6]], backend=runtime, temperature=0)
    assert all(isinstance(s.value("record"), Record) for s in states)
    counts = [s.get_meta_info("record") for s in states]
    assert sum(c["forced"] for c in counts) > 0.2 * sum(c["generated"] for c in counts)


@pytest.mark.slow
def test_two_hundred_records_are_instances(runtime: Any) -> None:
    states = extract.run_batch([{"problem": p} for p in PROBLEMS], backend=runtime, temperature=0)
    assert sum(isinstance(s.value("record"), Record) for s in states) == 200


@pytest.mark.parametrize("temperature", [0, 1])
def test_forced_tokens_change_nothing(runtime: Any, temperature: float) -> None:
    for problem in PROBLEMS[:2]:
        fast = extract.run(problem, backend=runtime, temperature=temperature, seed=5)
        slow = extract.run(problem, slowly=True, backend=runtime, temperature=temperature, seed=5)
        assert fast["record"] == slow["record"]
        assert fast.get_meta_info("record")["token_ids"] == slow.get_meta_info("record")["token_ids"]


def test_a_constraint_between_constants(runtime: Any) -> None:
    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += (
            "Neil Armstrong stepped onto the Moon on "
            + sgl.gen("day", schema=datetime.date)
            + ". It was in the month of "
        )
        s += sgl.gen("month", regex="January|July|December", temperature=0) + ", and the year was "
        s += sgl.gen("year", dtype=int, max_tokens=6, temperature=0) + "."

    state = program.run(backend=runtime, seed=1)
    assert isinstance(state.value("day"), datetime.date)
    assert state["month"] in ("January", "July", "December")
    assert isinstance(state.value("year"), int)


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("at_least_one", [False, True])
def test_tool_calls_in_prose_are_valid(runtime: Any, at_least_one: bool) -> None:
    """Twenty seeds at temperature 1: calls are opened freely, or asked for; each text is checked by itself."""
    begin, end = '<tool_call>\n{"name": "weather", "arguments": ', "}\n</tool_call>"
    call = {"type": "tag", "begin": begin, "content": {"type": "json_schema", "json_schema": WEATHER}, "end": end}
    tags = {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": [call], "at_least_one": at_least_one}
    asked = "Question: Is it hot in {city}?\nAnswer:"
    told = "".join(f'{asked.format(city=c)} {begin}{{"city": "{c}"}}{end}\n' for c in ("Oslo", "Lima", "Cairo"))
    prompt = told + asked.format(city="Rome")

    @sgl.function
    def program(s: sgl.ProgramState, seed: int) -> None:
        s += prompt + sgl.gen("x", structural_tag={"format": tags}, max_tokens=60, seed=seed)

    states = program.run_batch([{"seed": seed} for seed in range(20)], backend=runtime, temperature=1)
    texts = [state["x"] for state in states]
    assert len(set(texts)) > 10
    calls = 0
    for text in texts:
        outside = text
        while "<tool_call>" in outside:
            before, _, rest = outside.partition(begin)
            value, _, outside = rest.partition(end)
            assert "<tool_call>" not in before
            arguments = json.loads(value)
            assert isinstance(arguments["city"], str) and arguments.keys() <= {"city", "days"}
            calls += 1
    print(f"{calls} calls in {len(texts)} texts")
    assert calls >= (20 if at_least_one else 1)
