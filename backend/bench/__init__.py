"""Measurements that users run on their own work: `sgl bench`. They drive a runtime from outside, as a program does.

command.py   `sgl bench speculative`: the command, from its arguments to what it prints
work.py      what is measured: prompts of a file, or a program over rows
sweep.py     the settings, measured in turns, and which of them is best
report.py    the table, the answer, and the JSON file
plot.py      the picture
serving/     `sgl bench serving`: how long requests to a server take
"""
