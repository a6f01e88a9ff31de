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


def notes_server() -> Any:
    """Make a server that keeps notes in memory."""
    from mcp.server.mcpserver import MCPServer

    server, notes = MCPServer("notes"), dict[str, str]()

    @server.tool()
    def write_note(title: str, text: str) -> str:
        """Write a note."""
        notes[title] = text
        return f"noted; there are {len(notes)} notes"

    @server.tool()
    def list_notes() -> list[str]:
        """List the titles of all notes."""
        return sorted(notes)

    return server


@sgl.function
def assist(s: sgl.ProgramState, task: str, tools: Any) -> sgl.AgentResult:
    s += sgl.system("You keep notes. Use the tools.", tools=tools)
    s += sgl.user(task)
    answer = sgl.regex("(Done|Sorry)[a-zA-Z ,]{0,60}[.]")
    result: sgl.AgentResult = sgl.agent(
        s, tools, min_tool_calls=1, parallel=1, max_steps=2, answer=answer, max_tokens=80
    )
    return result


def main(argv: Sequence[str] | None = None) -> None:
    try:
        server = notes_server()
    except ImportError:
        sys.exit('this example needs the package mcp, version 2: pip install "sgl[mcp]"')
    with session(__doc__, argv), sgl.mcp_tools(server) as tools:
        for tool in tools:
            print(f"{tool.name}: {tool.spec.description} {sorted(tool.spec.parameters.schema['properties'])}")
        for task in ("Write a note with the title Milk: buy two bottles.", "Write a note with the title Train: 9:15."):
            state = assist.run(task, tools, temperature=0)
            print(f"\n{task}")
            for result in state.ret_value.results:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    {state.ret_value.answer}")
        [listed] = sgl.run_tools([sgl.ToolCall("list_notes", {}, "call00000")], tools)
        print(f"\nthe server has now: {listed.text}\n\n{state.usage}")


if __name__ == "__main__":
    main()
