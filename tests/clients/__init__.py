"""Clients of other people against `sgl serve`, unchanged: `make test-clients`.

They are installed in environments of their own under build/, so that nothing here depends on their versions.

server.py          a server on the embedded model, for the time of a run
test_clients.py    starts each client as a process, and checks what it says
python_clients.py  LangChain, LiteLLM, instructor, pydantic-ai
test_agents.py     coding agents: Codex, Claude Code, opencode
scripted.py        the server over a model that follows a script, for them
openai.mjs         OpenAI's package for JavaScript
"""
