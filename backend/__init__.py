"""Where text comes from. Knows nothing of user code.

base.py      the protocol between the interpreter and a backend: branches, requests, handles, results
fake.py      `sgl.FakeBackend`: programs in unit tests, without a model
contain.py   who answers for what user code, foreign code and data raise: the list of such calls
asked.py     the constraints of a line's calls, made ready on a backend; tools that it refuses
shapes.py    the shape of JSON data that came from outside
meta.py      what `get_meta_info` tells of a finished call, with SGLang's keys
waiting.py   waiting, written once: flows and their drivers for threads and event loops
runtime/     the local runtime
bench/       what users measure on their own work: `sgl bench`
remote/      other people's endpoints: OpenAI, Anthropic, LiteLLM, an SGLang server
server/      the runtime of the process behind HTTP: `sgl serve`
"""
