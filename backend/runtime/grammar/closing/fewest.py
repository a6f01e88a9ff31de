"""The text of the fewest tokens that completes a text of a grammar, by a search over tokens, with a proven lower bound.

Knows nothing of matchers or budgets.

1. A *spot* is a set of items of the grammar's automata, as in `rules/recogniser.py`, but its calls are stacks that are
   made once each. So texts that lead to the same spot are met once. Part of a character of UTF-8 may be read there.
2. From a spot, all tokens are followed at once, level by level of the trie: the trie nodes that lead to the same spot
   stay together.
3. The search goes on where the tokens so far and the least price of the rest are fewest (A*: Hart, Nilsson and Raphael
   1968). The price of a character is a token by the length of the longest token that has it. So no text costs more
   than its tokens, and the least estimate that is left is a bound for every text.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from .....lang.pattern import Chars, PatternError
from .....lang.pattern.chars import Ranges, intersection, partition
from ..rules.automata import RuleAutomata, RuleState
from ..rules.completion import cost_of_call
from ..rules.derived import Cost, Prices
from ..rules.nodes import RuleRef
from ..rules.recogniser import Item, Recogniser, RuleCall, span
from ..trie import Nodes, TokenTrie
from ..vocabulary import FORCED_WINDOW_BYTES

TOKEN_PRICE = 1 << 40
"""Of a text that is one token, at most."""
MOST_SEARCH_WORK = 500_000
"""What one search may take, in steps of about a microsecond: half a second. It is no time, because what is found
decides what is written, and that may not depend on how fast the machine is."""
_SPOT_WORK, _TABLE_WORK, _LEVEL_WORK, _NODES_OF_WORK = 10, 150, 15, 60  # a spot, its table, a level; trie nodes for 1
MOST_ITEMS = 400
"""Of one spot. Left recursion would make more and more."""
_RULES_SLACK = 1 << 24  # of a price: each use of a rule adds 1 to it
_FEW = 8  # trie nodes, or bytes, that are looked at one by one
_DEAD, _UNKNOWN = -1, -2
_LEADS = range(0xC2, 0xF5)
_UNEVEN = (0xE0, 0xED, 0xF0, 0xF4)  # first bytes behind which not every continuation byte may stand


@dataclass(frozen=True)
class Fewest:
    """A text of the fewest tokens, None if none was found; and the tokens that every text has at least."""

    text: bytes | None
    bound: int


def token_prices(longest: Sequence[int]) -> Prices:
    """Return the price of each character. `longest`: as in `Vocabulary.longest_with`."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for code in range(128):
        groups.setdefault(TOKEN_PRICE // longest[code], []).append((code, code))
    byte = TOKEN_PRICE // longest[128]
    for number, (low, high) in enumerate([(0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)], 2):
        groups.setdefault(number * byte, []).append((low, high))
    return Prices(groups, byte)


class _After:
    """What comes when a rule ends: a state, and what comes after it. Made once for each pair."""

    __slots__ = ("left", "state", "up")

    def __init__(self, state: RuleState, up: _Call) -> None:
        self.state, self.up = state, up
        self.left: Cost = state.least + _left(up)


_Call = _After | RuleCall


def _left(call: _Call) -> Cost:
    return call.left if isinstance(call, _After) else cost_of_call(call)


_Place = tuple[RuleState, _Call]


class _Spot:
    """A place that texts lead to. `begun`: bytes of a character that is not whole. `skip`: any so many continuation
    bytes must come before it. `left`: the least price to an end."""

    __slots__ = ("begun", "ends", "items", "left", "skip", "table")

    def __init__(self, items: tuple[_Place, ...], begun: bytes, skip: int, left: Cost, ends: bool) -> None:
        self.items, self.begun, self.skip, self.left, self.ends = items, begun, skip, left, ends
        self.table: npt.NDArray[np.int64] | dict[int, int] | None = None


class _Kinds:
    """Characters in parts. `parts`: of each, its ranges. `ascii`: the part of each ASCII character."""

    def __init__(self, sets: Iterable[Ranges]) -> None:
        self.parts = partition(sets)
        self.ascii = np.zeros(128, dtype=np.int64)
        for number, ranges in enumerate(self.parts):
            for low, high in ranges:
                self.ascii[low : min(high, 127) + 1] = number
        self.beyond = [bool(ranges) and ranges[-1][1] > 127 for ranges in self.parts]
        self._begun: dict[bytes, tuple[list[int], bool]] = {}

    def of(self, begun: bytes) -> tuple[list[int], bool]:
        """Return the parts of the characters whose UTF-8 begins with these bytes, and whether any bytes of one that
        continue it make such a character."""
        if begun not in self._begun:
            low, high = span(begun)[0]
            meet = [(low, high)] if low <= high else []
            found = [number for number, ranges in enumerate(self.parts) if intersection(ranges, tuple(meet))]
            known = sum(len(intersection(self.parts[number], tuple(meet))) for number in found) == 1
            even = len(begun) > 1 or begun[0] not in _UNEVEN
            self._begun[begun] = found, known and even and not (low <= 0xDFFF and high >= 0xD800)
        return self._begun[begun]


class FewestSearch:
    """Searches in one grammar. Not thread-safe.

    `price`: of a token, at most, by the prices of `automata`. `work`: what is left of what the search may take.
    `first_forced`: the token with which an engine begins bytes that it forces, if it does (None: it may be any).
    """

    def __init__(
        self,
        automata: RuleAutomata,
        trie: TokenTrie,
        price: Cost,
        work: int | None = None,
        first_forced: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        self.automata, self.trie, self.price, self.first_forced = automata, trie, price, first_forced
        self.work = MOST_SEARCH_WORK if work is None else work
        self.spots: list[_Spot] = []
        self._numbers: dict[tuple[frozenset[_Place], bytes, int], int] = {}
        self._calls: dict[tuple[RuleState, _Call], _After] = {}
        self._kinds: dict[frozenset[Ranges], _Kinds] = {}
        self._whole: RuleCall | None = None
        self._bound = 0  # what every text has at least, as far as is known

    def run(self, place: Recogniser, limit: int) -> Fewest:
        """Search for a text of at most `limit` tokens from a place on. Its bound is above `limit` if there is none."""
        self._whole, self._bound = place.whole, 0
        try:
            return self._run(place, limit)
        except PatternError:  # too many items
            return Fewest(None, self._bound)

    def _run(self, place: Recogniser, limit: int) -> Fewest:
        begin = self._spot(place.items, place.begun)
        order = count()
        heap = [(self._tokens(begin), self.spots[begin].left, next(order), begin, 0)]
        came: dict[int, tuple[int, int]] = {begin: (begin, 0)}
        fewest, done = {begin: 0}, set[int]()
        while heap:
            self._bound, _, _, at, used = heapq.heappop(heap)
            if self._bound > limit or self.work < 0:
                return Fewest(None, self._bound)
            if at in done:
                continue
            if self.spots[at].ends:
                return Fewest(self._text(at, begin, came), used)
            done.add(at)
            for after, node in self._tokens_from(at).items():
                if used + 1 < fewest.get(after, limit + 1):
                    fewest[after], came[after] = used + 1, (at, node)
                    spot = self.spots[after]
                    heapq.heappush(heap, (used + 1 + self._tokens(after), spot.left, next(order), after, used + 1))
        return Fewest(None, limit + 1)

    def _tokens(self, spot: int) -> int:
        """Return the tokens that every text from a spot to an end has at least."""
        return max(0, -int(-(self.spots[spot].left - _RULES_SLACK) // self.price))

    def _text(self, at: int, begin: int, came: dict[int, tuple[int, int]]) -> bytes:
        words: list[bytes] = []
        while at != begin:
            at, node = came[at]
            words.append(self.trie.spelled(node))
        return b"".join(reversed(words))

    def _tokens_from(self, begin: int) -> dict[int, int]:
        """Return the spots behind one token, each with a node where such a token ends."""
        if self.first_forced is not None and (forced := self._forced_from(begin)):
            return forced
        found: dict[int, int] = {}
        level: dict[int, Nodes] = {begin: np.zeros(1, dtype=np.int64)}
        while level:
            following: dict[int, list[Nodes]] = {}
            for number, nodes in level.items():
                self._step(number, nodes, following)
            level = {}
            for number, parts in following.items():
                nodes = level[number] = parts[0] if len(parts) == 1 else np.concatenate(parts)
                if number not in found and len(ends := nodes[self.trie.ends[nodes]]):
                    found[number] = int(ends[0])
        return found

    def _forced_from(self, begin: int) -> dict[int, int]:
        """Return the spot behind the one token that an engine takes where only one text may follow; {} elsewhere."""
        at, run = begin, list[tuple[int, int]]()
        while len(run) < FORCED_WINDOW_BYTES and not self.spots[at].ends:
            table = self._table_of(at)
            if not isinstance(table, dict) or len(table) != 1:
                break
            run += table.items()
            at = run[-1][1]
        word = self.first_forced(bytes([byte for byte, _ in run])) if run and self.first_forced else None
        if not word:
            return {}
        node = 0
        for byte in word:
            node = self.trie.child(node, byte)
        return {run[len(word) - 1][1]: node}

    def _step(self, number: int, nodes: Nodes, following: dict[int, list[Nodes]]) -> None:
        """Add the children of trie nodes to the spots that they lead to."""
        table = self._table_of(number)
        self.work -= _LEVEL_WORK if len(nodes) > _FEW else 3
        if isinstance(table, dict) and len(nodes) <= _FEW:
            for node in nodes.tolist():
                for byte, after in table.items():
                    if (child := self.trie.child(node, byte)) > 0:
                        following.setdefault(after, []).append(np.array([child]))
            return
        children = self.trie.children(nodes)
        self.work -= len(children) // _NODES_OF_WORK
        if isinstance(table, dict):
            wide = np.full(256, _DEAD, dtype=np.int64)
            wide[list(table)] = list(table.values())
            table = wide
        afters = table[self.trie.label[children]]
        for after in np.unique(afters).tolist():
            if after != _DEAD:
                following.setdefault(after, []).append(children[afters == after])

    # -- spots
    def _table_of(self, number: int) -> npt.NDArray[np.int64] | dict[int, int]:
        spot = self.spots[number]
        if spot.table is None:
            spot.table = self._table(spot)
        return spot.table

    def _table(self, spot: _Spot) -> npt.NDArray[np.int64] | dict[int, int]:
        """Return the spot behind each byte; where only a few may come, as a dict."""
        self.work -= _TABLE_WORK
        if spot.skip:
            after = self._numbered(spot.items, b"", spot.skip - 1)
            return self._narrow(dict.fromkeys(range(0x80, 0xC0), after))
        kinds = self._kinds_of(spot.items)
        targets = [self._target(spot.items, ranges[0][0]) if ranges else _DEAD for ranges in kinds.parts]
        found: dict[int, int] = {}
        if spot.begun:
            for byte in range(0x80, 0xC0):
                after = self._begun(spot, kinds, targets, spot.begun + bytes((byte,)))
                if after != _DEAD:
                    found[byte] = after
            return self._narrow(found)
        if any(target != _DEAD and beyond for target, beyond in zip(targets, kinds.beyond)):
            for lead in _LEADS:
                after = self._begun(spot, kinds, targets, bytes((lead,)))
                if after != _DEAD:
                    found[lead] = after
        afters = np.array(targets)[kinds.ascii]
        for byte in np.flatnonzero(afters != _DEAD).tolist():
            found[byte] = int(afters[byte])
        return self._narrow(found)

    def _narrow(self, found: dict[int, int]) -> npt.NDArray[np.int64] | dict[int, int]:
        if len(found) <= _FEW:
            return found
        table = np.full(256, _DEAD, dtype=np.int64)
        table[list(found)] = list(found.values())
        return table

    def _begun(self, spot: _Spot, kinds: _Kinds, targets: list[int], begun: bytes) -> int:
        """Return the spot behind the bytes of a begun character."""
        parts, alike = kinds.of(begun)
        among = [number for number in parts if targets[number] != _DEAD]
        if not among:
            return _DEAD
        missing = (2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4) - len(begun)
        if not missing:
            return targets[among[0]]
        if alike:
            return self._numbered(self.spots[targets[among[0]]].items, b"", missing)
        return self._numbered(spot.items, begun, 0)

    def _kinds_of(self, items: tuple[_Place, ...]) -> _Kinds:
        sets: dict[Ranges, None] = {}
        for state, _ in items:
            for rest in state.rests:
                if isinstance(rest.node, Chars):
                    sets[rest.node.ranges] = None
                elif not isinstance(rest.node, RuleRef):
                    sets.update(dict.fromkeys(self.automata.regular.parts(rest.node)))
        key = frozenset(sets)
        if key not in self._kinds:
            self._kinds[key] = _Kinds(dict.fromkeys(sorted(sets)))
        return self._kinds[key]

    def _target(self, items: tuple[_Place, ...], code: int) -> int:
        after = dict.fromkeys((state, call) for before, call in items if (state := before.step(code)) is not None)
        return self._spot(after, b"") if after else _DEAD

    def _spot(self, items: Iterable[_Place], begun: bytes) -> int:
        """Return the number of a spot, with the rules that may begin or end there."""
        found = dict.fromkeys(items)
        pending = list(found)
        while pending:
            state, call = pending.pop()
            more: list[_Place] = []
            for rule in state.calls:
                start, after = self.automata.start(rule), state.goto(rule)
                assert start is not None
                more.append((start, call if after.over else self._call(after, call)))
            if state.ends and call is not self._whole:
                more += [(call.state, call.up)] if isinstance(call, _After) else _ended(call)
            for each in more:
                if each not in found:
                    found[each] = None
                    pending.append(each)
            if len(found) > MOST_ITEMS:
                raise PatternError("too many rules may begin or end at one place")
        return self._numbered(tuple(found), begun, 0)

    def _call(self, state: RuleState, up: _Call) -> _After:
        key = state, up
        if key not in self._calls:
            self._calls[key] = _After(state, up)
        return self._calls[key]

    def _numbered(self, items: tuple[_Place, ...], begun: bytes, skip: int) -> int:
        key = frozenset(items), begun, skip
        found = self._numbers.get(key)
        if found is None:
            self.work -= _SPOT_WORK
            found = self._numbers[key] = len(self.spots)
            left = min(state.least + _left(call) for state, call in items)
            byte = self.automata.prices.byte
            ends = not begun and not skip and any(state.ends and call is self._whole for state, call in items)
            self.spots.append(_Spot(items, begun, skip, max(0, left + (skip - len(begun)) * byte), ends))
        return found


def _ended(call: RuleCall) -> list[Item]:
    return [(waiting.goto(call.rule), above) for waiting, above in call.waiters]
