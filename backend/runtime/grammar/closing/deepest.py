"""How much a constrained text may still need at most, wherever it is: a bound without any search.

Owns: `deepest`, over patterns and lowered schemas. Knows nothing of matchers, budgets or how a way to close is found.

A text stands in some part of its constraint. What it needs is the end of that part and a shortest text of all that
must follow, so the bound is a maximum over the parts. It counts tokens: one a byte within a part, and as few as can
spell them for the bytes that follow. (Where a grammar forces text, its canonical spelling may take a few more: who
asks leaves some room.) With no `words` every byte counts one, and the bound holds exactly.

`None`, where nothing can be told: `Both` and `Not`, open objects and arrays, recursion, all that is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

from .....lang.pattern import Alt, Chars, Concat, PatternError, PatternNode, Repeat
from .search import mask_pattern

MOST_BYTES = 2_000
"""Of one shortest text."""
MOST_PARTS = 20_000
"""Parts that are looked at."""
LONGEST_WORD = 32
"""Bytes of the longest token that is tried for what follows."""
_BLANK = b"\xff"
"""A byte that is not known; no token spells it, so it counts one."""
_ESCAPE = 6
"""Bytes of an escape in JSON; a character beyond U+FFFF takes two."""
_CONSTANT = {"boolean": (b"true", b"false"), "null": (b"null",)}
_SEPARATORS = ((", ", ": "), (",", ":"))


class _Untold(Exception):
    """Nothing can be told."""


def deepest(parts: Sequence[Any], words: Collection[bytes] = ()) -> int | None:
    """The most tokens that a text of these parts, one after the other, can need from anywhere to its nearest end.

    `parts`: patterns (`PatternNode`) and lowered schemas. `words`: the tokens' bytes, each single byte among them.
    """
    try:
        return max(_Bound(words, *style).sequence([*parts]) for style in _SEPARATORS)
    except (_Untold, PatternError, RecursionError):
        return None


class _Bound:
    """One walk over the parts of a constraint. Every method's `after` is a shortest text of what must follow."""

    def __init__(self, words: Collection[bytes], comma: str, colon: str) -> None:
        self.words = words
        self.comma, self.colon = comma.encode(), colon.encode()
        self.costs: dict[bytes, int] = {b"": 0}
        self.least: dict[tuple[PatternNode, bool], bytes] = {}
        self.looked = 0

    def sequence(self, parts: list[Any]) -> int:
        after, most = b"", 0
        for part in reversed(parts):
            pattern = isinstance(part, PatternNode)
            most = max(most, self.node(part, after) if pattern else self.schema(part, after, {}, part))
            after = _short((self.least_node(part, False) if pattern else self.least_schema(part, part, ())) + after)
        return most

    def cost(self, after: bytes) -> int:
        """Tokens for these bytes, at best."""
        if not self.words:
            return len(after)
        start = 0
        while after[start:] not in self.costs:
            start += 1
        for at in range(start - 1, -1, -1):
            best = 1 + self.costs[after[at + 1 :]]
            for end in range(at + 2, min(at + LONGEST_WORD, len(after)) + 1):
                if after[at:end] in self.words:
                    best = min(best, 1 + self.costs[after[end:]])
            self.costs[after[at:]] = best
        return self.costs[after]

    def within(self, text: bytes, after: bytes) -> int:
        """From anywhere within this very text."""
        self.looked += len(text)
        return max((self.cost(text[at:] + after) for at in range(len(text))), default=0)

    def _look(self) -> None:
        self.looked += 1
        if self.looked > MOST_PARTS:
            raise _Untold

    # -- patterns
    def node(self, node: PatternNode, after: bytes, quoted: bool = False) -> int:
        """`quoted`: within a JSON string."""
        self._look()
        if isinstance(node, Chars):
            begun = _rest(node, quoted)
            return max(begun + self.cost(after) if begun else 0, self.cost(self.least_node(node, quoted) + after))
        if isinstance(node, Concat):
            most = self.cost(after)
            for part in reversed(node.parts):
                most = max(most, self.node(part, after, quoted))
                after = _short(self.least_node(part, quoted) + after)
            return most
        if isinstance(node, Alt):
            return max(self.node(part, after, quoted) for part in node.parts)
        if isinstance(node, Repeat):
            again = max(node.low - 1, 0)
            least = self.least_node(node.node, quoted) if again else b""
            if len(least) * again > MOST_BYTES:
                raise _Untold
            return max(self.cost(after), self.node(node.node, least * again + after, quoted))
        raise _Untold

    def least_node(self, node: PatternNode, quoted: bool) -> bytes:
        """A shortest text of a pattern."""
        key = node, quoted
        if key not in self.least:
            self.least[key] = _short(self._least_node(node, quoted))
        return self.least[key]

    def _least_node(self, node: PatternNode, quoted: bool) -> bytes:
        self._look()
        if isinstance(node, Chars) and node.ranges:
            return _cheapest(node, quoted)
        if isinstance(node, Concat):
            return b"".join([self.least_node(part, quoted) for part in node.parts])
        if isinstance(node, Alt):
            return min((self.least_node(part, quoted) for part in node.parts), key=len)
        if isinstance(node, Repeat):
            least = self.least_node(node.node, quoted) if node.low else b""
            if len(least) * node.low > MOST_BYTES:
                raise _Untold
            return least * node.low
        raise _Untold

    # -- schemas; `root` holds the definitions
    def schema(self, schema: Any, after: bytes, within: dict[str, None], root: Any) -> int:
        """`within`: the definitions that this one is in."""
        self._look()
        kind = _kind(schema)
        if kind == "$ref":
            name = _name(schema, within)
            return self.schema(_defined(root, name), after, {**within, name: None}, root)
        if kind == "anyOf":
            return max(self.schema(branch, after, within, root) for branch in schema["anyOf"])
        if kind == "enum":
            return max(self.within(_spelled(value), after) for value in schema["enum"])
        if kind == "object":
            return self._object(schema, after, within, root)
        if kind == "array":
            return self._array(schema, after, within, root)
        if kind == "string" and "pattern" in schema:
            node, least = mask_pattern(schema["pattern"]), self.least_schema(schema, root, ())
            return max(self.cost(least + after), self.node(node, b'"' + after, quoted=True))
        if kind == "string":
            fewest: int = schema.get("minLength", 0)
            return 2 + fewest + 2 * _ESCAPE + self.cost(after)
        if kind in _CONSTANT:
            return max(self.within(text, after) for text in _CONSTANT[kind])
        return _digits(schema) + self.cost(after)

    def _object(self, schema: Any, after: bytes, within: dict[str, None], root: Any) -> int:
        most = self.cost(_short(self.least_schema(schema, root, tuple(within)) + after))
        required = set(schema.get("required", ()))
        after = b"}" + after
        for name, value in reversed(schema.get("properties", {}).items()):
            if value is False:
                continue
            opening = self.comma + _spelled(name) + self.colon
            least = _short(self.least_schema(value, root, tuple(within)) + after)
            most = max(most, self.within(opening, least), self.schema(value, after, within, root))
            if name in required:
                after = _short(opening + least)
        return most

    def _array(self, schema: Any, after: bytes, within: dict[str, None], root: Any) -> int:
        most = self.cost(_short(self.least_schema(schema, root, tuple(within)) + after))
        first, fewest = schema.get("prefixItems", []), schema.get("minItems", 0)
        after = b"]" + after
        items = [*first, schema["items"]]
        rest = list(range(len(first), fewest)) or [len(first)]
        for place in reversed([*range(len(first)), *rest]):
            item = items[min(place, len(first))]
            if item is False:
                continue
            least = _short(self.least_schema(item, root, tuple(within)) + after)
            most = max(most, self.within(self.comma, least), self.schema(item, after, within, root))
            if place < fewest:
                after = _short(self.comma + least)
        return most

    def least_schema(self, schema: Any, root: Any, within: tuple[str, ...]) -> bytes:
        """A shortest text of a schema, or one as long as that."""
        self._look()
        kind = _kind(schema)
        if kind == "$ref":
            name = _name(schema, within)
            return self.least_schema(_defined(root, name), root, (*within, name))
        if kind == "anyOf":
            return min((self.least_schema(branch, root, within) for branch in schema["anyOf"]), key=len)
        if kind == "enum":
            return min(map(_spelled, schema["enum"]), key=len)
        if kind == "object":
            properties = schema.get("properties", {})
            required = [(name, properties[name]) for name in properties if name in schema.get("required", ())]
            members = [_spelled(name) + self.colon + self.least_schema(it, root, within) for name, it in required]
            return b"{" + self.comma.join(members) + b"}"
        if kind == "array":
            first, fewest = schema.get("prefixItems", []), schema.get("minItems", 0)
            least = [self.least_schema(item, root, within) for item in first[:fewest]]
            more = fewest - len(least)
            if more > 0:
                least += [self.least_schema(schema["items"], root, within)] * min(more, MOST_BYTES)
            return _short(b"[" + self.comma.join(least) + b"]")
        if kind == "string":
            inner = self.least_node(mask_pattern(schema["pattern"]), True) if "pattern" in schema else None
            return b'"' + (b"a" * min(schema.get("minLength", 0), MOST_BYTES) if inner is None else inner) + b'"'
        return min(_CONSTANT[kind], key=len) if kind in _CONSTANT else _BLANK * _digits(schema)


# -- characters
def _cheapest(node: Chars, quoted: bool) -> bytes:
    """A character of the set that takes the fewest bytes."""
    found: list[bytes] = []
    for low, high in node.ranges:
        for first in (low, 0x20, 0x23, 0x30, 0x41, 0x5D, 0x61):  # beyond what JSON escapes, and readable ones
            if low <= first <= high:
                found.append(_written(chr(first), quoted))
    return min(found, key=lambda data: (len(data), not data.isalnum()))


def _written(character: str, quoted: bool) -> bytes:
    if quoted and (character < " " or character == "\x7f"):
        return _BLANK * _ESCAPE
    return b"\\" + character.encode() if quoted and character in '"\\' else character.encode()


def _rest(node: Chars, quoted: bool) -> int:
    """Bytes that a begun character of the set may still need."""
    begun = len(chr(node.ranges[-1][1]).encode()) - 1 if node.ranges else 0
    escaped = quoted and any(low < 0x20 or low <= code <= high for low, high in node.ranges for code in b'"\\\x7f')
    return _ESCAPE - 1 if escaped else begun


# -- schemas
_KNOWN = {
    "object": {"type", "properties", "required", "additionalProperties"},
    "array": {"type", "items", "prefixItems", "minItems", "maxItems"},
    "string": {"type", "pattern", "minLength", "maxLength"},
    "number": {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": {"type"},
    "null": {"type"},
    "anyOf": {"anyOf"},
    "enum": {"enum"},
    "$ref": {"$ref"},
}


def _kind(schema: Any) -> str:
    """What a schema asks for, if it asks for nothing that is not known here."""
    if not isinstance(schema, dict):
        raise _Untold
    kind: Any = next((key for key in ("$ref", "anyOf", "enum") if key in schema), schema.get("type"))
    if not isinstance(kind, str) or not schema.keys() <= _KNOWN.get(kind, set()) | {"$defs"}:
        raise _Untold
    if kind == "object":
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or not set(schema.get("required", ())) <= properties.keys():
            raise _Untold
    if kind == "array" and "items" not in schema:
        raise _Untold
    if kind == "string" and "pattern" in schema and {"minLength", "maxLength"} & schema.keys():
        raise _Untold
    return kind


def _name(schema: Any, within: Collection[str]) -> str:
    name = str(schema["$ref"]).rpartition("/")[2]
    if name in within:
        raise _Untold
    return name


def _defined(root: Any, name: str) -> Any:
    definitions = root.get("$defs", {})
    if name not in definitions:
        raise _Untold
    return definitions[name]


def _spelled(value: Any) -> bytes:
    """A value in the longest of its spellings."""
    return json.dumps(value).encode()


def _digits(schema: Any) -> int:
    """Bytes of a number of a schema, as far as its bounds ask for them. With none, a digit completes any."""
    said = [value for key, value in schema.items() if key != "type"]
    whole = places = 0
    for value in said:
        before, _, behind = format(abs(Decimal(repr(value))), "f").partition(".")
        whole, places = max(whole, len(before)), max(places, len(behind))
    if not said:
        return 2
    if "multipleOf" in schema:
        whole += len(format(Decimal(repr(schema["multipleOf"])), "f").partition(".")[0])
    return 1 + whole + (0 if schema["type"] == "integer" and not places else 2 + places)


def _short(text: bytes) -> bytes:
    if len(text) > MOST_BYTES:
        raise _Untold
    return text
