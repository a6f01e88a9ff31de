"""Ollama's routes, through its own client: the lines of a stream say what a whole answer says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from .served import Served, served

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
HELLO = [{"role": "user", "content": "Hello"}]
TIMES = ("created_at", "total_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def client(server: Served) -> ollama.Client:
    return ollama.Client(host=server.url)


def lines(response: Any) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"num_predict": 20}},
        {"options": {"num_predict": 40, "stop": ["e", "日"], "top_k": 0, "num_ctx": 2048}},
        {"options": {"num_predict": 20, "temperature": 0, "repeat_penalty": 1.1}},
        {"format": SCHEMA, "options": {"num_predict": 40}},
        {"format": "json", "options": {"num_predict": 40}},
        {"tools": [ADD], "options": {"num_predict": 60}},
        {"raw": True, "options": {"num_predict": 20}},
    ],
)
def test_a_stream_says_what_the_whole_answer_says(server: Served, path: str, fields: dict[str, Any]) -> None:
    if ("tools" in fields and path == "/api/generate") or ("raw" in fields and path == "/api/chat"):
        return
    body = {"messages": HELLO} if path == "/api/chat" else {"prompt": "Hello"}
    for seed in range(3):
        asked = {**body, **fields, "options": {**fields["options"], "seed": seed}}
        whole = server.post(path, **asked, stream=False).json()
        *parts, last = lines(server.post(path, **asked))
        assert last["done"] and not any(part["done"] for part in parts)
        assert {k for k in last if k not in TIMES} == {k for k in whole if k not in TIMES}
        for name in ("done_reason", "prompt_eval_count", "eval_count"):
            assert last[name] == whole[name]
        if path == "/api/chat":
            assert "".join(part["message"]["content"] for part in parts) == whole["message"]["content"]
            calls = [call for part in parts for call in part["message"].get("tool_calls", ())]
            assert calls == whole["message"].get("tool_calls", [])
        else:
            assert "".join(part["response"] for part in parts) == whole["response"]
        if "format" in fields and whole["done_reason"] == "stop":
            text = whole["message"]["content"] if path == "/api/chat" else whole["response"]
            assert isinstance(json.loads(text), dict)
    server.idle()


def test_the_text_is_that_of_a_chat(server: Served) -> None:
    options = {"num_predict": 20, "seed": 1}
    said = server.post("/api/chat", messages=HELLO, options=options, stream=False).json()["message"]["content"]
    assert said == server.chat(messages=HELLO, max_tokens=20, seed=1).json()["choices"][0]["message"]["content"]
    assert said == server.post("/api/generate", prompt="Hello", options=options, stream=False).json()["response"]


def test_results_go_to_the_calls_before(server: Served) -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": i, "b": 2}}} for i in (1, 2)]
    messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": calls}]
    messages += [{"role": "tool", "content": "3", "tool_name": "add"}, {"role": "tool", "content": "4"}]
    said = server.post("/api/chat", messages=messages, tools=[ADD], stream=False, options={"num_predict": 4})
    assert said.status_code == 200 and said.json()["message"]["content"]
    more = server.post("/api/chat", messages=[*messages, {"role": "tool", "content": "5"}], tools=[ADD])
    assert more.status_code == 400 and "messages/4" in more.json()["error"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"temperature": "hot"}}, "options/temperature"),
        ({"options": {"mirostat": 2}}, "options/mirostat"),
        ({"options": {"tempreture": 1}}, "did you mean"),
        ({"options": 3}, "options must be"),
        ({"format": "xml"}, "format"),
        ({"format": {"type": "intger"}}, "format"),
        ({"think": True}, "think"),
        ({"think": "high"}, "think"),
        ({"logprobs": True}, "logprobs"),
        ({"stream": "no"}, "stream"),
        ({"model": "gone"}, "there is no model"),
    ],
)
def test_what_cannot_be_obeyed_is_named(server: Served, fields: dict[str, Any], named: str) -> None:
    for path, body in (("/api/chat", {"messages": HELLO}), ("/api/generate", {"prompt": "a"})):
        refused = server.post(path, **body, **fields)
        assert 400 <= refused.status_code < 500 and named in refused.json()["error"], refused.text
    images = server.post("/api/chat", messages=[{"role": "user", "content": "a", "images": ["x"]}])
    assert images.status_code == 400 and "messages/0/images" in images.json()["error"]


def test_the_client_lists_and_loads(server: Served, client: ollama.Client) -> None:
    name = server.runtime.model_name
    assert [model.model for model in client.list().models] == [name]
    assert "tools" in client.show(f"{name}:latest").capabilities
    assert client.generate(name).done_reason == "load"
    assert client.chat(name, []).done_reason == "load"
    with pytest.raises(ollama.ResponseError, match="there is no model"):
        client.chat("gone", HELLO)
    assert sum(len(part.message.content) for part in client.chat(name, HELLO, stream=True, options={"num_predict": 9}))
