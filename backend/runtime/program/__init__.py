"""What programs want: branches, their queues of ops, and which programs may run. Knows nothing of steps.

program.py     what the branches of one program share: seed, deadline, the account of computed rows
branch.py      the backend's end of a line: its queue of ops, its life, its cursor and its job
ops.py         what the ops mean: text becomes tokens, a gen or a select a job, a fork children
branches.py    all branches of an engine: their news, their jobs, their ends
admission.py   which programs may hold KV at the same time
"""
