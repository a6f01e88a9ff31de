"""How many tokens a constrained text may need at most to its end, wherever it is: a bound without any search.

Knows nothing of matchers, budgets or how a way to close is found.

A text stands in some part of its constraint. It needs the end of that part and a shortest text of all that must follow,
so the bound is a maximum over the parts. Within a part each byte counts one token. The bytes that follow count as few
tokens as can spell them. Where a grammar forces text, its canonical spelling may take a few more, so the caller leaves
some room. Without `words` every byte counts one, and the bound holds exactly.

The bound is `None` where it cannot be told: `Both`, `Not`, open objects and arrays, recursion.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

from .....lang.pattern import Alt, Chars, Concat, PatternError, PatternNode, Repeat
from ..schema.languages import parse_spelled
from ..schema.nodes import (
    ANYTHING,
    IMPOSSIBLE,
    ArraySchema,
    BooleanSchema,
    EnumSchema,
    LoweredSchema,
    NumberSchema,
    ObjectSchema,
    SchemaNode,
    SchemaVisitor,
    StringSchema,
    UnionSchema,
)

MOST_BYTES = 2_000  # of one shortest text
MOST_PARTS = 20_000  # that are looked at
LONGEST_WORD_BYTES = 32  # of a token that is tried for what follows
_BLANK = b"\xff"
"""A byte that is not known; no token spells it, so it counts one."""
_ESCAPE_BYTES = 6  # in JSON; a character beyond U+FFFF takes two escapes
_SEPARATORS = ((", ", ": "), (",", ":"))


class _Untold(Exception):
    """The bound cannot be told."""


def deepest(parts: Sequence[PatternNode | LoweredSchema | None], words: Collection[bytes] = ()) -> int | None:
    """Return the most tokens that a text of these parts, one after the other, can need from anywhere to an end.

    `parts`: patterns and lowered schemas; None for a part of which nothing is known. `words`: the bytes of the tokens,
    each single byte among them.
    """
    try:
        return max(_EndBound(words, *style).sequence(parts) for style in _SEPARATORS)
    except (_Untold, PatternError, RecursionError):
        return None


class _EndBound:
    """The bound for one style of separators. `after` is always a shortest text of what must follow."""

    def __init__(self, words: Collection[bytes], comma: str, colon: str) -> None:
        self.words = words
        self.comma, self.colon = comma.encode(), colon.encode()
        self.costs: dict[bytes, int] = {b"": 0}
        self.least: dict[tuple[PatternNode, bool], bytes] = {}
        self.looked = 0

    def sequence(self, parts: Sequence[PatternNode | LoweredSchema | None]) -> int:
        after, most = b"", 0
        for part in reversed(parts):
            if part is None:
                raise _Untold
            if isinstance(part, LoweredSchema):
                farthest = _FarthestEnd(part, self)
                most = max(most, farthest.visit(part.root, after))
                after = _short(farthest.least.visit(part.root) + after)
            else:
                most = max(most, self.pattern(part, after))
                after = _short(self.least_pattern(part, False) + after)
        return most

    def cost(self, after: bytes) -> int:
        """Return the fewest tokens that spell these bytes."""
        if not self.words:
            return len(after)
        start = 0
        while after[start:] not in self.costs:
            start += 1
        for at in range(start - 1, -1, -1):
            best = 1 + self.costs[after[at + 1 :]]
            for end in range(at + 2, min(at + LONGEST_WORD_BYTES, len(after)) + 1):
                if after[at:end] in self.words:
                    best = min(best, 1 + self.costs[after[end:]])
            self.costs[after[at:]] = best
        return self.costs[after]

    def within(self, text: bytes, after: bytes) -> int:
        """Return the most tokens from anywhere within this very text."""
        self.looked += len(text)
        return max((self.cost(text[at:] + after) for at in range(len(text))), default=0)

    def look(self) -> None:
        self.looked += 1
        if self.looked > MOST_PARTS:
            raise _Untold

    # -- patterns
    def pattern(self, node: PatternNode, after: bytes, quoted: bool = False) -> int:
        """Return the most tokens from anywhere in a text of a pattern. `quoted`: the text is within a JSON string."""
        self.look()
        if isinstance(node, Chars):
            begun = _rest(node, quoted)
            return max(begun + self.cost(after) if begun else 0, self.cost(self.least_pattern(node, quoted) + after))
        if isinstance(node, Concat):
            most = self.cost(after)
            for part in reversed(node.parts):
                most = max(most, self.pattern(part, after, quoted))
                after = _short(self.least_pattern(part, quoted) + after)
            return most
        if isinstance(node, Alt):
            return max(self.pattern(part, after, quoted) for part in node.parts)
        if isinstance(node, Repeat):
            again = max(node.low - 1, 0)
            least = self.least_pattern(node.node, quoted) if again else b""
            if len(least) * again > MOST_BYTES:
                raise _Untold
            return max(self.cost(after), self.pattern(node.node, least * again + after, quoted))
        raise _Untold

    def least_pattern(self, node: PatternNode, quoted: bool) -> bytes:
        """Return a shortest text of a pattern."""
        key = node, quoted
        if key not in self.least:
            self.least[key] = _short(self._least_pattern(node, quoted))
        return self.least[key]

    def _least_pattern(self, node: PatternNode, quoted: bool) -> bytes:
        self.look()
        if isinstance(node, Chars) and node.ranges:
            return _cheapest(node, quoted)
        if isinstance(node, Concat):
            return b"".join([self.least_pattern(part, quoted) for part in node.parts])
        if isinstance(node, Alt):
            return min((self.least_pattern(part, quoted) for part in node.parts), key=len)
        if isinstance(node, Repeat):
            least = self.least_pattern(node.node, quoted) if node.low else b""
            if len(least) * node.low > MOST_BYTES:
                raise _Untold
            return least * node.low
        raise _Untold


class _ShortestText(SchemaVisitor[[], bytes]):
    """A shortest text of each node, or one as long as that."""

    def __init__(self, schema: LoweredSchema, bound: _EndBound) -> None:
        super().__init__(schema)
        self.bound = bound

    def visit(self, node: SchemaNode) -> bytes:
        self.bound.look()
        return super().visit(node)

    def visit_union(self, node: UnionSchema) -> bytes:
        return min((self.visit(branch) for branch in node.branches), key=len)

    def visit_enum(self, node: EnumSchema) -> bytes:
        return min(map(_spelled, node.values), key=len)

    def visit_object(self, node: ObjectSchema) -> bytes:
        _told_object(node)
        required = [(name, member) for name, member in node.properties.items() if name in node.required]
        members = [_spelled(name) + self.bound.colon + self.visit(member) for name, member in required]
        return b"{" + self.bound.comma.join(members) + b"}"

    def visit_array(self, node: ArraySchema) -> bytes:
        _told_array(node)
        items = [self.visit(item) for item in node.prefix[: node.least]]
        more = node.least - len(items)
        if more > 0:
            items += [self.visit(node.rest)] * min(more, MOST_BYTES)
        return _short(b"[" + self.bound.comma.join(items) + b"]")

    def visit_string(self, node: StringSchema) -> bytes:
        pattern = _only_pattern(node)
        inner = b"a" * min(node.least, MOST_BYTES) if pattern is None else self.bound.least_pattern(pattern, True)
        return b'"' + inner + b'"'

    def visit_boolean(self, node: BooleanSchema) -> bytes:
        return b"true"

    def visit_number(self, node: NumberSchema) -> bytes:
        return _BLANK * _digits(node)

    def otherwise(self, node: SchemaNode) -> bytes:
        raise _Untold

    def again(self, node: SchemaNode) -> bytes:
        raise _Untold


class _FarthestEnd(SchemaVisitor[[bytes], int]):
    """The most tokens from anywhere in a text of a node to the end of it and of `after`."""

    def __init__(self, schema: LoweredSchema, bound: _EndBound) -> None:
        super().__init__(schema)
        self.bound = bound
        self.least = _ShortestText(schema, bound)

    def visit(self, node: SchemaNode, after: bytes) -> int:
        self.bound.look()
        return super().visit(node, after)

    def visit_union(self, node: UnionSchema, after: bytes) -> int:
        return max(self.visit(branch, after) for branch in node.branches)

    def visit_enum(self, node: EnumSchema, after: bytes) -> int:
        return max(self.bound.within(_spelled(value), after) for value in node.values)

    def visit_object(self, node: ObjectSchema, after: bytes) -> int:
        most = self._whole(node, after)
        after = b"}" + after
        for name, member in reversed([*node.properties.items()]):
            if member is IMPOSSIBLE:
                continue
            opening = self.bound.comma + _spelled(name) + self.bound.colon
            inside, least = self._entry(opening, member, after)
            most = max(most, inside)
            if name in node.required:
                after = _short(least)
        return most

    def visit_array(self, node: ArraySchema, after: bytes) -> int:
        most = self._whole(node, after)
        after = b"]" + after
        rest = [node.rest] * max(node.least - len(node.prefix), 1)
        for place, item in reversed([*enumerate([*node.prefix, *rest])]):
            if item is IMPOSSIBLE:
                continue
            inside, least = self._entry(self.bound.comma, item, after)
            most = max(most, inside)
            if place < node.least:
                after = _short(least)
        return most

    def _whole(self, node: SchemaNode, after: bytes) -> int:
        return self.bound.cost(_short(self.least.visit(node) + after))

    def _entry(self, opening: bytes, node: SchemaNode, after: bytes) -> tuple[int, bytes]:
        """Return the most from anywhere in a member or an item with what opens it, and a shortest text of both."""
        least = _short(self.least.visit(node) + after)
        return max(self.bound.within(opening, least), self.visit(node, after)), opening + least

    def visit_string(self, node: StringSchema, after: bytes) -> int:
        pattern = _only_pattern(node)
        if pattern is None:
            return 2 + node.least + 2 * _ESCAPE_BYTES + self.bound.cost(after)
        least = self.least.visit(node)
        return max(self.bound.cost(least + after), self.bound.pattern(pattern, b'"' + after, quoted=True))

    def visit_boolean(self, node: BooleanSchema, after: bytes) -> int:
        return max(self.bound.within(text, after) for text in (b"true", b"false"))

    def visit_number(self, node: NumberSchema, after: bytes) -> int:
        return _digits(node) + self.bound.cost(after)

    def otherwise(self, node: SchemaNode, after: bytes) -> int:
        raise _Untold

    def again(self, node: SchemaNode) -> int:
        raise _Untold


# -- characters
def _cheapest(node: Chars, quoted: bool) -> bytes:
    """Return a character of the set that takes the fewest bytes."""
    found: list[bytes] = []
    for low, high in node.ranges:
        for first in (low, 0x20, 0x23, 0x30, 0x41, 0x5D, 0x61):  # beyond what JSON escapes, and readable ones
            if low <= first <= high:
                found.append(_written(chr(first), quoted))
    return min(found, key=lambda data: (len(data), not data.isalnum()))


def _written(character: str, quoted: bool) -> bytes:
    if quoted and (character < " " or character == "\x7f"):
        return _BLANK * _ESCAPE_BYTES
    return b"\\" + character.encode() if quoted and character in '"\\' else character.encode()


def _rest(node: Chars, quoted: bool) -> int:
    """Return the bytes that a begun character of the set may still need."""
    begun = len(chr(node.ranges[-1][1]).encode()) - 1 if node.ranges else 0
    escaped = quoted and any(low < 0x20 or low <= code <= high for low, high in node.ranges for code in b'"\\\x7f')
    return _ESCAPE_BYTES - 1 if escaped else begun


# -- schemas
def _told_object(node: ObjectSchema) -> None:
    """Refuse an object that may have other keys than its properties, or that counts its members."""
    closed = not node.patterns and node.others is IMPOSSIBLE and set(node.required) <= node.properties.keys()
    if not closed or node.least or node.most is not None:
        raise _Untold


def _told_array(node: ArraySchema) -> None:
    if node.rest is ANYTHING:
        raise _Untold


def _only_pattern(node: StringSchema) -> PatternNode | None:
    """Return the pattern of a string, if it has one; more than that is not known."""
    if node.patterns[1:] or (node.patterns and (node.least or node.most is not None)):
        raise _Untold
    return parse_spelled(node.patterns[0]) if node.patterns else None


def _spelled(value: Any) -> bytes:
    """Return a value in the longest of its spellings."""
    return json.dumps(value).encode()


def _digits(node: NumberSchema) -> int:
    """Return the bytes of a number, as far as its bounds ask for them. With none, a digit completes any."""
    whole = places = 0
    for value in node.said:
        before, _, behind = format(abs(Decimal(repr(value))), "f").partition(".")
        whole, places = max(whole, len(before)), max(places, len(behind))
    if not node.said:
        return 2
    if node.multiple is not None:
        whole += len(format(Decimal(repr(node.multiple)), "f").partition(".")[0])
    return 1 + whole + (0 if node.integer and not places else 2 + places)


def _short(text: bytes) -> bytes:
    if len(text) > MOST_BYTES:
        raise _Untold
    return text
