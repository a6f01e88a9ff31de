"""A server over the toy model, with real HTTP, in a thread of the test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sgl import Runtime
from sgl.backend.server.command import listen, serve
from sgl.backend.server.flags import ServeOptions


class Served:
    """A running server: its `url`, its `runtime`, and an HTTP client."""

    def __init__(self, runtime: Runtime, server: Any, listener: socket.socket) -> None:
        self.runtime, self.server = runtime, server
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.serving = None

    def chat(self, **fields: Any) -> httpx.Response:
        fields = {"messages": [{"role": "user", "content": "Hello"}], "seed": 1, **fields}
        return self.http.post("/v1/chat/completions", json=fields)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.http.post(path, json=fields)

    def cached_tokens(self) -> int:
        """Prompt tokens of all finished requests whose KV was there."""
        return int(self.server.config.app.state.serving.metrics.cached)

    def idle(self) -> None:
        """Wait until nothing holds KV, and check the runtime."""
        end = time.monotonic() + 20
        while self.runtime.get_server_info()["attached"] or self.runtime.get_server_info()["running"]:
            assert time.monotonic() < end, self.runtime.get_server_info()
            time.sleep(0.01)
        self.runtime.check()


@contextmanager
def served(runtime: Runtime | None = None, **options: Any) -> Iterator[Served]:
    """Serve `runtime` (a new toy by default) while the block runs."""
    own = runtime or Runtime.toy()
    listener = listen("127.0.0.1", 0)
    servers: list[Any] = []
    arguments = (own, ServeOptions(port=0, **options), listener, servers.append)
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    try:
        while not (servers and servers[0].started):
            assert thread.is_alive()
            time.sleep(0.005)
        here = Served(own, servers[0], listener)
        with here.http:
            yield here
    finally:
        if servers:
            servers[0].should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()
        own.shutdown()


def slowed(runtime: Runtime, seconds: float) -> Runtime:
    """Make each step take a while, so that a test can act in the midst of a text."""
    forward = runtime.engine.model.forward

    def slow(batch: Any) -> Any:
        time.sleep(seconds)
        return forward(batch)

    runtime.engine.model.forward = slow
    return runtime


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
