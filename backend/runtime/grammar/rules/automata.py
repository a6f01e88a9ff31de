"""The right sides of a grammar's rules as automata over characters and rules, built while texts are read.

Knows nothing of texts; `recogniser.py` runs the automata.

1. A `Rest` is what is left of a right side: a node of the pattern with a count, and the rest behind it. So a count of a
   million costs no more than a count of two. Rests are made once and compared by identity.
2. A `RuleState` is a set of rests of one rule (the subset construction, on demand). It has no epsilon moves: a rule
   that may be empty is skipped where it stands (Aycock and Horspool 2002), so it also handles hidden left recursion.
3. Each rest knows the least cost to its end: the least-cost derivation of a grammar (Knuth 1977). A cost counts the
   `prices` of characters first (bytes of UTF-8, unless said), then rules, so that no cycle of rules is free. What has
   no end is never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .....lang.pattern import Alt, Chars, Concat, PatternError, PatternNode, Repeat
from .....lang.pattern.chars import ALL, Ranges, contains, intersection
from .....lang.pattern.nodes import EMPTY, NOTHING, children, no_deeper
from .derived import BYTES, NEVER, Cost, DerivedCosts, Prices, representative
from .nodes import RuleRef, RuleSet

MOST_BYTES, MOST_STEPS = 16 << 20, 4_000
"""What is kept of one grammar, by the estimate of `RuleAutomata.size`, and characters whose steps a state keeps."""
_STATE_BYTES, _REST_BYTES, _STEP_BYTES, _NODE_BYTES = 700, 250, 70, 600
"""Measured: a state, a rest, a step from one state to another, and a derivative with its cost."""
_NO_RULES = frozenset[str]()


class Rest:
    """What is left of a right side: `node` with a count, and `tail` behind it.

    `at`: of a `Concat`, the parts that are done; of a `Repeat`, how often it must come still. `most`: how often it may.
    `least`: the least cost to the end of the rule.
    """

    __slots__ = ("at", "ends", "heads", "least", "most", "node", "tail")

    def __init__(self, node: PatternNode, at: int, most: int | None, tail: Rest | None, least: Cost) -> None:
        self.node, self.at, self.most, self.tail, self.least = node, at, most, tail, least
        self.heads: tuple[Rest, ...] | None = None  # the rests that begin with a character or a rule, once known
        self.ends = False  # whether nothing need come; known with `heads`


class RuleState:
    """A set of rests of one rule, each of which begins with a character or a rule.

    `ends`: whether the rule may end here. `calls`: the rules that may come next. `inert`: whether only characters may.
    `over`: whether nothing may come. `least`: the least cost to the end of the rule.
    """

    __slots__ = ("_automata", "_gotos", "_steps", "calls", "ends", "inert", "least", "over", "rests", "rule")

    def __init__(self, automata: RuleAutomata, rule: str, rests: frozenset[Rest], ends: bool) -> None:
        self._automata, self.rule, self.rests, self.ends = automata, rule, rests, ends
        names = (rest.node.name for rest in rests if isinstance(rest.node, RuleRef))
        self.calls = tuple(sorted(set(names)))
        self.inert = not ends and not self.calls
        self.over = ends and not rests
        self.least: Cost = 0 if ends else min(rest.least for rest in rests)
        self._steps: dict[int, RuleState | None] = {}
        self._gotos: dict[str, RuleState] = {}

    def step(self, code: int) -> RuleState | None:
        """Return the state after a character; None if it cannot come here."""
        try:
            return self._steps[code]
        except KeyError:
            return self._automata.step(self, code, self._steps)

    def forget(self) -> None:
        """Drop the states that follow."""
        self._steps.clear()
        self._gotos.clear()

    def goto(self, rule: str) -> RuleState:
        """Return the state after a rule that may come here."""
        found = self._gotos.get(rule)
        if found is None:
            tails = [r.tail for r in self.rests if isinstance(r.node, RuleRef) and r.node.name == rule]
            after = self._automata.state(self.rule, tails)
            assert after is not None
            found = self._gotos[rule] = after
        return found


class RuleAutomata:
    """The automata of one grammar. Raises `PatternError` for a grammar that is too deep, or without any text."""

    @no_deeper
    def __init__(self, grammar: RuleSet, prices: Prices = BYTES) -> None:
        self.grammar, self.prices = grammar, prices
        self.regular = DerivedCosts(prices)
        self._least: dict[PatternNode, Cost] = {}
        self._nullable: dict[PatternNode, bool] = {}
        self._sums: dict[int, tuple[Cost, ...]] = {}
        self._rests: dict[tuple[int, int, int | None, int], Rest] = {}
        self._derivatives: dict[PatternNode, PatternNode] = {}
        self._states: dict[tuple[str, frozenset[Rest], bool], RuleState] = {}
        self._starts: dict[str, RuleState] = {}
        self._used: dict[PatternNode, frozenset[str]] = {}
        self.taken = 0  # steps that states keep, at most
        self._users: dict[str, list[str]] = {name: [] for name in grammar.rules}
        for name, right in grammar.rules.items():
            for used in sorted(self._uses(right)):
                if used not in grammar.rules:
                    raise PatternError(f"the grammar has no rule {used!r}", None, "define it")
                self._users[used].append(name)
        self.nullable_rules = self._find_nullable()
        self.costs = self._find_costs()
        self.end = Rest(EMPTY, 0, None, None, 0)
        self.end.heads, self.end.ends = (), True
        if self.costs[grammar.root] == NEVER:
            raise PatternError("the grammar has no finite text", None, "give a rule an alternative without recursion")

    @property
    def size(self) -> int:
        """About the bytes of what was made while texts were read."""
        made = len(self._states) * _STATE_BYTES + len(self._rests) * _REST_BYTES + self.taken * _STEP_BYTES
        return made + len(self._derivatives) * _NODE_BYTES + self.regular.size

    def forget(self) -> None:
        """Drop what was made while texts were read. States in use stay in use; others are made again."""
        for state in self._states.values():  # a state that is in use would hold all that were reached from it
            state.forget()
        self._states, self._rests, self._starts = {}, {}, {}
        self._derivatives, self._sums, self._least, self._nullable = {}, {}, {}, {}
        self.taken = 0
        self.regular.forget()

    # -- what is known of the rules
    def _uses(self, node: PatternNode) -> frozenset[str]:
        """Return the rules that a node uses. Each node is looked at once, however many share it."""
        if isinstance(node, Chars):
            return _NO_RULES
        found = self._used.get(node)
        if found is None:
            if isinstance(node, RuleRef):
                found = frozenset([node.name])
            else:
                below = [some for child in children(node) if (some := self._uses(child))]
                found = below[0] if len(below) == 1 else _NO_RULES.union(*below)
            self._used[node] = found
        return found

    def _find_nullable(self) -> frozenset[str]:
        found: set[str] = set()
        pending = list(self.grammar.rules)
        while pending:
            name = pending.pop()
            if name not in found and self._is_nullable(self.grammar.rules[name], found):
                found.add(name)
                pending += self._users[name]
        return frozenset(found)

    def _is_nullable(self, node: PatternNode, rules: set[str] | frozenset[str]) -> bool:
        if isinstance(node, RuleRef):
            return node.name in rules
        if isinstance(node, Concat):
            return all(self._is_nullable(part, rules) for part in node.parts)
        if isinstance(node, Alt):
            return any(self._is_nullable(part, rules) for part in node.parts)
        if isinstance(node, Repeat):
            return node.low == 0 or self._is_nullable(node.node, rules)
        return self.regular.is_end(node)

    def nullable(self, node: PatternNode) -> bool:
        """Whether the empty text is a text of the node."""
        found = self._nullable.get(node)
        if found is None:
            found = self._nullable[node] = self._is_nullable(node, self.nullable_rules)
        return found

    def _find_costs(self) -> dict[str, Cost]:
        """Find the least cost of each rule: from above, until nothing gets less. What a rule uses comes before it, so
        that rules which do not use themselves are looked at once."""
        costs: dict[str, Cost] = dict.fromkeys(self.grammar.rules, NEVER)
        pending = dict.fromkeys(self._from_below())
        while pending:
            name = next(iter(pending))
            del pending[name]
            known: dict[PatternNode, Cost] = {}
            cost = self._cost(self.grammar.rules[name], costs, known)
            if cost < costs[name]:
                costs[name] = cost
                pending.update(dict.fromkeys(self._users[name]))
        return costs

    def _from_below(self) -> list[str]:
        """Return the rules in an order in which those that a rule uses come before it, unless they use it too."""
        order: list[str] = []
        met: set[str] = set()
        stack = [(name, False) for name in self.grammar.rules]
        while stack:
            name, done = stack.pop()
            if done:
                order.append(name)
            elif name not in met:
                met.add(name)
                stack.append((name, True))
                stack += [(used, False) for used in sorted(self._uses(self.grammar.rules[name])) if used not in met]
        return order

    def _cost(self, node: PatternNode, costs: dict[str, Cost], known: dict[PatternNode, Cost]) -> Cost:
        fixed = isinstance(node, Chars) or not self._uses(node)
        found = (self._least if fixed else known).get(node)
        if found is not None:
            return found
        if isinstance(node, Chars):
            found = self.prices.least(node.ranges)
        elif isinstance(node, RuleRef):
            found = costs[node.name] + 1
        elif isinstance(node, Concat):
            found = sum(self._cost(part, costs, known) for part in node.parts)
        elif isinstance(node, Alt):
            found = min((self._cost(part, costs, known) for part in node.parts), default=NEVER)
        elif isinstance(node, Repeat):
            found = node.low * self._cost(node.node, costs, known) if node.low else 0
        else:
            found = self.regular.cost(node)
        (self._least if fixed else known)[node] = found
        return found

    def cost(self, node: PatternNode) -> Cost:
        """Return the least cost of a text of the node."""
        return self._cost(node, self.costs, self._least)

    # -- rests and states
    def rest(self, node: PatternNode, tail: Rest, at: int = -1, most: int | None = None) -> Rest:
        """Return the rest of `node` and then `tail`. `at`, `most`: see `Rest`; -1 for a node not begun."""
        if at < 0:
            at, most = (node.low, node.high) if isinstance(node, Repeat) else (0, None)
        key = id(node), at, most, id(tail)
        found = self._rests.get(key)
        if found is None:
            found = self._rests[key] = Rest(node, at, most, tail, self._left(node, at) + tail.least)
        return found

    def _left(self, node: PatternNode, at: int) -> Cost:
        if isinstance(node, Repeat):
            return at * self.cost(node.node) if at else 0
        if not isinstance(node, Concat):
            return self.cost(node)
        sums = self._sums.get(id(node))
        if sums is None:
            left: list[Cost] = [0]
            for part in reversed(node.parts):
                left.append(left[-1] + self.cost(part))
            sums = self._sums[id(node)] = tuple(reversed(left))
        return sums[at]

    def _heads(self, rest: Rest) -> tuple[Rest, ...]:
        """Return the rests that `rest` may begin with, each a character or a rule; set `rest.ends`."""
        if rest.heads is not None:
            return rest.heads
        out: dict[Rest, None] = {}
        seen: set[Rest] = set()
        counts: dict[tuple[int, int], Cost] = {}  # the most that a repeat of what may be empty was met with
        stack = [rest]
        while stack:
            at = stack.pop()
            if at in seen or at.least == NEVER:
                continue
            seen.add(at)
            if isinstance(at.node, Repeat) and self.nullable(at.node.node):
                # Met with a smaller count, it has no text that it had not before: a million counts are one.
                key, most = (id(at.node), id(at.tail)), NEVER if at.most is None else at.most
                if counts.get(key, -1) >= most:
                    continue
                counts[key] = most
            node, tail = at.node, at.tail
            if tail is None:
                rest.ends = True
            elif isinstance(node, Concat):
                last = at.at == len(node.parts)
                stack.append(tail if last else self.rest(node.parts[at.at], self.rest(node, tail, at.at + 1)))
            elif isinstance(node, Alt):
                stack += [self.rest(part, tail) for part in node.parts]
            elif isinstance(node, Repeat):
                if at.at == 0 or self.nullable(node.node):
                    stack.append(tail)
                if at.most != 0:
                    left = None if at.most is None else at.most - 1
                    stack.append(self.rest(node.node, self.rest(node, tail, max(at.at - 1, 0), left)))
            else:
                out[at] = None
                if self.nullable(node):
                    stack.append(tail)
        rest.heads = tuple(out)
        return rest.heads

    def state(self, rule: str, rests: Iterable[Rest | None]) -> RuleState | None:
        """Return the state of these rests; None if there are none."""
        heads: set[Rest] = set()
        ends = False
        for rest in rests:
            assert rest is not None
            heads.update(self._heads(rest))
            ends = ends or rest.ends
        if not heads and not ends:
            return None
        key = rule, frozenset(heads), ends
        found = self._states.get(key)
        if found is None:
            if self.size > MOST_BYTES:
                self.forget()
            found = self._states[key] = RuleState(self, *key)
        return found

    def start(self, rule: str) -> RuleState | None:
        """Return the state at the beginning of a rule; None if it has no text."""
        if rule not in self._starts:
            if self.costs[rule] == NEVER:
                return None
            found = self.state(rule, [self.rest(self.grammar.rules[rule], self.end)])
            assert found is not None
            self._starts[rule] = found
        return self._starts[rule]

    @no_deeper
    def step(self, state: RuleState, code: int, known: dict[int, RuleState | None]) -> RuleState | None:
        """Return the state after a character, and keep it in `known`."""
        after: list[Rest] = []
        for rest in state.rests:
            node, tail = rest.node, rest.tail
            assert tail is not None
            if isinstance(node, Chars):
                if contains(node.ranges, code):
                    after.append(tail)
            elif not isinstance(node, RuleRef):
                following = self.regular.derive(node, code)
                if following != NOTHING:
                    after.append(self.rest(self._derivatives.setdefault(following, following), tail))
        if len(known) > MOST_STEPS:
            known.clear()
        self.taken += 1
        found = known[code] = self.state(state.rule, after)
        return found

    # -- least texts
    def text(self, state: RuleState) -> str:
        """Return a least text from a state to the end of its rule."""
        if state.ends:
            return ""
        least = [rest for rest in state.rests if rest.least == state.least]
        return min([self._text_of_rest(rest) for rest in least])  # of equals the same one, in whatever order they lie

    def _text_of_rest(self, rest: Rest | None) -> str:
        out: list[str] = []
        while rest is not None:
            if isinstance(rest.node, Repeat):
                out.append(self._text_of([rest.node.node]) * rest.at if rest.at else "")
            elif isinstance(rest.node, Concat):
                out.append(self._text_of([*rest.node.parts[rest.at :]]))
            else:
                out.append(self._text_of([rest.node]))
            rest = rest.tail
        return "".join(out)

    def least_text(self, node: PatternNode) -> str:
        """Return a least text of a node."""
        return self._text_of([node])

    def _text_of(self, nodes: list[PatternNode]) -> str:
        """Return a least text of these nodes, one after the other."""
        out: list[str] = []
        stack = nodes[::-1]
        while stack:
            node = stack.pop()
            if isinstance(node, Chars):
                out.append(chr(representative(node.ranges)))
            elif isinstance(node, RuleRef):
                stack.append(self.grammar.rules[node.name])
            elif isinstance(node, Concat):
                stack += reversed(node.parts)
            elif isinstance(node, Alt):
                stack.append(min(node.parts, key=self.cost))
            elif isinstance(node, Repeat):
                if node.low:
                    out.append(self._text_of([node.node]) * node.low)
            else:
                out.append(self.regular.text(node))
        return "".join(out)

    def choices(self, state: RuleState, among: Ranges = ALL) -> Iterator[tuple[int, RuleState]]:
        """Yield some characters of `among` that may come in a state, of all kinds, and the states after them."""
        found: list[tuple[Cost, int, int]] = []  # what is left, place among those of one rest, character
        for rest in state.rests:
            if isinstance(rest.node, RuleRef):
                continue
            plain = isinstance(rest.node, Chars)
            parts = [rest.node.ranges] if isinstance(rest.node, Chars) else self.regular.parts(rest.node)
            codes: list[int] = []
            for part in parts:
                if some := intersection(part, among):
                    codes += _representatives(some) if plain else [representative(some)]
            found += [(rest.least, place, code) for place, code in enumerate(codes)]
        for code in dict.fromkeys(code for *_, code in sorted(found)):  # an order that no set decides
            after = state.step(code)
            if after is not None:
                yield code, after


def _representatives(ranges: Ranges) -> list[int]:
    """Return a few characters of the set, the first one of the fewest bytes; all of a small set."""
    if sum(high - low for low, high in ranges) < 16:
        return [code for low, high in ranges for code in range(low, high + 1)]
    first = representative(ranges)
    others = [code for text in "b1c2" if contains(ranges, code := ord(text))]
    return [first, *others[:3], ranges[0][0], ranges[-1][1]]
