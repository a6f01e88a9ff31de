"""Doubles of services: small HTTP servers on this machine that speak the real wire formats, and do as a test says.

A test gives `answer(request)`, which returns a `Reply`. Requests are kept in order. A reply's bytes are sent in the
pieces that it lists, so an event of a stream may be cut anywhere.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    data: Any


@dataclass
class Reply:
    """`pieces` go out one after the other, chunked. `then`: "end", "drop" (the connection dies), or "hang"."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "end"
    pause: float = 0.0
    kind: str = "text/event-stream"


class Double:
    """One running server. `closed` counts the connections that a client closed in the middle of a reply."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.closed = 0
        self.most_at_once = self._now = 0
        self.over = threading.Event()
        self._lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = Asked(
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(body) if body else None,
                )
                with double._lock:
                    double.asked.append(asked)
                    double._now += 1
                    double.most_at_once = max(double.most_at_once, double._now)
                try:
                    double._send(self, double.answer(asked))
                except (BrokenPipeError, ConnectionResetError):
                    double.closed += 1
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: object) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.kind)
        handler.send_header("Transfer-Encoding", "chunked")
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for piece in reply.pieces:
            if piece:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if reply.pause:
                time.sleep(reply.pause)
        with self._lock:
            self._now -= 1
        if reply.then == "end":
            handler.wfile.write(b"0\r\n\r\n")
            return
        handler.close_connection = True
        if reply.then == "hang":
            handler.connection.settimeout(0.05)
            while not self.over.is_set():
                try:
                    if not handler.connection.recv(1):
                        self.closed += 1
                        return
                except TimeoutError:
                    continue
        handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def served(answer: Callable[[Asked], Reply] | Reply | list[Reply]) -> Iterator[Double]:
    """A double that answers with one reply, with a list of them in turn, or as a function says."""
    if isinstance(answer, list):
        left = list(answer)
        double = Double(lambda asked: left.pop(0))
    elif isinstance(answer, Reply):
        double = Double(lambda asked: answer)
    else:
        double = Double(answer)
    thread = threading.Thread(target=double.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.over.set()
        double.server.shutdown()
        double.server.server_close()
        thread.join()


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def json_reply(data: Any, status: int = 200, **headers: str) -> Reply:
    return Reply([json.dumps(data).encode()], status, headers, kind="application/json")


def error_reply(status: int, words: str, **headers: str) -> Reply:
    return json_reply({"error": {"message": words, "type": "some_error"}}, status, **headers)


# -- OpenAI's formats
def chat_events(
    texts: Sequence[str] = ("Hello",), finish: str = "stop", index: int = 0, usage: bool = True, **choice: Any
) -> list[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        one = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None, **more}
        about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return event({**about, "choices": [one]})

    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": text}) for text in texts)]
    events.append(chunk({}, finish, **choice))
    return [*events, *(end_events(len(texts)) if usage else [event("[DONE]")])]


def end_events(generated: int, prompt: int = 7, cached: int = 3) -> list[bytes]:
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return [event({**about, "choices": [], "usage": counts}), event("[DONE]")]


def completion_events(texts: Sequence[str], finish: str = "stop", **choice: Any) -> list[bytes]:
    about = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}

    def chunk(text: str, reason: str | None = None) -> bytes:
        one = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None, **choice}
        return event({**about, "choices": [one]})

    usage = {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 7 + len(texts)}
    end = event({**about, "choices": [], "usage": usage})
    return [*map(chunk, texts), chunk("", finish), end, event("[DONE]")]


# -- Anthropic's format
def message_events(texts: Sequence[str] = ("Hello",), reason: str = "end_turn", stop: str | None = None) -> list[bytes]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "output_tokens": 1,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2,
        },
    }
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in texts]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": {"output_tokens": len(texts)},
        },
        {"type": "message_stop"},
    ]
    return [event(data, data["type"]) for data in events]


# -- SGLang's format
def generate_events(texts: Sequence[str], finish: dict[str, Any] | None = None, **meta: Any) -> list[bytes]:
    """The stream of `/generate`: each event has the whole text so far."""
    events = []
    for number in range(1, len(texts) + 1):
        last = number == len(texts)
        told = {
            "id": "1",
            "prompt_tokens": 9,
            "cached_tokens": 4,
            "completion_tokens": number,
            "finish_reason": (finish or {"type": "stop", "matched": 2}) if last else None,
            **(meta if last else {}),
        }
        events.append(event({"text": "".join(texts[:number]), "output_ids": list(range(number)), "meta_info": told}))
    return [*events, event("[DONE]")]
