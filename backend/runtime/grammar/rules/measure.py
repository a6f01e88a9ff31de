"""What is known of rules without an engine: which are reached, how short their texts can be, which are recursive.

Knows nothing of syntax.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from .....lang.pattern import Both, Chars, Concat, Not, PatternError, PatternNode, Repeat, shortest
from .....lang.pattern.nodes import children
from .nodes import RuleRef, RuleSet


def names(node: PatternNode) -> Iterator[str]:
    """Yield the rules that a node names, in order."""
    stack = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, RuleRef):
            yield part.name
        else:
            stack += reversed(children(part))


def reached(rules: RuleSet) -> list[str]:
    """List the rules that the root leads to, those that others need first."""
    order: list[str] = []
    seen = {rules.root}
    stack = [(rules.root, names(rules.rules[rules.root]))]
    while stack:
        name, uses = stack[-1]
        for used in uses:
            if used not in seen:
                seen.add(used)
                stack.append((used, names(rules.rules[used])))
                break
        else:
            order.append(name)
            stack.pop()
    return order


def components(rules: RuleSet) -> list[list[str]]:
    """The rules that the root leads to, in groups that name one another in a circle, those needed by others first.

    A rule in no circle is a group of its own (Tarjan 1972).
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    held: set[str] = set()
    groups: list[list[str]] = []
    stack: list[tuple[str, Iterator[str]]] = []

    def enter(name: str) -> None:
        index[name] = low[name] = len(index)
        waiting.append(name)
        held.add(name)
        stack.append((name, names(rules.rules[name])))

    enter(rules.root)
    while stack:
        name, uses = stack[-1]
        for used in uses:
            if used not in index:
                enter(used)
                break
            if used in held:
                low[name] = min(low[name], index[used])
        else:
            stack.pop()
            if stack:
                low[stack[-1][0]] = min(low[stack[-1][0]], low[name])
            if low[name] == index[name]:
                group: list[str] = []
                while not group or group[-1] != name:
                    group.append(waiting.pop())
                    held.discard(group[-1])
                groups.append(group[::-1])
    return groups


def least_length(node: PatternNode, known: Mapping[str, float]) -> float:
    """The length of a shortest text of a node in characters, given those of the rules; infinity if there is none."""
    if isinstance(node, Chars):
        return 1.0 if node.ranges else math.inf
    if isinstance(node, RuleRef):
        return known[node.name]
    if isinstance(node, Concat):
        return sum((least_length(part, known) for part in node.parts), 0.0)
    if isinstance(node, Repeat):
        return node.low * least_length(node.node, known) if node.low else 0.0
    if isinstance(node, (Both, Not)):
        try:
            text = shortest(node)
        except PatternError:
            return 0.0  # not known: nothing is refused for it
        return math.inf if text is None else float(len(text))
    return min(least_length(part, known) for part in children(node))


def most_demanded(node: PatternNode, known: Mapping[str, float]) -> float:
    """The most characters that some part of a node has at least."""
    below = max((most_demanded(part, known) for part in children(node)), default=0.0) if node.plain else 0.0
    return max(below, least_length(node, known))


def least_lengths(rules: RuleSet) -> dict[str, float]:
    """The lengths of shortest texts by rule: the least fixed point (Knuth 1977, by iteration)."""
    order = reached(rules)
    users: dict[str, list[str]] = {name: [] for name in order}
    for name in order:
        for used in set(names(rules.rules[name])):
            users[used].append(name)
    least = dict.fromkeys(order, math.inf)
    pending: dict[str, None] = dict.fromkeys(order)
    while pending:
        name = next(iter(pending))
        del pending[name]
        value = least_length(rules.rules[name], least)
        if value < least[name]:
            least[name] = value
            pending |= dict.fromkeys(users[name])
    return least


def recursive(rules: RuleSet) -> set[str]:
    """The rules whose texts may hold texts of themselves."""
    found: set[str] = set()
    for group in components(rules):
        if len(group) > 1 or group[0] in names(rules.rules[group[0]]):
            found |= set(group)
    return found


def holds(node: PatternNode, wanted: Iterable[str]) -> bool:
    """Whether a node names one of these rules."""
    among = set(wanted)
    return any(name in among for name in names(node))
