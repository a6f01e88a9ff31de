"""The embedded model behind the routes, through the clients of other people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest

import sgl
from sgl import Runtime

from .served import Served, served

pytestmark = pytest.mark.model
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SUM = [{"role": "user", "content": "What is 17 + 25? Call the tool add with these two numbers."}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(Runtime()) as here:
        yield here


def test_openais_client(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    tool = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": SCHEMA}}
    answer = client.chat.completions.create(
        model="default", messages=SUM, tools=[tool], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments) == {"a": 17, "b": 25}


def test_anthropics_client(server: Served) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    tools = [{"name": "add", "description": "Add.", "input_schema": SCHEMA}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    asked = {"model": "default", "max_tokens": 100, "messages": SUM, "tools": tools, "extra_body": {"temperature": 0}}
    message = client.messages.create(**asked, tool_choice=choice)
    assert message.stop_reason == "tool_use" and message.content[-1].input == {"a": 17, "b": 25}
    result = {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "42"}
    messages = [*SUM, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(**{**asked, "messages": messages}, tool_choice={"type": "none"})
    assert last.stop_reason == "end_turn" and "42" in last.content[0].text
    assert last.usage.cache_read_input_tokens > last.usage.input_tokens


def test_ollamas_client(server: Served) -> None:
    client = ollama.Client(host=server.url)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    said = client.chat(server.runtime.model_name, question, options={"temperature": 0, "num_predict": 24})
    assert "Paris" in said.message.content and said.done_reason == "stop"
    form = {"type": "object", "properties": {"capital": {"type": "string", "maxLength": 20}}, "required": ["capital"]}
    parts = client.chat(server.runtime.model_name, question, format=form, options={"temperature": 0}, stream=True)
    assert json.loads("".join(part.message.content for part in parts))["capital"] == "Paris"


def test_sgls_own_endpoint(server: Served) -> None:
    @sgl.function
    def review(s: Any, subject: str) -> None:
        s += f"Here is one line about {subject}:"
        s += sgl.gen("line", max_tokens=16, temperature=0, stop="\n")
        s += "\nIt is" + sgl.select("kind", [" hot", " cold"])
        forks = s.fork(2)
        for i, fork in enumerate(forks):
            fork += f".\nMore ({i}):" + sgl.gen("more", max_tokens=8, temperature=0)
        forks.join()
        s += ".\nYear: " + sgl.gen("year", regex="[0-9]{4}", temperature=0)

    rows = [{"subject": subject} for subject in ("tea", "ice", "the sun")]
    far = review.run_batch(rows, backend=sgl.RuntimeEndpoint(server.url))
    near = review.run_batch(rows, backend=server.runtime)
    assert [state["line"] for state in far] == [state["line"] for state in near]
    assert [state["kind"] for state in far] == [state["kind"] for state in near]
    assert all(state["year"].isdecimal() and len(state["year"]) == 4 for state in far)
