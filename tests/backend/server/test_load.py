"""Many clients at once, good and bad: who asks properly gets the right answer, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from sgl import Runtime

from .served import Served, run, served, slowed

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WATCH_SECONDS = 120.0
KINDS = ("whole", "stream", "leaves", "leaves early", "garbage", "cut", "stalls", "no reader", "half a body")


def request_bytes(path: str, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


class Crowd:
    """Clients over plain sockets. `wrong`: what was answered wrongly; `answered`: how many were answered fully."""

    def __init__(self, server: Served, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)
        self.host, self.port = "127.0.0.1", int(server.url.rpartition(":")[2])
        self.expected: dict[tuple[int, int, str], str] = {}
        self.wrong: list[Any] = []
        self.answered = self.refused = 0

    def expect(self, prompt: str, seed: int, tokens: int) -> str:
        """What the runtime itself writes. Asked before the crowd comes."""
        params = {"seed": seed, "max_new_tokens": tokens, "ignore_eos": True, "temperature": 1.0}
        return str(self.server.runtime.generate(prompt, params)["text"])

    def prepare(self) -> None:
        for seed in range(8):
            for tokens in (1, 12, 40):
                for prompt in ("Hello", "The rules are: be brief. " * 6):
                    self.expected[seed, tokens, prompt] = self.expect(prompt, seed, tokens)

    async def client(self, kind: str) -> None:
        seed, tokens, prompt = self.random.choice(sorted(self.expected))
        path = self.random.choice(["/v1/completions", "/generate"])
        stream = kind not in ("whole", "leaves early") and kind != "garbage"
        options = {"seed": seed, "temperature": 1.0, "ignore_eos": True}
        if path == "/generate":
            body = {"text": prompt, "sampling_params": {**options, "max_new_tokens": tokens}, "stream": stream}
        else:
            body = {"prompt": prompt, **options, "max_tokens": tokens, "stream": stream}
        said = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            if kind == "garbage":
                writer.write(os.urandom(200) + b"\r\n\r\n" if seed % 2 else request_bytes(path, os.urandom(300)))
                answer = await reader.read()
                if answer and b" 400 " not in answer.split(b"\r\n", 1)[0]:
                    self.wrong.append((kind, answer[:300]))
            elif kind == "half a body":
                writer.write(request_bytes(path, said[: len(said) // 2], len(said)))
                await writer.drain()
                await asyncio.sleep(self.random.random() * 0.2)
            else:
                writer.write(request_bytes(path, said))
                await writer.drain()
                await self._read(kind, reader, path, stream, self.expected[seed, tokens, prompt])
        except ConnectionError:
            if kind in ("whole", "stream", "stalls"):
                self.wrong.append((kind, "the connection was lost"))
        finally:
            writer.close()

    async def _read(self, kind: str, reader: asyncio.StreamReader, path: str, stream: bool, expected: str) -> None:
        if kind == "leaves early":
            await asyncio.sleep(self.random.random() * 0.05)
        elif kind == "leaves":
            await reader.read(self.random.choice([1, 200, 600]))
        elif kind == "cut":
            reader._transport.abort()  # type: ignore[attr-defined]  # a reset, not an end
        elif kind == "no reader":
            await asyncio.sleep(0.3)
        else:
            if kind == "stalls":
                await asyncio.sleep(self.random.random() * 0.3)
            answer = await reader.read()
            if b" 429 " in answer.split(b"\r\n", 1)[0]:
                self.refused += 1
                return
            text = text_of(answer, path, stream)
            self.answered += 1
            if text != expected:
                self.wrong.append((kind, path, text, expected))

    async def all(self, count: int, at_once: int) -> None:
        room = asyncio.Semaphore(at_once)

        async def one(kind: str) -> None:
            async with room:
                await self.client(kind)

        kinds = [KINDS[i % len(KINDS)] for i in range(count)]
        self.random.shuffle(kinds)
        await asyncio.wait_for(asyncio.gather(*map(one, kinds)), WATCH_SECONDS + count / 5)


def text_of(answer: bytes, path: str, stream: bool) -> str:
    """The text of a whole HTTP answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        return f"no answer: {answer[:300]!r}"
    if not stream:
        said = json.loads(body)
        return str(said["text"] if path == "/generate" else said["choices"][0]["text"])
    data = b"".join(part for part in unchunked(body))
    events = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
    if events[-1] != b"[DONE]":
        return f"cut off: {events[-1:]!r}"
    said_all = [json.loads(event) for event in events[:-1]]
    if path == "/generate":
        return str(said_all[-1]["text"])
    return "".join(event["choices"][0]["text"] for event in said_all)


def unchunked(body: bytes) -> list[bytes]:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return parts


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def left_behind(server: Served) -> None:
    """Nothing is under way, nothing holds KV, and the server still answers."""
    serving, end = server.server.config.app.state.serving, time.monotonic() + 60
    while serving.under_way or serving._works or server.server.server_state.tasks:
        assert time.monotonic() < end, (serving.under_way, serving._works, server.server.server_state.tasks)
        time.sleep(0.01)
    server.idle()
    assert server.http.get("/ready").status_code == 200
    for path, status in serving.metrics.requests:
        assert status < 500, (path, status)


@pytest.mark.parametrize(
    ("count", "seed"),
    [(200, 1), pytest.param(1000, 2, marks=pytest.mark.slow), pytest.param(1000, 3, marks=pytest.mark.slow)],
)
def test_good_and_bad_clients_at_once(count: int, seed: int) -> None:
    with served(slowed(Runtime.toy(max_running_requests=64), 0.001), max_queued_requests=2000) as server:
        crowd = Crowd(server, seed)
        crowd.prepare()
        run(crowd.all(count, count))
        assert not crowd.wrong and crowd.answered >= count // 4 and not crowd.refused
        left_behind(server)


def test_a_flood_is_refused_and_those_let_in_are_answered() -> None:
    with served(slowed(Runtime.toy(max_running_requests=8), 0.002), max_queued_requests=8) as server:
        crowd = Crowd(server, 4)
        crowd.prepare()

        async def flood() -> None:
            await asyncio.wait_for(asyncio.gather(*(crowd.client("stream") for _ in range(150))), WATCH_SECONDS)

        run(flood())
        assert not crowd.wrong and crowd.answered >= 16 and crowd.refused + crowd.answered == 150
        left_behind(server)


def test_clients_that_do_not_read_stop_nobody_else() -> None:
    with served(Runtime.toy(max_total_tokens=40_000)) as server:
        serving = server.server.config.app.state.serving
        logged = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": True, "logprobs": 5}

        async def stalled() -> None:
            writers = []
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]), limit=1)
                writer.write(request_bytes("/v1/completions", json.dumps(logged).encode()))
                writers.append((reader, writer))
            while serving.under_way < 20:
                await asyncio.sleep(0.01)
            for _ in range(3):
                assert (await asyncio.to_thread(server.chat, max_tokens=20)).status_code == 200
            for _, writer in writers:
                writer.close()

        run(stalled())
        left_behind(server)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [float(os.environ.get("SGL_LOAD_SECONDS", "180"))])
def test_memory_stays_flat(seconds: float) -> None:
    with served(slowed(Runtime.toy(max_total_tokens=20_000), 0.0005), max_queued_requests=2000) as server:
        crowd, sizes = Crowd(server, 5), []
        crowd.prepare()
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(sizes) < 6:
            run(crowd.all(300, 100))
            assert not crowd.wrong
            left_behind(server)
            gc.collect()
            sizes.append(rss())
        settled = sizes[len(sizes) // 3 :]
        assert settled[-1] - settled[0] < 16 << 20, sizes
        print(f"{len(sizes)} rounds, {crowd.answered} answers, from {settled[0] >> 20} to {settled[-1] >> 20} MiB")
