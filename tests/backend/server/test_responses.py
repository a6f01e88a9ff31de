"""/v1/responses, through OpenAI's client: each event is of its type, and a stream ends with the whole answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from .served import Served, served

ADD = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
TYPED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def post(server: Served, **fields: Any) -> Any:
    return server.post("/v1/responses", **{"input": "Hello", "max_output_tokens": 20, "seed": 1, **fields})


def events(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found = []
    for block in response.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def shape(items: list[dict[str, Any]]) -> list[Any]:
    """Items without the ids that each answer makes."""
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": 30, "instructions": "Be brief."},
        {"max_output_tokens": 30, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"max_output_tokens": 60, "stop": ["e", "日"], "include": ["message.output_text.logprobs"]},
        {"text": FORMAT, "max_output_tokens": 40},
        {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 40},
        {"regex": "(ab|日本)+", "max_output_tokens": 9},
        {"tools": [ADD], "tool_choice": "required", "max_output_tokens": 200},
        {"tools": [ADD], "tool_choice": {"type": "function", "name": "add"}, "parallel_tool_calls": False},
        {"tools": [ADD], "max_output_tokens": 60},
        {"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [ADD]}},
    ],
)
def test_a_stream_ends_with_the_whole_answer(server: Served, fields: dict[str, Any]) -> None:
    if "tools" in fields:
        fields = {"max_output_tokens": 200, **fields}
    for seed in range(3):
        whole = post(server, **fields, seed=seed).json()
        Response.model_validate(whole)
        told = events(post(server, **fields, seed=seed, stream=True))
        for number, event in enumerate(told):
            assert event["sequence_number"] == number
            assert type(TYPED.validate_python(event)).model_fields["type"].annotation.__args__ == (event["type"],)
        assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
        last = told[-1]["response"]
        assert told[-1]["type"] == f"response.{whole['status']}"
        assert shape(last["output"]) == shape(whole["output"])
        assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
        assert whole["usage"]["input_tokens"] > 5
        assert (whole["status"] == "incomplete") == (whole["incomplete_details"] is not None)
        check_events(told, last["output"])
        if fields.get("tool_choice", "auto") != "auto" and whole["status"] == "completed":
            calls = [item for item in whole["output"] if item["type"] == "function_call"]
            assert calls and all(json.loads(call["arguments"]).keys() == {"a", "b"} for call in calls)
        if fields.get("include"):
            message = next(item for item in last["output"] if item["type"] == "message")["content"][0]
            data = bytes(byte for token in message["logprobs"] for byte in token["bytes"])
            assert data.decode("utf-8", "replace").startswith(message["text"].rstrip("\ufffd"))
    server.idle()


def check_events(told: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Added, deltas and done of each item say what the item says, in order."""
    for index, item in enumerate(output):
        own = [event for event in told if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added" and own[-1]["type"] == "response.output_item.done"
        assert own[-1]["item"] == item and own[0]["item"]["status"] == "in_progress"
        written = "".join(event["delta"] for event in own if event["type"].endswith(".delta"))
        assert written == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])


def test_items_are_the_messages_of_a_chat(server: Served) -> None:
    call = {
        "type": "function_call",
        "call_id": "c00000000",
        "name": "add",
        "arguments": '{"a": 1, "b": 2}',
        "id": "fc_1",
    }
    items: list[Any] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Add well."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        call,
        {"type": "function_call_output", "call_id": "c00000000", "output": "3"},
        {"role": "user", "content": "And now?"},
    ]
    said = post(server, input=items, tools=[ADD], instructions="Be brief.").json()
    function = {key: ADD[key] for key in ("name", "description", "parameters")}
    chat = server.chat(
        messages=[
            {"role": "system", "content": "Be brief.\n\nAdd well."},
            {"role": "user", "content": "Hello"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c00000000", "type": "function", "function": {"name": "add", "arguments": call["arguments"]}}
                ],
            },
            {"role": "tool", "tool_call_id": "c00000000", "content": "3"},
            {"role": "user", "content": "And now?"},
        ],
        tools=[{"type": "function", "function": function}],
        max_tokens=20,
    ).json()
    assert said["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert said["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_the_client_parses_and_goes_on(server: Served, client: openai.OpenAI) -> None:
    class Answer(BaseModel):
        a: int

    parsed = client.responses.parse(model="default", input="Hello", text_format=Answer, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, Answer)
    choice: Any = {"type": "function", "name": "add"}
    asked: dict[str, Any] = {"model": "default", "tools": [ADD], "max_output_tokens": 200, "store": False}
    items: list[Any] = [{"role": "user", "content": "Hello"}]
    with client.responses.stream(**asked, input=items, tool_choice=choice, parallel_tool_calls=False) as stream:
        for _ in stream:
            pass
        first = stream.get_final_response()
    (call,) = [item for item in first.output if item.type == "function_call"]
    items += [item.model_dump(exclude={"parsed_arguments"}, exclude_none=True) for item in first.output]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "3"}]
    second = client.responses.create(**{**asked, "max_output_tokens": 9}, input=items)
    used = second.usage
    assert used is not None and used.input_tokens_details.cached_tokens > first.usage.input_tokens - 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "file_search"}]}, "tools/0"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tools/0"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "intger"}}]}, "tool f"),
        ({"tool_choice": "required"}, "without tools"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "boss", "content": "a"}]}, "input/0/role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input/0/content/0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input/0"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}]}, "input/0/arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input/0/call_id"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"max_tokens": 3}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"text": {"verbosity": "low"}}, "text/verbosity"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "x"}}}}, "text/format"),
        ({"text": 3}, "text"),
        ({"regex": "a("}, "regex"),
        ({"regex": "a", "text": FORMAT}, "together"),
        ({"include": "x"}, "include"),
        ({"reasoning": 3}, "reasoning"),
        ({"model": "gone"}, "there is no model"),
        ({"input": "a" * 60_000}, "context"),
    ],
)
def test_what_cannot_be_obeyed_is_named(server: Served, fields: dict[str, Any], named: str) -> None:
    for stream in (False, True):
        refused = post(server, **fields, stream=stream)
        assert 400 <= refused.status_code < 500, refused.text
        assert named in refused.json()["error"]["message"]
    server.idle()


def test_fields_of_clients_are_left_out_with_a_warning(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="sgl")
    plain = post(server).json()["output"][0]["content"]
    for _ in range(2):
        more = {"agent_turn": 3, "store": True, "client_metadata": {"a": "b"}, "reasoning": {"effort": "low"}}
        assert post(server, **more).json()["output"][0]["content"] == plain
    assert caplog.text.count("agent_turn") == 1


def test_functions_of_a_namespace_are_called_by_it(server: Served) -> None:
    space = {"type": "namespace", "name": "sums", "description": "Sums.", "tools": [ADD]}
    more = {"max_output_tokens": 200, "tool_choice": "required", "parallel_tool_calls": False}
    said = post(server, tools=[space, {"type": "web_search"}], **more).json()
    call = next(item for item in said["output"] if item["type"] == "function_call")
    assert call["namespace"] == "sums" and call["name"] == "add"
    Response.model_validate(said)
