"""Lowered JSON Schemas as rules over the characters of JSON text.

Knows nothing of engines' masks. The rules have every text that the engine writes under the schema, and a few more: what
is left open, like the order of repeated keys, the engine's matcher decides.

1. A schema has one rule for each definition, and one for any value, in each style of separators.
2. A character of a string has one spelling, or a few if it is a control character. So patterns of strings become
   patterns of spelled strings, character by character.
3. Counts stay counts. Long chains of members are cut into rules, so that no tree is deep.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache, reduce
from typing import Any

from .....lang.kept import kept
from .....lang.pattern import Chars, Concat, PatternError, PatternNode, any_of, complement, either, sequence
from .....lang.pattern.chars import contains, difference
from .....lang.pattern.nodes import EMPTY, NOTHING, both, literal, rebuilt, repeated
from ..schema.languages import parse_spelled
from ..schema.nodes import (
    IMPOSSIBLE,
    AnySchema,
    ArraySchema,
    BooleanSchema,
    EnumSchema,
    LoweredSchema,
    NeverSchema,
    NumberSchema,
    ObjectSchema,
    ReferenceSchema,
    SchemaNode,
    SchemaVisitor,
    StringSchema,
    UnionSchema,
)
from .nodes import RuleRef
from .number_rules import number

SEPARATORS = ((", ", ": "), (",", ":"))
"""Between members and behind a key: the styles of generated JSON (`lark.py`)."""
MOST_CHAINED = 8
"""Members that may follow one another in one tree."""
_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}
_ESCAPED = (*range(0x20), 0x22, 0x5C, 0x7F)
_QUOTE = literal('"')


def schema_rules(schema: LoweredSchema, rules: dict[str, PatternNode], name: str) -> PatternNode:
    """Add the rules of a schema, whose names begin with `name`, and return the node of its texts.

    Raises `PatternError` for a schema that is too deep, or a pattern that cannot be read.
    """
    return either(_StyledRules(schema, rules, f"{name}{n}", *style).whole() for n, style in enumerate(SEPARATORS))


class _StyledRules(SchemaVisitor[[], PatternNode]):
    """The rules of one style of separators."""

    def __init__(self, schema: LoweredSchema, rules: dict[str, PatternNode], name: str, comma: str, colon: str) -> None:
        super().__init__(schema)
        self.rules, self.name = rules, name
        self.comma, self.colon = literal(comma), literal(colon)
        self._objects: dict[Hashable, PatternNode] = {}  # equal objects are one node, which is looked at once

    def whole(self) -> PatternNode:
        root = self.visit(self.schema.root)
        for name, node in self.schema.definitions.items():
            self.rules[f"{self.name}:{name}"] = self.visit(node)
        return root

    def visit_reference(self, node: ReferenceSchema) -> PatternNode:
        return RuleRef(f"{self.name}:{node.name}")

    def visit_any(self, node: AnySchema) -> PatternNode:
        any_value = RuleRef(f"{self.name}:")
        if any_value.name not in self.rules:
            member = sequence([_QUOTE, _any_string(), _QUOTE, self.colon, any_value])
            forms = [
                self._enclosed("{", self._counted(member, 0, None), "}"),
                self._enclosed("[", self._counted(any_value, 0, None), "]"),
                sequence([_QUOTE, _any_string(), _QUOTE]),
                number(NumberSchema(integer=False)),
                any_of(["true", "false", "null"]),
            ]
            self.rules[any_value.name] = either(forms)
        return any_value

    def visit_never(self, node: NeverSchema) -> PatternNode:
        return NOTHING

    def visit_enum(self, node: EnumSchema) -> PatternNode:
        return _constants(tuple(text for value in node.values for text in _spellings(value)))

    def visit_boolean(self, node: BooleanSchema) -> PatternNode:
        return any_of(["true", "false"])

    def visit_number(self, node: NumberSchema) -> PatternNode:
        return number(node)

    def visit_string(self, node: StringSchema) -> PatternNode:
        patterns = [quoted_pattern(pattern) for pattern in node.patterns]
        if not patterns or node.least or node.most is not None:
            patterns.append(repeated(_any_character(), node.least, node.most))
        body = reduce(both, patterns)
        return sequence([_QUOTE, body, _QUOTE])

    def visit_union(self, node: UnionSchema) -> PatternNode:
        return either(self.visit(branch) for branch in node.branches)

    def visit_array(self, node: ArraySchema) -> PatternNode:
        prefix = [self.visit(item) for item in node.prefix]
        rest = self.visit(node.rest)
        most = len(prefix) if rest == NOTHING else None
        if NOTHING in prefix:
            most = prefix.index(NOTHING)
        if node.most is not None:
            most = node.most if most is None else min(most, node.most)
        if most is not None and most < node.least:
            return NOTHING
        if most is not None:
            prefix = prefix[:most]
        if not prefix:
            return self._enclosed("[", self._counted(rest, node.least, most), "]")
        left = None if most is None else most - len(prefix)
        tail: PatternNode = EMPTY
        if left != 0 and rest != NOTHING:
            tail = repeated(Concat((self.comma, rest)), max(node.least - len(prefix), 0), left)
        for place in range(len(prefix) - 1, 0, -1):
            tail = self._cut(Concat((self.comma, prefix[place], tail)), place)
            tail = tail if place < node.least else repeated(tail, 0, 1)
        whole = Concat((prefix[0], tail))
        return self._enclosed("[", whole if node.least else repeated(whole, 0, 1), "]")

    def visit_object(self, node: ObjectSchema) -> PatternNode:
        named = {name: member for name, member in node.properties.items() if member is not IMPOSSIBLE}
        named |= {name: self._unnamed(node, name) for name in node.required if name not in node.properties}
        if not set(node.required) <= named.keys():
            return NOTHING
        members = {name: self.visit(member) for name, member in named.items()}
        patterns = {pattern: self.visit(member) for pattern, member in node.patterns.items()}
        others = NOTHING if node.others is IMPOSSIBLE else self.visit(node.others)
        taken = tuple(dict.fromkeys([*node.properties, *node.required]))
        limits = node.required, node.least, node.most
        key = (tuple(members.items()), tuple(patterns.items()), others, taken, *limits)
        if key not in self._objects:
            listed = [
                (self._member(_quoted_text(name), member), name in node.required) for name, member in members.items()
            ]
            extra = self._extra(taken, patterns, others)
            self._objects[key] = self._object(listed, extra, *limits)
        return self._objects[key]

    def _object(
        self,
        members: list[tuple[PatternNode, bool]],
        extra: PatternNode,
        required: tuple[str, ...],
        least: int,
        most: int | None,
    ) -> PatternNode:
        least = max(least - len(required), 0)
        most = None if most is None else most - len(required)
        if most is not None and most < least:
            return NOTHING
        return self._enclosed("{", self._listed(members, extra, least, most), "}")

    def _unnamed(self, node: ObjectSchema, name: str) -> SchemaNode:
        """Return the schema of a key that must be there and has no property."""
        from .....lang.pattern import accepts

        fits = (member for pattern, member in node.patterns.items() if accepts(parse_spelled(pattern), name))
        return next(fits, node.others)

    def _extra(self, taken: Sequence[str], patterns: dict[str, PatternNode], others: PatternNode) -> PatternNode:
        """Return the node of a member whose key is none of `taken`."""
        options = []
        for pattern, member in patterns.items():
            among = [name for name in taken if _is_in(pattern, name)]
            options.append(self._member(_without(quoted_pattern(pattern), among), member))
        if others != NOTHING:
            keys = _without(_any_string(), taken)
            for pattern in patterns:
                keys = both(keys, complement(quoted_pattern(pattern)))
            options.append(self._member(keys, others))
        return either(options)

    def _member(self, key: PatternNode, value: PatternNode) -> PatternNode:
        return NOTHING if NOTHING in (key, value) else Concat((_QUOTE, key, _QUOTE, self.colon, value))

    def _listed(
        self, members: Sequence[tuple[PatternNode, bool]], extra: PatternNode, least: int, most: int | None
    ) -> PatternNode:
        """Return the members in their order and then `least` to `most` extra ones, with commas between them.

        `first`: the texts of the members from one on, with nothing before. `later`: with something before.
        """
        first = self._counted(extra, least, most)
        later = EMPTY if most == 0 or extra == NOTHING else repeated(Concat((self.comma, extra)), least, most)
        if extra == NOTHING and least:
            return NOTHING
        for place in range(len(members) - 1, -1, -1):
            member, required = members[place]
            begun = Concat((member, later))
            entry = Concat((self.comma, member))
            first = begun if required else either([begun, first])
            later = Concat((entry if required else repeated(entry, 0, 1), later))
            if place and place % MOST_CHAINED == 0:
                first, later = self._cut(first, place), self._cut(later, place)
        return first

    def _cut(self, node: PatternNode, place: int) -> PatternNode:
        """Make a node deep in a chain a rule of its own."""
        if place % MOST_CHAINED or node == EMPTY:
            return node
        name = f"{self.name}#{len(self.rules)}"
        self.rules[name] = node
        return RuleRef(name)

    def _counted(self, item: PatternNode, least: int, most: int | None) -> PatternNode:
        """Return `least` to `most` items with commas between them."""
        if most == 0 or item == NOTHING:
            return NOTHING if least else EMPTY
        more = repeated(Concat((self.comma, item)), max(least - 1, 0), None if most is None else most - 1)
        listed = Concat((item, more))
        return listed if least else repeated(listed, 0, 1)

    def _enclosed(self, opening: str, inside: PatternNode, closing: str) -> PatternNode:
        return sequence([literal(opening), inside, literal(closing)])

    def again(self, node: SchemaNode) -> PatternNode:
        raise PatternError("the schema is nested too deeply", None, "break it up with $defs")


# -- strings
@kept(1024)
def quoted_pattern(pattern: str) -> PatternNode:
    """Return a pattern of a lowered schema, over the characters between the quotes of JSON."""
    return _quoted(parse_spelled(pattern))


def _quoted(node: PatternNode) -> PatternNode:
    if isinstance(node, Chars):
        return _quoted_characters(node)
    made = rebuilt(node, _quoted)
    return made if node.plain else both(made, _any_string())


@kept(4096)
def _quoted_characters(node: Chars) -> PatternNode:
    plain = Chars(difference(node.ranges, tuple((code, code) for code in _ESCAPED)))
    return either([plain, any_of(_escapes(code for code in _ESCAPED if contains(node.ranges, code)))])


def _escapes(codes: Iterable[int]) -> list[str]:
    out = []
    for code in codes:
        if code in (0x22, 0x5C):
            out.append("\\" + chr(code))
            continue
        out += [f"\\u{code:04x}", f"\\u{code:04X}"]
        if code in _SHORT_ESCAPES:
            out.append("\\" + _SHORT_ESCAPES[code])
    return out


@lru_cache(1)
def _any_character() -> PatternNode:
    from .....lang.pattern import ANY_CHAR

    return _quoted(ANY_CHAR)


@lru_cache(1)
def _any_string() -> PatternNode:
    return repeated(_any_character(), 0, None)


@kept(4096)
def _constants(texts: tuple[str, ...]) -> PatternNode:
    return any_of(texts)


@kept(16384)
def _quoted_text(text: str) -> PatternNode:
    return sequence(_quoted(literal(character)) for character in text)


@kept(4096)
def _is_in(pattern: str, text: str) -> bool:
    from .....lang.pattern import accepts

    return accepts(parse_spelled(pattern), text)


def _without(keys: PatternNode, names: Sequence[str]) -> PatternNode:
    return both(keys, complement(either(map(_quoted_text, names)))) if names else keys


def _spellings(value: Any) -> list[str]:
    """Return the ways in which a constant may be written."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return [text.replace("\x7f", "\\u007f")]
    if isinstance(value, bool) or value is None:
        return [json.dumps(value)]
    return [*dict.fromkeys([json.dumps(value), format(Decimal(repr(value)), "f")])]
