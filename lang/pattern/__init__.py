"""Patterns: the regular expressions of sgl, one normal form in front of all grammar engines.

Owns: the names that the rest of sgl uses. The parts: `nodes.py` (trees) and `chars.py` (characters);
`syntax.py`, `python.py` and `ecma.py` (reading); `marks.py`, `context.py` and
`loops.py` (anchors and lookarounds); `sets.py` and `automaton.py` (what
can be said of a language); `print.py` (for the engines) and `search.py` (checking finished text).

Engines disagree on what regex text means, so no engine is ever given the user's: a pattern is read into a tree whose
language is exactly what Python (or ECMA-262, for JSON Schema) says, or it is refused with a `PatternError`.
"""

from __future__ import annotations

from functools import lru_cache

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


@lru_cache(maxsize=256)
@no_deeper
def parse_regex(pattern: str) -> PatternNode:
    """The language of all texts that `re.fullmatch(pattern, text)` accepts. See `python.py` for the dialect.

    Raises `PatternError` for a pattern that is wrong or that no engine can enforce (backreferences, for one).
    """
    return within_depth(resolve(PythonReader(pattern).read()))


@lru_cache(maxsize=256)
@no_deeper
def parse_ecma(pattern: str) -> PatternNode:
    """The language of all texts in which an ECMA-262 pattern is found. See `ecma.py` for the dialect.

    Raises `PatternError` for a pattern that is wrong or that no engine can enforce.
    """
    return within_depth(resolve(sequence([ANY_TEXT, EcmaReader(pattern).read(), ANY_TEXT])))
