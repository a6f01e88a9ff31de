"""Regular nodes that are walked by their derivatives: intersections, complements, multiples of a number.

Knows nothing of rules. A derivative is what may follow a character (`lang/pattern/sets.py`); it is a node again. The
least cost of a node, and a least text, are found by a search over its derivatives (Dijkstra 1959).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from .....lang.pattern import PatternNode
from .....lang.pattern.chars import Ranges, difference, intersection, union
from .....lang.pattern.nodes import NOTHING
from .....lang.pattern.sets import Derivatives, readable
from .number_rules import MultipleOf

Cost = float
"""An int, or `NEVER`."""
BYTE_COST = 1 << 32
"""A byte of a text. A use of a rule costs 1."""
NEVER = float("inf")
MOST_DERIVATIVES = 2_000
"""Derivatives that are explored for one least text."""
_COST_BYTES = 300
"""Measured: a node with its cost."""
BY_LENGTH: tuple[Ranges, ...] = (((0, 0x7F),), ((0x80, 0x7FF),), ((0x800, 0xFFFF),), ((0x10000, 0x10FFFF),))
"""The characters of one to four bytes."""
_ALL_DIGITS: Ranges = ((0x30, 0x39),)


class Prices:
    """What characters cost: sets of characters by price. `byte`: the price of a byte beyond ASCII."""

    def __init__(self, groups: Mapping[int, Iterable[tuple[int, int]]], byte: int) -> None:
        self.groups: list[tuple[int, Ranges]] = [(price, union(groups[price])) for price in sorted(groups)]
        self.smallest, self.byte = self.groups[0][0], byte

    def least(self, ranges: Ranges) -> Cost:
        """Return the least price of a character of a set."""
        return next((price for price, some in self.groups if intersection(ranges, some)), NEVER)

    def cheapest(self, ranges: Ranges) -> tuple[int, int]:
        """Return the least price of a character of a set that is not empty, and that character."""
        price, some = next((price, some) for price, group in self.groups if (some := intersection(ranges, group)))
        return price, ord(readable(some))


BYTES = Prices({number * BYTE_COST: some for number, some in enumerate(BY_LENGTH, 1)}, BYTE_COST)
"""Each byte of UTF-8 costs the same."""


class DerivedCosts:
    """The derivatives of regular nodes and their least costs. `told`: whether all costs are exact so far."""

    def __init__(self, prices: Prices | None = None) -> None:
        self.told = True
        self.prices = BYTES if prices is None else prices
        self._walk = Derivatives()
        self._known: dict[PatternNode, tuple[Cost, int | None, PatternNode]] = {}
        self._lasting = 0

    @property
    def size(self) -> int:
        """About the bytes of what is kept."""
        return self._walk.size + (len(self._known) - self._lasting) * _COST_BYTES

    def forget(self) -> None:
        """Drop what is kept, but for exact costs that would not be found again (`told` is False)."""
        self._walk = Derivatives()
        kept = {} if self.told else self._known
        lasting = {node: one for node, one in kept.items() if one[1] is not None or one[0] == NEVER}
        self._known, self._lasting = lasting, len(lasting)

    def is_end(self, node: PatternNode) -> bool:
        if isinstance(node, MultipleOf):
            return not node.remainder and self._walk.nullable(node.pattern)
        return self._walk.nullable(node)

    def derive(self, node: PatternNode, code: int) -> PatternNode:
        if not isinstance(node, MultipleOf):
            return self._walk.step(node, code)
        after = self._walk.step(node.pattern, code)
        if after == NOTHING:
            return NOTHING
        digit = code - 0x30
        left = (node.remainder * 10 + digit) % node.modulus if 0 <= digit <= 9 else node.remainder
        return MultipleOf(after, node.modulus, left)

    def parts(self, node: PatternNode) -> list[Ranges]:
        """Partition all characters so that those of one part lead to the same derivative."""
        if not isinstance(node, MultipleOf):
            return self._walk.parts(node)
        digits: list[Ranges] = [((code, code),) for code in range(0x30, 0x3A)]
        return digits + [rest for part in self._walk.parts(node.pattern) if (rest := difference(part, _ALL_DIGITS))]

    def cost(self, node: PatternNode) -> Cost:
        found = self._known.get(node)
        if found is None:
            self._explore(node)
            found = self._known[node]
        return found[0]

    def farthest(self, node: PatternNode, most: int) -> Cost | None:
        """Return the most that a text of a node may still cost from anywhere; None beyond `most` derivatives."""
        seen, pending, found = {node}, [node], 0.0
        while pending:
            state = pending.pop()
            cost = self.cost(state)
            found = found if cost == NEVER else max(found, cost)
            for part in self.parts(state):
                after = self.derive(state, part[0][0])
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
            if len(seen) > most or not self.told:
                return None
        return found

    def _explore(self, node: PatternNode) -> None:
        """Find a least text of a regular node, and so of each derivative on the way (Dijkstra 1959).

        Where that takes too many derivatives, the cost is only a lower bound, and `told` says so.
        """
        heap: list[tuple[Cost, int, PatternNode, PatternNode | None, int | None]] = [(0, 0, node, None, None)]
        came: dict[PatternNode, tuple[PatternNode | None, int | None]] = {}
        count = 0
        best: tuple[Cost, PatternNode] | None = None
        while heap:
            cost, _, state, before, code = heapq.heappop(heap)
            if best is not None and cost >= best[0]:
                break
            if state in came:
                continue
            came[state] = before, code
            known = (0, None, state) if self.is_end(state) else self._known.get(state)
            if known is not None:
                self._known[state] = known
                if known[0] != NEVER and (best is None or cost + known[0] < best[0]):
                    best = cost + known[0], state
                continue
            if len(came) > MOST_DERIVATIVES or not self.told:
                self.told = False
                self._known[node] = (self.prices.smallest, None, node)
                return
            for part in self.parts(state):
                after = self.derive(state, part[0][0])
                if after == NOTHING:
                    continue
                count += 1
                more, char = self.prices.cheapest(part)
                heapq.heappush(heap, (cost + more, count, after, state, char))
        if best is None:
            self._known.update(dict.fromkeys(came, (NEVER, None, node)))
            return
        state = best[1]
        while (step := came[state])[0] is not None:
            before, code = step
            assert before is not None and code is not None
            cost = self._known[state][0] + self.prices.cheapest(((code, code),))[0]
            self._known[before] = (cost, code, state)
            state = before

    def text(self, node: PatternNode) -> str:
        text = ""
        while self.cost(node) and (code := self._known[node][1]) is not None:
            text += chr(code)
            node = self._known[node][2]
        return text


def representative(ranges: Ranges) -> int:
    """Return a character of the set that has the fewest bytes."""
    return ord(readable(next(some for each in BY_LENGTH if (some := intersection(ranges, each)))))
