"""Anthropic's routes, through its own client: a stream says what a whole message says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

import sgl
from sgl.backend.server.anthropic import writing

from .served import Served, served, slowed

ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def client(server: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def post(server: Served, **fields: Any) -> Any:
    return server.post("/v1/messages", **{"messages": HELLO, "max_tokens": 20, "seed": 1, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 30},
        {"max_tokens": 60, "stop_sequences": ["e", "日"]},
        {"system": "Be brief.", "max_tokens": 9},
        {"tools": [ADD], "tool_choice": {"type": "any"}, "max_tokens": 300},
        {"tools": [ADD], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 300},
        {"tools": [ADD], "tool_choice": {"type": "tool", "name": "add"}, "max_tokens": 300},
        {"tools": [ADD], "max_tokens": 60},
        {"tools": [ADD], "tool_choice": {"type": "none"}, "max_tokens": 9},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "max_tokens": 50},
    ],
)
def test_a_stream_says_what_the_whole_message_says(
    server: Served, client: anthropic.Anthropic, fields: dict[str, Any]
) -> None:
    for seed in range(3):
        asked = {
            "messages": HELLO,
            "model": "default",
            **fields,
            "extra_body": {"seed": seed, "top_k": 20, "temperature": 0.9},
        }
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()
        assert [block.model_dump() for block in streamed.content] == [block.model_dump() for block in whole.content]
        assert (streamed.stop_reason, streamed.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
        assert streamed.usage.output_tokens == whole.usage.output_tokens
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(whole.content)
        used = whole.usage
        assert used.output_tokens > 0 and used.input_tokens + (used.cache_read_input_tokens or 0) > 5
        if fields.get("tool_choice", {}).get("type") in ("any", "tool") and whole.stop_reason != "max_tokens":
            calls = [block for block in whole.content if block.type == "tool_use"]
            assert calls and whole.stop_reason == "tool_use"
            assert all(set(call.input) == {"a", "b"} and type(call.input["a"]) is int for call in calls)
            assert len(calls) == 1 or not fields["tool_choice"].get("disable_parallel_tool_use")
        if "output_config" in fields and whole.stop_reason != "max_tokens":
            assert set(json.loads(whole.content[0].text)) == {"a"}
    server.idle()


def test_the_text_is_that_of_a_chat(server: Served) -> None:
    said = post(server, system="Be brief.").json()
    chat = server.chat(messages=[{"role": "system", "content": "Be brief."}, *HELLO], max_tokens=20, seed=1).json()[
        "choices"
    ][0]
    assert said["content"][0]["text"] == chat["message"]["content"]


def test_results_of_calls_are_turns(server: Served) -> None:
    call = {"type": "tool_use", "id": "c00000000", "name": "add", "input": {"a": 1, "b": 2}}
    asked = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, call]}]
    result = {"type": "tool_result", "tool_use_id": "c00000000", "content": [{"type": "text", "text": "3"}]}
    messages = [*asked, {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]}]
    said = post(server, messages=messages, tools=[ADD]).json()
    as_chat = [
        *HELLO,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [
            {"id": "c00000000", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]},
        {"role": "tool", "tool_call_id": "c00000000", "content": "3"},
        {"role": "user", "content": "And now?"},
    ]  # fmt: skip
    function = {"name": "add", "description": ADD["description"], "parameters": ADD["input_schema"]}
    tool = {"type": "function", "function": function}
    chat = server.chat(messages=as_chat, tools=[tool], max_tokens=20).json()
    assert said["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    counted = server.post("/v1/messages/count_tokens", messages=messages, tools=[ADD]).json()
    assert counted == {"input_tokens": chat["usage"]["prompt_tokens"]}
    wrong = post(server, messages=[*asked, {"role": "user", "content": [{**result, "tool_use_id": "c9"}]}], tools=[ADD])
    assert wrong.status_code == 400 and "messages/2/content/0/tool_use_id" in wrong.json()["error"]["message"]
    failed = {**result, "is_error": True}
    assert post(server, messages=[*asked, {"role": "user", "content": [failed]}], tools=[ADD]).status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens is missing"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [3]}, "stop_sequences"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages/0/role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages/0"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages/0/content/0"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "the last message"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "name": "b", "input": {}}]}]}, "content/0"),
        ({"system": 3}, "system"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools/0"),
        ({"tools": [{"name": "f"}]}, "tools/0/input_schema"),
        ({"tools": [{"name": "f", "input_schema": {"type": "intger"}}]}, "type"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice names 'sub'"),
        ({"tools": [ADD], "tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "without tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "writes no reasoning"),
        ({"thinking": "yes"}, "thinking"),
        ({"mcp_servers": [{"url": "a"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}}, "output_config/format"),
        ({"model": "gone"}, "there is no model"),
        ({"messages": [{"role": "user", "content": "a" * 60_000}]}, "context"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_named(server: Served, fields: dict[str, Any], named: str) -> None:
    for stream in (False, True):
        refused = post(server, **fields, stream=stream)
        assert 400 <= refused.status_code < 500, refused.text
        said = refused.json()
        assert said["type"] == "error" and said["error"]["type"].endswith("_error")
        assert named in said["error"]["message"]
    server.idle()


def test_errors_are_the_clients_own(server: Served, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="without tools"):
        client.messages.create(model="default", messages=HELLO, max_tokens=3, tool_choice={"type": "any"})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="gone", messages=HELLO, max_tokens=3)


def test_fields_of_clients_are_left_out_with_a_warning(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="sgl")
    plain = post(server).json()["content"]
    for _ in range(2):
        more = {"context_management": {"edits": []}, "metadata": {"user_id": "x"}, "thinking": {"type": "adaptive"}}
        assert post(server, **more, system=[]).json()["content"] == plain
    assert caplog.text.count("context_management") == 1 and "metadata" not in caplog.text


def test_a_silent_stream_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PING_SECONDS", 0.02)
    with served(slowed(sgl.Runtime.toy(), 0.2)) as server:
        said = post(server, max_tokens=3, stream=True, temperature=0).text
        kinds = [line.removeprefix("event: ") for line in said.splitlines() if line.startswith("event: ")]
        assert kinds[:2] == ["message_start", "ping"] and kinds[-1] == "message_stop"
        events = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if line.startswith("data: ")]
        assert [event["type"] for event in events] == kinds
