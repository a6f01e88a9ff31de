"""A regular pattern in xgrammar's EBNF. Knows nothing of tokens, or of reading that dialect (`ebnf.py`)."""

from __future__ import annotations

from .....lang.errors import ConstraintError
from .....lang.pattern import PatternError, chars, plain
from .....lang.pattern.chars import Ranges
from .....lang.pattern.nodes import Alt, Chars, Concat, PatternNode, Repeat, size

MOST_PATTERN_CHARACTERS = 100_000
"""Characters that a pattern may span once its repeats are written out."""


def spelled_pattern(node: PatternNode) -> str:
    """The grammar of a regular pattern. Raises `ConstraintError` for one that is too large, or that nothing matches."""
    try:
        node = plain(node)
    except PatternError as error:
        raise ConstraintError(str(error)) from error
    if size(node) > (most := MOST_PATTERN_CHARACTERS):
        raise ConstraintError(f"the pattern spans {size(node):,} characters; at most {most:,} are taken")
    return f"root ::= {_spelled(node)}"


def _spelled(node: PatternNode) -> str:
    if isinstance(node, Chars):
        if not node.ranges:
            raise ConstraintError("no text matches the pattern")
        return spelled_class(node.ranges)
    if isinstance(node, Concat):
        return " ".join(map(_spelled, node.parts)) if node.parts else '""'
    if isinstance(node, Alt):
        return "(" + " | ".join(map(_spelled, node.parts)) + ")"
    assert isinstance(node, Repeat)
    count = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
    if count is None:
        count = f"{{{node.low},{'' if node.high is None else node.high}}}"
    inner = _spelled(node.node)
    return f"({inner}){count}" if isinstance(node.node, (Concat, Repeat)) else inner + count


def spelled_class(ranges: Ranges) -> str:
    """A class of characters, which is not empty."""
    (low, high), *more = ranges
    if low == high and not more:
        return f'"{spelled_character(low)}"'
    others = chars.negated(ranges)
    if others and others[-1][1] < 0x80:
        return f"[^{_members(others)}]"
    return f"[{_members(ranges)}]"


def _members(ranges: Ranges) -> str:
    return "".join(
        spelled_character(low) if low == high else f"{spelled_character(low)}-{spelled_character(high)}"
        for low, high in ranges
    )


def spelled_character(code: int) -> str:
    """A character in a text or a class. Not as \\xHH: xgrammar would take further hexadecimal digits for its own."""
    char = chr(code)
    if code < 0x7F and (char.isalnum() or char in " _,;:<>=!@%&~`"):
        return char
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
