"""Grammars of our own: context-free rules over patterns, whatever they were written in.

Knows nothing of engines, tokens or masks.

    nodes.py         a grammar as rules, and the one node that patterns lack: a rule's name
    automata.py      the right sides of rules as automata, and the least cost of each
    derived.py       least texts of intersections, complements and multiples
    recogniser.py    whether a text is one of a grammar's, character by character
    completion.py    the least texts that complete a text
    measure.py       which rules are reached, recursive, how short their texts can be
    normal.py        the same texts with less recursion, and no repeat of what may be empty
    schema_rules.py  lowered JSON Schemas as rules
    number_rules.py  JSON numbers between bounds and in steps, as patterns
    ebnf.py          EBNF, in xgrammar's and llama.cpp's dialects, read into rules
    lark.py          Lark, in llguidance's dialect, read into rules, or refused
    lark_syntax.py   its rules as trees of what is written
    lark_tokens.py   the tokens of Lark
    lark_common.py   the terminals that Lark can import
    write_lark.py    rules written for llguidance
    write_ebnf.py    rules and patterns written for xgrammar
"""
