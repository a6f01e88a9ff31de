"""Texts of a regular language, drawn at random: any text of the language may come, none is promised."""

from __future__ import annotations

from random import Random

from sgl.lang.pattern import chars as chars
from sgl.lang.pattern.chars import Ranges
from sgl.lang.pattern.nodes import Alt, Chars, Concat, PatternError, PatternNode, Repeat, no_deeper
from sgl.lang.pattern.sets import Derivatives, shortest

_MOST_STATES = 3000


@no_deeper
def samples(node: PatternNode, rng: Random, count: int, max_length: int = 40) -> list[str]:
    """Up to `count` different texts of the language, of `max_length` characters at most if there are any so short."""
    walk = None if node.plain else _Walk(node)
    found: dict[str, None] = {}
    for _ in range(6 * count):
        if len(found) == count:
            break
        text = _drawn(node, rng, max_length) if walk is None else walk.drawn(rng, max_length)
        if text is not None and len(text) <= max_length:
            found[text] = None
    if not found and (text := shortest(node)) is not None:
        found[text] = None
    return list(found)


def _drawn(node: PatternNode, rng: Random, room: int) -> str | None:
    if isinstance(node, Chars):
        return _character(node.ranges, rng) if node.ranges else None
    if isinstance(node, Alt):
        return _drawn(rng.choice(node.parts), rng, room)
    parts: list[PatternNode] = []
    if isinstance(node, Concat):
        parts = list(node.parts)
    elif isinstance(node, Repeat):
        most = node.low + rng.choice((0, 1, 2, 3, 6, room))
        times = rng.randint(node.low, most if node.high is None else min(most, node.high))
        parts = [node.node] * min(times, max(room, node.low))
    text = ""
    for part in parts:
        piece = _drawn(part, rng, max(room - len(text), 0))
        if piece is None or len(text) > 10 * room + 1000:
            return None
        text += piece
    return text


def _character(ranges: Ranges, rng: Random) -> str:
    visible = chars.intersection(ranges, ((32, 126),))
    low, high = rng.choice(visible if visible and rng.random() < 0.7 else ranges)
    return chr(rng.randint(low, high))


class _Walk:
    """Random walks through the derivatives, of which those that lead nowhere are known."""

    def __init__(self, node: PatternNode) -> None:
        self.node, self.walk = node, Derivatives()
        into: dict[PatternNode, list[PatternNode]] = {}
        ends: list[PatternNode] = []
        try:
            for state in self.walk.states(node, _MOST_STATES, breadth=True):
                if self.walk.nullable(state):
                    ends.append(state)
                for _, following in self.walk.after(state):
                    into.setdefault(following, []).append(state)
        except PatternError:
            pass  # the states seen so far will do
        self.distance = dict.fromkeys(ends, 0)
        for state in ends:
            for before in into.get(state, []):
                if before not in self.distance:
                    self.distance[before] = self.distance[state] + 1
                    ends.append(before)

    def drawn(self, rng: Random, max_length: int) -> str | None:
        state, text = self.node, ""
        if state not in self.distance:
            return None
        goal = rng.randint(0, max_length)
        while True:
            if self.distance[state] == 0 and (len(text) >= goal or rng.random() < 0.2):
                return text
            ways = [(part, to) for part, to in self.walk.after(state) if to in self.distance]
            if len(text) + self.distance[state] >= goal:
                ways = [way for way in ways if self.distance[way[1]] < self.distance[state]]
            if not ways:
                return text if self.distance[state] == 0 else None
            part, state = rng.choice(ways)
            text += _character(part, rng)
