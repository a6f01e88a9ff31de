"""How a program runs: `@function`, program state, run, batch, async, stream, fork and join.

Drives any backend through the protocol in `backend/base.py`. Knows nothing of KV, models or tokens. A running body
needs the files below; a *wing*, which is a sub-package, may import them, and they import no wing. `function.py` alone
joins the two: through it a program has `run_batch`, `graph` and `compile`.

function.py      `@sgl.function`: the door
arguments.py     which arguments are the program's and which are options of the run
defaults.py      the default backend of the process
run.py           one run of a program: its branch, its body, and where the body is executed
body.py          whether a body still runs, what it returned, and the pulse by which readers hear of news
state.py         `ProgramState`, the surface: what a user says to a state
reading.py       what a user reads of a state
live.py          the state of a program that runs here: its reads, as flows
line.py          one line of text of a program, said on a branch of the backend
transcript.py    the text of a line: constants and what the model wrote, in order
variables.py     what a name stands for
roles.py         the turns of a chat, rendered by the chat template
stream.py        reading text while it is written
join.py          the branches of a fork, how they come together, and `sgl.first`
usage.py         what a program cost and may cost
record.py        what is noted of a program for those who listen: traces, replay, telemetry
plain.py         a Python value as JSON data, for records
colour.py        a transcript as HTML for a notebook
source.py        the line of the user's program where an op was written
hooks.py         the functions of wings that the core calls

batch/           many rows of one program
journal/         a batch that continues where it was interrupted
trace/           what a run did: recorded, drawn, run again, told to OpenTelemetry
graph/           a program without a model
agent/           tools at work
command/         `sgl run`
partial/         typed values of unfinished text
"""
