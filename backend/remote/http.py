"""A client of HTTP/1.1 in an event loop, for one server: requests with JSON, replies whole or as they come.

Knows nothing of what is sent. Connections are kept and used again. No proxies, no redirects, no compression.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...lang.errors import OptionError
from .service import Garbled

T = TypeVar("T")

HEAD_BYTES = 1 << 16
"""Most bytes of a status line with its headers."""
LAST_SECONDS = 1.0
"""How long the end of a stream is waited for after its last news: it comes at once, or the server is odd."""
MOST_IDLE = 64
"""Connections that are kept for the next request."""


async def within(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Await `work`, for so long. `asyncio.wait_for` loses a cancellation that comes together with the result."""
    task = asyncio.ensure_future(work)
    try:
        if not (await asyncio.wait([task], timeout=seconds))[0]:
            raise asyncio.TimeoutError(f"nothing came for {seconds:g} s")
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # it is known, or nobody wants it any more


class HttpFailure(Exception):
    """A status of 400 or more; `body` is data where it was JSON."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status_code, self.headers = status, headers
        try:
            self.body: Any = json.loads(body)
        except ValueError:
            self.body = body.decode(errors="replace").strip()


class HttpReply:
    """A reply whose body has not been read yet."""

    def __init__(self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader, timeout: float) -> None:
        self.status, self.headers = status, headers
        self._reader, self._timeout = reader, timeout
        self.whole = False  # the body was read to its end, so the connection can be used again
        self._pieces = self._read_pieces()

    async def _read_pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes."""
        length = self.headers.get("content-length")
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := await self._chunk_size():
                yield await self._read(size)
                await self._read(2)
            while (await self._line()).strip():
                pass  # trailers
        elif length is not None:
            left = int(length)
            while left:
                piece = await within(self._reader.read(min(left, HEAD_BYTES)), self._timeout)
                if not piece:
                    raise EOFError("the connection was closed within a reply")
                left -= len(piece)
                yield piece
        else:
            while piece := await within(self._reader.read(HEAD_BYTES), self._timeout):
                yield piece
            return
        self.whole = self.headers.get("connection", "").lower() != "close"

    async def rest(self) -> None:
        """Read what follows the last news, so that the connection can be used again; not for long."""
        with suppress(*HttpClient.unreachable, Garbled):
            await within(self.body(), LAST_SECONDS)

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self._pieces])

    async def lines(self) -> AsyncGenerator[str, None]:
        """The lines of the body, as they come; a last one without an end of line too."""
        rest = b""
        async for piece in self._pieces:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
        if rest:
            yield rest.decode(errors="replace")

    async def _chunk_size(self) -> int:
        line = await self._line()
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise Garbled(f"{line[:40]!r} is no size of a chunk") from None

    async def _line(self) -> bytes:
        return await within(self._reader.readuntil(b"\n"), self._timeout)

    async def _read(self, size: int) -> bytes:
        return await within(self._reader.readexactly(size), self._timeout)


class HttpClient:
    """Requests to the server at `url`. `timeout`: seconds without news. `verify`: a file of certificates, or False."""

    unreachable = (OSError, EOFError, asyncio.TimeoutError)

    def __init__(self, url: str, api_key: str | None, timeout: float, verify: str | bool | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise OptionError(f"url must begin with http:// or https:// and name a host, got {url!r:.80}")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
            if verify is False:
                self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._timeout = timeout
        self._headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "Connection": "keep-alive"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        if any(c in "\r\n" for header in self._headers.values() for c in header):
            raise OptionError("url and api_key must be without line breaks")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @asynccontextmanager
    async def send(self, method: str, path: str, data: Any = None) -> AsyncGenerator[HttpReply, None]:
        """Send a request; its reply, for the time of a `with`. Raises `HttpFailure` for a status of 400 or more."""
        body = b"" if data is None else json.dumps(data).encode()
        head = [f"{method} {self._path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in self._headers.items())]
        if data is not None:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        message = "\r\n".join([*head, "", ""]).encode() + body
        reply, connection = await self._exchange(message)
        try:
            if reply.status >= 400:
                raise HttpFailure(reply.status, reply.headers, await reply.body())
            yield reply
        finally:
            if reply.whole and len(self._idle) < MOST_IDLE:
                self._idle.append(connection)
            else:
                connection[1].close()

    async def _exchange(self, message: bytes) -> tuple[HttpReply, tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Write a request and read the head of its reply. A kept connection that the server has closed is replaced."""
        while True:
            kept = bool(self._idle)
            connection = self._idle.pop() if kept else await self._connect()
            reader, writer = connection
            try:
                writer.write(message)
                await within(writer.drain(), self._timeout)
                return await self._head(reader), connection
            except BaseException as error:
                writer.close()
                closed = isinstance(error, ConnectionError) or (
                    isinstance(error, asyncio.IncompleteReadError) and not error.partial
                )
                if not (kept and closed):
                    raise

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opening = asyncio.open_connection(self.host, self.port, ssl=self._tls, limit=HEAD_BYTES)
        return await within(opening, self._timeout)

    async def _head(self, reader: asyncio.StreamReader) -> HttpReply:
        try:
            head = await within(reader.readuntil(b"\r\n\r\n"), self._timeout)
        except asyncio.LimitOverrunError:
            raise Garbled(f"its headers are longer than {HEAD_BYTES} bytes") from None
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise Garbled(f"{first[:60]!r} is no status line of HTTP/1.1")
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return HttpReply(int(words[1]), headers, reader, self._timeout)

    async def json(self, method: str, path: str, data: Any = None) -> Any:
        """Send a request and read its reply as JSON; a text where it is none."""
        async with self.send(method, path, data) as reply:
            body = await reply.body()
        try:
            return json.loads(body)
        except ValueError:
            return body.decode(errors="replace")

    async def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()
