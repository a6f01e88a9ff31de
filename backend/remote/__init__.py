"""Other people's endpoints: programs over services that take text or messages and stream text back.

Knows nothing of user code, tokens or KV. A branch is the text that was said; each call sends all of it.

backend.py    `RemoteBackend`: the protocol of a backend, for every service
branch.py     branches: what was said, and the queue of ops
policy.py     how constraints and choices are enforced: natively, by asking again, or not at all
caller.py     one request: concurrency, its stream, asking again after a failure
failures.py   one error for what goes wrong with a service, and when to ask again
loop.py       the event loop that carries all requests, and waiting for it
service.py    what a service is: `Service`, what is asked of it, what it answers
turns.py      chats as messages, read from what a program says
options.py    which sampling options a service takes
forms.py      constraints as services take them
http.py       a client of HTTP/1.1, for `endpoint.py`
openai.py     `sgl.OpenAI`, and servers with its API
anthropic.py  `sgl.Anthropic`
litellm.py    `sgl.LiteLLM`
endpoint.py   `sgl.RuntimeEndpoint`: an SGLang server's native API
"""
