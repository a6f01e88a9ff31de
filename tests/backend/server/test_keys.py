"""Keys, bounds of a key, pages of other origins, probes, and what start-up prints."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sgl import OptionError, Runtime
from sgl.backend.server.command import greeting
from sgl.backend.server.flags import ServeOptions, keys_of, resolve
from sgl.cli import main

from .served import Served, served, slowed

OPEN = ("/", "/health", "/ready")


def by(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_key_opens_every_route_and_nothing_else_does(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst\n\n  second  \n")
    with served(api_key=("zero", "first"), api_key_file=str(file)) as server:
        assert keys_of(server.server.config.app.state.serving.options) == ("zero", "first", "second")
        routes = [route for route in server.server.config.app.routes if "{" not in route.path]
        for route in routes:
            for method in route.methods:
                for headers in ({}, by("third"), {"X-API-Key": "zer"}, {"Authorization": "zero zero"}):
                    answer = server.http.request(method, route.path, headers=headers)
                    assert (answer.status_code != 401) == (route.path in OPEN), (method, route.path, headers)
        for key in ("zero", "first", "second"):
            for headers in (by(key), {"X-API-Key": key}, {"Authorization": key}, {"Authorization": f"bearer  {key}"}):
                assert server.http.get("/v1/models", headers=headers).status_code == 200
        assert server.http.get("/nowhere", headers=by("zero")).status_code == 404
        assert server.http.get("/nowhere").status_code == 401


def test_a_key_may_have_only_so_many_requests_under_way() -> None:
    with served(slowed(Runtime.toy(), 0.01), api_key=("a", "b"), max_requests_per_key=2) as server:
        serving = server.server.config.app.state.serving
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 60, "ignore_eos": True}
        path = "/v1/chat/completions"

        def ask(key: str) -> int:
            return server.http.post(path, json=body, headers=by(key)).status_code

        threads = [threading.Thread(target=ask, args=("a",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        while serving.under_way < 2:
            assert time.monotonic() < end
            time.sleep(0.005)
        refused = server.http.post(path, json=body, headers=by("a"))
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert "--max-requests-per-key" in refused.json()["error"]["message"]
        refused = server.http.post("/v1/messages", json=body, headers={"X-API-Key": "a"})
        assert refused.status_code == 429 and refused.json()["error"]["type"] == "rate_limit_error"
        assert server.http.get("/v1/models", headers=by("a")).status_code == 200
        assert ask("b") == 200
        for thread in threads:
            thread.join()
        assert ask("a") == 200
        server.idle()


def test_pages_of_other_origins_are_not_let_in_unless_asked() -> None:
    asks = {
        "Origin": "https://a.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }  # fmt: skip
    with served(api_key="k") as server:
        answer = server.http.get("/v1/models", headers={**by("k"), "Origin": "https://a.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in server.http.options("/v1/models", headers=asks).headers
    with served(api_key="k", allow_origin=("https://a.example",)) as server:
        before = server.http.options("/v1/chat/completions", headers=asks)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == "https://a.example"
        assert "authorization" in before.headers["access-control-allow-headers"]
        for headers, status in (({}, 401), (by("k"), 200)):
            answer = server.http.get("/v1/models", headers={**headers, "Origin": "https://a.example"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = server.http.get("/v1/models", headers={**by("k"), "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in answer.headers
    with served(allow_origin="*") as server:
        answer = server.http.get("/v1/models", headers={"Origin": "https://b.example"})
        assert answer.headers["access-control-allow-origin"] == "*"


def probes(server: Served) -> tuple[int, int]:
    return server.http.get("/health").status_code, server.http.get("/ready").status_code


def test_probes_tell_alive_from_ready() -> None:
    with served() as server:
        serving = server.server.config.app.state.serving
        assert probes(server) == (200, 200)
        serving.draining = True
        assert probes(server) == (200, 503)
        assert server.chat(max_tokens=1).status_code == 200, "requests are still taken"
        serving.ending = True
        assert probes(server) == (200, 503)
        assert server.chat(max_tokens=1).status_code == 503
        server.runtime.shutdown()
        assert probes(server) == (503, 503)


def test_a_load_balancer_has_time_to_notice_the_end() -> None:
    with served(drain_delay=1000) as server:
        server.server.should_exit = True
        end = time.monotonic() + 20
        while probes(server) != (200, 503):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert server.chat(max_tokens=1).status_code == 200
        server.server.force_exit = True  # as a second Ctrl-C does


def test_wrong_keys_and_origins_are_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# none\n")
    for given, said in (
        ({"api_key": [""]}, "key 0"),
        ({"api_key": ["good", "s e c"]}, "key 1"),
        ({"api_key_file": str(tmp_path / "none")}, "--api-key-file"),
        ({"api_key_file": str(empty)}, "no key"),
        ({"max_requests_per_key": 2}, "needs keys"),
        ({"max_requests_per_key": 0, "api_key": ["a"]}, "at least 1"),
        ({"drain_delay": -1}, "at least 0"),
        ({"allow_origin": ["a.example"]}, "https://example.com"),
        ({"allow_origin": ["https://a.example/"]}, "no path"),
    ):
        with pytest.raises(OptionError, match=said) as raised:
            resolve(given)
        assert "s e c" not in str(raised.value)
    assert main(["serve", "--api-key", "a", "--api-key", ""]) == 1
    assert "key 1" in capsys.readouterr().err
    file = tmp_path / "server.yaml"
    file.write_text("api_key: [a, b]\nallow-origin: '*'\n")
    _, options = resolve({}, str(file))
    assert (options.api_key, options.allow_origin) == (("a", "b"), ("*",))
    assert resolve({"api_key": ["c"]}, str(file))[1].api_key == ("c",)
    file.write_text("api_key: [1]\n")
    with pytest.raises(OptionError, match="list of them"):
        resolve({}, str(file))


@pytest.mark.parametrize("templated", [True, False])
def test_start_up_prints_lines_that_run_and_no_key(templated: bool) -> None:
    runtime = Runtime.toy()
    if not templated:
        runtime.chat_template = None
    options = ServeOptions(api_key=("hidden",))
    said = greeting(runtime, options, 1)
    assert "hidden" not in said and "YOUR_KEY" in said
    with served(runtime) as server:
        said = greeting(runtime, ServeOptions(), int(server.url.rpartition(":")[2]))
        for line in said.splitlines():
            if line.startswith(("curl ", "python ")):
                line = line.replace("python ", f"{sys.executable} ", 1) if line.startswith("python ") else line
                done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0 and done.stdout.strip(), (line, done)
                assert '"error"' not in done.stdout
