"""The command `sgl run`: a program of a file, once or over the rows of a file.

run.py  the command
"""
