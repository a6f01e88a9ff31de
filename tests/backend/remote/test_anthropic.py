"""`sgl.Anthropic` against a double of the Messages API."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl

from .doubles import Double, Reply, error_reply, event, message_events, served

pytest.importorskip("anthropic")


def on(double: Double, **options: Any) -> Any:
    return sgl.Anthropic("claude", base_url=double.url, api_key="key", **options)


def program(**options: Any) -> Any:
    return sgl.function(
        lambda s: s.__iadd__(sgl.system("Be brief.") + sgl.user("?") + sgl.assistant(sgl.gen("x", **options)))
    )


def test_a_gen() -> None:
    with served(Reply(message_events(["Par", "is"], "stop_sequence", "!"))) as double, on(double) as backend:
        state = program(max_tokens=9, top_k=4, top_p=0.5, temperature=0, stop="!").run(backend=backend)
        assert state["x"] == "Paris"
        meta = state.get_meta_info("x")
    assert (meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]) == (9, 3, 2)
    assert meta["finish_reason"] == {"type": "stop", "matched": "!"}
    sent = double.asked[0]
    assert sent.path == "/v1/messages" and sent.headers.get("x-api-key", sent.headers.get("authorization")) in (
        "key",
        "Bearer key",
    )
    assert sent.data == {
        "model": "claude", "system": "Be brief.", "messages": [{"role": "user", "content": "?"}], "stream": True,
        "max_tokens": 9, "top_k": 4, "top_p": 0.5, "temperature": 0, "stop_sequences": ["!"],
    }  # fmt: skip


def test_the_system_message_stays_on_later_turns() -> None:
    @sgl.function
    def two(s: sgl.ProgramState) -> None:
        s += sgl.system("Be brief.") + sgl.user("a") + sgl.assistant(sgl.gen("x"))
        s += sgl.user("b") + sgl.assistant(sgl.gen("y"))

    with served(Reply(message_events(["A"]))) as double, on(double) as backend:
        state = two.run(backend=backend)
        assert state["y"] == "A" and state.messages()[0] == {"role": "system", "content": "Be brief."}
    assert double.asked[1].data["system"] == "Be brief."
    assert [m["role"] for m in double.asked[1].data["messages"]] == ["user", "assistant", "user"]
    assert double.asked[1].data["max_tokens"] == 128


def test_a_later_system_message_is_refused() -> None:
    late = sgl.function(lambda s: s.__iadd__(sgl.user("a") + sgl.system("b") + sgl.assistant(sgl.gen("x"))))
    with (
        served(Reply(message_events())) as double,
        on(double) as backend,
        pytest.raises(sgl.CapabilityError, match="only where a chat begins"),
    ):
        late.run(backend=backend)["x"]
    assert not double.asked


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 300), max_size=10), texts=st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_a_stream_may_be_cut_anywhere(cuts: list[int], texts: list[str]) -> None:
    whole = b"".join(message_events(texts))
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(whole[at : at + cut])
        at += cut
    with served(Reply([*pieces, whole[at:]])) as double, on(double) as backend:
        state = program().run(backend=backend, stream=True)
        assert "".join(state.text_iter("x")) == state["x"] == "".join(texts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 2}, "has no option n="),
        ({"frequency_penalty": 0.5}, "frequency_penalty="),
        ({"logit_bias": {1: 2}}, "logit_bias="),
        ({"temperature": 1.5}, "temperature= of at most 1"),
        ({"return_logprob": True}, "no log-probabilities"),
        ({"ebnf": 'root ::= "a"'}, "ebnf"),
        ({"seed": 3}, "seed="),
    ],
)
def test_what_the_service_lacks_is_refused(options: dict[str, Any], words: str) -> None:
    with served(Reply(message_events())) as double, on(double) as backend:
        with pytest.raises(sgl.CapabilityError, match=words):
            program(**options).run(backend=backend)
        with pytest.raises(sgl.CapabilityError, match="has no seeds"):
            program().run(backend=backend, seed=1)
    assert not double.asked


def test_native_constraints_and_a_select() -> None:
    with served(Reply(message_events(['{"answer":', ' "b"}']))) as double, on(double, select="choice") as backend:
        assert program(constraint=sgl.choice(["a", "b"])).run(backend=backend)["x"] == "b"
        pick = sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant(sgl.select("x", ["a", "b"]))))
        assert pick.run(backend=backend)["x"] == "b"
    sent = double.asked[0].data["output_config"]["format"]
    assert sent["type"] == "json_schema" and sent["schema"]["properties"]["answer"]["enum"] == ["a", "b"]
    assert double.asked[0].data["max_tokens"] == 4096


def test_prefill() -> None:
    go = sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant("So: " + sgl.gen("x"))))
    with served(Reply(message_events(["A"]))) as double, on(double, prefill=True) as backend:
        assert go.run(backend=backend)["x"] == "A"
    assert double.asked[0].data["messages"][-1] == {"role": "assistant", "content": "So: "}


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl.backend.remote.failures.FIRST_WAIT", 0.01)
    busy = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")
    with served([Reply([busy]), error_reply(529, "x"), Reply(message_events())]) as double, on(double) as backend:
        assert program().run(backend=backend)["x"] == "Hello"
    assert len(double.asked) == 3
    begun = message_events(["half"])[:4]
    for reply, words in (
        (error_reply(401, "no such key", **{"request-id": "req-3"}), r"status 401: no such key \(request req-3\)"),
        (Reply([*begun, busy]), "Overloaded"),
        (Reply(begun, then="drop"), "could not be reached"),
        (Reply(begun), "stream ended before"),
        (Reply(message_events(["a"], "refusal")), "withheld its answer"),
    ):
        with served(reply) as double, on(double) as backend, pytest.raises(sgl.ServiceError, match=words):
            program().run(backend=backend)["x"]
        assert len(double.asked) == 1
