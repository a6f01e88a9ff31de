"""Anchors and lookarounds, rewritten as intersections.

Knows nothing of syntax. Every anchor, word edge and lookaround says that the whole text before or behind it is in some
language: `Left(L)`, `Right(L)`. `x Right(L) y` is `x (y & L)`, and `x Left(L) y` is `(x & L) y`.

1. Alternatives with marks are distributed into lines: sequences of unmarked nodes with marks between them.
2. In a line, a mark that sees only a few characters is joined with those only, so that the intersection stays small.
3. Two marks whose stretches cross, and marks in a repeat, have no such form. Then the whole becomes an automaton, if it
   is small enough (`loops.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kept import kept
from . import chars as chars
from .automaton import plain
from .loops import unmarked
from .marks import Atomic, Left, Mark, Right, longest_length, shortest_length
from .nodes import (
    ANY_TEXT,
    EMPTY,
    NOTHING,
    Alt,
    Both,
    Chars,
    Concat,
    Not,
    PatternError,
    PatternNode,
    Repeat,
    both,
    children,
    complement,
    either,
    no_deeper,
    rebuilt,
    repeated,
    sequence,
    size,
)
from .sets import disjoint, follows, included, nullable

MOST_LINES = 64
"""Of a node: each alternative with a mark multiplies them."""
_NARROWING_STATES = 48
_NARROWED_STATES = 12
"""States explored to decide an intersection, and to write it out: what takes more stays an intersection."""


class _Crossing(Exception):
    """Two marks have no form as nested intersections."""


@no_deeper
def resolve(node: PatternNode) -> PatternNode:
    """Rewrite a node without marks, for whole texts. Raises `PatternError` for what no engine can enforce."""
    node = _plain_atoms(node, EMPTY)
    if not node.marked:
        return node
    try:
        return _whole(node, False, False)
    except _Crossing:
        return unmarked(_settled(node))


def _settled(node: PatternNode) -> PatternNode:
    """Rewrite a node so that its lookbehinds have no marks."""
    if isinstance(node, Left):
        return Left(_behind(node), node.position)
    return Right(_settled(node.node), node.position) if isinstance(node, Right) else rebuilt(node, _settled)


def _behind(mark: Left) -> PatternNode:
    """Rewrite a lookbehind without marks. It must not depend on the text that follows it."""
    try:
        return _whole(mark.node, False, True)
    except _Crossing:
        hint = "say in the pattern itself what may stand there"
        raise PatternError("a lookahead or $ within a lookbehind", mark.position, hint) from None


# --- possessive quantifiers and atomic groups -------------------------------------------------------------------------


def _plain_atoms(node: PatternNode, behind: PatternNode) -> PatternNode:
    """Replace each `Atomic` by its content, if the language stays the same. `behind`: what follows the node."""
    if isinstance(node, Atomic):
        body = _plain_atoms(node.node, behind)
        if body.marked or not _same_as_atomic(body, behind):
            raise PatternError(
                "possessive quantifier or atomic group: it matches less than the plain one would",
                node.position,
                "make what follows begin with other characters, or leave the + or ?> out",
            )
        return body
    if isinstance(node, Concat):
        parts: list[PatternNode] = []
        for part in reversed(node.parts):
            parts.append(_plain_atoms(part, behind))
            behind = sequence([parts[-1], behind])
        return sequence(reversed(parts))
    if isinstance(node, Alt):
        return either(_plain_atoms(part, behind) for part in node.parts)
    if isinstance(node, Repeat):
        again = either([node.node, behind]) if node.high != 1 else behind
        return repeated(_plain_atoms(node.node, again), node.low, node.high)
    if isinstance(node, Not):
        return complement(_plain_atoms(node.node, EMPTY))
    return type(node)(_plain_atoms(node.node, EMPTY), node.position) if isinstance(node, Mark) else node


def _same_as_atomic(body: PatternNode, behind: PatternNode) -> bool:
    """Whether the first match of the body is the only one that `behind` can follow.

    That holds if no text of the body begins another one. It also holds if the body repeats such texts and `behind`
    begins with other characters.
    """
    goes_on = follows(body).ranges
    if not goes_on:
        return True
    even = isinstance(body, Repeat) and not follows(body.node).ranges
    return even and not chars.intersection(goes_on, _begins(behind))


def _begins(node: PatternNode) -> chars.Ranges:
    """The characters that a node with marks may begin with, or more."""
    if isinstance(node, Atomic):
        return _begins(node.node)
    if isinstance(node, Mark):
        return ()
    if isinstance(node, Chars):
        return node.ranges
    found: list[tuple[int, int]] = []
    for child in children(node):
        found += _begins(child)
        if isinstance(node, Concat) and shortest_length(child):
            break
    return chars.union(found)


# --- anchors and lookarounds ------------------------------------------------------------------------------------------


def _whole(node: PatternNode, open_left: bool, open_right: bool) -> PatternNode:
    """Rewrite a node without its marks. Open: the text goes on at that side, and a mark must not look there."""
    if not node.marked:
        return node
    if isinstance(node, Not):
        return complement(_whole(node.node, open_left, open_right))
    lines = _lines(node, MOST_LINES)
    return either([_line(line, open_left, open_right) for line in lines])


def _lines(node: PatternNode, limit: int) -> list[list[PatternNode]]:
    """Distribute a node into alternatives, each a sequence of unmarked nodes and marks."""
    if isinstance(node, Mark) or not node.marked:
        return [list(node.parts) if isinstance(node, Concat) else [node]]
    lines: list[list[PatternNode]] = []
    if isinstance(node, Alt):
        plain = [part for part in node.parts if not part.marked]
        lines = [[either(plain)]] if plain else []
        for part in node.parts:
            lines += _lines(part, limit) if part.marked else []
    elif isinstance(node, Concat):
        lines = [[]]
        for part in node.parts:
            ends = _lines(part, limit)
            if len(lines) * len(ends) > limit:
                raise _Crossing
            lines = [line + end for line in lines for end in ends]
    elif isinstance(node, Repeat) and (node.high == 1 or longest_length(node.node) == 0):
        lines = ([] if node.low else [[]]) + _lines(node.node, limit)  # (?=a)+ is (?=a)
    else:
        raise _Crossing
    if len(lines) > limit:
        raise _Crossing
    return lines


@dataclass
class _Stretch:
    """Parts `start` to `end` of a line are, as one text, in a language."""

    start: int
    end: int
    node: PatternNode


def _line(line: list[PatternNode], open_left: bool, open_right: bool) -> PatternNode:
    parts = [item for item in line if not isinstance(item, Mark)]
    stretches: list[_Stretch] = []
    at = 0
    for item in line:
        if not isinstance(item, (Left, Right)):
            at += 1
            continue
        ahead = isinstance(item, Right)
        more = (open_right and at == len(parts)) if ahead else (open_left and at == 0)
        inner = _whole(item.node, open_left or at > 0, open_right) if isinstance(item, Right) else _behind(item)
        side = parts[at:] if ahead else parts[:at]
        if not side and not more:
            if not nullable(inner):
                return NOTHING
            continue
        sight = _sight(inner, ahead)
        if sight == 0:
            if not nullable(inner):
                return NOTHING
            continue
        used = _seen(sight, side if ahead else side[::-1], open_right if ahead else open_left)
        stretches.append(_Stretch(at, at + used, inner) if ahead else _Stretch(at - used, at, inner))
    return _nested(parts, stretches, 0, len(parts))


def _seen(sight: int | None, side: list[PatternNode], is_open: bool) -> int:
    """Count the parts on its side that a mark can see."""
    length = 0
    for used, part in enumerate(side):
        if sight is not None and length >= sight:
            return used
        length += shortest_length(part)
    if is_open and (sight is None or length < sight):
        raise _Crossing
    return len(side)


def _sight(node: PatternNode, ahead: bool) -> int | None:
    """Count the first (or last) characters that decide whether a text is in the language; None: all do."""
    if isinstance(node, Not):
        return _sight(node.node, ahead)
    if isinstance(node, (Alt, Both)):
        sights = [_sight(child, ahead) for child in children(node)]
        return None if None in sights else max(sight for sight in sights if sight is not None)
    if node == ANY_TEXT:
        return 0
    if isinstance(node, Concat) and node.parts and node.parts[-1 if ahead else 0] == ANY_TEXT:
        return longest_length(Concat(node.parts[:-1] if ahead else node.parts[1:]))
    longest = longest_length(node)
    return None if longest is None else longest + 1


def _nested(parts: list[PatternNode], stretches: list[_Stretch], start: int, end: int) -> PatternNode:
    """Join the parts from `start` to `end`, intersected with the languages of the stretches in them."""
    outer = [s.node for s in stretches if (s.start, s.end) == (start, end)]
    inner = sorted((s for s in stretches if (s.start, s.end) != (start, end)), key=lambda s: (s.start, -s.end))
    pieces: list[PatternNode] = []
    at = start
    while inner:
        widest = inner[0]
        below = [s for s in inner if s.start < widest.end]
        if any(s.end > widest.end for s in below):
            raise _Crossing
        pieces += parts[at : widest.start]
        pieces.append(_nested(parts, below, widest.start, widest.end))
        at = widest.end
        inner = inner[len(below) :]
    node = sequence([*pieces, *parts[at:end]])
    for language in outer:
        node = narrowed(node, language)
    return node


@kept(1024)
def narrowed(node: PatternNode, language: PatternNode) -> PatternNode:
    """`node & language`, as a plain node where that is no larger."""
    if included(node, language, _NARROWING_STATES):
        return node
    if disjoint(node, language, _NARROWING_STATES):
        return NOTHING
    joined = both(node, language)
    if isinstance(joined, (Both, Not)) and node.plain:
        try:
            found = plain(joined, _NARROWED_STATES)
        except PatternError:
            return joined
        return found if size(found) <= 2 * size(node) + 4 else joined
    return joined
