"""State keys of JSON Schemas: a value that is complete leaves no trace in the key but its place in the schema.

Owns: reading the text of a lowered schema into a key (`state_keys.py` says what a key promises). Knows nothing of
tokens, masks or engines.

A place is a way through closed objects and arrays. The key is that way, how JSON is spaced (the first separator
decides), and what there is of the present value. A string counts by the number of its characters, or by the derivative
of its pattern. Any other value, and what this module does not understand, counts by the text itself.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Hashable
from typing import NamedTuple

from .....lang.json_text import JsonPiece, JsonReader, JsonState, NotJson
from .....lang.pattern import PatternError, PatternNode
from ..schema.languages import parse_spelled
from ..schema.nodes import (
    IMPOSSIBLE,
    ArraySchema,
    LoweredSchema,
    ObjectSchema,
    ReferenceSchema,
    SchemaNode,
    StringSchema,
)
from .state_keys import LONGEST_TEXT_BYTES, PatternWalk, text_key, utf8

MOST_OPEN_CONTAINERS = 50
"""Texts with more have no keys."""
_MOST_REFERENCES = 100
"""References to references that are followed; behind more, a place is not understood."""
_UNKNOWN, _SPACED, _COMPACT = range(3)
"""How separators are written."""
_ESCAPES = {b'\\"': '"', b"\\\\": "\\", b"\\b": "\b", b"\\f": "\f", b"\\n": "\n", b"\\r": "\r", b"\\t": "\t"}
"""Escapes that are understood; from another one on, a string is kept as text."""
_PLAIN = re.compile(rb"[ !#-\[\]-~]*")
"""Characters of a string that are one byte each and need no escape."""
_CONTROL, _SEPARATOR = re.compile(rb"[\x00-\x1f\x7f]"), re.compile(rb"[,:]")
_OPENS = {"object": b"{", "array": b"[", "string": b'"'}


class OpenPlace(NamedTuple):
    """An open object or array: its number in the schema, and which property has begun (by number), or how many items
    have."""

    place: int
    at: int


class SchemaKey(NamedTuple):
    """Where a text stands in a schema. `gap`: a separator has just been written, and a blank may come. `place`: the
    number of the value that is being written, -1 between values. `text`: what there is of a key, of a value that is
    kept as text, or of a cut character of a string. `rest`: of a string, how many characters or which derivative."""

    json: JsonState = ("", "value", "")
    open: tuple[OpenPlace, ...] = ()
    style: int = _UNKNOWN
    gap: bool = False
    place: int = -1
    text: bytes = b""
    rest: int | PatternNode = 0


class SchemaPlace:
    """A node of the schema, as far as it is understood: `kind` is "" where it is not."""

    def __init__(self, node: SchemaNode) -> None:
        self.kind = ""
        self.names: dict[str, int] = {}
        self.inner: list[SchemaNode] = []
        self.walk: PatternWalk | None = None
        self.limit = 0  # items, or characters, from which on their number does not matter; 0: it always does
        if isinstance(node, ObjectSchema):
            if node.properties and not node.patterns and node.others is IMPOSSIBLE and node.most is None:
                self.kind = "" if node.least else "object"
            self.names = {name: i for i, name in enumerate(node.properties)}
            self.inner = list(node.properties.values())
        elif isinstance(node, ArraySchema):
            self.kind = "array"
            self.inner = [*node.prefix, node.rest]
            if node.most is None:
                self.limit = max(node.least, len(self.inner)) + 1
        elif isinstance(node, StringSchema):
            if not node.patterns:
                self.kind = "string"
                self.limit = node.least + 1 if node.most is None else 0
            elif len(node.patterns) == 1 and not node.least and node.most is None:
                self.walk = _walk(node.patterns[0])
                self.kind = "" if self.walk is None else "string"


class SchemaKeys:
    """The keys of one lowered schema, whose texts are written in one of the two styles of `lark.STYLES`."""

    start: Hashable = SchemaKey()

    def __init__(self, schema: LoweredSchema) -> None:
        self._schema = schema
        self._lock = threading.Lock()
        self._places: list[SchemaPlace] = []
        self._numbers: dict[SchemaNode, int] = {}
        self._root = self._number(schema.root)

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        if not isinstance(key, SchemaKey):
            return text_key(key, data)
        found: SchemaKey | None = key
        reader, text, at = JsonReader(key.json), data.decode("latin-1"), 0
        if key.place >= 0 and not key.text and self._places[key.place].kind == "string" and _PLAIN.fullmatch(data):
            return self._count(key, reader, text) or text_key(key, data)  # the usual token of a string
        try:
            while found is not None and at < len(text):
                piece, end = reader.read(text, at)
                found = self._take(found, reader, piece, data[at:end])
                at = end
        except NotJson:
            found = None
        if found is None:
            return text_key(key, data)
        is_short = len(found.text) <= LONGEST_TEXT_BYTES and len(found.open) <= MOST_OPEN_CONTAINERS
        return found if is_short else None

    def _number(self, node: SchemaNode) -> int:
        """The number of the place of this node."""
        for _ in range(_MOST_REFERENCES):
            if not isinstance(node, ReferenceSchema):
                break
            node = self._schema.definitions[node.name]
        number = self._numbers.get(node)
        if number is None:
            with self._lock:
                number = self._numbers.get(node, len(self._places))
                if number == len(self._places):
                    self._places.append(SchemaPlace(node))
                    self._numbers[node] = number
        return number

    # -- one piece of text, which `reader` has just read; None where it is not what was expected
    def _take(self, key: SchemaKey, reader: JsonReader, piece: JsonPiece, data: bytes) -> SchemaKey | None:
        if key.place >= 0:
            is_string = self._places[key.place].kind == "string"
            return self._in_string(key, reader, piece, data) if is_string else self._in_text(key, reader, piece, data)
        style = key.style
        if key.gap:
            style = _SPACED if data == b" " else _COMPACT
            if key.style not in (_UNKNOWN, style):
                return None
            if style == _SPACED:
                return SchemaKey(reader.state, key.open, style)
        if piece == "blank":
            return None
        if piece == "comma":
            return SchemaKey(reader.state, key.open, style, True)
        if piece == "colon":
            return self._after_key(key, reader)
        if piece == "close":
            return SchemaKey(reader.state, key.open[:-1], style)
        if piece != "open" and (reader.at_key or reader.expects == "colon"):
            return SchemaKey(reader.state, key.open, style, False, -1, key.text + data)
        return self._begin(key.open, style, reader, piece, data)

    def _after_key(self, key: SchemaKey, reader: JsonReader) -> SchemaKey | None:
        place = key.open[-1].place
        try:
            property = self._places[place].names[json.loads(key.text)]
        except (KeyError, ValueError):
            return None
        return SchemaKey(reader.state, (*key.open[:-1], OpenPlace(place, property)), key.style, True)

    def _begin(
        self, open: tuple[OpenPlace, ...], style: int, reader: JsonReader, piece: JsonPiece, data: bytes
    ) -> SchemaKey | None:
        number = self._root
        if open:
            place, at = open[-1]
            holder = self._places[place]
            number = self._number(holder.inner[min(at, len(holder.inner) - 1)])
            if holder.kind == "array":
                open = (*open[:-1], OpenPlace(place, min(at + 1, holder.limit or at + 1)))
        kind, walk = self._places[number].kind, self._places[number].walk
        if not kind:
            return SchemaKey(reader.state, open, style, False, number, data)
        if data != _OPENS[kind]:
            return None
        if kind == "string":
            return SchemaKey(reader.state, open, style, False, number, b"", 0 if walk is None else walk.node)
        return SchemaKey(reader.state, (*open, OpenPlace(number, -1 if kind == "object" else 0)), style)

    def _in_string(self, key: SchemaKey, reader: JsonReader, piece: JsonPiece, data: bytes) -> SchemaKey | None:
        text = key.text + data
        not_understood = key.text[:1] == b"\\" and (len(key.text) > 1 or piece != "escape")
        if piece == "unquote":
            return SchemaKey(reader.state, key.open, key.style) if not_understood or not key.text else None
        if not_understood:
            return self._kept(key, reader, text)
        if piece == "escape":
            if key.text not in (b"", b"\\"):
                return None
            return self._count(key, reader, _ESCAPES[text]) if text in _ESCAPES else self._kept(key, reader, text)
        if _CONTROL.search(data):
            return None
        try:
            characters, used = utf8(text)
        except UnicodeDecodeError:
            return None
        return self._count(key, reader, characters, text[used:])

    def _count(self, key: SchemaKey, reader: JsonReader, characters: str, cut: bytes = b"") -> SchemaKey | None:
        """Take whole characters of a string, and the bytes of one that is cut."""
        place, rest = self._places[key.place], key.rest
        after: int | PatternNode | None
        if isinstance(rest, int):
            count = rest + len(characters)
            after = min(count, place.limit or count)
        else:
            after = place.walk.step(rest, characters) if place.walk is not None else None
        return None if after is None else SchemaKey(reader.state, key.open, key.style, False, key.place, cut, after)

    def _in_text(self, key: SchemaKey, reader: JsonReader, piece: JsonPiece, data: bytes) -> SchemaKey | None:
        """Keep a value as it is; only its end is looked for."""
        depth = len(reader.containers) - len(key.open)
        if depth < 0 or (depth == 0 and piece == "comma"):  # behind a number, true, false or null
            return self._take(key._replace(place=-1, text=b""), reader, piece, data)
        if depth == 0 and piece in ("close", "unquote"):
            if key.style == _UNKNOWN and piece == "close" and _SEPARATOR.search(key.text):
                return None  # its separators may have decided the style
            return SchemaKey(reader.state, key.open, key.style)
        return self._kept(key, reader, key.text + data)

    def _kept(self, key: SchemaKey, reader: JsonReader, text: bytes) -> SchemaKey:
        return SchemaKey(reader.state, key.open, key.style, False, key.place, text, key.rest)


def _walk(pattern: str) -> PatternWalk | None:
    """The walk of a pattern for the whole text; None for another pattern."""
    if not (pattern.startswith("^(?:") and pattern.endswith(")$")):
        return None
    try:
        node = parse_spelled(pattern)
    except PatternError:
        return None
    return PatternWalk(node) if node.plain else None
