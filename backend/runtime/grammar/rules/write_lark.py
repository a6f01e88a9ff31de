"""Rules as a grammar for llguidance, which takes exactly their texts.

Knows nothing of tokens, or of what the rules were written in.

llguidance cuts text into lexemes, as long as it can, and does not take one back. Texts would be lost where a lexeme may
go on with what comes behind it. So a lexeme is one character here, or the whole grammar, if it has no recursion.
"""

from __future__ import annotations

from collections.abc import Iterable

from .....lang.errors import ConstraintError
from .....lang.pattern import Chars, Concat, PatternError, PatternNode, Repeat, either, sequence, to_lark
from .....lang.pattern.nodes import EMPTY, children
from .nodes import RuleRef, RuleSet
from .normal import regular_node

MOST_REGULAR_CHARACTERS = 100_000
"""Of a grammar without recursion, once its repeats are written out, that is one lexeme."""
MOST_NESTED_GROUPS = 30
_CHOICE, _SEQUENCE, _REPEAT, _ATOM = range(4)


def to_llguidance(rules: RuleSet) -> str:
    """Write normal rules (`normal.py`) in llguidance's Lark. Raises `ConstraintError` for what has no such form."""
    node = regular_node(rules, MOST_REGULAR_CHARACTERS)
    if node is not None:
        try:
            return f"start: T\nT: {to_lark(node)}\n"
        except PatternError:
            pass  # too deep for one regular expression
    return CharacterRules(rules).grammar()


class CharacterRules:
    """Rules over lexemes of one character, collected while they are written."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.numbers = {name: f"r{i}" for i, name in enumerate(rules.rules)}
        self.sets: dict[Chars, str] = {}
        self.lines: list[str] = []

    def grammar(self) -> str:
        for name, node in self.rules.rules.items():
            self.lines.append(f"{self.numbers[name]}: {self._written(node, _CHOICE, 0)}")
        sets = [f"{name}: {to_lark(node)}" for node, name in self.sets.items()]
        return "\n".join([f"start: {self.numbers[self.rules.root]}", *self.lines, *sets]) + "\n"

    def _written(self, node: PatternNode, level: int, depth: int) -> str:
        """Write a node. `level`: how tightly the text around it binds; looser text gets a group."""
        if isinstance(node, RuleRef):
            return self.numbers[node.name]
        if isinstance(node, Chars):
            return self.sets.setdefault(node, f"C{len(self.sets)}")
        if node == EMPTY:
            return '""'
        if not node.plain:
            raise ConstraintError("an intersection or complement within recursive rules cannot be enforced exactly")
        if isinstance(node, Repeat):
            own, text = _REPEAT, self._written(node.node, _ATOM, depth + 1) + counted(node)
        else:
            together = isinstance(node, Concat)
            own, join = (_SEQUENCE, " ") if together else (_CHOICE, " | ")
            parts = children(node) if together else factored(children(node))
            text = join.join(self._written(part, own + together, depth + 1) for part in parts)
        if own >= level:
            return text
        if depth < MOST_NESTED_GROUPS:
            return f"({text})"
        name = f"g{len(self.lines)}"
        self.lines.append(f"{name}: {text}")
        return name


def factored(ways: Iterable[PatternNode]) -> list[PatternNode]:
    """Alternatives with a common beginning as one: each is an item of the engine's, at each character."""
    found: dict[PatternNode, list[tuple[PatternNode, ...]]] = {}
    for way in ways:
        parts = way.parts if isinstance(way, Concat) and way.parts else (way,)
        found.setdefault(parts[0], []).append(parts)
    made: list[PatternNode] = []
    for alike in found.values():
        shared = len(commonprefix(alike)) if len(alike) > 1 else 0
        made.append(sequence([*alike[0][:shared], either(sequence(parts[shared:]) for parts in alike)]))
    return made


def commonprefix(rows: list[tuple[PatternNode, ...]]) -> tuple[PatternNode, ...]:
    """The nodes that all rows begin with."""
    length = 0
    for column in zip(*rows):
        if any(node != column[0] for node in column):
            break
        length += 1
    return rows[0][:length]


def counted(node: Repeat) -> str:
    """The count of a repeat."""
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
    if simple is not None:
        return simple
    return f"{{{node.low}}}" if node.low == node.high else f"{{{node.low},{'' if node.high is None else node.high}}}"
