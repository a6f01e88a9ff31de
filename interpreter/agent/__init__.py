"""Tools at work, and the loop in which a model calls them until it has an answer.

running.py   `ToolRunner`: calls of tools, with approval, retries and limits; `run_tools`
trying.py    one try of a tool: on a thread or on an event loop, within its time
gate.py      which tools may run at the same time
threads.py   event loops on threads of their own
mcp.py       tools of MCP servers
"""
