"""Keys, room, bodies, clients that go away, and the end: over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl import OptionError, Runtime
from sgl.backend.server import fields as tables
from sgl.backend.server.flags import ServeOptions, flags, resolve
from sgl.cli import main

from .served import Served, served, slowed

LONG = {"max_tokens": 3000, "ignore_eos": True}
NAMES = sorted({*tables.CHAT.obeyed, *tables.COMPLETIONS.obeyed, *tables.GENERATE.obeyed})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "function", "name", "schema", "text", "arguments"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
        optional={"content": JSON, "tool_calls": JSON, "tool_call_id": JSON, "name": JSON},
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(request_timeout=5.0) as here:
        yield here


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/generate"]),
    body=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    whole=st.booleans(),
    messages=MESSAGES,
)
def test_no_body_is_the_servers_fault(server: Served, path: str, body: Any, whole: bool, messages: Any) -> None:
    if whole:  # so that more than the first check is met
        more = {"messages": messages or [{"role": "user", "content": "a"}], "max_tokens": 2}
        body = {
            **(more if "chat" in path else {"prompt": "a", "max_tokens": 2} if "v1" in path else {"text": "a"}),
            **body,
        }
    answer = server.http.post(path, content=json.dumps(body))
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"a"', b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"max_tokens": %d}' % 10**4000,
     b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}'],
)  # fmt: skip
def test_what_is_no_body_is_refused(server: Served, content: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/generate", "/abort_request"):
        answer = server.http.post(path, content=content)
        assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


def test_a_body_too_large_is_refused() -> None:
    with served(max_request_bytes=1000) as server:
        assert server.chat(messages=[{"role": "user", "content": "a" * 2000}]).status_code == 413
        assert server.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_kv(stream: bool) -> None:
    with served(slowed(Runtime.toy(), 0.005)) as server:
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "n": 2, **LONG}),
            ("/generate", {"text": "Hello", "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True}}),
        ):
            with httpx.Client(base_url=server.url) as leaving:
                if stream:
                    with leaving.stream("POST", path, json={**body, "stream": True}) as answer:
                        assert next(answer.iter_lines()).startswith("data: ")
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        leaving.post(path, json=body, timeout=0.3)
            server.idle()
            assert server.runtime.get_server_info()["steps"] < 2500, "it was not written to its end"
        assert server.chat(max_tokens=2).status_code == 200


def test_a_key_is_asked_for() -> None:
    with served(api_key="secret") as server:
        assert server.chat(max_tokens=1).status_code == 401
        assert server.http.get("/v1/models", headers={"Authorization": "Bearer secre"}).status_code == 401
        assert server.http.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert server.http.get("/v1/models", headers={"X-API-Key": "secret"}).status_code == 200
        assert server.http.get("/health").status_code == 200


def test_more_requests_than_fit_are_told_to_wait() -> None:
    runtime = slowed(Runtime.toy(max_running_requests=1), 0.01)
    with served(runtime, max_queued_requests=1) as server:
        threads = [
            threading.Thread(target=server.chat, kwargs={"max_tokens": 60, "ignore_eos": True}) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        serving, end = server.server.config.app.state.serving, time.monotonic() + 20
        while serving.under_way < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        refused = server.chat(max_tokens=1)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        for thread in threads:
            thread.join()
        server.idle()
        assert server.chat(max_tokens=1).status_code == 200


def test_a_request_has_its_time() -> None:
    with served(slowed(Runtime.toy(), 0.01), request_timeout=0.2) as server:
        answer = server.chat(**LONG)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        lines = [line for line in server.chat(**LONG, stream=True).text.split("\n\n") if line]
        assert (
            json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "timeout" and lines[-1] == "data: [DONE]"
        )
        answer = server.post("/generate", text="a", sampling_params={"max_new_tokens": 3000, "ignore_eos": True})
        assert answer.status_code == 504
        server.idle()


SERVE = """
import sys, time
from sgl import Runtime
from sgl.backend.server.command import listen, serve
from sgl.backend.server.flags import ServeOptions
runtime = Runtime.toy()
forward = runtime.engine.model.forward
def slow(batch):
    time.sleep(0.005)
    return forward(batch)
runtime.engine.model.forward = slow
serve(runtime, ServeOptions(port=0, shutdown_timeout=int(sys.argv[1])), listen("127.0.0.1", 0))
runtime.check()
print("whole", flush=True)
"""


@pytest.mark.parametrize(("number", "patience", "tokens"), [(signal.SIGTERM, 30, 150), (signal.SIGINT, 1, 3000)])
def test_the_end_lets_requests_finish_or_aborts_them(number: int, patience: int, tokens: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(patience)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        said = ""
        while not (found := re.search(r"^curl (http://\S+?)/v1", said, re.M)):
            line = child.stdout.readline()
            assert line, child.communicate()
            said += line
        url, lines = found[1], []
        body = {
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as answer:
            try:
                for line in answer.iter_lines():
                    if not lines:
                        child.send_signal(number)
                    lines.append(line)
            except httpx.RemoteProtocolError:
                pass
        out, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    assert "whole" in out and "the server has ended" in errors
    assert ("data: [DONE]" in lines) == (tokens == 150)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


# -- the command
def test_every_option_of_the_runtime_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for name in ("model_path", *(Runtime.__init__.__kwdefaults__ or ()), *ServeOptions.__dataclass_fields__):
        assert f" --{name.replace('_', '-')} " in said
    assert all(flag.help.endswith(".") for flag in flags())


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1234\nmax-total-tokens: 500\ndisable_radix_cache: true\nquantization: none\n")
    runtime, server = resolve({"port": 99, "host": None, "mem_fraction_static": 0.5}, str(file))
    assert runtime == {
        "max_total_tokens": 500, "disable_radix_cache": True, "quantization": None, "mem_fraction_static": 0.5,
    }  # fmt: skip
    assert server == ServeOptions(port=99)
    for text, said in (
        ("prot: 1", "did you mean 'port'"),
        ("port: true", "type int"),
        ("port: abc", "type int"),
        ("- a", "by name"),
        ("port: [", "--config"),
        ("port: 70000", "65535"),
        ("shutdown_timeout: -1", "at least 0"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=re.escape(said)):
            resolve({}, str(file))
    with pytest.raises(OptionError, match="--config"):
        resolve({}, str(tmp_path / "none.yaml"))


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str], server: Served) -> None:
    assert main(["serve", "--port", server.url.rpartition(":")[2]]) == 1
    assert "choose another --port" in capsys.readouterr().err


@pytest.mark.model
def test_the_embedded_model_answers_and_reuses_its_chat() -> None:
    with served(Runtime()) as server:
        messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
        answer = server.chat(messages=messages, temperature=0, max_tokens=24).json()
        text = answer["choices"][0]["message"]["content"]
        assert "Paris" in text
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And of Italy?"}]
        usage = server.chat(messages=messages, temperature=0, max_tokens=24).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= answer["usage"]["prompt_tokens"] - 1
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
        made = server.chat(messages=messages[:1], response_format=form, max_tokens=60).json()["choices"][0]["message"]
        assert isinstance(json.loads(made["content"])["city"], str)
