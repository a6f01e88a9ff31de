"""Typed values of a text that is still being written.

Knows nothing of how text arrives.

    values.py   snapshots of growing JSON text
    shapes.py   a type as places that are filled in
"""
