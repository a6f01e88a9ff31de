"""Constraints as llguidance's Lark dialect: lexemes become terminals, JSON Schemas become `%json` rules.

Knows nothing of how constraints join (`lexemes.py`), of tokens, or of what a schema means (`schema/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....lang.constraint import Constraint, JsonSchema
from ....lang.errors import ConstraintError
from ....lang.kept import kept
from ....lang.pattern import PatternError, PatternNode, nullable, plain, to_lark
from ....lang.pattern.nodes import EMPTY
from .lexemes import LexemeRules, LexemeWay, lexeme_rules, regular

STYLES = (
    {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
)
"""Whitespace in generated JSON: a space after every comma and colon, or none anywhere. The text's first separator
decides; from there on separators, and the keys behind them, are forced."""


def schemas(constraint: Constraint) -> list[JsonSchema]:
    """The JSON Schemas in a constraint, in order."""
    if isinstance(constraint, JsonSchema):
        return [constraint]
    return [found for part in constraint.inner for found in schemas(part)]


def to_source(
    constraint: Constraint,
    masks: dict[JsonSchema, Any],
    controls: Mapping[str, int] | None = None,
    rules: LexemeRules | None = None,
) -> str:
    """The grammar of a constraint. `masks`: for each JSON Schema in it, the schema that the mask enforces. `controls`:
    the ids of its control tokens; None: of a trial without a vocabulary. `rules`: its lexeme rules, if they are made
    already."""
    node = regular(constraint) if rules is None else None
    if node is not None:
        return f"start: T\nT: {_printed(node)}\n"
    return LarkRules(masks, controls).grammar(lexeme_rules(constraint, masks) if rules is None else rules)


def plainly_written(rules: LexemeRules) -> bool:
    """Whether no lexeme is written with a complement, of which an engine may not see that only one text is left."""
    return all(_plain(way.text).plain for ways in rules.ways for way in ways)


def _printed(node: PatternNode) -> str:
    try:
        return to_lark(node)
    except PatternError as error:
        raise ConstraintError(f"what is joined here is too large or too deep for the engine: {error}") from None


class LarkRules:
    """Lexeme rules as rules and terminals of Lark. `controls`: the id of each control token; None: they are tried as
    characters that no text has, where there is no vocabulary."""

    def __init__(self, masks: dict[JsonSchema, Any], controls: Mapping[str, int] | None) -> None:
        self._masks, self._controls = masks, controls
        self._lines: list[str] = []
        self._names: dict[Constraint | PatternNode, str] = {}

    def grammar(self, rules: LexemeRules) -> str:
        starts = [f"r{i}: {' | '.join(map(self._way, ways))}" for i, ways in enumerate(rules.ways)]
        return "\n".join(["start: r0", *starts, *self._lines]) + "\n"

    def _way(self, way: LexemeWay) -> str:
        parts = [] if way.text == EMPTY else [self._terminal(way.text)]
        if isinstance(way.atom, JsonSchema):
            parts.append(self._json(way.atom))
        elif way.atom is not None:
            parts.append(self._control(way.atom.text))
        if way.after is not None:
            parts.append(f"r{way.after}")
        return " ".join(parts) or '""'

    def _named(self, kind: str, of: Constraint | PatternNode, definition: str) -> str:
        name = self._names[of] = f"{kind}{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        return name

    def _terminal(self, node: PatternNode) -> str:
        name = self._names.get(node) or self._named("T", node, _within_text(node))
        return f"{name}?" if nullable(node) else name

    def _json(self, schema: JsonSchema) -> str:
        return self._names.get(schema) or self._named("j", schema, json_rule(self._masks[schema]))

    def _control(self, text: str) -> str:
        if self._controls is not None:
            return f"<[{self._controls[text]}]>"
        return json.dumps("\ue000" + text, ensure_ascii=False)


def _within_text(node: PatternNode) -> str:
    """A terminal that matches no control token: a complement alone would match the name that the engine gives one."""
    node = _plain(node)
    text = _printed(node)
    return text if node.plain else f"({text}) & /(?s:.*)/"


@kept(256)
def _plain(node: PatternNode) -> PatternNode:
    try:
        return plain(node)
    except PatternError:
        return node


def json_rule(mask: Any) -> str:
    """The JSON of a schema that the mask enforces, in each style, as a part of a rule."""
    return f"({' | '.join(_styled(mask))})"


def _styled(mask: Any) -> list[str]:
    return ["%json " + json.dumps({**_as_object(mask), "x-guidance": style}) for style in STYLES]


def _as_object(mask: Any) -> dict[str, Any]:
    return mask if isinstance(mask, dict) else {} if mask else {"not": {}}
