"""Which texts of a JSON Schema are alike.

Owns: reading the text of a lowered schema, byte by byte, into a key (`alike.py` says what that promises). Knows nothing
of tokens, masks or engines.

What may follow a value does not depend on what it was, where it has one place in the schema: a value that has ended
leaves no trace in the key but its place. A place is a way through closed objects and through arrays. So the key is the
way, how JSON is spaced (decided by the first separator), and how much of the present value is there: of a string the
number of its characters, or the derivative of its pattern; of all other values, and of what this module cannot read,
the text itself.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

from .....lang.pattern import PatternError, PatternNode
from ..closing.search import mask_pattern
from .alike import LONGEST, Walk, utf8, written

DEEPEST = 50
"""Open objects and arrays; where there are more, texts have no keys."""
_VALUE, _STRING, _OTHER, _OVER, _KEY, _COLON = range(6)
"""What comes next: a value; more of a string; more of another value; what follows a value; a key; a colon."""
_UNKNOWN, _SPACED, _COMPACT = range(3)
"""How separators are written."""
_QUOTE, _ESCAPE, _BLANK, _COMMA, _COLON_SIGN = b'"\\ ,:'
_ESCAPES = {b'\\"': '"', b"\\\\": "\\", b"\\b": "\b", b"\\f": "\f", b"\\n": "\n", b"\\r": "\r", b"\\t": "\t"}
"""Escapes that are read; a string is text as it is from another one on."""
_SIMPLE = re.compile(rb"[ !#-\[\]-~]*")
"""Characters of a string that are one byte each and need no escape."""
_SEPARATOR = re.compile(rb"[,:]")
_OBJECT = {"type", "properties", "required", "additionalProperties", "$defs"}
_ARRAY = {"type", "items", "prefixItems", "minItems", "maxItems", "$defs"}
_PLAIN_STRING = {"type", "minLength", "maxLength", "$defs"}
_PATTERN_STRING = {"type", "pattern", "$defs"}


class Frame(NamedTuple):
    """An open object or array: its place's number, and which property has begun (by number), or how many items have."""

    place: int
    at: int


class Spot(NamedTuple):
    """Where a text stands. `gap`: a separator has just been written, and a blank may come. `place`: the number of the
    present value's, `text`: how much is there of it, of the key, or of the character in a string. `rest`: of a string,
    how many characters or which derivative. `depth`, `quoted` and `escaped` follow from `text`."""

    frames: tuple[Frame, ...] = ()
    next: int = _VALUE
    style: int = _UNKNOWN
    gap: bool = False
    place: int = 0
    text: bytes = b""
    rest: int | PatternNode = 0
    depth: int = 0
    quoted: bool = False
    escaped: bool = False


class Place:
    """A schema within the whole, as far as it is understood: `kind` is "" where it is not."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.kind = _kind(schema)
        self.names: dict[str, int] = {}
        self.walk: Walk | None = None
        self.limit = 0  # items, or characters, from which on their number does not matter; 0: it always does
        if self.kind == "object":
            self.names = {name: i for i, name in enumerate(schema["properties"])}
            self.inner = list(schema["properties"].values())
        elif self.kind == "array":
            self.inner = [*schema.get("prefixItems", ()), schema.get("items", True)]
            if "maxItems" not in schema:
                self.limit = max(schema.get("minItems", 0), len(self.inner)) + 1
        elif self.kind == "string" and "pattern" in schema:
            self.walk = _walk(schema["pattern"])
            self.kind = "string" if self.walk is not None else ""
        elif self.kind == "string" and "maxLength" not in schema:
            self.limit = schema.get("minLength", 0) + 1


class Places:
    """The texts of one lowered schema, written in one of the two styles of `lark.STYLES`."""

    start: Hashable = Spot()

    def __init__(self, mask: Any) -> None:
        self._definitions = mask.get("$defs", {}) if isinstance(mask, dict) else {}
        self._lock = threading.Lock()
        self._places: list[Place] = []
        self._numbers: dict[int, int] = {}  # of schemas, by identity, which the places keep
        self._root = self._place(mask)

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        if not isinstance(key, Spot):
            return written(key, data)
        if key.next == _STRING and not key.text and _SIMPLE.fullmatch(data):  # as most tokens of a string are
            return self._count(key, data.decode()) or written(key, data)
        spot = key
        for byte in data:
            following = self._take(spot, byte)
            if following is None:
                return written(key, data)
            spot = following
        return spot if len(spot.text) <= LONGEST and len(spot.frames) <= DEEPEST else None

    def _place(self, schema: Any) -> int:
        for _ in range(100):
            if not (isinstance(schema, dict) and schema.keys() - {"$defs"} == {"$ref"}):
                break
            name = str(schema["$ref"]).removeprefix("#/$defs/")
            schema = self._definitions.get(name, schema)
        number = self._numbers.get(id(schema))
        if number is None:
            with self._lock:
                number = self._numbers.get(id(schema), len(self._places))
                if number == len(self._places):
                    self._places.append(Place(schema))
                    self._numbers[id(schema)] = number
        return number

    # -- one byte; None where this is not what was expected
    def _take(self, spot: Spot, byte: int) -> Spot | None:
        if spot.next == _STRING:
            return self._in_string(spot, byte)
        if spot.gap:
            style = _SPACED if byte == _BLANK else _COMPACT
            if spot.style not in (_UNKNOWN, style):
                return None
            spot = spot._replace(style=style, gap=False)
            if style == _SPACED:
                return spot
        if spot.next == _VALUE:
            return self._begin(spot, byte)
        if spot.next == _OTHER:
            return self._in_other(spot, byte)
        return self._after_value(spot, byte) if spot.next == _OVER else self._in_key(spot, byte)

    def _begin(self, spot: Spot, byte: int) -> Spot | None:
        frames, number = spot.frames, self._root
        if frames:
            holder, at = self._places[frames[-1].place], frames[-1].at
            if holder.kind == "array":
                if byte == ord("]") and at == 0:
                    return _over(spot, frames[:-1])
                at = min(at, len(holder.inner) - 1)
                begun = frames[-1].at + 1
                frames = (*frames[:-1], Frame(frames[-1].place, min(begun, holder.limit or begun)))
            number = self._place(holder.inner[at])
        place = self._places[number]
        spot = Spot(frames, _OTHER, spot.style, place=number)
        if not place.kind:
            return self._in_other(spot, byte)
        if byte != ord(_OPENS[place.kind]):
            return None
        if place.kind == "string":
            return spot._replace(next=_STRING, rest=place.walk.node if place.walk is not None else 0)
        opened = place.kind == "object"
        return Spot((*frames, Frame(number, -1 if opened else 0)), _KEY if opened else _VALUE, spot.style)

    def _in_string(self, spot: Spot, byte: int) -> Spot | None:
        data = spot.text + bytes((byte,))
        if spot.text[:1] == b"\\":
            if len(data) == 2 and data in _ESCAPES:
                return self._count(spot, _ESCAPES[data])
            if byte == _QUOTE and not spot.escaped:
                return _over(spot, spot.frames)
            return spot._replace(text=data, escaped=byte == _ESCAPE and not spot.escaped)
        if byte == _QUOTE:
            return None if spot.text else _over(spot, spot.frames)
        if byte == _ESCAPE:
            return None if spot.text else spot._replace(text=data, escaped=True)
        if byte < 0x20 or byte == 0x7F:
            return None
        try:
            character, _ = utf8(data)
        except UnicodeDecodeError:
            return None
        return self._count(spot, character) if character else spot._replace(text=data)

    def _count(self, spot: Spot, characters: str) -> Spot | None:
        """Characters of a string are complete."""
        place = self._places[spot.place]
        if isinstance(spot.rest, int):
            count = spot.rest + len(characters)
            return spot._replace(text=b"", escaped=False, rest=min(count, place.limit or count))
        rest = place.walk.step(spot.rest, characters) if place.walk is not None else None
        return None if rest is None else spot._replace(text=b"", escaped=False, rest=rest)

    def _in_other(self, spot: Spot, byte: int) -> Spot | None:
        """Of a value that is kept as it is, only where it ends is looked for."""
        depth, quoted = spot.depth, spot.quoted
        if quoted:
            quoted = byte != _QUOTE or spot.escaped
        elif not depth and spot.text and byte in b",}]":  # behind a number or a name
            return self._after_value(_over(spot, spot.frames), byte)
        else:
            quoted = byte == _QUOTE
            depth += (byte in b"{[") - (byte in b"}]")
        if depth < 0:
            return None
        if not depth and not quoted and (spot.depth or spot.quoted):
            told = spot.style != _UNKNOWN or spot.text[:1] == b'"' or not _SEPARATOR.search(spot.text)
            return _over(spot, spot.frames) if told else None  # within it the style may have been decided, or not
        escaped = spot.quoted and byte == _ESCAPE and not spot.escaped
        return spot._replace(text=spot.text + bytes((byte,)), depth=depth, quoted=quoted, escaped=escaped)

    def _after_value(self, spot: Spot, byte: int) -> Spot | None:
        if not spot.frames:
            return None
        kind = self._places[spot.frames[-1].place].kind
        if byte == _COMMA:
            return spot._replace(next=_KEY if kind == "object" else _VALUE, gap=True)
        return _over(spot, spot.frames[:-1]) if byte == ord(_CLOSES[kind]) else None

    def _in_key(self, spot: Spot, byte: int) -> Spot | None:
        frame = spot.frames[-1]
        if spot.next == _COLON:
            name = self._places[frame.place].names.get(_name(spot.text))
            if byte != _COLON_SIGN or name is None:
                return None
            return Spot((*spot.frames[:-1], Frame(frame.place, name)), _VALUE, spot.style, gap=True)
        if not spot.text and byte != _QUOTE:
            closes = byte == ord("}") and frame.at < 0
            return _over(spot, spot.frames[:-1]) if closes else None
        ends = byte == _QUOTE and not spot.escaped and spot.text
        escaped = byte == _ESCAPE and not spot.escaped
        return spot._replace(next=_COLON if ends else _KEY, text=spot.text + bytes((byte,)), escaped=escaped)


_OPENS = {"object": "{", "array": "[", "string": '"'}
_CLOSES = {"object": "}", "array": "]"}


def _over(spot: Spot, frames: tuple[Frame, ...]) -> Spot:
    """A value has ended; `frames`: what it is in."""
    return Spot(frames, _OVER, spot.style)


def _name(text: bytes) -> str:
    """A key as it is meant; "" if that is not clear."""
    try:
        return str(json.loads(text))
    except ValueError:
        return ""


def _kind(schema: Any) -> str:
    """What a schema is, where its keywords are all understood."""
    if not isinstance(schema, dict):
        return ""
    kind, said = schema.get("type"), schema.keys()
    if kind == "object" and said <= _OBJECT and schema.get("additionalProperties") is False:
        return "object" if isinstance(schema.get("properties"), dict) else ""
    if any(not isinstance(schema.get(key, 0), int) for key in ("minItems", "maxItems", "minLength", "maxLength")):
        return ""
    if kind == "array" and said <= _ARRAY:
        return "array"
    return "string" if kind == "string" and (said <= _PLAIN_STRING or said <= _PATTERN_STRING) else ""


def _walk(pattern: str) -> Walk | None:
    """Of a pattern for the whole text; None for another."""
    if not (pattern.startswith("^(?:") and pattern.endswith(")$")):
        return None
    try:
        node = mask_pattern(pattern)
    except PatternError:
        return None
    return Walk(node) if node.plain else None
