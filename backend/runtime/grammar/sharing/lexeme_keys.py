"""State keys of joined constraints: free text, tags and JSON values one after the other.

Owns: following a text through lexeme rules (`lexemes.py`) as the engine's lexer does. Knows nothing of tokens, masks or
engines.

1. In text, a key is the rule and what is left of each of its lexemes. So all prose between two calls has a few keys.
2. In a JSON value, a key is the rule behind it, and the value's own key (`json_state_keys.py`).
3. A text that may be read in two ways has no key from there on. The bytes of a control token are known by themselves:
   no token of text has just those.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from .....lang.constraint import Control, JsonSchema
from .....lang.json_text import JsonReader, JsonState, NotJson
from .....lang.pattern import PatternError, PatternNode
from .....lang.pattern.nodes import NOTHING
from .....lang.pattern.sets import Derivatives
from ..lexemes import LexemeRules
from ..schema.nodes import LoweredSchema
from ..vocabulary import CONTROL_CODES
from .json_state_keys import SchemaKeys
from .state_keys import MOST_DERIVED_CHARACTERS, MOST_NODES, count_nodes, utf8

_NUMBER = "0123456789-+.eE"


class TextPlace(NamedTuple):
    """A place in the lexemes of a rule: of each way that is left, its number and the rest of its lexeme. `begun`: the
    bytes of a character that is cut."""

    rule: int
    left: tuple[tuple[int, PatternNode], ...]
    begun: bytes = b""


class ValuePlace(NamedTuple):
    """A place in a JSON value. `after`: the rule behind it. `value`: its own key."""

    schema: JsonSchema
    after: int | None
    json: JsonState
    value: Hashable


_Place = TextPlace | ValuePlace
_END = TextPlace(-1, ())
"""Where nothing may follow."""


class _NoKey(Exception):
    """The text has no key."""


class LexemeKeys:
    """Keys of the texts of lexeme rules. `schemas`: their JSON Schemas, lowered. `controls`: the texts of the control
    tokens, in the order of the characters that stand for them."""

    def __init__(self, rules: LexemeRules, schemas: Mapping[JsonSchema, LoweredSchema], controls: list[str]) -> None:
        self._ways = rules.ways
        self._controls = {chr(CONTROL_CODES + at).encode(): Control(text) for at, text in enumerate(controls)}
        self._values = {schema: SchemaKeys(lowered) for schema, lowered in schemas.items()}
        self._starts = [
            TextPlace(rule, tuple((at, way.text) for at, way in enumerate(ways)))
            for rule, ways in enumerate(rules.ways)
        ]
        self._walk, self._steps = Derivatives(), 0
        self._small: set[PatternNode] = set()
        self.start: Hashable = self._starts[0]

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        assert isinstance(key, (TextPlace, ValuePlace))
        place: _Place = key
        control = self._controls.get(data)
        try:
            if control is not None:
                return self._next(place, control)
            while data:
                if isinstance(place, ValuePlace):
                    place, data = self._in_value(place, data)
                else:
                    place, data = self._in_text(place, data)
        except (_NoKey, NotJson, PatternError, RecursionError, UnicodeDecodeError):
            return None
        if self._steps > MOST_DERIVED_CHARACTERS:
            self._walk, self._steps, self._small = Derivatives(), 0, set()
        return place

    # -- text
    def _in_text(self, place: TextPlace, data: bytes) -> tuple[_Place, bytes]:
        """Take text up to the beginning of a value, and return what is left of `data`."""
        data = place.begun + data
        text, used = utf8(data)
        at, done = place._replace(begun=b""), 0
        for character in text:
            after = self._next(at, character)
            if isinstance(after, ValuePlace):
                return after, data[done:]
            at, done = after, done + len(character.encode())
        return at._replace(begun=data[used:]), b""

    def _next(self, place: _Place, sign: str | Control) -> _Place:
        """The place behind a character or a control token; before a character that begins a value."""
        found = list(self._after(place, sign))
        if len(found) != 1:
            raise _NoKey
        return found[0]

    def _after(self, place: _Place, sign: str | Control) -> Iterator[_Place]:
        if isinstance(place, ValuePlace):  # a number, which the control token ends
            yield from self._after(self._start(place.after), sign)
            return
        if isinstance(sign, str):
            left = tuple((at, to) for at, rest in place.left if (to := self._step(rest, ord(sign))) != NOTHING)
            if left:
                yield TextPlace(place.rule, left)
                return
        for at, rest in place.left:
            if not self._walk.nullable(rest):
                continue
            way = self._ways[place.rule][at]
            if isinstance(way.atom, Control):
                if way.atom == sign:
                    yield self._start(way.after)
            elif isinstance(way.atom, JsonSchema):
                if isinstance(sign, str):
                    yield ValuePlace(way.atom, way.after, JsonReader().state, SchemaKeys.start)
            elif way.after is not None:
                yield from self._after(self._starts[way.after], sign)

    def _start(self, rule: int | None) -> TextPlace:
        return _END if rule is None else self._starts[rule]

    def _step(self, node: PatternNode, code: int) -> PatternNode:
        found = self._walk.step(node, code)
        self._steps += 1
        if found not in self._small:
            if count_nodes(found, MOST_NODES) > MOST_NODES:
                raise _NoKey
            self._small.add(found)
        return found

    # -- values
    def _in_value(self, place: ValuePlace, data: bytes) -> tuple[_Place, bytes]:
        """Take bytes of a value up to its end, and return what is left of `data`."""
        reader, text, at = JsonReader(place.json), data.decode("latin-1"), 0
        while at < len(text) and reader.expects != "nothing":
            number = not reader.containers and reader.inside[:1] not in ("", '"', "\\")
            if number and reader.inside[0] in _NUMBER and text[at] not in _NUMBER:
                return self._start(place.after), data[at:]
            at = reader.read(text, at)[1]
        if reader.expects == "nothing" and not reader.inside:
            return self._start(place.after), data[at:]
        value = self._values[place.schema].after(place.value, data)
        if value is None:
            raise _NoKey
        return ValuePlace(place.schema, place.after, reader.state, value), b""
