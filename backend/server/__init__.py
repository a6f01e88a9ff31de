"""The server: the runtime of this process behind HTTP, for the clients of other APIs (`sgl serve`).

Imported by the command alone: FastAPI and uvicorn are the extra `sgl[serve]`.

command.py       `sgl serve`: flags, start-up, shutdown
flags.py         the flags: `Runtime`'s own options and `ServeOptions`
app.py           the application: all routes, and errors as answers
gate.py          what every request passes: keys, room, counts, the access log
spans.py         OpenTelemetry spans of requests
wire.py          bodies in, JSON and event streams out; a client that goes away
answer.py        an answer, whole or as a stream
errors.py        errors as statuses and bodies
fields.py        what each API does with each field: obeyed, inert or refused
serving.py       what all requests share
work.py          the gens of one request
conversation.py  a conversation and the message that follows, for every API that has them
calling.py       the tools of a conversation, and how calls are read
transcripts.py   messages as they were generated, for conversations that come back
turns.py         messages as text, with the model's chat template
openai/          OpenAI's API
anthropic/       Anthropic's API
ollama/          Ollama's API
sglang/          SGLang's own API
page/            the page at /: a playground, and what the runtime does now
operation.py     the routes of operation: health and metrics
metrics.py       /metrics, in Prometheus' text form
"""
