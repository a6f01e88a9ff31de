"""`sgl.RuntimeEndpoint` against a double of an SGLang server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.remote.endpoint import held_back

from .doubles import Asked, Double, Reply, error_reply, generate_events, json_reply, served


def on(double: Double, **options: Any) -> Any:
    return sgl.RuntimeEndpoint(double.url, **options)


def program(**options: Any) -> Any:
    return sgl.function(lambda s: s.__iadd__("Q: " + sgl.gen("x", **options)))


def test_a_gen() -> None:
    finish = {"type": "stop", "matched": "\n"}
    with served(Reply(generate_events(["Par", "is"], finish))) as double, on(double, api_key="k") as backend:
        options = {"max_tokens": 9, "top_k": 4, "min_p": 0.1, "stop": ["\n"], "stop_regex": "a+b", "seed": 5}
        state = program(**options, min_tokens=1, repetition_penalty=1.1, ignore_eos=True).run(backend=backend)
        assert state["x"] == "Paris"
        meta = state.get_meta_info("x")
    assert (meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]) == (9, 4, 2)
    assert meta["finish_reason"] == finish and meta["token_ids"] == [0, 1]
    sent = double.asked[0]
    assert sent.headers["authorization"] == "Bearer k" and sent.data["text"] == "Q: " and sent.data["stream"] is True
    assert sent.data["sampling_params"] == {
        "max_new_tokens": 9, "top_k": 4, "min_p": 0.1, "stop": ["\n"], "stop_regex": ["a+b"], "sampling_seed": 5,
        "min_new_tokens": 1, "repetition_penalty": 1.1, "ignore_eos": True,
    }  # fmt: skip


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 300), max_size=12),
    texts=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5),
)
def test_a_stream_may_be_cut_anywhere(cuts: list[int], texts: list[str]) -> None:
    whole = b"".join(generate_events(texts))
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(whole[at : at + cut])
        at += cut
    with served(Reply([*pieces, whole[at:]])) as double, on(double) as backend:
        state = program().run(backend=backend, stream=True)
        assert "".join(state.text_iter("x")) == state["x"] == "".join(texts)


@given(text=st.text("abc", max_size=12), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_what_may_still_be_cut_is_held_back(text: str, stops: list[str]) -> None:
    """Oracle: whatever follows, the text before the first stop begins with what is shown."""
    shown = text[: len(text) - held_back(text, stops)]
    for end in ("", "a", "b", "c", "ab", "bc", "ca", "aab", "abc", "cab", "bca"):
        whole = text + end
        cut = min([whole.find(stop) for stop in stops if stop in whole], default=len(whole))
        assert whole[:cut].startswith(shown)


def test_half_a_character_and_the_begin_of_a_stop_are_not_shown() -> None:
    events = generate_events(["a", "\ufffd", ""])
    texts = iter(["a", "a\ufffd", "a\u00e4"])
    import json

    changed = []
    for piece in events[:-1]:
        data = json.loads(piece[6:])
        changed.append(b"data: " + json.dumps({**data, "text": next(texts)}).encode() + b"\n\n")
    with served(Reply([*changed, events[-1]])) as double, on(double) as backend:
        state = program().run(backend=backend, stream=True)
        assert "".join(state.text_iter("x")) == "a\u00e4"


@pytest.mark.parametrize(
    ("options", "field", "value", "text"),
    [
        ({"regex": "[0-9]{2}"}, "regex", "[0-9]{2}", "42"),
        ({"ebnf": 'root ::= "a" | "b"'}, "ebnf", 'root ::= "a" | "b"', "b"),
        ({"json_schema": '{"type": "integer"}'}, "json_schema", '{"type": "integer"}', "7"),
        ({"constraint": sgl.choice(["a.b", "c|d"])}, "regex", "a\\.b|c\\|d", "c|d"),
    ],
)
def test_constraints(options: dict[str, Any], field: str, value: str, text: str) -> None:
    with served(Reply(generate_events([text]))) as double, on(double) as backend:
        state = program(**options).run(backend=backend)
        assert state["x"] == text and state.get_meta_info("x")["constraint"]["policy"] == "native"
    assert double.asked[0].data["sampling_params"][field] == value
    with (
        served(Reply(generate_events(["!"]))) as double,
        on(double) as backend,
        pytest.raises(sgl.ConstraintError, match="took the constraint, and its answer breaks it"),
    ):
        program(**options).run(backend=backend)["x"]


def test_n_and_log_probabilities() -> None:
    import json

    rows = [[-0.5, 11, "a"], [-0.25, 12, "b"]]
    told = {"output_token_logprobs": rows, "output_top_logprobs": [[rows[0]], None]}
    events = []
    for index in (1, 0):
        for piece in generate_events(["a", "b"], **told)[:-1]:
            events.append(b"data: " + json.dumps({**json.loads(piece[6:]), "index": index}).encode() + b"\n\n")
    with served(Reply([*events, b"data: [DONE]\n\n"])) as double, on(double) as backend:
        state = program(n=2, return_logprob=True, top_logprobs_num=1).run(backend=backend)
        assert state["x"] == ["ab", "ab"]
        meta = state.get_meta_info("x")
        assert [each["completion_tokens"] for each in meta] == [2, 2]
        assert meta[1]["output_token_logprobs"] == rows
        assert state.usage.total.generated == 4
    assert double.asked[0].data["return_logprob"] is True and double.asked[0].data["top_logprobs_num"] == 1


def scored_reply(asked: Asked) -> Reply:
    """A server whose tokens are characters, and whose log-probabilities are minus their places in the alphabet."""
    data = asked.data
    if isinstance(data.get("text"), str):
        return json_reply({"text": "", "meta_info": {"prompt_tokens": len(data["text"]), "cached_tokens": 0}})
    replies = []
    for text in data.get("text") or ["".join(map(chr, ids)) for ids in data["input_ids"]]:
        rows = [[None if i == 0 else -(ord(c) % 32) / 10, ord(c), c] for i, c in enumerate(text)]
        told = rows[data["logprob_start_len"] :]
        replies.append(
            {"text": "", "meta_info": {"prompt_tokens": len(text), "cached_tokens": 0, "input_token_logprobs": told}}
        )
    return json_reply(replies)


def test_a_select() -> None:
    go = sgl.function(lambda s: s.__iadd__("xyz" + sgl.select("w", ["zb", "aa"]) + "!"))
    with served(scored_reply) as double, on(double) as backend:
        state = go.run(backend=backend)
        assert state["w"] == "aa" and state.text() == "xyzaa!"
        assert state.get_meta_info("w")["input_token_logprobs"][1] == [[-0.1, 97, "a"], [-0.1, 97, "a"]]
        assert state.get_meta_info("w")["normalized_prompt_logprobs"] == [pytest.approx(-1.4), pytest.approx(-0.1)]
    assert [asked.data["text"] for asked in double.asked] == ["xyz", ["xyzzb", "xyzaa"]]
    assert double.asked[1].data["logprob_start_len"] == 1


def test_a_select_against_its_choices_alone() -> None:
    method = sgl.unconditional_likelihood_normalized
    go = sgl.function(lambda s: s.__iadd__("xyz" + sgl.select("w", ["ab", "cd"], choices_method=method)))
    with served(scored_reply) as double, on(double) as backend:
        state = go.run(backend=backend)
        assert state.get_meta_info("w")["normalized_unconditional_prompt_logprobs"] == [
            pytest.approx(-0.05), pytest.approx(-0.15),
        ]  # fmt: skip
        assert state["w"] == "ab"
    assert double.asked[2].data["input_ids"] == [[97, 98], [99, 100]]


def test_a_select_with_a_temperature_draws() -> None:
    go = sgl.function(lambda s: s.__iadd__("xyz" + sgl.select("w", ["a", "b"], temperature=5.0)))
    with served(scored_reply) as double, on(double) as backend:
        assert {go.run(backend=backend, seed=seed)["w"] for seed in range(12)} == {"a", "b"}
        assert len({go.run(backend=backend, seed=1)["w"] for _ in range(3)}) == 1


def test_roles_need_a_template() -> None:
    chat = sgl.function(lambda s: s.__iadd__(sgl.user("a") + sgl.assistant(sgl.gen("x"))))
    with served(Reply(generate_events(["b"]))) as double:
        with on(double) as backend, pytest.raises(sgl.CapabilityError, match="chat template"):
            chat.run(backend=backend)
        with on(double, chat_template="chatml") as backend:
            assert chat.run(backend=backend)["x"] == "b"
    assert double.asked[0].data["text"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_what_a_server_is_asked_beside_calls() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/generate":
            return json_reply({"text": "", "meta_info": {"prompt_tokens": 5}})
        if asked.path == "/health":
            return Reply()
        if asked.path == "/server_info":
            return error_reply(404, "not of this version")
        return json_reply({"model_path": "m", "path": asked.path})

    with served(answer) as double, on(double) as backend:
        assert backend.health() and backend.flush_cache() and backend.cache_prefix("abc") == 5
        assert backend.model_info["model_path"] == "m" and backend.get_server_info()["path"] == "/get_server_info"
        sgl.set_default_backend(backend)
        assert sgl.flush_cache() and sgl.get_server_info()["model_path"] == "m"
        sgl.set_default_backend(None)
    assert double.asked[2].data == {"text": "abc", "sampling_params": {"max_new_tokens": 0}}
    with served(error_reply(400, "busy")) as double, on(double) as backend:
        assert backend.flush_cache() is False and backend.health() is False
        with pytest.raises(sgl.ServiceError, match=r"GET /get_model_info: SGLang at .*status 400: busy"):
            backend.model_info  # noqa: B018


@pytest.mark.parametrize("url", ["", "localhost:3", "ftp://a", "http://", "http://a:b", "http://a\r\nX: y"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(sgl.OptionError):
        sgl.RuntimeEndpoint(url)


def test_connections_are_used_again() -> None:
    with served(Reply(generate_events(["b"]))) as double, on(double) as backend:
        for _ in range(3):
            assert program().run(backend=backend)["x"] == "b"
        assert len(backend._client._idle) == 1
