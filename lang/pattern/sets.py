"""What can be said of a regular language without an engine: whether it is empty, how it begins, its shortest text.

Knows nothing of syntax. All is decided by derivatives (Brzozowski 1964): the derivative of a language by a character is
what may follow that character. It is a tree again, so `Both` and `Not` cost nothing extra. A language has finitely many
derivatives but maybe very many, so each caller sets a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ..kept import kept
from . import chars as chars
from .chars import Ranges
from .nodes import (
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
    repeated,
    sequence,
)

MOST_STATES = 20_000
"""Derivatives of one language that are explored before it is called too large."""
_MOST_CHARS = 1_000_000
"""Of a shortest text: a longer one could not be generated."""
_READABLE = ("a", "A", "0", " ", "-", ".", "_")


class Derivatives:
    """The derivatives of languages, each computed once."""

    def __init__(self) -> None:
        self._nullable: dict[PatternNode, bool] = {}
        self._steps: dict[tuple[PatternNode, int], PatternNode] = {}
        self._parts: dict[PatternNode, list[Ranges]] = {}
        self._partitions: dict[frozenset[Ranges], list[Ranges]] = {}

    @property
    def size(self) -> int:
        """About the bytes that they take, as measured."""
        return 200 * len(self._steps) + 300 * len(self._nullable)

    def nullable(self, node: PatternNode) -> bool:
        """Whether the empty text is in the language."""
        known = self._nullable.get(node)
        if known is None:
            known = self._nullable[node] = self._is_nullable(node)
        return known

    def _is_nullable(self, node: PatternNode) -> bool:
        if isinstance(node, Concat):
            return all(self.nullable(part) for part in node.parts)
        if isinstance(node, Alt):
            return any(self.nullable(part) for part in node.parts)
        if isinstance(node, Repeat):
            return node.low == 0 or self.nullable(node.node)
        if isinstance(node, Both):
            return self.nullable(node.left) and self.nullable(node.right)
        return isinstance(node, Not) and not self.nullable(node.node)

    def step(self, node: PatternNode, code: int) -> PatternNode:
        """The derivative: what may follow the character `code`."""
        known = self._steps.get((node, code))
        if known is None:
            known = self._steps[node, code] = self._derivative(node, code)
        return known

    def _derivative(self, node: PatternNode, code: int) -> PatternNode:
        if isinstance(node, Chars):
            return EMPTY if chars.contains(node.ranges, code) else NOTHING
        if isinstance(node, Concat):
            ways = []
            for i, part in enumerate(node.parts):
                after = self.step(part, code)
                if after != NOTHING:
                    ways.append(sequence([after, *node.parts[i + 1 :]]))
                if not self.nullable(part):
                    break
            return ordered(ways)
        if isinstance(node, Alt):
            return ordered([self.step(part, code) for part in node.parts])
        if isinstance(node, Repeat):
            high = None if node.high is None else node.high - 1
            return sequence([self.step(node.node, code), repeated(node.node, max(node.low - 1, 0), high)])
        if isinstance(node, Both):
            return both(self.step(node.left, code), self.step(node.right, code))
        return complement(self.step(node.node, code)) if isinstance(node, Not) else NOTHING

    def parts(self, node: PatternNode) -> list[Ranges]:
        """Partition all characters so that those of one part lead to the same derivative."""
        known = self._parts.get(node)
        if known is None:
            sets: dict[Ranges, None] = {}
            self._edges(node, sets)
            among = frozenset(sets)
            if among not in self._partitions:
                self._partitions[among] = chars.partition(sets)
            known = self._parts[node] = self._partitions[among]
        return known

    def _edges(self, node: PatternNode, sets: dict[Ranges, None]) -> None:
        if isinstance(node, Chars):
            sets[node.ranges] = None
        elif isinstance(node, Concat):
            for part in node.parts:
                self._edges(part, sets)
                if not self.nullable(part):
                    break
        else:
            for child in children(node):
                self._edges(child, sets)

    def after(self, node: PatternNode) -> Iterator[tuple[Ranges, PatternNode]]:
        """Pair each part of the characters with its derivative; parts that lead to `NOTHING` are left out."""
        for part in self.parts(node):
            following = self.step(node, part[0][0])
            if following != NOTHING:
                yield part, following

    def states(self, node: PatternNode, limit: int, breadth: bool = False) -> Iterator[PatternNode]:
        """Yield the node and all its derivatives. Raises `PatternError` beyond `limit` of them."""
        seen = {node}
        pending = deque([node])
        while pending:
            state = pending.popleft() if breadth else pending.pop()
            yield state
            for _, following in self.after(state):
                if following not in seen:
                    if len(seen) >= limit:
                        raise PatternError("the pattern is too large to analyse", None, "simplify it")
                    seen.add(following)
                    pending.append(following)


def ordered(nodes: list[PatternNode]) -> PatternNode:
    """Join alternatives in an order of their own, so that equal sets of nodes make equal nodes."""
    node = either(nodes)
    return Alt(tuple(sorted(node.parts, key=hash))) if isinstance(node, Alt) else node


@no_deeper
def nullable(node: PatternNode) -> bool:
    """Whether the empty text is in the language."""
    return Derivatives().nullable(node)


@no_deeper
def accepts(node: PatternNode, text: str) -> bool:
    """Whether the text is in the language."""
    walk = Derivatives()
    for c in text:
        node = walk.step(node, ord(c))
        if node == NOTHING:
            return False
    return walk.nullable(node)


@no_deeper
def is_empty(node: PatternNode) -> bool:
    """Whether no text at all is in the language. Raises `PatternError` where that is too hard to say."""
    if isinstance(node, Chars):
        return not node.ranges
    if isinstance(node, Concat):
        return any(is_empty(part) for part in node.parts)
    if isinstance(node, Alt):
        return all(is_empty(part) for part in node.parts)
    if isinstance(node, Repeat):
        return node.low > 0 and is_empty(node.node)
    return _is_empty(node, MOST_STATES)


def _is_empty(node: PatternNode, limit: int) -> bool:
    walk = Derivatives()
    return not any(walk.nullable(state) for state in walk.states(node, limit))


@no_deeper
def disjoint(a: PatternNode, b: PatternNode, limit: int = 5000) -> bool | None:
    """Whether no text is in both languages. None: not known after `limit` states."""
    walk = Derivatives()
    if walk.nullable(a) and walk.nullable(b):
        return False
    try:
        return _is_empty(both(a, b), limit)
    except PatternError:
        return None


def included(a: PatternNode, b: PatternNode, limit: int = 5000) -> bool | None:
    """Whether each text of `a` is in `b`. None: not known after `limit` states."""
    return disjoint(a, complement(b), limit)


@no_deeper
def first(node: PatternNode) -> Chars:
    """The characters that a text of the language may begin with, or more where a later part matches nothing."""
    return Chars(_first(node, Derivatives()))


def _first(node: PatternNode, walk: Derivatives) -> Ranges:
    if isinstance(node, Chars):
        return node.ranges
    if isinstance(node, (Both, Not)):
        return chars.union(pair for part, after in walk.after(node) if not _surely_empty(after) for pair in part)
    found: list[tuple[int, int]] = []
    for child in children(node):
        found += _first(child, walk)
        if isinstance(node, Concat) and not walk.nullable(child):
            break
    return chars.union(found)


def _surely_empty(node: PatternNode) -> bool:
    try:
        return _is_empty(node, 2000)
    except PatternError:
        return False


@no_deeper
def follows(node: PatternNode) -> Chars:
    """The characters that may follow a text of the language in a longer one (or more, for huge languages)."""
    walk = Derivatives()
    found = _follows(node, walk)
    if found is None:
        try:
            ends = [state for state in walk.states(node, 2000) if walk.nullable(state)]
            found = chars.union(pair for state in ends for pair in _first(state, walk))
        except PatternError:
            found = _letters(node)
    return Chars(found)


def _follows(node: PatternNode, walk: Derivatives) -> Ranges | None:
    """`follows`, from the parts of a node; None where a text may be read in several ways."""
    if isinstance(node, Chars):
        return ()
    if isinstance(node, Alt):
        return _follows_one_of(node, walk)
    if isinstance(node, Concat):
        return _follows_last(node, walk)
    if isinstance(node, Repeat) and isinstance(node.node, Chars):
        return node.node.ranges if node.low != node.high else ()
    return None


def _follows_one_of(node: Alt, walk: Derivatives) -> Ranges | None:
    firsts = [_first(part, walk) for part in node.parts]
    starts = [pair for ranges in firsts for pair in ranges]
    if sum(map(_count, firsts)) != _count(chars.union(starts)):
        return None  # two alternatives begin alike
    parts = [_follows(part, walk) for part in node.parts]
    found = [pair for ranges in parts for pair in ranges or ()]
    return None if None in parts else chars.union(found + (starts if walk.nullable(node) else []))


def _follows_last(node: Concat, walk: Derivatives) -> Ranges | None:
    """`_follows` of a sequence, from the right: `behind` may follow the parts seen so far, `begins` may begin them."""
    behind: Ranges = ()
    begins: Ranges = ()
    empty = True
    for part in reversed(node.parts):
        own = _follows(part, walk)
        if own is None or chars.intersection(own, begins):
            return None
        behind = chars.union([*behind, *own]) if empty else behind
        begins = chars.union([*_first(part, walk), *(begins if walk.nullable(part) else ())])
        empty = empty and walk.nullable(part)
    return behind


def _count(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _letters(node: PatternNode) -> Ranges:
    if isinstance(node, Not):
        return chars.ALL
    return (
        node.ranges if isinstance(node, Chars) else chars.union(p for child in children(node) for p in _letters(child))
    )


@no_deeper
def shortest(node: PatternNode) -> str | None:
    """A shortest text of the language, in readable characters where there are some; None if the language is empty."""
    if isinstance(node, Chars):
        return readable(node.ranges) if node.ranges else None
    if isinstance(node, Concat):
        texts = [shortest(part) for part in node.parts]
        return None if None in texts else "".join(text for text in texts if text is not None)
    if isinstance(node, Alt):
        found = [text for text in map(shortest, node.parts) if text is not None]
        return min(found, key=len) if found else None
    if isinstance(node, Repeat):
        text = shortest(node.node) if node.low else ""
        if text and len(text) * node.low > _MOST_CHARS:
            raise PatternError(f"the shortest text has over {_MOST_CHARS:,} characters", None, "use smaller counts")
        return text if text is None else text * node.low
    return _search(node)


def _search(node: PatternNode) -> str | None:
    walk = Derivatives()
    came: dict[PatternNode, tuple[PatternNode, Ranges] | None] = {node: None}
    for state in walk.states(node, MOST_STATES, breadth=True):
        if walk.nullable(state):
            text = ""
            while (step := came[state]) is not None:
                state, part = step
                text = readable(part) + text
            return text
        for part, following in walk.after(state):
            came.setdefault(following, (state, part))
    return None


@kept(4096)
def readable(ranges: Ranges) -> str:
    """One character of a set."""
    for c in _READABLE:
        if chars.contains(ranges, ord(c)):
            return c
    visible = chars.intersection(ranges, ((33, 126),)) or chars.intersection(ranges, ((0xA1, chars.LAST),)) or ranges
    return chr(visible[0][0])
