"""Tools of an MCP server.

`sgl.mcp_tools` opens a server as a tuple of tools, which look like any others. Their arguments are held to the server's
own schemas. Here the server is an object of this process, so the example runs anywhere. A URL, or the command of a
child process, can stand in its place (`mcp.StdioServerParameters(command="...")`), and the program stays the same.

Run: python examples/mcp_client.py        it needs: pip install "sgl[mcp]"

Expect of a model of 135M parameters: the right tool with the right number, and an answer whose form a grammar holds.
"""

from __future__ import annotations

import sys
from typing import Any

import sgl

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    sys.exit('this example needs the package mcp, version 2: pip install "sgl[mcp]"')

units = MCPServer("units")


@units.tool()
def to_kilometres(miles: float) -> str:
    """Convert miles to kilometres."""
    return f"{miles * 1.609344:.1f} kilometres"


@units.tool()
def to_celsius(fahrenheit: float) -> str:
    """Convert a temperature from Fahrenheit to Celsius."""
    return f"{(fahrenheit - 32) / 1.8:.1f} degrees Celsius"


@sgl.function
def assist(s: sgl.ProgramState, task: str, tools: Any) -> sgl.AgentResult:
    s += sgl.system("You convert units. Use the tools.", tools=tools)
    s += sgl.user(task)
    # A small model is led: one call, then an answer in this form.
    answer = sgl.regex("It is -?[0-9]{1,5}[.][0-9] (kilometres|degrees Celsius)[.]")
    result: sgl.AgentResult = sgl.agent(
        s, tools, min_tool_calls=1, parallel=1, max_steps=2, answer=answer, max_tokens=80
    )
    return result


def main() -> None:
    # The default model; or sgl.Runtime("path/to/a/model").
    with sgl.Runtime(random_seed=0) as runtime, sgl.mcp_tools(units) as tools:
        for tool in tools:
            print(f"{tool.name}: {tool.spec.description} {sorted(tool.spec.parameters.schema['properties'])}")
        for task in ("How many kilometres are 26 miles?", "How many degrees Celsius are 86 degrees Fahrenheit?"):
            state = assist.run(task, tools, backend=runtime, temperature=0)
            print(f"\n{task}")
            for result in state.ret_value.results:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    {state.ret_value.answer}\n{state.usage}")


if __name__ == "__main__":
    main()
