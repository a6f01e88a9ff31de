"""Constraints as llguidance's Lark dialect.

Owns: how constraints join. Regular parts that touch become one regular expression; JSON Schemas become `%json` rules.
Knows nothing of tokens, or of what a schema means (`schema/`).

llguidance's lexer is greedy. Where a part may go on with the character that the next part begins with, the part goes
on, and texts would be lost. So such a joint is refused (`ConstraintError`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ....lang.constraint import Choices, Constraint, Either, Exactly, JsonSchema, Regex, Sequenced, pattern_node
from ....lang.errors import ConstraintError
from ....lang.pattern import (
    Chars,
    PatternError,
    PatternNode,
    any_of,
    either,
    first,
    follows,
    literal,
    nullable,
    sequence,
    size,
    to_lark,
)

STYLES = (
    {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
)
"""Whitespace in generated JSON: a space after every comma and colon, or none anywhere. The text's first separator
decides; from there on separators, and the keys behind them, are forced."""

MOST_POSITIONS = 2_000_000
"""Characters that a regular expression may span once its repeats are written out."""

_EVERYTHING = Chars(((0, 0x10FFFF),))
_NOTHING = Chars(())
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


def regular(constraint: Constraint) -> PatternNode | None:
    """The language of a constraint without JSON Schema or grammar in it; None for others.

    Raises `ConstraintError` for a pattern that is wrong, that no engine can enforce, or that nothing matches.
    """
    if isinstance(constraint, Exactly):
        return literal(constraint.text)
    if isinstance(constraint, Choices):
        return any_of(constraint.choices)
    if isinstance(constraint, Regex):
        return _parsed(constraint.pattern)
    if isinstance(constraint, Sequenced):
        return _all(sequence, [regular(part) for part in constraint.parts])
    if isinstance(constraint, Either):
        return _all(either, [regular(branch) for branch in constraint.branches])
    return None


def _all(join: Any, nodes: list[PatternNode | None]) -> PatternNode | None:
    return None if any(node is None for node in nodes) else join(nodes)


def _parsed(pattern: str) -> PatternNode:
    node = pattern_node(pattern)
    if size(node) > MOST_POSITIONS:
        raise ConstraintError(
            f"regex {pattern!r:.200}: its repeats span more than {MOST_POSITIONS:,} characters; use smaller counts"
        )
    return node


def merged(parts: Iterable[Constraint]) -> Iterator[PatternNode | Constraint]:
    """The parts of a sequence, with the regular ones that touch as one."""
    run: list[PatternNode] = []
    for part in parts:
        node = regular(part)
        if node is not None:
            run.append(node)
            continue
        if run:
            yield sequence(run)
            run = []
        yield part
    if run:
        yield sequence(run)


def schemas(constraint: Constraint) -> list[JsonSchema]:
    """The JSON Schemas in a constraint, in order."""
    if isinstance(constraint, JsonSchema):
        return [constraint]
    if isinstance(constraint, Sequenced):
        return [found for part in constraint.parts for found in schemas(part)]
    if isinstance(constraint, Either):
        return [found for branch in constraint.branches for found in schemas(branch)]
    return []


def to_source(constraint: Constraint, masks: dict[JsonSchema, Any]) -> str:
    """The grammar of a constraint. `masks`: for each JSON Schema in it, the schema that the mask enforces."""
    node = regular(constraint)
    return LarkRules(masks).grammar(constraint) if node is None else f"start: T\nT: {_printed(node)}\n"


def _printed(node: PatternNode) -> str:
    try:
        return to_lark(node)
    except PatternError as error:
        raise ConstraintError(f"what is joined here is too large or too deep for the engine: {error}") from None


@dataclass(frozen=True)
class LarkPart:
    """A piece of a rule: its text, what it may begin with, what may prolong it, whether it may be empty."""

    text: str
    first: Chars
    follows: Chars
    nullable: bool
    json: bool


class LarkRules:
    """Rules and terminals, collected while a constraint is written."""

    def __init__(self, masks: dict[JsonSchema, Any]) -> None:
        self._masks = masks
        self._lines: list[str] = []

    def grammar(self, constraint: Constraint) -> str:
        start = self._part(constraint)
        return "\n".join([f"start: {start.text}", *self._lines]) + "\n"

    def _part(self, constraint: Constraint | PatternNode) -> LarkPart:
        node = constraint if isinstance(constraint, PatternNode) else regular(constraint)
        if node is not None:
            return self._terminal(node)
        if isinstance(constraint, JsonSchema):
            return self._json(constraint)
        if isinstance(constraint, Sequenced):
            *before, whole = map(self._part, merged(constraint.parts))
            for part in reversed(before):
                whole = _followed(part, whole)
            return whole
        if isinstance(constraint, Either):
            return self._either(constraint)
        assert isinstance(constraint, Constraint)
        raise ConstraintError(
            f"a grammar ({constraint.kind}=) cannot be joined with other constraints; write the rest inside the grammar"
        )

    def _named(self, name: str, definition: str) -> str:
        name = f"{name}{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        return name

    def _terminal(self, node: PatternNode) -> LarkPart:
        empty = nullable(node)
        name = self._named("T", _printed(node))
        return LarkPart(f"{name}?" if empty else name, first(node), follows(node), empty, False)

    def _json(self, constraint: JsonSchema) -> LarkPart:
        mask = self._masks[constraint]
        rule = f"({' | '.join(self._named('j', each) for each in _styled(mask))})"
        kinds = mask.get("type") if isinstance(mask, dict) else None
        kinds = [kinds] if isinstance(kinds, str) else kinds or list(_BEGINS)
        begins = _chars("".join(_BEGINS[kind] for kind in kinds))
        number = not {"number", "integer"}.isdisjoint(kinds)
        return LarkPart(rule, begins, _chars(_DIGITS + ".eE+-") if number else _NOTHING, False, True)

    def _either(self, constraint: Either) -> LarkPart:
        nodes = [regular(branch) for branch in constraint.branches]
        plain = [node for node in nodes if node is not None]
        parts = [self._terminal(either(plain))] if plain else []
        parts += [self._part(branch) for branch, node in zip(constraint.branches, nodes) if node is None]
        overlap = _overlap(parts)
        return LarkPart(
            "(" + " | ".join(part.text for part in parts) + ")",
            _joined(*(part.first for part in parts)),
            _EVERYTHING if overlap else _joined(*(part.follows for part in parts)),
            any(part.nullable for part in parts),
            any(part.json for part in parts),
        )


def _followed(part: LarkPart, rest: LarkPart) -> LarkPart:
    """A part, and what comes behind it."""
    clash = _common(part.follows, rest.first)
    if clash is not None:
        raise ConstraintError(
            f"the parts of a sequence run into each other: one may go on with {clash!r}, and the next may "
            "begin with it; put text between them that cannot be confused, or write both as one regex"
        )
    return LarkPart(
        f"{part.text} {rest.text}",
        _joined(part.first, rest.first) if part.nullable else part.first,
        _joined(rest.follows, part.follows) if rest.nullable else rest.follows,
        part.nullable and rest.nullable,
        part.json or rest.json,
    )


def _overlap(parts: list[LarkPart]) -> bool:
    """Whether two parts may begin with the same character. That is refused unless both are JSON."""
    overlap = False
    for one, other in ((one, other) for i, one in enumerate(parts) for other in parts[:i]):
        clash = _common(one.first, other.first)
        if clash is not None and not (one.json and other.json):
            raise ConstraintError(
                f"the branches of a union begin alike (with {clash!r}): which one a text belongs to would be "
                "decided too early; make them begin with different text"
            )
        overlap = overlap or clash is not None
    return overlap


def json_rule(mask: Any) -> str:
    """The JSON of a schema that the mask enforces, in each style, as a part of a rule."""
    return f"({' | '.join(_styled(mask))})"


def _styled(mask: Any) -> list[str]:
    return ["%json " + json.dumps({**_as_object(mask), "x-guidance": style}) for style in STYLES]


def _as_object(mask: Any) -> dict[str, Any]:
    return mask if isinstance(mask, dict) else {} if mask else {"not": {}}


def _chars(text: str) -> Chars:
    return Chars(tuple((ord(c), ord(c)) for c in sorted(set(text))))


def _joined(*parts: Chars) -> Chars:
    return Chars(tuple(sorted({low_high for part in parts for low_high in part.ranges})))


def _common(a: Chars, b: Chars) -> str | None:
    """A character of both, if there is one."""
    for low, high in a.ranges:
        for start, end in b.ranges:
            if max(low, start) <= min(high, end):
                return chr(max(low, start))
    return None
