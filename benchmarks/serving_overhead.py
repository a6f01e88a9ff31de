"""What HTTP costs: the same gens of the toy model through `sgl serve`'s application and in this process.

Runs on one core. The toy model takes microseconds a step, so the difference is the server's own work, with that of its
client beside it, which is plain sockets and reads no more than it must. The client runs in another process, pinned to
another core, so that it takes none of the server's time.

    python -m sgl.benchmarks.serving_overhead
    python -m sgl.benchmarks.serving_overhead --profile 30
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import os
import platform
import pstats
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from sgl import Runtime
from sgl.backend.base import GenRequest
from sgl.backend.server.command import listen, serve
from sgl.backend.server.flags import ServeOptions
from sgl.lang.sampling import Sampling

PROMPT = "The capital of France is"
ROUNDS = 5


def body_of(route: str, tokens: int, stream: bool, seed: int) -> bytes:
    options = {"max_tokens": tokens, "ignore_eos": True, "seed": seed, "stream": stream}
    if route == "/generate":
        params = {"max_new_tokens": tokens, "ignore_eos": True, "seed": seed}
        return json.dumps({"text": PROMPT, "sampling_params": params, "stream": stream}).encode()
    if route == "/v1/chat/completions":
        return json.dumps({"messages": [{"role": "user", "content": PROMPT}], **options}).encode()
    return json.dumps({"prompt": PROMPT, **options}).encode()


async def http_client(port: int, route: str, tokens: int, stream: bool, seeds: list[int]) -> int:
    """Ask again and again over one connection; how many bytes came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = 0
    for seed in seeds:
        body = body_of(route, tokens, stream, seed)
        writer.write(f"POST {route} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        if stream:
            end, tail = b"0\r\n\r\n", b""
            while not tail.endswith(end):
                part = await reader.read(1 << 16)
                assert part, "the stream was cut"
                got, tail = got + len(part), (tail + part)[-5:]
        else:
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            got += len(await reader.readexactly(length))
    writer.close()
    return got


async def local_client(runtime: Runtime, tokens: int, stream: bool, seeds: list[int]) -> int:
    """The same gens in process: whole, or read as they grow."""
    got = 0
    for seed in seeds:
        branch = runtime.open(seed=seed)
        branch.append(PROMPT, markup=False)
        handle = branch.gen(GenRequest(Sampling.of("gen", max_tokens=tokens, ignore_eos=True), 1, "gen"))
        branch.rest()
        seen = 0
        while stream and not handle.done:
            await runtime.wait_async(handle, seen)
            seen = len(handle.text)
        if not stream:
            await runtime.wait_async(handle)
        got += len(handle.value()[0].text)
        branch.close()
    return got


async def crowd(ask: Callable[[list[int]], Awaitable[int]], at_once: int, each: int) -> float:
    """Seconds that `at_once` clients take with `each` requests."""
    began = time.perf_counter()
    await asyncio.gather(*(ask([i * each + k for k in range(each)]) for i in range(at_once)))
    return time.perf_counter() - began


def over_http(port: int, route: str, tokens: int, stream: bool, at_once: int, each: int, out: Any) -> None:
    """In the client's process."""
    if len(os.sched_getaffinity(0)) > 1 or (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    for _ in range(ROUNDS + 1):  # the first warms up
        out.send(asyncio.run(crowd(lambda s: http_client(port, route, tokens, stream, s), at_once, each)))


def measured(port: int, route: str, tokens: int, stream: bool, at_once: int, each: int) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=over_http, args=(port, route, tokens, stream, at_once, each, there))
    child.start()
    seconds = [here.recv() for _ in range(ROUNDS + 1)][1:]
    child.join()
    return sorted(seconds)[ROUNDS // 2]


def in_process(runtime: Runtime, tokens: int, stream: bool, at_once: int, each: int) -> float:
    ask = lambda s: local_client(runtime, tokens, stream, s)  # noqa: E731
    return sorted([asyncio.run(crowd(ask, at_once, each)) for _ in range(ROUNDS + 1)][1:])[ROUNDS // 2]


class ProfiledServing:
    """A server in a thread; `profile` collects what its event loop does."""

    def __init__(self, runtime: Runtime, profile: cProfile.Profile | None) -> None:
        self._listener, self._servers, self._profile = listen("127.0.0.1", 0), [], profile
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(runtime,))
        self._thread.start()
        while not (self._servers and self._servers[0].started):
            time.sleep(0.01)

    def _run(self, runtime: Runtime) -> None:
        call = (runtime, ServeOptions(port=0), self._listener, self._servers.append, False)
        if self._profile is None:
            serve(*call)
        else:
            self._profile.runcall(serve, *call)

    def end(self) -> None:
        self._servers[0].should_exit = True
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=64, help="clients (default 64)")
    parser.add_argument("--each", type=int, default=8, help="requests of a client (default 8)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a stream (default 64)")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="print the N dearest functions of streams")
    args = parser.parse_args()
    os.sched_setaffinity(0, {0})
    profile = cProfile.Profile() if args.profile else None
    print(
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, fastapi {version('fastapi')}, "
        f"uvicorn {version('uvicorn')}, {args.at_once} clients x {args.each} requests, median of {ROUNDS}\n"
    )
    requests = args.at_once * args.each
    print("| route | in process, ms a request | over HTTP | difference | us a streamed token in process | over HTTP |")
    print("|---|---|---|---|---|---|")
    for route in ("/v1/completions", "/v1/chat/completions", "/generate"):
        runtime = Runtime.toy()
        whole = in_process(runtime, 1, False, args.at_once, args.each)
        streamed = in_process(runtime, args.tokens, True, args.at_once, args.each)
        server = ProfiledServing(runtime, profile if route == "/v1/completions" else None)
        whole_http = measured(server.port, route, 1, False, args.at_once, args.each)
        streamed_http = measured(server.port, route, args.tokens, True, args.at_once, args.each)
        server.end()
        runtime.shutdown()
        a, b = 1e3 * whole / requests, 1e3 * whole_http / requests
        c, d = (1e6 * seconds / requests / args.tokens for seconds in (streamed, streamed_http))
        print(f"| `{route}` | {a:.3f} | {b:.3f} | {b - a:.3f} | {c:.1f} | {d:.1f} (+{d - c:.1f}) |", flush=True)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(args.profile)


if __name__ == "__main__":
    main()
