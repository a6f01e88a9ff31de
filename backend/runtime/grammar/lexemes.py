"""A joined constraint as rules over lexemes: pieces of text that may be cut off where they end.

Owns: how constraints join. Knows nothing of tokens, or of how an engine writes such rules (`lark.py`).

1. A lexer is greedy: of the lexemes that may come at one place, it goes on while the text goes on with any of them.
2. So regular parts that touch become one lexeme. Where a lexeme may go on with a character that what follows begins
   with, it is joined to each thing that may follow. So free text before a tag goes on to where the tag's text is whole.
3. Where a text would still be lost, the joint is refused (`ConstraintError`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ....lang.constraint import (
    Choices,
    Constraint,
    Control,
    Either,
    Exactly,
    Grammar,
    JsonSchema,
    Regex,
    Repeated,
    Sequenced,
    pattern_node,
)
from ....lang.errors import ConstraintError
from ....lang.kept import kept
from ....lang.pattern import (
    PatternError,
    PatternNode,
    any_of,
    chars,
    either,
    first,
    follows,
    literal,
    nullable,
    sequence,
    size,
)
from ....lang.pattern.chars import Ranges
from ....lang.pattern.nodes import EMPTY, NOTHING, no_deeper, repeated
from ....lang.pattern.sets import Derivatives
from ....lang.structure import FreeText
from .rules.ebnf import read_ebnf
from .rules.normal import normalised, regular_node

MOST_POSITIONS = 2_000_000
"""Characters that a regular expression may span once its repeats are written out."""
MOST_RULES = 5_000
"""Of one constraint: each round of a repeat with a bound is a rule."""
MOST_LEXER_STATES = 5_000
"""States of the lexemes of one place, in which they are looked at together."""
_DIGITS = "0123456789"
_BEGINS = {
    "object": "{",
    "array": "[",
    "string": '"',
    "number": "-" + _DIGITS,
    "integer": "-" + _DIGITS,
    "boolean": "tf",
    "null": "n",
}


class LexemeWay(NamedTuple):
    """A way from a rule: a lexeme (empty: none), then a JSON value or a control token (None: neither), then the rule
    with this number (None: the text ends)."""

    text: PatternNode
    atom: JsonSchema | Control | None
    after: int | None


class LexemeRules(NamedTuple):
    """The ways of each rule; the text begins with rule 0."""

    ways: tuple[tuple[LexemeWay, ...], ...]


def regular(constraint: Constraint) -> PatternNode | None:
    """The language of a constraint without JSON Schema, recursive grammar or control token; None for others.

    Raises `ConstraintError` for a pattern that is wrong, that no engine can enforce, or that nothing matches.
    """
    if isinstance(constraint, Exactly):
        return literal(constraint.text)
    if isinstance(constraint, Choices):
        return any_of(constraint.choices)
    if isinstance(constraint, Regex):
        return _parsed(constraint.pattern)
    if isinstance(constraint, Sequenced):
        return _all(sequence, map(regular, _without_twins(constraint.parts)))
    if isinstance(constraint, Either):
        return _all(either, map(regular, constraint.branches))
    if isinstance(constraint, Grammar):
        return None if constraint.syntax != "ebnf" else _of_grammar(constraint.source)
    if isinstance(constraint, Repeated):
        return None if (node := regular(constraint.part)) is None else _repeated(node, constraint)
    return None


@kept(64)
def _of_grammar(source: str) -> PatternNode | None:
    """The language of a grammar without recursion, so that it may stand among other parts."""
    return regular_node(normalised(read_ebnf(source)), MOST_POSITIONS)


def _all(join: Any, nodes: Iterable[PatternNode | None]) -> PatternNode | None:
    found = list(nodes)
    return None if any(node is None for node in found) else join(found)


def _parsed(pattern: str) -> PatternNode:
    return _sized(pattern_node(pattern), f"regex {pattern!r:.200}")


def _sized(node: PatternNode, what: str) -> PatternNode:
    if size(node) > MOST_POSITIONS:
        raise ConstraintError(f"{what}: its repeats span more than {MOST_POSITIONS:,} characters; use smaller counts")
    return node


def _repeated(node: PatternNode, of: Repeated) -> PatternNode:
    if not of.separator:
        return _sized(repeated(node, of.least, of.most), "repeat")
    again = sequence([literal(of.separator), node])
    rounds = sequence([node, repeated(again, max(of.least - 1, 0), None if of.most is None else of.most - 1)])
    return _sized(rounds if of.least else repeated(rounds, 0, 1), "repeat")


def _without_twins(parts: tuple[Constraint, ...]) -> Iterator[Constraint]:
    """The parts, of free texts that touch each other the first one."""
    for i, part in enumerate(parts):
        if not (i and isinstance(part, FreeText) and part == parts[i - 1]):
            yield part


def lexeme_rules(constraint: Constraint, masks: Mapping[JsonSchema, Any]) -> LexemeRules:
    """The rules of a constraint. `masks`: for each JSON Schema in it, the schema that the mask enforces.

    Raises `ConstraintError` for parts that run into each other, and for a grammar among other parts.
    """
    try:
        return _LexemeWriter(masks).rules(constraint)
    except (PatternError, RecursionError) as error:
        raise ConstraintError(f"what is joined here is too large or too deep for the engine: {error}") from None


class _Rest:
    """What is left of a constraint: a part, and what is behind it. Made once each, and compared by identity."""

    __slots__ = ("begins", "part", "tail")

    def __init__(self, part: Constraint, tail: _Rest | None) -> None:
        self.part, self.tail = part, tail
        self.begins: Ranges | None = None


class _Joint(NamedTuple):
    """A place in a constraint: the lexeme before it that is not cut off, the free text that it ends with, and what is
    left."""

    run: PatternNode
    free: FreeText | None
    rest: _Rest | None


class _LexemeWriter:
    """Writes the rules of one constraint."""

    def __init__(self, masks: Mapping[JsonSchema, Any]) -> None:
        self.masks = masks
        self._rests: dict[tuple[Constraint, _Rest | None], _Rest] = {}
        self._numbers: dict[_Rest, int] = {}
        self._pending: list[_Rest] = []
        self._regular: dict[Constraint, PatternNode | None] = {}

    def rules(self, constraint: Constraint) -> LexemeRules:
        rest = self._rest(constraint, None)
        assert rest is not None
        self._number(rest)
        made: list[tuple[LexemeWay, ...]] = []
        while len(made) < len(self._pending):
            made.append(self._ways(self._pending[len(made)]))
        return LexemeRules(tuple(made))

    def _number(self, rest: _Rest | None) -> int | None:
        if rest is None:
            return None
        if rest not in self._numbers:
            if len(self._numbers) == MOST_RULES:
                raise ConstraintError(f"the constraint has more than {MOST_RULES:,} places; use smaller repeat counts")
            self._numbers[rest] = len(self._pending)
            self._pending.append(rest)
        return self._numbers[rest]

    def _rest(self, part: Constraint, tail: _Rest | None) -> _Rest | None:
        if isinstance(part, Sequenced):
            for each in reversed(part.parts):
                tail = self._rest(each, tail)
            return tail
        key = part, tail
        if key not in self._rests:
            self._rests[key] = _Rest(part, tail)
        return self._rests[key]

    def node(self, part: Constraint) -> PatternNode | None:
        if part not in self._regular:
            self._regular[part] = regular(part)
        return self._regular[part]

    # -- the ways of one rule
    def _ways(self, start: _Rest) -> tuple[LexemeWay, ...]:
        ways: dict[LexemeWay, Ranges] = {}  # with the characters that what is behind the lexeme begins with
        stack = [_Joint(EMPTY, None, start)]
        seen: set[_Joint] = set()
        while stack:
            place = self._joined(stack.pop())
            if place in seen or place.run == NOTHING:
                continue
            seen.add(place)
            run, free, rest = place
            if rest is None:
                ways[LexemeWay(run, None, None)] = ()
                continue
            part, tail = rest.part, rest.tail
            if isinstance(part, (JsonSchema, Control)):
                ways[LexemeWay(run, part, self._number(tail))] = self._first(part)[0]
                self._after(part, tail)
            elif run != EMPTY and not nullable(run) and not chars.intersection(follows(run).ranges, self.begins(rest)):
                ways[LexemeWay(run, None, self._number(rest))] = self.begins(rest)
            elif isinstance(part, Either):
                stack += reversed([_Joint(run, free, self._rest(each, tail)) for each in self._branches(part)])
            elif isinstance(part, Repeated):
                stack.append(_Joint(run, free, self._rest(part.part, self._again(part, tail))))
                if not part.least:
                    stack.append(_Joint(run, free, tail))
            else:
                raise ConstraintError(
                    f"a grammar ({part.kind}=) cannot be joined with other constraints, but for EBNF without "
                    "recursion; write the rest inside the grammar"
                )
        _look(ways)
        return tuple(ways)

    def _joined(self, place: _Joint) -> _Joint:
        """The place behind the regular parts that come next, which join the lexeme."""
        run, free, rest = place
        parts = [run]
        while rest is not None and (node := self.node(rest.part)) is not None:
            if free is None or rest.part != free:
                parts.append(node)
            if node != EMPTY:
                free = rest.part if isinstance(rest.part, FreeText) else None
            rest = rest.tail
        return _Joint(sequence(parts), free, rest)

    def _branches(self, part: Either) -> list[Constraint]:
        """The branches, those that are regular as one."""
        plain = tuple(each for each in part.branches if self.node(each) is not None)
        others = [each for each in part.branches if self.node(each) is None]
        return [plain[0] if len(plain) == 1 else Either(plain), *others] if plain else others

    def _again(self, part: Repeated, tail: _Rest | None) -> _Rest | None:
        """What is left behind one round of a repeat."""
        if part.most == 1:
            return tail
        again = part.part if not part.separator else Sequenced((Exactly(part.separator), part.part))
        most = None if part.most is None else part.most - 1
        return self._rest(Repeated(again, max(part.least - 1, 0), most, ""), tail)

    def _after(self, part: JsonSchema | Control, rest: _Rest | None) -> None:
        """Refuse text behind a JSON number that the number may go on with."""
        if isinstance(part, JsonSchema) and rest is not None and "-" in self._kinds_begin(part):
            _refuse(chars.intersection(self.begins(rest), chars.of(_DIGITS + ".eE+-")))

    # -- what may begin
    def begins(self, rest: _Rest | None) -> Ranges:
        """The characters that what is left may begin with."""
        found: Ranges = ()
        while rest is not None:
            own, empty = self._first(rest.part)
            found = chars.union([*found, *own])
            if not empty:
                break
            rest = rest.tail
        return found

    def _first(self, part: Constraint) -> tuple[Ranges, bool]:
        """The characters that a part may begin with, and whether it may be empty."""
        if (node := self.node(part)) is not None:
            return first(node).ranges, nullable(node)
        if isinstance(part, JsonSchema):
            return chars.of(self._kinds_begin(part)), False
        if isinstance(part, Repeated):
            own, empty = self._first(part.part)
            behind = chars.of(part.separator[0]) if empty and part.separator else ()
            return chars.union([*own, *behind]), empty or not part.least
        found = [self._first(each) for each in part.inner]
        if isinstance(part, Either):
            return chars.union(pair for own, _ in found for pair in own), any(empty for _, empty in found)
        begun: list[tuple[int, int]] = []
        for own, empty in found:
            begun += own
            if not empty:
                return chars.union(begun), False
        return chars.union(begun), not isinstance(part, Control) and bool(found)

    def _kinds_begin(self, part: JsonSchema) -> str:
        mask = self.masks[part]
        kinds = mask.get("type") if isinstance(mask, dict) else None
        kinds = [kinds] if isinstance(kinds, str) else kinds or list(_BEGINS)
        return "".join(_BEGINS[kind] for kind in kinds)


@no_deeper
def _look(ways: Mapping[LexemeWay, Ranges]) -> None:
    """Refuse lexemes of one place of which one goes on where the next thing may follow another."""
    walk = Derivatives()

    def look_at(lexer: tuple[tuple[LexemeWay, PatternNode], ...]) -> None:
        ended = [way for way, node in lexer if walk.nullable(node)]
        begun = chars.union(pair for _, node in lexer if node != EMPTY for pair in first(node).ranges)
        for way in ended:
            _refuse(chars.intersection(ways[way], begun))
        _look_at_values([way for way in ended if isinstance(way.atom, JsonSchema)], ways)

    start = tuple((way, way.text) for way in ways)
    if len(start) == 1 or _disjoint([first(way.text).ranges for way in ways if way.text != EMPTY]):
        look_at(start)
        for way, behind in ways.items():
            _refuse(chars.intersection(behind, follows(way.text).ranges) if behind else ())
        return
    seen, pending = {start}, [start]
    while pending:
        lexer = pending.pop()
        look_at(lexer)
        for part in chars.partition(dict.fromkeys(part for _, node in lexer for part in walk.parts(node))):
            after = tuple((way, to) for way, node in lexer if (to := walk.step(node, part[0][0])) != NOTHING)
            if after and after not in seen:
                if len(seen) == MOST_LEXER_STATES:
                    raise PatternError("too many texts may begin at one place", None, "make them begin differently")
                seen.add(after)
                pending.append(after)


def _look_at_values(found: list[LexemeWay], ways: Mapping[LexemeWay, Ranges]) -> None:
    """Refuse JSON values that begin alike where text follows them: the lexemes within them are not known here."""
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.atom != other.atom and not (one.after is None and other.after is None):
                _refuse(chars.intersection(ways[one], ways[other]))


def _disjoint(sets: list[Ranges]) -> bool:
    total = sum(high - low + 1 for ranges in sets for low, high in ranges)
    return total == sum(high - low + 1 for low, high in chars.union(pair for ranges in sets for pair in ranges))


def _refuse(clash: Ranges) -> None:
    if clash:
        raise ConstraintError(
            f"the parts run into each other: one may go on with {chr(clash[0][0])!r}, and the next one may begin with "
            "it; put text between them that cannot be confused, or write both as one regex"
        )
