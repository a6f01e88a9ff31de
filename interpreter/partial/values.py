"""Typed partial values of a constrained gen, while its text streams.

Owns: `Partials`, which turns growing JSON text into snapshots: one each time a value (not a key) is complete. Knows
nothing of how the text arrives; the final, checked value is `GenResult.value`.

1. Snapshots are a function of the text, however it is cut. A snapshot shares all complete parts with later ones.
2. Of `schema=T` or `dtype=T`, a part whose text is complete is what it will be in the final value. An unfinished part
   is an instance in which what is missing is None, or plain data until one member of a union is left.
3. What its type refuses stays plain data; an object that only its own validators refuse stays an unfinished instance.
4. Text that is no JSON, or is nested deeper than `MAX_DEPTH`, gives no further snapshots; nothing is raised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ...lang.constraint import Constraint, JsonSchema
from ...lang.json_text import JsonReader, NotJson
from .shapes import TypeContainer, TypeShape, shape_of

MAX_DEPTH = 200
"""Containers that may be open at once: as deep as pydantic itself reads JSON."""


class Partials:
    """The partial values of one gen. Not thread-safe: one reader each."""

    def __init__(self, constraint: Constraint | None) -> None:
        self._over = not isinstance(constraint, JsonSchema)
        self._root = shape_of(constraint) if isinstance(constraint, JsonSchema) else None
        self._reader = JsonReader()
        self._at = 0  # all before it is read
        self._start = 0  # of the string or word that is being read
        self._open: list[OpenValue] = []

    def feed(self, text_so_far: str) -> list[Any]:
        """The new snapshots, in order. `text_so_far` is the gen's text from its start; earlier calls saw prefixes."""
        return list(self.events(text_so_far))

    def events(self, text_so_far: str) -> Iterator[Any]:
        """`feed`, one snapshot at a time: after a long text only one is in memory. Read it to its end before the next
        call."""
        while not self._over and self._at < len(text_so_far):
            try:
                found = self._next(text_so_far)
            except NotJson:
                self._over = True
                return
            if found is not None:
                value, start = found
                yield self._placed(value, text_so_far, start, self._at)

    def _next(self, text: str) -> tuple[Any, int] | None:
        """Read a piece of text. The value that ends with it, if one does, and where that value began."""
        reader, at = self._reader, self._at
        if not reader.inside:
            self._start = at
        piece, self._at = reader.read(text, at)
        if piece == "open":
            self._begin(text[at], at)
        elif piece == "close":
            return self._ended(text, self._at)
        elif piece in ("unquote", "word", "word end") and not reader.inside:
            raw = text[self._start : self._at]
            if reader.expects == "colon":
                self._open[-1].name(_parsed(raw))
            else:
                return self._scalar(raw), self._start
        return None

    def _scalar(self, raw: str) -> Any:
        plain, shape = _parsed(raw), self._here()
        return plain if shape is None else _read(shape, raw, plain)

    def _begin(self, opening: str, start: int) -> None:
        if len(self._open) == MAX_DEPTH:
            raise NotJson
        self._open.append(OpenValue(self._here(), opening, start))

    def _ended(self, text: str, end: int) -> tuple[Any, int]:
        """The value of the innermost container, which ends here, and where it began."""
        done = self._open.pop()
        made = done.made(done.values)
        return made if done.shape is None else _read(done.shape, text[done.start : end], made), done.start

    def _here(self) -> TypeShape | None:
        """The shape of the value that begins or ends here."""
        return self._open[-1].part() if self._open else self._root

    def _placed(self, value: Any, text: str, start: int, end: int) -> Any:
        """Put a complete value in its place, and make a snapshot."""
        if not self._open:
            return value
        inner = self._open[-1]
        inner.put(value, text, start, end)
        snapshot = inner.made(inner.values.copy())
        for container in self._open[-2::-1]:
            snapshot = container.made(container.with_open(snapshot))
        return snapshot


class OpenValue:
    """A container that is being written. `values`: its complete members, typed once one candidate is left."""

    __slots__ = ("_candidates", "_key", "_members", "shape", "start", "values")

    def __init__(self, shape: TypeShape | None, opening: str, start: int) -> None:
        self.shape, self.start = shape, start
        self.values: Any = {} if opening == "{" else []
        self._candidates = [] if shape is None else shape.containers(opening)
        self._key: str | int = 0
        self._members: list[tuple[str | int, str]] = []  # of a union: the texts so far

    @property
    def _decided(self) -> TypeContainer | None:
        return self._candidates[0] if len(self._candidates) == 1 else None

    def name(self, key: str) -> None:
        """Take the key of the next member."""
        if key in self.values:
            raise NotJson  # the key is there twice
        self._key = key
        if len(self._candidates) > 1:
            self._narrow([c for c in self._candidates if c.has(key)])

    def part(self) -> TypeShape | None:
        return None if self._decided is None else self._decided.part(self._key)

    def put(self, value: Any, text: str, start: int, end: int) -> None:
        """Take the complete member at the current key."""
        key = self._key
        if isinstance(self.values, list):
            self.values.append(value)
            self._key = len(self.values)
        else:
            self.values[key] = value
        if len(self._candidates) > 1:
            raw = text[start:end]
            self._members.append((key, raw))
            self._narrow([c for c in self._candidates if c.has(key) and _admits(c.part(key), raw)])

    def _narrow(self, left: list[TypeContainer]) -> None:
        """Keep these candidates; if one is left, read the members that were plain until now."""
        self._candidates = left
        if len(left) == 1:
            for key, raw in self._members:
                part = left[0].part(key)
                if part is not None and part.admits(raw):
                    self.values[key] = _read(part, raw, self.values[key])
            self._members = []

    def with_open(self, member: Any) -> Any:
        """A copy of the values, with the unfinished `member`."""
        values = self.values.copy()
        if isinstance(values, list):
            values.append(member)
        else:
            values[self._key] = member
        return values

    def made(self, values: Any) -> Any:
        """An instance of the class that is decided, else the plain values."""
        if self._decided is None:
            return values
        try:
            return self._decided.make(values)
        except Exception:  # a class that cannot be made without its own code
            return values


def _admits(part: TypeShape | None, raw: str) -> bool:
    return part is None or part.admits(raw)


def _read(part: TypeShape, raw: str, otherwise: Any) -> Any:
    try:
        return part.read(raw)
    except Exception:  # refused; or a validator of the user's own broke down, which the final check will tell
        return otherwise


def _parsed(raw: str) -> Any:
    """The plain value of a scalar's text. Raises `NotJson` where `checking.parse_json` would refuse it."""
    try:
        value = json.loads(raw)
        if isinstance(value, str) and "\\u" in raw:
            value.encode()  # a lone surrogate is no character
    except (ValueError, RecursionError):
        raise NotJson from None
    if isinstance(value, float) and math.isinf(value):
        raise NotJson
    return value
