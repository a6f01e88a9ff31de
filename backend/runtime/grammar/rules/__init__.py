"""Grammars of our own: context-free rules over patterns, whatever they were written in.

Knows nothing of engines, tokens or masks.

    nodes.py    a grammar as rules, and the one node that patterns lack: a rule's name
"""
