"""The server: the runtime of this process behind HTTP, for OpenAI's and SGLang's clients (`sgl serve`).

Imported by the command alone: FastAPI and uvicorn are the extra `sgl[serve]`.

command.py      `sgl serve`: flags, start-up, shutdown
flags.py        the flags: `Runtime`'s own options and `ServeOptions`
app.py          the routes
gate.py         what every request passes: keys, room, counts, the access log
wire.py         bodies in, JSON and event streams out; a client that goes away
errors.py       errors as statuses and bodies
fields.py       what each API does with each field: obeyed, inert or refused
serving.py      what all requests share
work.py         the gens of one request
turns.py        messages as text, with the model's chat template
calling.py      tools and reasoning of one request
asked.py        sampling options and constraints of OpenAI's APIs
chat.py         /v1/chat/completions
completions.py  /v1/completions
logprobs.py     log-probabilities as OpenAI's APIs tell them
native.py       SGLang's own routes
metrics.py      /metrics, in Prometheus' text form
"""
