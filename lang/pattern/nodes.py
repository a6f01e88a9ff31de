"""The trees of regular languages: sets of characters, concatenation, alternatives, repeats, intersection, complement.

Knows nothing of syntax.

1. A node is the set of texts it matches. Nodes are immutable, equal by content, and keep their hash: cheap keys.
2. The constructors (`sequence`, `either`, `repeated`, `both`, `complement`) flatten a node, drop what has no effect,
   and let what matches nothing take its neighbours with it. Code outside this module makes nodes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from ..kept import kept
from . import chars as chars
from .chars import Ranges

MOST_POSITIONS = 10**9
"""A size is not counted further: every caller refuses far less."""
_MOST_TRIE_LEVELS = 40
"""Deeper texts are listed whole: each level is a group, and engines take only so many (`print.py`)."""

P = ParamSpec("P")
T = TypeVar("T")


class PatternError(ValueError):
    """A pattern is wrong, or cannot be enforced.

    `.message` says what; `.position` is an index into the pattern (None: the whole pattern); `.hint` says what to do.
    """

    def __init__(self, message: str, position: int | None = None, hint: str = "") -> None:
        self.message, self.position, self.hint = message, position, hint
        where = "" if position is None else f" at position {position}"
        what, colon, why = message.partition(": ")
        super().__init__(f"{what}{where}{colon}{why}" + (f"; {hint}" if hint else ""))


def no_deeper(function: Callable[P, T]) -> Callable[P, T]:
    """Make `function`, a walk over a tree, raise `PatternError` where it would raise `RecursionError`."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RecursionError:
            raise PatternError("the pattern is nested too deeply", None, "use fewer levels of groups") from None

    return guarded


@dataclass(frozen=True, slots=True, eq=False)
class PatternNode:
    """Base of the nodes. It keeps what is asked often: content, hash, plainness, marks."""

    _content: Hashable = field(init=False, repr=False)
    _hash: int = field(init=False, repr=False)
    plain: bool = field(init=False, repr=False)
    """Whether the node has no `Both` and no `Not`."""
    marked: bool = field(init=False, repr=False)
    """Whether the node has a mark (`marks.py`)."""

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: Any) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        return bool(self._hash == other._hash and self._content == other._content)

    def note(self, content: Hashable, below: tuple[PatternNode, ...], plain: bool = True, marked: bool = False) -> None:
        """Keep what is known of a node. `plain`, `marked`: of the node itself, without its children `below`."""
        object.__setattr__(self, "_content", content)
        object.__setattr__(self, "_hash", hash((type(self), content)))
        object.__setattr__(self, "plain", plain and all(child.plain for child in below))
        object.__setattr__(self, "marked", marked or any(child.marked for child in below))


@dataclass(frozen=True, slots=True, eq=False)
class Chars(PatternNode):
    """One character of a set: sorted, disjoint code point ranges without surrogates. The empty set matches nothing."""

    ranges: Ranges

    def __post_init__(self) -> None:
        self.note(self.ranges, ())


@dataclass(frozen=True, slots=True, eq=False)
class Concat(PatternNode):
    """The parts, one after the other. `Concat(())` is the empty text."""

    parts: tuple[PatternNode, ...]

    def __post_init__(self) -> None:
        self.note(self.parts, self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class Alt(PatternNode):
    """Any one of the parts."""

    parts: tuple[PatternNode, ...]

    def __post_init__(self) -> None:
        self.note(self.parts, self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(PatternNode):
    """`low` to `high` times the node; `high` None: any number."""

    node: PatternNode
    low: int
    high: int | None

    def __post_init__(self) -> None:
        self.note((self.node, self.low, self.high), (self.node,))


@dataclass(frozen=True, slots=True, eq=False)
class Both(PatternNode):
    """The texts that both nodes match."""

    left: PatternNode
    right: PatternNode

    def __post_init__(self) -> None:
        self.note((self.left, self.right), (self.left, self.right), plain=False)


@dataclass(frozen=True, slots=True, eq=False)
class Not(PatternNode):
    """Every text that the node does not match."""

    node: PatternNode

    def __post_init__(self) -> None:
        self.note(self.node, (self.node,), plain=False)


ANY_CHAR = Chars(chars.ALL)
ANY_TEXT = Repeat(ANY_CHAR, 0, None)
EMPTY = Concat(())
NOTHING = Chars(())


def literal(text: str) -> PatternNode:
    """Make the node of one text."""
    return _one(text) if len(text) == 1 else Concat(tuple(map(_one, text)))


@lru_cache(maxsize=4096)
def _one(char: str) -> Chars:
    return Chars(chars.of(char))


def sequence(nodes: Iterable[PatternNode]) -> PatternNode:
    """Join nodes one after the other."""
    parts: list[PatternNode] = []
    for node in nodes:
        if node == NOTHING:
            return NOTHING
        if isinstance(node, Concat):
            parts += node.parts
        elif not (node == ANY_TEXT and parts and parts[-1] == ANY_TEXT):
            parts.append(node)
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def either(nodes: Iterable[PatternNode]) -> PatternNode:
    """Join nodes as alternatives. Those of one character become one set."""
    parts: dict[PatternNode, None] = {}
    single: list[Ranges] = []
    for node in nodes:
        for part in node.parts if isinstance(node, Alt) else (node,):
            if isinstance(part, Chars):
                if part.ranges and not single:
                    parts[NOTHING] = None  # holds the place of the set
                single += [part.ranges] if part.ranges else []
            else:
                parts[part] = None
    if ANY_TEXT in parts:
        return ANY_TEXT
    merged = Chars(chars.union(pair for ranges in single for pair in ranges)) if single else NOTHING
    listed = tuple(merged if part is NOTHING else part for part in parts)
    return NOTHING if not listed else listed[0] if len(listed) == 1 else Alt(listed)


def repeated(node: PatternNode, low: int, high: int | None) -> PatternNode:
    """Repeat a node `low` to `high` times (None: any number)."""
    if high == 0 or node == EMPTY:
        return EMPTY
    if node == NOTHING:
        return NOTHING if low else EMPTY
    if low == 1 and high == 1:
        return node
    if isinstance(node, Repeat) and node.low <= 1 and node.high is None and (high is None or node.low == 0):
        return Repeat(node.node, low * node.low, None)  # (x*)*, (x+)+, (x*)?
    if isinstance(node, Repeat) and (node.low, node.high, low) == (0, 1, 0):
        return Repeat(node.node, 0, high)  # (x?)*
    return Repeat(node, low, high)


def both(a: PatternNode, b: PatternNode) -> PatternNode:
    """Intersect two languages."""
    if a in (b, NOTHING) or b == ANY_TEXT:
        return a
    if a == ANY_TEXT or b == NOTHING:
        return b
    if isinstance(a, Chars) and isinstance(b, Chars):
        return Chars(chars.intersection(a.ranges, b.ranges))
    if a == Not(b) or b == Not(a):
        return NOTHING
    return Both(a, b)


def complement(node: PatternNode) -> PatternNode:
    """Make the node of every text that `node` does not match."""
    if isinstance(node, Not):
        return node.node
    return ANY_TEXT if node == NOTHING else NOTHING if node == ANY_TEXT else Not(node)


def any_of(texts: Sequence[str]) -> PatternNode:
    """Make the node of some texts, with common beginnings written once."""
    return _of_texts(tuple(texts))


@kept(8)
def _of_texts(texts: tuple[str, ...]) -> PatternNode:
    return _trie(sorted(set(texts)), 0, 0)


def _trie(texts: Sequence[str], at: int, depth: int) -> PatternNode:
    """The node of what sorted texts, equal before `at`, have from there on."""
    if len(texts) == 1:
        return literal(texts[0][at:])
    if depth == _MOST_TRIE_LEVELS:
        return either(literal(text[at:]) for text in texts)
    branches: list[PatternNode] = []
    start = 0
    while start < len(texts):
        if len(texts[start]) == at:
            branches.append(EMPTY)
            start += 1
            continue
        end = start + 1
        while end < len(texts) and texts[end][at] == texts[start][at]:
            end += 1
        first, last = texts[start], texts[end - 1]
        shared = at + 1
        while shared < min(len(first), len(last)) and first[shared] == last[shared]:
            shared += 1
        branches.append(sequence([literal(first[at:shared]), _trie(texts[start:end], shared, depth + 1)]))
        start = end
    return either(branches)


@no_deeper
def size(node: PatternNode, known: dict[PatternNode, int] | None = None) -> int:
    """Count the characters of a pattern with its repeats written out, up to `MOST_POSITIONS`.

    `known` keeps counts between calls, for trees that share parts.
    """
    known = {} if known is None else known

    def measure(node: PatternNode) -> int:
        if node not in known:
            if isinstance(node, Chars):
                known[node] = 1
            elif isinstance(node, Repeat):
                times = max(node.low, 1) if node.high is None else node.high
                known[node] = min(measure(node.node) * times, MOST_POSITIONS)
            else:
                known[node] = min(sum(measure(child) for child in children(node)), MOST_POSITIONS)
        return known[node]

    return measure(node)


def rebuilt(node: PatternNode, change: Callable[[PatternNode], PatternNode]) -> PatternNode:
    """Replace each child of a node by `change(child)`."""
    if isinstance(node, Concat):
        return sequence([change(part) for part in node.parts])
    if isinstance(node, Alt):
        return either([change(part) for part in node.parts])
    if isinstance(node, Repeat):
        return repeated(change(node.node), node.low, node.high)
    if isinstance(node, Both):
        return both(change(node.left), change(node.right))
    return complement(change(node.node)) if isinstance(node, Not) else node


def children(node: PatternNode) -> tuple[PatternNode, ...]:
    if isinstance(node, (Concat, Alt)):
        return node.parts
    if isinstance(node, (Repeat, Not)):
        return (node.node,)
    return (node.left, node.right) if isinstance(node, Both) else ()
