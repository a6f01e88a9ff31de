"""Regular expressions as trees: one normal form in front of all grammar engines.

Engines disagree on what the text of a regular expression means, so no engine is given the user's. A pattern is read
into a tree whose language is exactly what Python (or ECMA-262, for JSON Schema) says, or it is refused.

    nodes.py        the trees, and the constructors that keep them tidy
    chars.py        sets of characters
    syntax.py       reading a pattern: what the dialects share
    python.py       Python's dialect
    ecma.py         ECMA-262's dialect
    rust_syntax.py  Rust's dialect, as llguidance reads it
    rust.py         pydantic's patterns as ECMA-262 patterns
    marks.py        anchors, lookarounds and atomic groups in a tree
    context.py      marks rewritten as intersections
    loops.py        marks in repeats: by an automaton
    sets.py         what can be said of a language: empty, disjoint, shortest text
    automaton.py    a language as an automaton, and back to a tree
    print.py        a tree as text for the engines
    search.py       a pattern searched for in finished text
"""

from __future__ import annotations

from ..kept import kept
from .automaton import plain
from .context import resolve
from .ecma import EcmaReader
from .nodes import (
    ANY_CHAR,
    ANY_TEXT,
    Alt,
    Both,
    Chars,
    Concat,
    Not,
    PatternError,
    PatternNode,
    Repeat,
    any_of,
    both,
    complement,
    either,
    literal,
    no_deeper,
    sequence,
    size,
)
from .print import to_lark, to_rust, to_schema_pattern, within_depth
from .python import PythonReader
from .search import ecma_search
from .sets import accepts, disjoint, first, follows, included, is_empty, nullable, shortest

__all__ = [
    "ANY_CHAR",
    "ANY_TEXT",
    "Alt",
    "Both",
    "Chars",
    "Concat",
    "Not",
    "PatternError",
    "PatternNode",
    "Repeat",
    "accepts",
    "any_of",
    "both",
    "complement",
    "disjoint",
    "ecma_search",
    "either",
    "first",
    "follows",
    "included",
    "is_empty",
    "literal",
    "nullable",
    "parse_ecma",
    "parse_regex",
    "plain",
    "sequence",
    "shortest",
    "size",
    "to_lark",
    "to_rust",
    "to_schema_pattern",
]


@kept(256)
@no_deeper
def parse_regex(pattern: str) -> PatternNode:
    """The language of all texts that `re.fullmatch(pattern, text)` accepts. See `python.py` for the dialect.

    Raises `PatternError` for a pattern that is wrong or that no engine can enforce (backreferences, for one).
    """
    return within_depth(resolve(PythonReader(pattern).read()))


@kept(256)
@no_deeper
def parse_ecma(pattern: str) -> PatternNode:
    """The language of all texts in which an ECMA-262 pattern is found. See `ecma.py` for the dialect.

    Raises `PatternError` for a pattern that is wrong or that no engine can enforce.
    """
    return within_depth(resolve(sequence([ANY_TEXT, EcmaReader(pattern).read(), ANY_TEXT])))
