"""Marks: conditions on the text around a place. They stand for anchors, lookarounds and atomic groups in a tree.

Knows nothing of syntax. `context.py` rewrites the marks that a reader leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from .nodes import Alt, Both, Chars, Concat, Not, PatternNode, Repeat, children


@dataclass(frozen=True, slots=True, eq=False)
class Mark(PatternNode):
    """Matches the empty text where a condition holds. A tree that is given out has none."""

    node: PatternNode
    position: int | None = None

    def __post_init__(self) -> None:
        self.note(self.node, (self.node,), marked=True)


class Left(Mark):
    """The text before is in the language."""

    __slots__ = ()


class Right(Mark):
    """The text that follows, to its very end, is in the language."""

    __slots__ = ()


class Atomic(Mark):
    """The node with only the first of its matches tried."""

    __slots__ = ()


def marks(node: PatternNode) -> list[Mark]:
    """List the marks in a node, outermost first."""
    if isinstance(node, Mark):
        return [node, *marks(node.node)]
    return [mark for child in children(node) for mark in marks(child)]


def shortest_length(node: PatternNode) -> int:
    """Length of a shortest text, or less."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Concat):
        return sum(map(shortest_length, node.parts))
    if isinstance(node, Alt):
        return min(map(shortest_length, node.parts))
    if isinstance(node, Repeat):
        return node.low * shortest_length(node.node)
    return max(shortest_length(node.left), shortest_length(node.right)) if isinstance(node, Both) else 0


def longest_length(node: PatternNode) -> int | None:
    """Length of a longest text, or more; None: there is no longest."""
    if isinstance(node, Mark):
        return longest_length(node.node) if isinstance(node, Atomic) else 0
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Not):
        return None
    if isinstance(node, Repeat):
        longest = longest_length(node.node)
        return 0 if longest == 0 else None if node.high is None or longest is None else longest * node.high
    lengths = [longest_length(child) for child in children(node)]
    known = [length for length in lengths if length is not None]
    if isinstance(node, Both):
        return min(known, default=None)
    return None if len(known) < len(lengths) else sum(known) if isinstance(node, Concat) else max(known)
