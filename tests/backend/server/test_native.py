"""SGLang's own routes, over HTTP: they are `Runtime.generate`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from sgl import Runtime

from .served import Served, served, slowed


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


def without_times(answer: Any) -> Any:
    if isinstance(answer, list):
        return [without_times(each) for each in answer]
    meta = {k: answer["meta_info"][k] for k in ("finish_reason", "prompt_tokens", "completion_tokens")}
    more = {k: v for k, v in answer["meta_info"].items() if "logprobs" in k}
    return answer["text"], answer["output_ids"], meta, json.loads(json.dumps(more))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "Hello", "sampling_params": {"max_new_tokens": 9, "sampling_seed": 1}},
        {"text": ["a", "b"], "sampling_params": {"max_new_tokens": 9, "sampling_seed": 1}},
        {"text": ["a", "b"], "sampling_params": [{"max_new_tokens": 3, "sampling_seed": 1}, {"regex": "ab|cd"}]},
        {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 4}},
        {"input_ids": [[5], [6, 7]], "sampling_params": {"temperature": 0, "max_new_tokens": 4}},
        {"text": "Hi", "sampling_params": {"n": 2, "sampling_seed": 3, "max_new_tokens": 5}},
        {"text": "Hi", "return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0,
         "sampling_params": {"temperature": 0, "max_new_tokens": 3}},
        {"text": "<|im_start|>", "special_tokens": True, "sampling_params": {"temperature": 0, "max_new_tokens": 3}},
    ],
)  # fmt: skip
def test_generate_is_the_runtimes_own(server: Served, fields: dict[str, Any]) -> None:
    answer = server.post("/generate", **fields)
    assert answer.status_code == 200, answer.text
    own = {("prompt" if name == "text" else name): value for name, value in fields.items()}
    if isinstance(fields["sampling_params"], list):
        assert without_times(answer.json()[0]) == without_times(server.runtime.generate(**own)[0])
    else:
        assert without_times(answer.json()) == without_times(server.runtime.generate(**own))


def test_a_stream_ends_with_the_whole_answer(server: Served) -> None:
    fields = {"text": "Hello", "sampling_params": {"max_new_tokens": 30, "sampling_seed": 1}, "return_logprob": True}
    answer = server.post("/generate", **fields).json()
    lines = server.post("/generate", **fields, stream=True).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert without_times(events[-1]) == without_times(answer)
    for before, after in pairwise(events):
        assert after["text"].startswith(before["text"]) and before["meta_info"]["finish_reason"] is None


def test_what_generate_refuses(server: Served) -> None:
    for fields, said in (
        ({}, "one of text, input_ids and parts"),
        ({"text": "a", "sampling_params": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"text": "a", "image_data": "x"}, "text only"),
        ({"text": "a", "max_tokens": 3}, "unknown field"),
        ({"input_ids": [10**7]}, "token ids are 0 to"),
        ({"text": []}, "must not be empty"),
        ({"text": "a", "stream": True, "sampling_params": {"n": 2}}, "leave out n"),
    ):
        refused = server.post("/generate", **fields)
        assert refused.status_code == 400 and said in refused.json()["error"]["message"], refused.text


def test_operation(server: Served) -> None:
    assert server.http.get("/health").status_code == 200
    assert server.http.get("/health_generate").status_code == 200
    assert server.http.get("/get_model_info").json()["model_path"] == "toy"
    assert server.http.get("/server_info").json()["options"]["context_length"] == 4096
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "toy"
    assert server.http.get("/v1/models/toy").json()["id"] == "toy"
    assert server.http.get("/v1/models/x").status_code == 404
    assert server.http.get("/openapi.json").status_code == 200
    server.idle()
    assert server.http.post("/flush_cache").status_code == 200
    assert server.http.get("/server_info").json()["cached_tokens"] == 0
    for path in ("/v1/embeddings", "/api/embed"):
        refused = server.post(path)
        assert refused.status_code == 404 and "not supported by this version" in refused.text
    assert "/generate" in server.http.get("/nowhere").json()["error"]["message"]
    assert server.http.get("/generate").status_code == 405


def test_metrics_count(server: Served) -> None:
    def figures() -> dict[str, float]:
        lines = server.http.get("/metrics").text.splitlines()
        return {line.split("{")[0]: float(line.split()[-1]) for line in lines if not line.startswith("#")}

    before = figures()
    meta = server.post("/generate", text="count me", sampling_params={"max_new_tokens": 7}).json()["meta_info"]
    after = figures()

    def grew(name: str) -> float:
        return after[name] - before[name]

    assert grew("sglang:prompt_tokens_total") == meta["prompt_tokens"]
    assert grew("sglang:generation_tokens_total") == meta["generated"]
    assert grew("sglang:e2e_request_latency_seconds_count") == grew("sglang:time_to_first_token_seconds_count") == 1
    assert after["sglang:num_running_reqs"] == 0


def test_a_request_is_aborted_by_its_id() -> None:
    with served(slowed(Runtime.toy(), 0.01)) as server:
        answers: list[Any] = []
        fields = {"text": "a", "rid": "mine", "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True}}
        thread = threading.Thread(target=lambda: answers.append(server.post("/generate", **fields)))
        thread.start()
        end = time.monotonic() + 20
        while server.post("/abort_request", rid="mine").json()["aborted"] == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        thread.join(20)
        assert answers[0].status_code == 499 and answers[0].json()["error"]["code"] == "aborted"
        server.idle()
        assert server.post("/abort_request").status_code == 400
