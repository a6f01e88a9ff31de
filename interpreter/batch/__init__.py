"""Many rows of one program: read as there is room, run side by side, given out as they finish.

plan.py        the options of a batch, checked
rows.py        the rows, read one at a time and checked against the program's parameters
results.py     what became of each row, and the list of states that comes of it
batch.py       giving rows out, for threads and tasks alike
threads.py     bodies on a bounded pool of threads, for plain functions
tasks.py       rows as tasks of an event loop, for async programs and `arun_batch`
progress.py    the progress bar
"""
