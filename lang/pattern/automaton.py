"""A language as an automaton, and back to a tree without `Both` and `Not`.

Knows nothing of syntax. States are derivatives (`sets.py`). States without a way to an end are dropped, and equal ones
are merged (Moore 1956). The rest are eliminated one by one (Brzozowski and McCluskey 1963), the least connected first.
"""

from __future__ import annotations

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
    either,
    no_deeper,
    rebuilt,
    repeated,
    sequence,
    size,
)
from .sets import Derivatives

MOST_PLAIN_POSITIONS = 20_000
"""Size of a node without intersections: elimination may grow exponentially."""

Arrows = dict[int, list[tuple[Ranges, int]]]


@no_deeper
def plain(node: PatternNode, limit: int = 2000) -> PatternNode:
    """The same language without `Both` and `Not`. Raises `PatternError` if that takes more than `limit` states."""
    if node.plain:
        return node
    if not isinstance(node, (Both, Not)):
        return rebuilt(node, lambda part: plain(part, limit))
    return from_derivatives(node, Derivatives(), limit)


def from_derivatives(node: PatternNode, walk: Derivatives, limit: int) -> PatternNode:
    """The node as its automaton, written as a plain node. Raises `PatternError` beyond `limit` states."""
    arrows: Arrows = {}
    numbers: dict[PatternNode, int] = {}
    for state in walk.states(node, limit):
        numbers.setdefault(state, len(numbers))
        arrows[numbers[state]] = [(p, numbers.setdefault(to, len(numbers))) for p, to in walk.after(state)]
    return _to_node(arrows, {n for state, n in numbers.items() if walk.nullable(state)})


def _alive(arrows: Arrows, ends: set[int]) -> set[int]:
    """The states from which an end can be reached."""
    into: dict[int, list[int]] = {}
    for state, outgoing in arrows.items():
        for _, to in outgoing:
            into.setdefault(to, []).append(state)
    alive, pending = set(ends), list(ends)
    while pending:
        for state in into.get(pending.pop(), []):
            if state not in alive:
                alive.add(state)
                pending.append(state)
    return alive


def _merged(arrows: Arrows, ends: set[int]) -> dict[int, int]:
    """Number the classes of equal states: state -> class."""
    classes = {state: int(state in ends) for state in arrows}
    numbers: dict[Ranges, int] = {}
    numbered = {s: [(numbers.setdefault(part, len(numbers)), to) for part, to in arrows[s]] for s in arrows}
    parts = list(numbers)
    unions: dict[frozenset[int], Ranges] = {}
    while True:
        looks: dict[object, int] = {}
        after: dict[int, int] = {}
        for state, outgoing in numbered.items():
            joined: dict[int, set[int]] = {}
            for part, to in outgoing:
                joined.setdefault(classes[to], set()).add(part)
            for some in map(frozenset, joined.values()):
                if some not in unions:
                    unions[some] = chars.union(pair for part in some for pair in parts[part])
            look = (classes[state], frozenset((to, unions[frozenset(some)]) for to, some in joined.items()))
            after[state] = looks.setdefault(look, len(looks))
        if len(looks) == len(set(classes.values())):
            return after
        classes = after


def _to_node(arrows: Arrows, ends: set[int]) -> PatternNode:
    """Write the language of an automaton as a node; state 0 is its start."""
    alive = _alive(arrows, ends)
    if 0 not in alive:
        return NOTHING
    arrows = {state: [(part, to) for part, to in arrows[state] if to in alive] for state in arrows if state in alive}
    group = _merged(arrows, ends)
    start, end = -1, -2
    edges: dict[int, dict[int, PatternNode]] = {start: {group[0]: EMPTY}, end: {}}
    for state, outgoing in arrows.items():
        if group[state] in edges:
            continue
        labels: dict[int, list[tuple[int, int]]] = {}
        for part, to in outgoing:
            labels.setdefault(group[to], []).extend(part)
        edges[group[state]] = {to: Chars(chars.union(part)) for to, part in labels.items()}
        if state in ends:
            edges[group[state]][end] = EMPTY
    into: dict[int, set[int]] = {}
    for state, targets in edges.items():
        for to in targets:
            into.setdefault(to, set()).add(state)
    sizes: dict[PatternNode, int] = {}
    left = set(edges) - {start, end}
    while left:
        state = min(left, key=lambda s: (len(into.get(s, ())) * len(edges[s]), s))
        left.remove(state)
        _eliminate(state, edges, into, sizes)
    return edges[start].get(end, NOTHING)


def _eliminate(
    state: int, edges: dict[int, dict[int, PatternNode]], into: dict[int, set[int]], sizes: dict[PatternNode, int]
) -> None:
    """Remove a state; each way through it becomes an edge."""
    outgoing = edges.pop(state)
    loop = repeated(outgoing.pop(state, NOTHING), 0, None)
    sources = into.pop(state) - {state}
    for to in outgoing:
        into[to].discard(state)
    for source in sources:
        reach = edges[source].pop(state)
        for to, label in outgoing.items():
            way = sequence([reach, loop, label])
            known = edges[source].get(to)
            edges[source][to] = joined = way if known is None else _choice(known, way)
            into[to].add(source)
            if size(joined, sizes) > MOST_PLAIN_POSITIONS:
                raise PatternError("the pattern is too large without intersections", None, "simplify it")


def _choice(a: PatternNode, b: PatternNode) -> PatternNode:
    """Join two alternatives, with their common beginning written once."""
    left = a.parts if isinstance(a, Concat) else (a,)
    right = b.parts if isinstance(b, Concat) else (b,)
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    if not same:
        return either([a, b])
    rest = either([sequence(left[same:]), sequence(right[same:])])
    if EMPTY in (rest.parts if isinstance(rest, Alt) else ()):
        rest = repeated(either(part for part in rest.parts if part != EMPTY), 0, 1)  # type: ignore[attr-defined]
    return sequence([*left[:same], rest])
