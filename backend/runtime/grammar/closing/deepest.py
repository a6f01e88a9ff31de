"""How many tokens a constrained text may need at most to its end, wherever it is: a bound without any search.

Knows nothing of matchers, budgets or how a way to close is found.

A text stands in some node of the rules. It needs the end of that node and a least text of all that must follow, so the
bound is a maximum over the nodes. Within a node each byte counts one token. The bytes that follow count as few tokens
as can spell them. Where a grammar forces text, its canonical spelling may take a few more, so the caller leaves some
room. Without `words` every byte counts one, and the bound holds exactly.

The bound is `None` where it cannot be told: rules that use themselves, large intersections, long texts.
"""

from __future__ import annotations

from collections.abc import Collection

from .....lang.pattern import Alt, Chars, Concat, PatternError, PatternNode, Repeat
from ..rules.automata import RuleAutomata
from ..rules.derived import BYTE_COST
from ..rules.nodes import RuleRef
from ..rules.recogniser import MOST_BEGUN_BYTES

MOST_BYTES = 2_000  # of one shortest text
MOST_PARTS = 20_000  # that are looked at
MOST_STATES = 200  # of an intersection
LONGEST_WORD_BYTES = 32  # of a token that is tried for what follows


class _Untold(Exception):
    """The bound cannot be told."""


def deepest(automata: RuleAutomata, words: Collection[bytes] = ()) -> int | None:
    """Return the most tokens that a text of a grammar can need from anywhere to an end.

    `words`: the bytes of the tokens, each single byte among them.
    """
    try:
        return _EndBound(automata, words).most(RuleRef(automata.grammar.root), b"")
    except (_Untold, PatternError, RecursionError):
        return None


class _EndBound:
    """The bound of one grammar. `after` is always a least text of what must follow."""

    def __init__(self, automata: RuleAutomata, words: Collection[bytes]) -> None:
        self.automata, self.words = automata, words
        self.costs: dict[bytes, int] = {b"": 0}
        self.least: dict[PatternNode, bytes] = {}
        self.known: dict[tuple[PatternNode, bytes], int] = {}
        self.open: set[str] = set()

    def cost(self, after: bytes) -> int:
        """Return the fewest tokens that spell these bytes."""
        if not self.words:
            return len(after)
        start = 0
        while after[start:] not in self.costs:
            start += 1
        for at in range(start - 1, -1, -1):
            best = 1 + self.costs[after[at + 1 :]]
            for end in range(at + 2, min(at + LONGEST_WORD_BYTES, len(after)) + 1):
                if after[at:end] in self.words:
                    best = min(best, 1 + self.costs[after[end:]])
            self.costs[after[at:]] = best
        return self.costs[after]

    def most(self, node: PatternNode, after: bytes) -> int:
        """Return the most tokens from anywhere in a text of a node to the end of `after`."""
        key = node, after
        if key not in self.known:
            if len(self.known) > MOST_PARTS:
                raise _Untold
            self.known[key] = self._most(node, after)
        return self.known[key]

    def _most(self, node: PatternNode, after: bytes) -> int:
        if isinstance(node, Chars):
            begun = len(chr(node.ranges[-1][1]).encode()) - 1 if node.ranges else 0
            return max(begun + self.cost(after) if begun else 0, self.cost(self.joined(node, 1, after)))
        if isinstance(node, Concat):
            most = self.cost(after)
            for part in reversed(node.parts):
                most = max(most, self.most(part, after))
                after = self.joined(part, 1, after)
            return most
        if isinstance(node, Alt):
            return max(self.most(part, after) for part in node.parts)
        if isinstance(node, Repeat):
            return max(self.cost(after), self.most(node.node, self.joined(node.node, max(node.low - 1, 0), after)))
        if not isinstance(node, RuleRef):
            far = self.automata.regular.farthest(node, MOST_STATES)
            if far is None:
                raise _Untold
            return int(far // BYTE_COST) + MOST_BEGUN_BYTES + self.cost(after)
        if node.name in self.open:
            raise _Untold
        self.open.add(node.name)
        most = self.most(self.automata.grammar.rules[node.name], after)
        self.open.discard(node.name)
        return most

    def joined(self, node: PatternNode, count: int, after: bytes) -> bytes:
        """Return `count` least texts of a node and then `after`."""
        if not count:
            return after
        if self.automata.cost(node) * count > MOST_BYTES * BYTE_COST:
            raise _Untold
        if node not in self.least:
            self.least[node] = self.automata.least_text(node).encode()
        text = self.least[node] * count + after
        if len(text) > MOST_BYTES:
            raise _Untold
        return text
