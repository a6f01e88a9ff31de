"""Marks in repeats, and marks whose stretches cross: the automaton of a marked pattern.

Owns: the derivatives of trees with `Left` and `Right` in them. Knows nothing of syntax.

A marked node means something only together with all that comes behind it, so the derivative is taken of a node *and
its continuation* to the end of the text: `Right(L)` before a continuation is `L & continuation`. `Left(L)` is about the
text so far: with each character that goes by, each L is replaced by its derivative, and where the mark is reached it
holds if L has the empty text.
"""

from __future__ import annotations

from .automaton import Arrows, to_node
from .chars import Ranges, contains, partition
from .marks import Left, Mark, Right, marks
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
    repeated,
    sequence,
)
from .print import within_depth
from .sets import Derivatives, ordered

MOST_STATES = 200
MOST_WORK = 20_000


def unmarked(node: PatternNode) -> PatternNode:
    """The same language of whole texts without marks, as a plain node.

    Lookbehinds must have no marks in them. Raises `PatternError` if it takes too many states.
    """
    first_mark = marks(node)[0]
    walk = _Marked()
    numbers: dict[PatternNode, int] = {node: 0}
    arrows: Arrows = {}
    ends: set[int] = set()
    pending = [node]
    try:
        while pending:
            state = pending.pop()
            number = numbers[state]
            if walk.ends(state):
                ends.add(number)
            arrows[number] = []
            for part in walk.parts(state):
                following = walk.step(state, part[0][0])
                if following == NOTHING:
                    continue
                if following not in numbers:
                    if len(numbers) >= MOST_STATES:
                        raise PatternError("too many states")
                    numbers[following] = len(numbers)
                    pending.append(following)
                arrows[number].append((part, numbers[following]))
        return within_depth(to_node(arrows, ends))
    except (PatternError, RecursionError):
        raise PatternError(
            "an anchor or lookaround in a repeat, or among others like it: this is too much to enforce",
            first_mark.position,
            "move it out of the repeat, or say in the pattern itself what may stand there",
        ) from None


class _Marked:
    """Derivatives of whole texts with marks in them. Every node here reaches to the end of the text."""

    def __init__(self) -> None:
        self.walk = Derivatives()
        self.work = 0
        self.partitions: dict[tuple[Ranges, ...], list[Ranges]] = {}

    def _spend(self) -> None:
        self.work += 1
        if self.work > MOST_WORK:
            raise PatternError("too much work")

    def parts(self, node: PatternNode) -> list[Ranges]:
        sets: dict[Ranges, None] = {}
        pending = [node]
        seen: set[PatternNode] = set()
        while pending:
            top = pending.pop()
            if top in seen:
                continue
            seen.add(top)
            if isinstance(top, Chars):
                sets[top.ranges] = None
            pending += [top.node] if isinstance(top, Mark) else children(top)
        known = tuple(sets)
        if known not in self.partitions:
            self.partitions[known] = partition(known)
        return self.partitions[known]

    # --- the end of the text ------------------------------------------------------------------------------------------

    def ends(self, node: PatternNode) -> bool:
        """Whether the text may end here."""
        if isinstance(node, Mark):
            return self.ends(node.node)  # nothing behind: Right(L) asks the same of L as Left(L) does
        if isinstance(node, Concat):
            return all(self.ends(part) for part in node.parts)
        if isinstance(node, Alt):
            return any(self.ends(part) for part in node.parts)
        if isinstance(node, Repeat):
            return node.low == 0 or self.ends(node.node)
        if isinstance(node, Both):
            return self.ends(node.left) and self.ends(node.right)
        return isinstance(node, Not) and not self.ends(node.node)

    # --- one character ------------------------------------------------------------------------------------------------

    def step(self, node: PatternNode, code: int) -> PatternNode:
        return self._step(node, EMPTY, code, frozenset())

    def _step(
        self, node: PatternNode, behind: PatternNode, code: int, passed: frozenset[tuple[PatternNode, PatternNode]]
    ) -> PatternNode:
        """The derivative of `node behind`. `passed`: repeats that were entered at this very place."""
        self._spend()
        if isinstance(node, Concat):
            if not node.parts:
                return NOTHING if behind == EMPTY else self._step(behind, EMPTY, code, passed)
            return self._step(node.parts[0], sequence([*node.parts[1:], behind]), code, passed)
        if isinstance(node, Chars):
            return self._past(behind, code) if contains(node.ranges, code) else NOTHING
        if isinstance(node, Alt):
            return ordered([self._step(part, behind, code, passed) for part in node.parts])
        if isinstance(node, Repeat):
            return self._repeat(node, behind, code, passed)
        if isinstance(node, Left):
            return self._step(EMPTY, behind, code, passed) if self.walk.nullable(node.node) else NOTHING
        if isinstance(node, Right):
            seen = self._step(node.node, EMPTY, code, frozenset())
            return NOTHING if seen == NOTHING else both(seen, self._step(EMPTY, behind, code, passed))
        if behind != EMPTY:
            raise PatternError("an intersection in the middle")
        if isinstance(node, Both):
            return both(self._step(node.left, EMPTY, code, passed), self._step(node.right, EMPTY, code, passed))
        assert isinstance(node, Not)
        return complement(self._step(node.node, EMPTY, code, passed))

    def _repeat(
        self, node: Repeat, behind: PatternNode, code: int, passed: frozenset[tuple[PatternNode, PatternNode]]
    ) -> PatternNode:
        skip = self._step(EMPTY, behind, code, passed) if node.low == 0 else NOTHING
        if (node, behind) in passed:  # an iteration without a character: the same as none
            return skip
        high = None if node.high is None else node.high - 1
        again = repeated(node.node, max(node.low - 1, 0), high)
        ways = self._step(node.node, sequence([again, behind]), code, passed | {(node, behind)})
        return ordered([skip, ways])

    def _past(self, node: PatternNode, code: int) -> PatternNode:
        """The node once a character has gone by: all `Left` in it have seen one more."""
        self._spend()
        if not node.marked:
            return node
        if isinstance(node, Left):
            seen = self.walk.step(node.node, code)
            return EMPTY if seen == ANY_TEXT else NOTHING if seen == NOTHING else Left(seen, node.position)
        if isinstance(node, Right):
            seen = self._past(node.node, code)
            return NOTHING if seen == NOTHING else Right(seen, node.position)
        if isinstance(node, Concat):
            return sequence([self._past(part, code) for part in node.parts])
        if isinstance(node, Alt):
            return either([self._past(part, code) for part in node.parts])
        if isinstance(node, Repeat):
            return repeated(self._past(node.node, code), node.low, node.high)
        if isinstance(node, Both):
            return both(self._past(node.left, code), self._past(node.right, code))
        return complement(self._past(node.node, code)) if isinstance(node, Not) else node
