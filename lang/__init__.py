"""What a program says: expressions, choice methods, chat rendering, errors.

Plain immutable values. This room knows nothing of torch, threads, or how anything is executed.
"""
