"""Tools of MCP servers: `with sgl.mcp_tools(server) as tools`, and the same with `async with`.

Knows nothing of how tools are run. The package `mcp` (version 2) speaks the protocol; it is imported when a server is
opened. The connection lives in one task: on the event loop of `async with`, or on a loop thread of its own. A call
from anywhere else is carried to that loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from ...backend.contain import said
from ...lang.errors import ToolError
from ...lang.tools.listing import RefusedTool, ToolList, bare_tool, raw_spec
from ...lang.tools.tool import MOST_RESULT_TOKENS, Tool, check_seconds
from .threads import LoopThread

T = TypeVar("T")
log = logging.getLogger("sgl")

CALL_SECONDS = 60.0
"""For one call, unless the caller says otherwise: servers look things up on networks."""
CONNECT_SECONDS = 30.0
"""For starting a server and reading its list of tools."""
CLOSE_SECONDS = 10.0
MOST_PAGES = 100
"""Of a list of tools: one that never ends is given up."""


class McpTools:
    """An MCP server that is not open yet. See `sgl.mcp_tools`."""

    def __init__(self, server: Any, prefix: str, only: Collection[str] | None, rules: dict[str, Any]) -> None:
        self._server, self._prefix, self._only, self._rules = server, prefix, only, rules
        self._thread: LoopThread | None = None
        self._link: _Link | None = None

    def __enter__(self) -> ToolList:
        self._unopened()
        thread = self._thread = LoopThread("mcp")
        self._link = _Link(self._server, thread.loop)
        try:
            return self._tools(asyncio.run_coroutine_threadsafe(self._link.open(), thread.loop).result())
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, link, self._thread, self._link = self._thread, self._link, None, None
        if thread is not None and link is not None:
            try:
                asyncio.run_coroutine_threadsafe(link.close(), thread.loop).result(2 * CLOSE_SECONDS)
            finally:
                thread.stop()

    async def __aenter__(self) -> ToolList:
        self._unopened()
        self._link = _Link(self._server, asyncio.get_running_loop())
        try:
            return self._tools(await self._link.open())
        except BaseException:
            await self.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _unopened(self) -> None:
        if self._link is not None:
            raise ToolError("mcp_tools: this server is open already; call sgl.mcp_tools again for another connection")

    def _tools(self, listed: list[Any]) -> ToolList:
        assert self._link is not None
        tools: list[Tool[Any, Any]] = []
        refused: list[RefusedTool] = []
        for one in listed:
            if self._only is not None and one.name not in self._only:
                continue
            try:
                spec = raw_spec(self._prefix + one.name, one.description or "", one.input_schema)
            except ToolError as error:
                refused.append(RefusedTool(self._prefix + one.name, str(error)))
                log.warning("%s; it is left out", error)
            else:
                tools.append(bare_tool(spec, self._link.function(one.name, spec.description), **self._rules))
        missing = sorted(set(self._only or ()) - {one.name for one in listed})
        if missing:
            raise ToolError(f"mcp_tools: only= names {missing[0]!r}, which the server does not have")
        made = ToolList(tools)
        made.refused = tuple(refused)
        return made


class _Link:
    """The connection to one server, held open by a task of the loop `home`."""

    def __init__(self, server: Any, home: asyncio.AbstractEventLoop) -> None:
        self._server, self._home = server, home
        self._client: Any = None
        self._holder: asyncio.Task[None] | None = None
        self._closing: asyncio.Event | None = None

    async def open(self) -> list[Any]:
        """Connect. Returns the server's tools. Raises `ToolError` if it cannot be reached."""
        client_of = _client_class()
        ready: asyncio.Future[list[Any]] = self._home.create_future()
        self._closing = closing = asyncio.Event()

        async def hold() -> None:
            try:
                async with client_of(self._server) as client:
                    self._client = client
                    listed = await _all_tools(client)
                    if not ready.done():
                        ready.set_result(listed)
                    await closing.wait()
            except BaseException as error:
                if not ready.done():
                    ready.set_exception(ToolError(f"mcp_tools: the server cannot be used: {_said(error)}"))
                elif not isinstance(error, asyncio.CancelledError):
                    log.warning("an MCP server was lost: %s", _said(error))
                if isinstance(error, asyncio.CancelledError):
                    raise
            finally:
                self._client = None

        self._holder = self._home.create_task(hold())
        done, _ = await asyncio.wait({ready}, timeout=CONNECT_SECONDS)
        if not done:
            ready.cancel()
            raise ToolError(f"mcp_tools: the server did not list its tools within {CONNECT_SECONDS:g} s")
        return ready.result()

    async def close(self) -> None:
        """Close the connection; a server that does not let go is left."""
        holder, closing = self._holder, self._closing
        if holder is not None and closing is not None:
            closing.set()
            _, pending = await asyncio.wait({holder}, timeout=CLOSE_SECONDS if self._client is not None else 0.1)
            if pending:
                holder.cancel()
                await asyncio.wait({holder}, timeout=CLOSE_SECONDS)

    def function(self, name: str, description: str) -> Any:
        """A coroutine function that calls the server's tool, from any event loop."""

        async def call(**arguments: Any) -> Any:
            return await self._at_home(self._call(name, arguments))

        call.__name__, call.__doc__ = name, description
        return call

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._home:
            return await work
        if self._home.is_closed() or self._client is None:
            work.close()
            raise ToolError("the MCP server is closed")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._home))

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        client, holder = self._client, self._holder
        if client is None or holder is None:
            raise ToolError("the MCP server is closed")
        calling = asyncio.ensure_future(client.call_tool(name, arguments))
        try:
            await asyncio.wait({calling, holder}, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise ToolError("the MCP server is gone")
            result = calling.result()
        except asyncio.CancelledError:
            raise
        except ToolError:
            raise
        except Exception as error:
            raise ToolError(f"the MCP server failed: {_said(error)}") from error
        finally:
            calling.cancel()
        if result.is_error:
            raise ToolError(_text(result.content) or "the MCP server reports an error without a text")
        return _value(result)


async def _all_tools(client: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ToolError(f"its list of tools has more than {MOST_PAGES} pages")


def _value(result: Any) -> Any:
    """What a call gave: its data (a value alone is wrapped in `result` on the way), else its text."""
    data = result.structured_content
    if data is None:
        return _text(result.content)
    return data["result"] if isinstance(data, dict) and data.keys() == {"result"} else data


def _text(content: list[Any]) -> str:
    return "\n".join(_block(block) for block in content)


def _block(block: Any) -> str:
    """A block of content as text; what is no text is named."""
    if isinstance(text := getattr(block, "text", None), str):
        return text
    if isinstance(text := getattr(getattr(block, "resource", None), "text", None), str):
        return text
    kind = getattr(block, "mime_type", None) or getattr(block, "type", type(block).__name__)
    where = getattr(block, "uri", None) or getattr(getattr(block, "resource", None), "uri", None)
    return f"[{kind}, not shown]" if where is None else f"[{kind} at {where}]"


def _said(error: BaseException) -> str:
    """Say an error; of a group, its first one."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return said(error)


def _client_class() -> Any:
    try:
        from mcp import Client
    except ImportError as error:
        raise ToolError(f"MCP servers need the package mcp, version 2 ({error}); pip install 'sgl[mcp]'") from None
    return Client


def mcp_tools(
    server: Any,
    *,
    prefix: str = "",
    only: Collection[str] | None = None,
    timeout: float | None = CALL_SECONDS,
    requires_approval: bool = False,
    max_result_tokens: int | None = MOST_RESULT_TOKENS,
) -> McpTools:
    """Open an MCP server as a list of tools: `with` in a sync program, `async with` in an async one.

    The tools look the same as others. One whose schema is no JSON Schema of an object is left out, and named in the
    list's `refused` and in the log. When a server dies, its tools give error results, and the others go on. Needs the
    extra `sgl[mcp]`.

    Args:
        server: What `mcp.Client` takes: a server object, a URL (streamable HTTP), `mcp.StdioServerParameters`, or a
            transport.
        prefix: Put before each name, to keep the tools of two servers apart; default none.
        only: Names of the tools to take, without the prefix; default all.
        timeout: Seconds for one call; default 60; None: any time.
        requires_approval: Whether somebody is asked before each call; default False.
        max_result_tokens: Tokens of a result that the model is shown; default 2,000; None: all.

    Returns:
        A context manager. It gives a tuple of tools, for `sgl.call` and `sgl.agent`, alone or beside others.

    Raises:
        ToolError: When it is entered: the package is missing, or the server cannot be used.

    Example:
        >>> import sgl
        >>> notes = sgl.mcp_tools("http://localhost:8000/mcp", prefix="notes_", timeout=10)
        >>> type(notes).__name__  # nothing is opened before `with notes as tools:`
        'McpTools'
    """
    check_seconds("mcp_tools", timeout)
    rules = {"timeout": timeout, "requires_approval": requires_approval, "max_result_tokens": max_result_tokens}
    return McpTools(server, prefix, only, rules)
