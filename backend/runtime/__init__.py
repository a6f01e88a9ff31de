"""The local runtime: a model in this process, behind the `Backend` protocol.

runtime.py     `sgl.Runtime`, the public door
generate.py    generation without a program
local.py       an engine behind the `Backend` protocol
options.py     the runtime's options, checked and resolved
sizes.py       default sizes
device.py      the card that a model runs on: what it can compute, what fits into its memory
engine.py      the loop: plan, launch, ask, collect
drive.py       who steps: the caller that waits
meter.py       a log line a second
invariants.py  checks of the engine's bookkeeping
threads.py     how OpenMP's threads wait
program/       what programs want: branches, queues of ops, admission
job/           one op at work: gen, select, constrained gen
kv/            where the KV of tokens is: slots, the tree, cursors
step/          what goes through the model together
draft/         speculation: tokens that may follow, computed along
sample/        from logits to a token
text/          tokens and bytes
model/         models and their loading
attention/     attention over runs of slots
cuda/          steps on a device, captured as graphs
grammar/       constraints as masks
draft/         tokens that are guessed, and heads that guess them
"""
