"""Marks in repeats, and marks whose stretches cross: the automaton of a marked pattern.

Knows nothing of syntax. A marked node has a meaning only together with all that comes behind it. So the derivative is
taken of a node *and its continuation* to the end of the text. `Right(L)` before a continuation is `L & continuation`.
`Left(L)` is about the text so far: each character replaces L by its derivative, and the mark holds where L has the
empty text.
"""

from __future__ import annotations

from .automaton import from_derivatives
from .chars import Ranges, contains
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
    rebuilt,
    repeated,
    sequence,
)
from .print import within_depth
from .sets import Derivatives, ordered

MOST_MARKED_STATES = 200
MOST_MARKED_STEPS = 20_000
"""Of one pattern: derivatives of marked nodes may grow exponentially."""

Passed = frozenset[tuple[PatternNode, PatternNode]]
"""Repeats, each with what follows it."""


def unmarked(node: PatternNode) -> PatternNode:
    """Rewrite a node without marks, for whole texts, as a plain node.

    Its lookbehinds must have no marks. Raises `PatternError` if it takes too many states.
    """
    try:
        return within_depth(from_derivatives(node, _MarkedDerivatives(), MOST_MARKED_STATES))
    except (PatternError, RecursionError):
        raise PatternError(
            "an anchor or lookaround in a repeat, or among others like it: this is too much to enforce",
            marks(node)[0].position,
            "move it out of the repeat, or say in the pattern itself what may stand there",
        ) from None


class _MarkedDerivatives(Derivatives):
    """Derivatives of nodes with marks. Each node reaches to the end of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.lookbehinds = Derivatives()
        """Derivatives of the languages in `Left`, which have no marks."""
        self.work = 0

    def _spend(self) -> None:
        self.work += 1
        if self.work > MOST_MARKED_STEPS:
            raise PatternError("too much work")

    def _edges(self, node: PatternNode, sets: dict[Ranges, None]) -> None:
        """Collect all sets in the node: a mark may look at any of them."""
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

    def _is_nullable(self, node: PatternNode) -> bool:
        """Whether the text may end here. At its end `Right(L)` asks the same of L as `Left(L)` does."""
        return self.nullable(node.node) if isinstance(node, Mark) else super()._is_nullable(node)

    def _derivative(self, node: PatternNode, code: int) -> PatternNode:
        return self._step(node, EMPTY, code, frozenset())

    def _step(self, node: PatternNode, behind: PatternNode, code: int, passed: Passed) -> PatternNode:
        """The derivative of `node` followed by `behind`. `passed`: repeats that were entered at this very place."""
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
            return self._step(EMPTY, behind, code, passed) if self.lookbehinds.nullable(node.node) else NOTHING
        if isinstance(node, Right):
            seen = self._step(node.node, EMPTY, code, frozenset())
            return NOTHING if seen == NOTHING else both(seen, self._step(EMPTY, behind, code, passed))
        if behind != EMPTY:
            raise PatternError("an intersection in the middle")
        if isinstance(node, Both):
            return both(self._step(node.left, EMPTY, code, passed), self._step(node.right, EMPTY, code, passed))
        assert isinstance(node, Not)
        return complement(self._step(node.node, EMPTY, code, passed))

    def _repeat(self, node: Repeat, behind: PatternNode, code: int, passed: Passed) -> PatternNode:
        skip = self._step(EMPTY, behind, code, passed) if node.low == 0 else NOTHING
        if (node, behind) in passed:  # an iteration without a character: the same as none
            return skip
        high = None if node.high is None else node.high - 1
        again = repeated(node.node, max(node.low - 1, 0), high)
        ways = self._step(node.node, sequence([again, behind]), code, passed | {(node, behind)})
        return ordered([skip, ways])

    def _past(self, node: PatternNode, code: int) -> PatternNode:
        """The node after one more character: each `Left` in it has seen the character."""
        self._spend()
        if not node.marked:
            return node
        if isinstance(node, Left):
            seen = self.lookbehinds.step(node.node, code)
            return EMPTY if seen == ANY_TEXT else NOTHING if seen == NOTHING else Left(seen, node.position)
        if isinstance(node, Right):
            seen = self._past(node.node, code)
            return NOTHING if seen == NOTHING else Right(seen, node.position)
        return rebuilt(node, lambda part: self._past(part, code))
