"""Grammars of our own: context-free rules over patterns, whatever they were written in.

Knows nothing of engines, tokens or masks.

    nodes.py        a grammar as rules, and the one node that patterns lack: a rule's name
    automata.py     the right sides of rules as automata, and the least cost of each
    recogniser.py   whether a text is one of a grammar's, character by character
    completion.py   the least texts that complete a text
"""
