"""Tools of an MCP server: `python examples/mcp_client.py`. It needs `pip install "sgl[mcp]"`.

The server is an object of this process, so the example runs anywhere. `sgl.mcp_tools` takes a URL or the command of a
child process in its place, and the program stays the same. A server's tools look like any others: their arguments are
held to the server's own schemas.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from common import session

import sgl


def unit_server() -> Any:
    """Make a server that converts units."""
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("units")

    @server.tool()
    def to_kilometres(miles: float) -> str:
        """Convert miles to kilometres."""
        return f"{miles * 1.609344:.1f} kilometres"

    @server.tool()
    def to_celsius(fahrenheit: float) -> str:
        """Convert a temperature from Fahrenheit to Celsius."""
        return f"{(fahrenheit - 32) / 1.8:.1f} degrees Celsius"

    return server


@sgl.function
def assist(s: sgl.ProgramState, task: str, tools: Any) -> sgl.AgentResult:
    s += sgl.system("You convert units. Use the tools.", tools=tools)
    s += sgl.user(task)
    answer = sgl.regex("It is -?[0-9]{1,5}[.][0-9] (kilometres|degrees Celsius)[.]")
    result: sgl.AgentResult = sgl.agent(
        s, tools, min_tool_calls=1, parallel=1, max_steps=2, answer=answer, max_tokens=80
    )
    return result


def main(argv: Sequence[str] | None = None) -> None:
    try:
        server = unit_server()
    except ImportError:
        sys.exit('this example needs the package mcp, version 2: pip install "sgl[mcp]"')
    with session(__doc__, argv), sgl.mcp_tools(server) as tools:
        for tool in tools:
            print(f"{tool.name}: {tool.spec.description} {sorted(tool.spec.parameters.schema['properties'])}")
        for task in ("How many kilometres are 26 miles?", "How many degrees Celsius are 86 degrees Fahrenheit?"):
            state = assist.run(task, tools, temperature=0)
            print(f"\n{task}")
            for result in state.ret_value.results:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    {state.ret_value.answer}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
