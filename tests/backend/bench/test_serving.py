"""`sgl bench serving`: its figures by their definitions, its requests by their seed, and real runs against a server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.backend.bench.serving.client import BenchClient, Timed
from sgl.backend.bench.serving.figures import Figures, Spread
from sgl.backend.bench.serving.here import served
from sgl.backend.bench.serving.load import drive
from sgl.backend.bench.serving.prompts import BenchRequest, file_requests, random_requests, shared_requests
from sgl.cli import main
from sgl.lang.errors import OptionError


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(sgl.Runtime.toy()) as here:
        yield here


def test_figures_are_what_they_are_called() -> None:
    one = Timed(0.0, first=0.1, whole=1.1, gaps=[0.25, 0.75], prompt_tokens=10, cached_tokens=4, output_tokens=5)
    two = Timed(0.5, first=0.3, whole=0.3, prompt_tokens=6, output_tokens=1)
    bad = Timed(0.6, error="status 500: no")
    found = Figures.of([one, two, bad], 2.0, 2, None)
    assert (found.completed, found.failed, found.errors) == (2, 1, {"status 500: no": 1})
    assert (found.prompt_tokens, found.cached_tokens, found.output_tokens) == (16, 4, 6)
    assert (found.requests_per_second, found.output_tokens_per_second, found.total_tokens_per_second) == (1, 3, 11)
    assert found.tokens_per_second_per_user == pytest.approx((5 / 1.1 + 1 / 0.3) / 2)
    assert found.mean_concurrency == pytest.approx(1.4 / 2)
    assert found.ttft.mean == pytest.approx(200) and found.e2e.p50 == pytest.approx(700)
    assert found.tpot == Spread(*[pytest.approx(250)] * 5)  # of the only answer with two tokens or more
    assert found.itl.p50 == pytest.approx(500) and found.itl.p90 == pytest.approx(700)
    assert json.loads(json.dumps(found.data()))["itl"]["mean"] == pytest.approx(500)
    assert Figures.of([bad], 1.0, 1, None).ttft == Spread(0, 0, 0, 0, 0)
    assert any("status 500" in line for line in found.lines())


def test_a_seed_makes_the_requests() -> None:
    assert random_requests(5, 20, 9, 0.5, 3) == random_requests(5, 20, 9, 0.5, 3) != random_requests(5, 20, 9, 0.5, 4)
    lengths = {len(each.prompt.split()) for each in random_requests(300, 20, 9, 0.5, 3)}
    assert lengths == set(range(10, 21))
    assert {each.max_tokens for each in random_requests(300, 20, 9, 1.0, 3)} == {9}
    shared = shared_requests(12, 3, 8, 2, 5, 1)
    begins = {tuple(each.prompt.split()[:8]) for each in shared}
    assert len(begins) == 3 and len({each.prompt for each in shared}) == 12


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}, {"role": "user", "content": "c"}]}\n'
    )
    assert [each.max_tokens for each in file_requests(file, 3, 7, raw=False)] == [7, 7, 7]
    with pytest.raises(OptionError, match="several messages"):
        file_requests(file, 3, 7, raw=True)


@pytest.mark.parametrize("backend", ["openai", "openai-chat", "sglang"])
def test_tokens_are_counted_by_the_server(url: str, backend: str) -> None:
    async def run() -> list[Timed]:
        client = BenchClient(url, backend, None, None, 30, {"ignore_eos": True})
        assert await client.models() == ["toy"]
        requests = [BenchRequest("hello " * (i + 1), 3 + i) for i in range(8)]
        timed, seconds = await drive(client, requests, concurrency=3)
        await client.close()
        assert max(each.whole for each in timed) <= seconds
        return timed

    for i, timed in enumerate(asyncio.run(run())):
        assert not timed.error and timed.output_tokens == 3 + i and timed.prompt_tokens > 5 * i
        assert 0 < timed.first <= timed.whole and sum(timed.gaps) <= timed.whole - timed.first + 1e-6


def test_no_more_than_asked_for_are_under_way_and_times_follow_the_rate() -> None:
    class Counting:
        now = most = 0

        async def send(self, request: BenchRequest, temperature: float) -> Timed:
            self.now += 1
            self.most = max(self.most, self.now)
            timed = Timed(time.perf_counter())
            await asyncio.sleep(0.01)
            self.now -= 1
            return timed

    counting: Any = Counting()
    requests = [BenchRequest("a", 1)] * 30
    asyncio.run(drive(counting, requests, concurrency=4))
    assert counting.most == 4
    timed, seconds = asyncio.run(drive(counting, requests, rate=200.0, seed=1))
    assert 0.05 < seconds < 10 and counting.most > 1
    assert [each.began for each in timed] == sorted(each.began for each in timed)


def test_what_fails_is_told_and_nothing_hangs(url: str) -> None:
    async def run(target: str, **extra: Any) -> list[Timed]:
        client = BenchClient(target, "openai", None, None, 0.5, extra)
        timed, _ = await drive(client, [BenchRequest("a", 2)] * 3, concurrency=2)
        await client.close()
        return timed

    assert all("nobody_knows" in each.error for each in asyncio.run(run(url, nobody_knows=1)))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        assert all(each.error for each in asyncio.run(run(f"http://127.0.0.1:{silent.getsockname()[1]}")))
    assert all("Refused" in each.error for each in asyncio.run(run("http://127.0.0.1:9")))


def test_a_stream_that_breaks_is_an_error() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = server.accept()
        peer.recv(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        peer.sendall(head + b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choi\n\n')
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()

    async def run() -> Timed:
        client = BenchClient(f"http://127.0.0.1:{server.getsockname()[1]}", "openai", None, None, 5, {})
        return await client.send(BenchRequest("a", 2), 0.0)

    assert asyncio.run(run()).error
    thread.join()
    server.close()


def test_the_command(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "serving", "--base-url", url, "--num-prompts", "6", "--random-input-len", "9", "--warmup", "1"]
    more = ["--random-output-len", "4", "--concurrency", "1", "3", "--json", str(out)]
    assert main([*words, *more]) == 0
    assert "TTFT" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert [each["completed"] for each in data["figures"]] == [6, 6]
    assert all(each["output_tokens"] == 24 for each in data["figures"]) and "api_key" not in data["options"]
    shared = ["--dataset", "shared-prefix", "--shared-prefix-len", "30", "--request-rate", "500", "--json", str(out)]
    assert main([*words, *shared]) == 0
    (figures,) = json.loads(out.read_text())["figures"]
    assert figures["cached_tokens"] > 0 and figures["request_rate"] == 500


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--num-prompts", "0"], "--num-prompts 0"),
        (["--concurrency", "1", "--request-rate", "2"], "give one of them"),
        (["--max-concurrency", "3"], "is for --request-rate"),
        (["--request-rate", "-1"], "more than 0"),
        (["--extra", "{"], "no JSON"),
        (["--extra", "3"], "give an object"),
        (["--random-range-ratio", "2"], "from 0 to 1"),
        (["--dataset", "/gone.jsonl"], "gone.jsonl"),
        (["--json", "/gone/x.json"], "no such folder"),
        (["--base-url", "http://127.0.0.1:9"], "tells no models"),
        (["--base-url", "http://127.0.0.1:9", "--model", "m"], "answers no request"),
    ],
)
def test_what_is_wrong_is_one_line(url: str, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serving", "--base-url", url, *argv]) == 1
    told = capsys.readouterr().err.splitlines()
    assert says in told[-1], told
