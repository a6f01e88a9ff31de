"""Bodies of every kind to every route: each is answered, soon, and none is the server's fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl import Runtime
from sgl.backend.server import fields as tables

from .served import Served, served

TOOL = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
MESSAGES = [{"role": "user", "content": "a"}]
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": MESSAGES, "max_tokens": 2, "seed": 1, "n": 1, "stop": ["x"], "logprobs": True, "top_logprobs": 1,
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": TOOL}}],
        "tool_choice": "none", "stream": True, "stream_options": {"include_usage": True}, "logit_bias": {"5": 1.0},
    },
    "/v1/completions": {
        "prompt": "a", "max_tokens": 2, "echo": True, "n": 2, "temperature": 0.5, "stop_token_ids": [3], "top_k": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1, 2]}}},
    },
    "/v1/responses": {
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "instructions": "b", "max_output_tokens": 2, "text": {"format": {"type": "text"}}, "include": [],
        "tools": [{"type": "function", "name": "f", "parameters": TOOL}], "tool_choice": "none",
        "reasoning": {"effort": "none"}, "stream": True,
    },
    "/v1/messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
        ],
        "max_tokens": 2, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["q"],
        "tools": [{"name": "f", "description": "d", "input_schema": TOOL}], "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"}, "stream": True,
    },
    "/v1/messages/count_tokens": {"messages": MESSAGES, "system": "s"},
    "/api/chat": {
        "messages": MESSAGES, "options": {"num_predict": 2, "temperature": 0.5, "stop": ["x"]}, "stream": False,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": TOOL}}], "think": False,
    },
    "/api/generate": {
        "prompt": "a", "system": "s", "options": {"num_predict": 2}, "format": {"enum": [1]}, "raw": False,
    },
    "/api/show": {"model": "toy"},
    "/generate": {
        "text": ["a", "b"], "sampling_params": {"max_new_tokens": 2, "regex": "a|b", "stop": ["x"]},
        "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 1, "rid": "r", "stream": False,
    },
    "/abort_request": {"rid": "r"},
}  # fmt: skip
NAMES = sorted({n for table in vars(tables).values() if isinstance(table, tables.FieldTable) for n in table.obeyed})


def nested(depth: int, inner: Any, kind: str) -> Any:
    for _ in range(depth):
        inner = [inner] if kind == "list" else {kind: inner}
    return inner


TEXTS = st.sampled_from(
    ["", "a", "\0", "\ud800", "\udfff\ud800", "é" * 50, "\u202e", "a" * 3000, "<|im_end|>",
     "(" * 300, "(a*)*b", "\\", "[", "{{"]
) | st.text(max_size=6)  # fmt: skip
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e308, -1e308, 5e-324, 0.5, True]
) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)  # fmt: skip
DEEP = st.builds(
    nested,
    st.sampled_from([3, 60, 300, 900]),
    st.sampled_from([None, 1, "a", [], {}]),
    st.sampled_from(["list", "anyOf", "content", "items", "properties", "a", "$ref", "not"]),
)
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | DEEP,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=4),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a body that is not too deep."""
    if len(at) == 8:
        return [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(way for key, inner in pairs for way in places(inner, (*at, key)))]


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = put(copy[at[0]], at[1:], new)
    return copy


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, Any]:
    """A proper body of a route, with some parts swapped for anything, or with fields that may not belong there."""
    path = draw(st.sampled_from(sorted(BASES)))
    body: Any = BASES[path]
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from([way for way in places(body) if way] or [()]))
        body = put(body, way, draw(ANY))
        if not isinstance(body, dict):
            break
    if isinstance(body, dict) and draw(st.booleans()):
        body = {**body, draw(st.sampled_from(NAMES) | TEXTS): draw(ANY)}
    return path, body


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(Runtime.toy(), request_timeout=20.0) as here:
        here.http.timeout = 60
        yield here
        here.idle()
        assert here.chat(max_tokens=1).status_code == 200


def ask(server: Served, path: str, body: Any) -> None:
    """A wrong body is a 4xx with a message; a stream ends with no error of the server."""
    answer = server.http.post(path, content=json.dumps(body))
    assert answer.status_code < 500, answer.text[:1000]
    assert '"server_error"' not in answer.text and '"api_error"' not in answer.text, answer.text[-1000:]
    if answer.status_code >= 400:
        error = answer.json()["error"]
        message = error if isinstance(error, str) else error["message"]
        assert message and len(message) <= 4000, "a message is for reading"


def test_the_bodies_to_begin_with_are_right(server: Served) -> None:
    for path, body in BASES.items():
        answer = server.http.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)


def test_what_a_message_quotes_is_short(server: Served) -> None:
    name = {"a" * 3000: {"b" * 3000: ["c" * 30_000]}}
    tool = {"type": "function", "function": {"name": name, "parameters": TOOL}}
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES, "tools": [tool]}),
        ("/api/chat", {"messages": MESSAGES, "tools": [tool]}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 2, "tools": [{"name": "n" * 30_000, "input_schema": 3}]}),
    ):
        answer = server.http.post(path, json=body)
        assert answer.status_code == 400 and len(answer.text) < 1000, answer.text[:2000]


@settings(max_examples=300, deadline=None)
@given(bodies())
def test_no_body_is_the_servers_fault(server: Served, asked: tuple[str, Any]) -> None:
    ask(server, *asked)


@pytest.mark.slow
@settings(max_examples=6000, deadline=None)
@given(bodies())
def test_no_body_is_the_servers_fault_at_length(server: Served, asked: tuple[str, Any]) -> None:
    ask(server, *asked)
