"""Tools at work, and the loop in which a model calls them until it has an answer.

loop.py      `sgl.agent`
rules.py     what an agent may do: its limits, and what each turn is asked
events.py    what an agent tells while it runs, and what it came to
saving.py    a paused agent as JSON data, and back
running.py   `ToolRunner`: calls of tools, with approval, retries and limits; `run_tools`
trying.py    one try of a tool: on a thread or on an event loop, within its time
gate.py      which tools may run at the same time
threads.py   event loops on threads of their own
mcp.py       tools of MCP servers
"""
