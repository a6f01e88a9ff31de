"""Regular languages as text for the grammar engines.

Knows nothing of how a node was read. Only literals, explicit sets, `|`, groups and counts are written: nothing that an
engine could understand differently.
"""

from __future__ import annotations

from itertools import groupby

from ..kept import kept
from . import chars as chars
from .automaton import plain
from .chars import Ranges
from .nodes import (
    ANY_CHAR,
    EMPTY,
    Alt,
    Both,
    Chars,
    Concat,
    Not,
    PatternError,
    PatternNode,
    Repeat,
    children,
    no_deeper,
)

_MARKED = frozenset("\\^$.|?*+()[]{}-/#&~")
_MOST_LEVELS = 240
"""Groups within groups, and what is in them: the regex parser of the engines stops at 250."""
_CHOICE, _SEQUENCE, _REPEAT, _ATOM = range(4)


@no_deeper
def to_rust(node: PatternNode) -> str:
    """Write a node in Rust's regex syntax. Raises `PatternError` for intersections and complements (see `plain`)."""
    return _rust(within_depth(node), _CHOICE)


@no_deeper
def to_lark(node: PatternNode) -> str:
    """Write a node as a terminal of llguidance's Lark dialect: one `/regex/` where the node is plain."""
    return _lark(within_depth(node), _CHOICE)


@no_deeper
def to_schema_pattern(node: PatternNode) -> str:
    """Write a node as a `pattern` of llguidance's JSON Schema, which is searched for: anchored at both ends."""
    return f"^(?:{to_rust(plain(node))})$"


def _rust(node: PatternNode, level: int) -> str:
    """Write a node. `level`: how tightly the text around it binds; looser text gets a group."""
    if isinstance(node, Chars):
        return _set(node.ranges)
    if isinstance(node, Repeat):
        own, text = _REPEAT, _rust(node.node, _ATOM) + _count(node)
    elif isinstance(node, Concat):
        own, text = (_SEQUENCE if node.parts else _CHOICE), "".join(_rust(part, _SEQUENCE) for part in node.parts)
    elif isinstance(node, Alt):
        own, text = _CHOICE, "|".join(_rust(part, _CHOICE) for part in node.parts)
    else:
        raise PatternError("an intersection or complement: not in this dialect", None, "make it plain first")
    return text if own >= level else f"(?:{text})"


def _count(node: Repeat) -> str:
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
    if simple is not None:
        return simple
    return f"{{{node.low}}}" if node.low == node.high else f"{{{node.low},{'' if node.high is None else node.high}}}"


@kept(4096)
def _set(ranges: Ranges) -> str:
    if not ranges:
        raise PatternError("a set without characters", None, "leave it out")
    if ranges == ANY_CHAR.ranges:
        return "(?s:.)"
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _character(ranges[0][0])
    others = chars.negated(ranges)
    return f"[^{_members(others)}]" if len(others) < len(ranges) else f"[{_members(ranges)}]"


def _members(ranges: Ranges) -> str:
    return "".join(
        _character(low) if low == high else f"{_character(low)}{'-' if high > low + 1 else ''}{_character(high)}"
        for low, high in ranges
    )


def _character(code: int) -> str:
    if not 0x20 <= code <= 0x7E:
        return f"\\x{{{code:x}}}"
    return ("\\" if chr(code) in _MARKED else "") + chr(code)


@no_deeper
def within_depth(node: PatternNode) -> PatternNode:
    """Check that the engines can read a node: they take only so many groups within groups. Returns the node."""
    depths: dict[PatternNode, int] = {}

    def depth(node: PatternNode) -> int:
        if node not in depths:
            below = max((depth(child) for child in children(node)), default=0)
            depths[node] = below + (1 if isinstance(node, (Chars, Concat)) else 3)  # a group, and what is in it
        return depths[node]

    if depth(node) > _MOST_LEVELS:
        raise PatternError("the pattern is nested too deeply", None, "use fewer levels of groups")
    return node


def _lark(node: PatternNode, level: int) -> str:
    if node == EMPTY:
        return '""'
    if node.plain:
        return _regex(node)
    if isinstance(node, Repeat):
        own, text = _REPEAT, _lark(node.node, _ATOM) + _count(node)
    elif isinstance(node, Not):
        own, text = _REPEAT, "~" + _lark(node.node, _ATOM)
    elif isinstance(node, Both):
        own, text = _CHOICE, " & ".join(_lark(part, _ATOM) for part in _joined(node))
    elif isinstance(node, Concat):
        own, text = _SEQUENCE, " ".join(_runs(node))
    else:
        own, text = _CHOICE, " | ".join(_gathered(node))
    return text if own >= level else f"({text})"


def _joined(node: PatternNode) -> list[PatternNode]:
    return [*_joined(node.left), *_joined(node.right)] if isinstance(node, Both) else [node]


def _runs(node: Concat) -> list[str]:
    """Write the parts of a sequence, neighbouring plain ones as one."""
    texts: list[str] = []
    for plain_run, parts in groupby(node.parts, lambda part: part.plain):
        run = tuple(parts)
        texts += [_regex(Concat(run))] if plain_run else [_lark(part, _REPEAT) for part in run]
    return texts


def _gathered(node: PatternNode) -> list[str]:
    """Write the alternatives, the plain ones as one."""
    simple = tuple(part for part in children(node) if part.plain)
    others = [_lark(part, _SEQUENCE) for part in children(node) if not part.plain]
    return [_regex(Alt(simple)), *others] if simple else others


def _regex(node: PatternNode) -> str:
    return f"/(?:{_rust(node, _CHOICE)})/"
