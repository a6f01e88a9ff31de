"""`sgl serve`: start the runtime and the server, say how they are configured, and end them in order."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ...lang.errors import OptionError
from ..runtime.local import LocalBackend
from .flags import ServeOptions, add_flags, keys_of, resolve

_NAMES = {
    "pool_tokens": "max_total_tokens",
    "step_tokens": "chunked_prefill_size",
    "max_running": "max_running_requests",
    "seed": "random_seed",
    "draft_tokens": "speculative_num_draft_tokens",
    "chain_drafts": "speculative_num_steps",
}
"""Fields of the engine's options that are not called as the option that they come from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `sgl serve` to argparse."""
    parser.usage = "sgl serve [--model-path MODEL] [--host ADDRESS] [--port N] [OPTION ...]"
    parser.description = "Serve a model over HTTP, to the clients of OpenAI, Anthropic, Ollama and SGLang."
    add_flags(parser)
    parser.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> int:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise OptionError(f"sgl serve needs its extra ({error.name} is missing): pip install 'sgl[serve]'") from None
    from ..runtime.runtime import Runtime

    of_runtime, options = resolve(vars(args), args.config)
    listener = listen(options.host, options.port)  # before the model is loaded: a port in use is told at once
    try:
        with Runtime(**of_runtime) as runtime:
            serve(runtime, options, listener)
    finally:
        listener.close()
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises `OptionError` if it cannot."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as error:
        raise OptionError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from None
    return listener


def serve(
    runtime: LocalBackend,
    options: ServeOptions,
    listener: socket.socket,
    started: Callable[[Any], None] | None = None,
    greets: bool = True,
) -> None:
    """Serve a runtime until SIGTERM or SIGINT. `started` gets uvicorn's server before it runs.

    `greets`: say how it is configured, and when it has ended.
    """
    import uvicorn

    from .app import build_app

    if options.log_requests:
        logger = logging.getLogger("sgl.access")
        logger.setLevel(logging.INFO)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    app = build_app(runtime, options)
    serving = app.state.serving
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=options.shutdown_timeout, lifespan="off",
        server_header=False,
    )  # fmt: skip

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if greets:
                print(greeting(runtime, options, listener.getsockname()[1]), flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            serving.draining = True
            until = time.monotonic() + options.drain_delay
            while time.monotonic() < until and not self.force_exit:
                await asyncio.sleep(0.05)
            serving.ending = True
            await super().shutdown(sockets)
            serving.abort(None)

    server = Server(config)
    if started is not None:
        started(server)
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again when it has ended
            before[number] = signal.signal(number, lambda *_: None)
    except ValueError:  # not the main thread: whoever started it ends it
        pass
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
    if greets:
        print("the server has ended", file=sys.stderr, flush=True)


def greeting(runtime: LocalBackend, options: ServeOptions, port: int) -> str:
    """What start-up prints: what runs, the resolved options, and lines to paste."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    host = f"[{host}]" if ":" in host else host
    name = options.served_model_name or runtime.model_name
    resolved = {_NAMES.get(name, name): value for name, value in asdict(runtime.options).items()}
    said = {**resolved, **asdict(options), "port": port}
    keyed = bool(keys_of(options))
    said["api_key"] = "(set)" if keyed else None
    url, asked = f"http://{host}:{port}", {"model": name, "max_tokens": 32}
    if runtime.chat_template is None:
        route, asked["prompt"] = "completions", "Hello"
        read = "text"
    else:
        route, asked["messages"] = "chat/completions", [{"role": "user", "content": "Hello!"}]
        read = "message.content"
    body, options_said = json.dumps(asked), ", ".join(f"{field}={json.dumps(value)}" for field, value in asked.items())
    called = f"{route.replace('/', '.')}.create({options_said})"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
    python = (
        f'from openai import OpenAI; print(OpenAI(base_url="{url}/v1", api_key="{"YOUR_KEY" if keyed else "none"}")'
        f".{called}.choices[0].{read})"
    )
    return "\n".join(
        [
            f"{name}: {runtime.options.pool_tokens:,} tokens of KV, context {runtime.options.context_length:,}",
            *(f"  {option} = {value!r}" for option, value in said.items()),
            f"serving at {url}",
            "",
            f"curl {url}/v1/{route} -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}",
            f"python -c {shlex.quote(python)}",
            "",
        ]
    )
