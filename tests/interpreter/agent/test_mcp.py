"""Tools of MCP servers: an object in this process, and a real child on its standard streams."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.backend.runtime.grammar.usable import usable_tools
from sgl.lang.tools.listing import tool_list

pytest.importorskip("mcp.server.mcpserver", reason="needs the package mcp, version 2")
import mcp
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

CHILD = """
    import os
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("child")

    @server.tool()
    def add(a: int, b: int) -> int:
        "Add two numbers."
        return a + b

    @server.tool()
    def die() -> str:
        os._exit(3)

    server.run()
"""


def call(name: str, **arguments: Any) -> sgl.ToolCall:
    return sgl.ToolCall(name, arguments, "call00000")


@sgl.tool
def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def server() -> Any:
    made = MCPServer("notes")

    @made.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @made.tool()
    def find(words: list[str]) -> dict[str, int]:
        return {word: len(word) for word in words}

    @made.tool()
    def fails() -> str:
        raise ValueError("a bug")

    return made


@pytest.fixture
def child(tmp_path: Path) -> Any:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(CHILD))
    return mcp.StdioServerParameters(command=sys.executable, args=[str(script)])


CALLS = [call("n_add", a=1, b=2), call("n_find", words=["ab"]), call("n_fails"), call("double", x=4)]


def check(found: list[sgl.ToolResult]) -> None:
    assert [r.text for r in (found[0], found[1], found[3])] == ["3", '{"ab": 2}', "8"]
    assert found[2].error == "raised" and found[2].text.startswith("Error: Error executing tool fails")


def test_a_server_object_in_a_sync_program(server: Any) -> None:
    with sgl.mcp_tools(server, prefix="n_") as tools:
        assert [tool.name for tool in tools] == ["n_add", "n_find", "n_fails"]
        assert tools[0].spec.description == "Add two numbers."
        assert tools[0].spec.parameters.schema["required"] == ["a", "b"]
        check(sgl.run_tools(CALLS, [tools, double]))
        wrong = sgl.run_tools([call("n_add", a="one", b=2)], tools)
        assert wrong[0].error == "arguments"
    closed = sgl.run_tools([call("n_add", a=1, b=2)], tools)
    assert closed[0].text == "Error: the MCP server is closed"


def test_a_server_object_in_an_async_program(server: Any) -> None:
    async def main() -> None:
        async with sgl.mcp_tools(server, prefix="n_") as tools:
            check(await sgl.arun_tools(CALLS, [*tools, double]))
            # From another thread: the call is carried to this loop.
            check(await asyncio.to_thread(sgl.run_tools, CALLS, [tools, double]))

    asyncio.run(main())


def test_a_child_that_dies_takes_nothing_else_with_it(child: Any, server: Any) -> None:
    with sgl.mcp_tools(child) as tools, sgl.mcp_tools(server, prefix="n_") as others:
        both = tool_list([tools, others, double])
        assert sgl.run_tools([call("add", a=1, b=2)], both)[0].value == 3
        found = sgl.run_tools([call("die"), call("double", x=1), call("n_add", a=1, b=1)], both)
        assert [r.error for r in found] == ["raised", None, None]
        assert "the MCP server" in found[0].text
        again = sgl.run_tools([call("add", a=1, b=2), call("n_add", a=2, b=2)], both)
        assert [r.error for r in again] == ["raised", None]


def test_a_server_that_cannot_be_started() -> None:
    nothing = mcp.StdioServerParameters(command=sys.executable, args=["-c", "raise SystemExit(3)"])
    with pytest.raises(sgl.ToolError, match="mcp_tools: the server cannot be used"), sgl.mcp_tools(nothing):
        pass
    with pytest.raises(sgl.ToolError, match="mcp_tools: the server cannot be used"), sgl.mcp_tools(object()):
        pass


def test_only_some_tools(server: Any) -> None:
    with sgl.mcp_tools(server, only=["add"]) as tools:
        assert [tool.name for tool in tools] == ["add"]
    with pytest.raises(sgl.ToolError, match="only= names 'sub'"), sgl.mcp_tools(server, only=["sub"]):
        pass


SCHEMAS: dict[str, dict[str, Any]] = {
    "unanchored": {"properties": {"a": {"type": "string", "pattern": "foo"}}},
    "digits": {"properties": {"a": {"type": "string", "pattern": "^\\d{3}$"}}},
    "formats": {"properties": {"a": {"type": "string", "format": "date-time"}, "b": {"type": "string", "format": "x"}}},
    "joined": {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "string"}}}]},
    "outside": {"properties": {"a": {"$ref": "https://json-schema.invalid/a.json"}}},
    "nowhere": {"properties": {"a": {"$ref": "#/components/schemas/A"}}},
    "never": {"properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}}, "required": ["a"]},
    "broken": {"properties": {"a": {"type": "intger"}}},
}


def test_a_schema_that_cannot_be_enforced_leaves_the_others() -> None:
    async def listed(context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=n, input_schema={"type": "object", **s}) for n, s in SCHEMAS.items()])

    async def called(context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=f"{params.name} {params.arguments}")])

    with sgl.mcp_tools(Server("odd", on_list_tools=listed, on_call_tool=called)) as tools:
        usable = usable_tools(tool_list([tools, double]))
        assert [tool.name for tool in usable] == ["unanchored", "digits", "formats", "joined", "double"]
        why = dict(usable.refused)
        assert list(why) == ["broken", "outside", "nowhere", "never"]
        assert why["broken"].startswith("tool broken, parameters /properties/a/type: ")
        assert why["outside"].startswith("tool outside, parameters /properties/a/$ref: the reference ")
        assert why["nowhere"].startswith("tool nowhere, parameters /properties/a/$ref: there is nothing at ")
        assert why["never"].startswith("tool never, parameters /properties/a/minimum: nothing can match: ")
        assert sgl.run_tools([call("joined", a=1)], usable)[0].text == "joined {'a': 1}"
        assert sgl.run_tools([call("digits", a="x")], usable)[0].error == "arguments"


def test_a_tool_that_is_wrong_and_the_programs_own_is_an_error() -> None:
    @sgl.tool(parameters={"type": "object", **SCHEMAS["outside"]})
    def own(**arguments: Any) -> None: ...

    with pytest.raises(sgl.ToolError, match=r"^tool own, parameters /properties/a/\$ref: "):
        usable_tools(tool_list([own]))
