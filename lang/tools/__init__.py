"""Tools: what a model may call, as data made from Python functions, JSON Schemas and MCP servers.

This folder knows nothing of threads, of running a tool, or of how a model writes a call.

    spec.py         `ToolCall` and `ToolSpec`: a call, and what a model is told of a tool
    tool.py         `@sgl.tool` and `Tool`: a function with its spec and its rules
    docstring.py    what a docstring says of a function and of its parameters
    parameters.py   the parameters of a function: their JSON Schema, and JSON data as their arguments
    raw.py          JSON Schemas of tools as others write them: OpenAI's, Anthropic's and MCP's forms
    listing.py      `tool_list`: any list of tools, checked; a bad one is left out and named
    call.py         `sgl.call`: the expression in which a model calls tools
    result.py       `ToolResult`, and a value as a text that a model reads
"""
