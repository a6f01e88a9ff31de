"""What goes through the model together: planned, launched, asked, collected. Knows nothing of text.

step.py        a span and a step: rows laid end to end, from the plan to the answers
scheduler.py   the plan: which spans go next, and room for them
packed.py      a step as a model takes it, and what the engine asks of a model
executor.py    how a step gets through a model; the executor of the host
flight.py      what a step in flight is asked, who runs ahead of it, and who takes its answers
"""
