"""Rules in a form that the engines take: the same texts, less recursion, no repeat of what may be empty.

Knows nothing of engines.

1. A rule that names itself at its end is a repeat (Arden 1961): `a ::= x a | y` has the texts of `x* y`. So is one that
   names itself at its beginning, or at both. Circles of rules are written as one rule, where that ends the circle.
2. A repeat of what may be empty is a repeat of its texts that are not: `("a"?)*` has those of `"a"*`.
3. A rule without recursion, named once, stands in its place. What no finite text goes through is left out.
"""

from __future__ import annotations

import math
from collections import Counter

from .....lang.errors import ConstraintError
from .....lang.pattern import Alt, Chars, Concat, PatternNode, Repeat, both, complement, either, sequence, size
from .....lang.pattern.nodes import EMPTY, NOTHING, children, rebuilt, repeated
from .measure import components, holds, least_length, least_lengths, names, reached
from .nodes import RuleRef, RuleSet

MOST_LEVELS = 40
"""Nodes within nodes: rules that would be deeper stay rules."""
MOST_JOINED_NODES = 3_000
"""Of a circle of rules that is written as one rule: elimination may grow exponentially."""
MOST_CIRCLE = 12
"""Rules of a circle that is tried as one rule."""

MOST_WAYS, MOST_COPIED_NODES = 64, 8
Way = tuple[bool, PatternNode | None, bool]
"""An alternative of a rule: whether the rule's name begins it, what is between, whether the name ends it. Nothing is
between where the alternative is the name alone."""


def normalised(rules: RuleSet) -> RuleSet:
    """Rewrite rules as the header says. Raises `ConstraintError` for a grammar without a finite text."""
    made = dict(_of_use(rules).rules)
    for _ in range(3):
        made = _inlined(made, rules.root)
        before = len(made)
        for group in components(RuleSet(made, rules.root)):
            _unrolled(made, group)
        made = {name: made[name] for name in reached(RuleSet(made, rules.root))}
        if len(made) == before:
            break
    return _without_empty_rounds(RuleSet(_inlined(made, rules.root), rules.root))


def regular_node(rules: RuleSet, most: int) -> PatternNode | None:
    """The pattern of normal rules that have no recursion; None for others, or beyond `most` characters."""
    known: dict[str, PatternNode] = {}
    sizes: dict[PatternNode, int] = {}
    for group in components(rules):
        name = group[0]
        if len(group) > 1 or name in names(rules.rules[name]):
            return None
        known[name] = _replaced(rules.rules[name], known)
        if size(known[name], sizes) > most or _levels(known[name]) > MOST_LEVELS:
            return None
    return known[rules.root]


# -- what no text goes through, and rules in place of their names


def _of_use(rules: RuleSet) -> RuleSet:
    """The rules that a finite text goes through. Raises `ConstraintError` if there is no finite text."""
    least = least_lengths(rules)
    if least[rules.root] == math.inf:
        raise ConstraintError("no finite text matches the grammar: each of its alternatives goes on for ever")
    made = {name: _useful(rules.rules[name], least) for name in least if least[name] < math.inf}
    order = reached(RuleSet(made, rules.root))
    return RuleSet({name: made[name] for name in order}, rules.root)


def _useful(node: PatternNode, least: dict[str, float]) -> PatternNode:
    """A node without the alternatives that no finite text matches."""
    if isinstance(node, RuleRef):
        return NOTHING if least[node.name] == math.inf else node
    return rebuilt(node, lambda part: _useful(part, least)) if node.plain else node


def _replaced(node: PatternNode, rules: dict[str, PatternNode]) -> PatternNode:
    """A node with the given rules in place of their names."""
    if isinstance(node, RuleRef):
        return rules.get(node.name, node)
    return rebuilt(node, lambda part: _replaced(part, rules)) if node.plain else node


def _inlined(made: dict[str, PatternNode], root: str) -> dict[str, PatternNode]:
    """The rules, with those that are named once, or are short, in place of their names."""
    uses = Counter(name for node in made.values() for name in names(node))
    kept: dict[str, PatternNode] = {}
    ready: dict[str, PatternNode] = {}
    levels: dict[str, int] = {}
    for name in reached(RuleSet(made, root)):
        node = made[name]
        own = _levels(node) + max((levels[used] for used in names(node) if used in ready), default=0)
        if own <= MOST_LEVELS:
            node = _replaced(node, ready)
        else:
            own = _levels(node)
            kept |= {used: ready[used] for used in names(node) if used in ready}
        short = isinstance(node, (Chars, RuleRef)) or node == EMPTY
        if name != root and (uses[name] == 1 or short) and name not in names(node):
            ready[name], levels[name] = node, own
        else:
            kept[name] = node
    # a rule that its circle named before it was ready
    missing = [name for node in kept.values() for name in names(node)]
    while missing:
        name = missing.pop()
        if name not in kept:
            kept[name] = ready[name]
            missing += names(kept[name])
    return kept


def _levels(node: PatternNode) -> int:
    """Count the nodes within nodes."""
    depth, layer = 0, [node]
    while layer:
        depth += 1
        layer = list(dict.fromkeys(child for part in layer for child in children(part)))
    return depth


# -- recursion at an end


def _unrolled(made: dict[str, PatternNode], group: list[str]) -> None:
    """Write a circle of rules with repeats, in place: each by itself, or all of them where that ends the circle."""
    for name in group:
        made[name] = _repeat_of(made[name], name, made)
    if 1 < len(group) <= MOST_CIRCLE and holds(made[group[0]], group):
        for name in group:
            if (node := _joined(made, group, name)) is None:
                return
            made[name] = node


def _joined(made: dict[str, PatternNode], group: list[str], name: str) -> PatternNode | None:
    """The rule `name` of a circle without the circle's names in it; None if it has none that is small."""
    own = {each: made[each] for each in group}
    for other in [each for each in group if each != name]:
        node = _repeat_of(own.pop(other), other)
        if other in names(node):
            return None
        for each in own:
            if other in names(own[each]):
                own[each] = _replaced(own[each], {other: node})
                if _count(own[each]) > MOST_JOINED_NODES:
                    return None
    node = _repeat_of(own[name], name)
    return None if name in names(node) or _levels(node) > MOST_LEVELS else node


def _count(node: PatternNode) -> int:
    stack, count = [node], 0
    while stack and count <= MOST_JOINED_NODES:
        count += 1
        stack += children(stack.pop())
    return count


def _repeat_of(node: PatternNode, name: str, made: dict[str, PatternNode] | None = None) -> PatternNode:
    """A rule that names itself at its beginning or its end, as a repeat; any other as it is.

    `a ::= b | p a | a q | a m a` has the texts of `c (m c)*`, where `c` is `p* b q*`. In `made`, a long `c` is a rule.
    """
    if name not in names(node) or (ways := _ways(node, name)) is None:
        return node
    bodies, before, behind, between = (
        either(middle for front, middle, back in ways if middle is not None and (front, back) == kind)
        for kind in ((False, False), (False, True), (True, False), (True, True))
    )
    if bodies == NOTHING or (before, behind, between) == (NOTHING, NOTHING, NOTHING):
        return node if bodies == NOTHING else bodies
    each = sequence([repeated(before, 0, None), bodies, repeated(behind, 0, None)])
    if between == NOTHING:
        return each
    if made is not None and _count(each) > MOST_COPIED_NODES:
        made[own := f"{name} each"] = each
        each = RuleRef(own)
    return sequence([each, repeated(sequence([between, each]), 0, None)])


def _ways(node: PatternNode, name: str) -> list[Way] | None:
    """The alternatives of a rule, without the rule's name at their beginning and end; None if there are very many."""
    if name not in names(node):
        return [(False, node, False)]
    if isinstance(node, RuleRef):
        return [(True, None, True)]
    if isinstance(node, Alt):
        found = [_ways(part, name) for part in node.parts]
        return None if any(ways is None for ways in found) else [way for ways in found for way in ways or ()]
    if isinstance(node, Repeat) and node.high == 1:
        ways = _ways(node.node, name)
        return None if ways is None else [*ways, (False, EMPTY, False)]
    return _edges(node, name) if isinstance(node, Concat) else [(False, node, False)]


def _edges(node: Concat, name: str) -> list[Way] | None:
    """`_ways` of a sequence: each way of its first part with each of its last."""
    fronts, backs = _ways(node.parts[0], name), _ways(node.parts[-1], name)
    if fronts is None or backs is None or len(fronts) * len(backs) > MOST_WAYS:
        return None
    itself = RuleRef(name)
    ways: list[Way] = []
    for front, begin, more in fronts:
        begins = [] if begin is None else [begin, itself] if more else [begin]
        for less, end, back in backs:
            ends = [] if end is None else [itself, end] if less else [end]
            ways.append((front, sequence([*begins, *node.parts[1:-1], *ends]), back))
    return ways


# -- repeats of what may be empty


def _without_empty_rounds(rules: RuleSet) -> RuleSet:
    """Rewrite each repeat whose rounds may be empty as one whose rounds are not."""
    least = least_lengths(rules)
    made: dict[str, PatternNode] = {}
    wanted: list[str] = []

    def filled(name: str) -> str:
        """The name of the rule with the texts of a rule that are not empty."""
        more = f"{name}+"
        while more in rules.rules:
            more += "+"
        if more not in made:
            made[more] = NOTHING  # its place, while it is made
            wanted.append(name)
        return more

    def rounds(node: PatternNode) -> PatternNode:
        if not node.plain:
            return node
        if not isinstance(node, Repeat):
            return rebuilt(node, rounds)
        if least_length(node.node, least):
            return repeated(rounds(node.node), node.low, node.high)
        return repeated(some(node.node), 0, node.high)

    def some(node: PatternNode) -> PatternNode:
        """The texts of a node that are not empty."""
        if not node.plain:
            return both(node, complement(EMPTY))
        if least_length(node, least):
            return rounds(node)
        if isinstance(node, RuleRef):
            return RuleRef(filled(node.name))
        if isinstance(node, Concat):
            return either(
                sequence([some(part), *map(rounds, node.parts[i + 1 :])])
                for i, part in enumerate(node.parts)
                if part != EMPTY
            )
        if isinstance(node, Repeat):
            return repeated(some(node.node), 1, node.high)
        return either(some(part) for part in node.parts if part != EMPTY) if isinstance(node, Alt) else NOTHING

    for name, node in rules.rules.items():
        made[name] = rounds(node)
    while wanted:
        name = wanted.pop()
        found = some(rules.rules[name])
        more = RuleRef(filled(name))
        made[more.name] = either(
            part for part in (children(found) if isinstance(found, Alt) else [found]) if part != more
        )
    return _of_use(RuleSet(made, rules.root))
