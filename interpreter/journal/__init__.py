"""A batch that continues where it was interrupted: its finished rows are kept in a file (`resume=`).

journal.py        the file: its lines, its lock, its index
finished.py       what is kept of a finished row, and its spelling as JSON
restored.py       the state of a row that was read back
fingerprint.py    whether a row has the arguments it was run with before
file_lock.py      one writer a file
"""
