"""Typed partial values of a constrained gen, while its text streams.

Owns: `Partials`, which turns growing JSON text into snapshots of what is known so far: one each time a value (a string,
number, object, array, ...; not a key) is complete. Knows nothing of how the text arrives, nor of the gen's end: the
final, checked value is `GenResult.value`, which whoever streams gives last.

What a snapshot holds:
- For `schema=T` (and `dtype=T` of any type that JSON spells): a `T` as far as it is known. A part whose text is
  complete is what it will be in the final value, its own validators included. A part that is still being written is an
  instance in which what is missing is None, made without any validator of the whole object (rules: `shapes.py`).
- What cannot be decided stays plain JSON data: a value that its type refuses, and an object or array in a union until
  one member is left that has these keys and takes these values. An object whose text is complete, but which its own
  validators refuse, stays the instance that it was while it was written.
- For `json_schema=`: plain data.
- Any other constraint (a regex, `dtype=int`, choices, a grammar, a sequence, a union of constraints) has no snapshots.

Snapshots are for looking at: later ones share the parts that are complete. A number at the very end of a text is not
complete, as a digit may follow.

Invariants: the snapshots are a function of the text alone, however it was cut into pieces; each character is scanned
once, and a snapshot copies only the containers that are open (not what is complete within them). Malformed text gives
no further snapshots, nor does one that is nested deeper than `MAX_DEPTH`; nothing is raised for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ...lang.constraint import Constraint, JsonSchema
from ...lang.json_text import JsonReader, NotJson
from .shapes import Container, Shape, shape_of

MAX_DEPTH = 200
"""Most containers that may be open at once: as deep as pydantic itself reads JSON."""


class Partials:
    """The partial values of one gen. Not thread-safe: one reader each."""

    def __init__(self, constraint: Constraint | None) -> None:
        self._over = not isinstance(constraint, JsonSchema)
        self._root = shape_of(constraint) if isinstance(constraint, JsonSchema) else None
        self._reader = JsonReader()
        self._at = 0  # all before it is read
        self._start = 0  # of the string or word that is being read
        self._open: list[_Open] = []

    def feed(self, text_so_far: str) -> list[Any]:
        """The snapshots that became known since the last call, in order. `text_so_far` is the gen's text from its
        start, of which the earlier calls saw a prefix."""
        return list(self.events(text_so_far))

    def events(self, text_so_far: str) -> Iterator[Any]:
        """`feed`, one at a time: a reader who comes late to a long text holds one snapshot, not all. To be read to its
        end before the next call."""
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
        self._open.append(_Open(self._here(), opening, start))

    def _ended(self, text: str, end: int) -> tuple[Any, int]:
        """The value of the innermost container, which ends here, and where it began."""
        done = self._open.pop()
        made = done.made(done.values)
        return made if done.shape is None else _read(done.shape, text[done.start : end], made), done.start

    def _here(self) -> Shape | None:
        """The place of the value that begins here."""
        return self._open[-1].part() if self._open else self._root

    def _placed(self, value: Any, text: str, start: int, end: int) -> Any:
        """Put a complete value in its place; the snapshot."""
        if not self._open:
            return value
        inner = self._open[-1]
        inner.put(value, text, start, end)
        snapshot = inner.made(inner.values.copy())
        for container in self._open[-2::-1]:
            snapshot = container.made(container.with_open(snapshot))
        return snapshot


class _Open:
    """A container that is being written. `values`: its complete members, typed once it is decided what it is."""

    __slots__ = ("_candidates", "_key", "_members", "shape", "start", "values")

    def __init__(self, shape: Shape | None, opening: str, start: int) -> None:
        self.shape, self.start = shape, start
        self.values: Any = {} if opening == "{" else []
        self._candidates = [] if shape is None else shape.containers(opening)
        self._key: str | int = 0
        self._members: list[tuple[str | int, str]] = []  # of a union: the texts so far

    @property
    def _decided(self) -> Container | None:
        return self._candidates[0] if len(self._candidates) == 1 else None

    def name(self, key: str) -> None:
        """The key of the next member."""
        if key in self.values:
            raise NotJson  # the key is there twice
        self._key = key
        if len(self._candidates) > 1:
            self._narrow([c for c in self._candidates if c.has(key)])

    def part(self) -> Shape | None:
        return None if self._decided is None else self._decided.part(self._key)

    def put(self, value: Any, text: str, start: int, end: int) -> None:
        """The member at the current key is complete."""
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

    def _narrow(self, left: list[Container]) -> None:
        """Of several candidates these are left; if it is one, what was plain until now is read as its members."""
        self._candidates = left
        if len(left) == 1:
            for key, raw in self._members:
                part = left[0].part(key)
                if part is not None and part.admits(raw):
                    self.values[key] = _read(part, raw, self.values[key])
            self._members = []

    def with_open(self, member: Any) -> Any:
        """A copy of the values, with the one that is being written."""
        values = self.values.copy()
        if isinstance(values, list):
            values.append(member)
        else:
            values[self._key] = member
        return values

    def made(self, values: Any) -> Any:
        """An instance of what this is known to be."""
        if self._decided is None:
            return values
        try:
            return self._decided.make(values)
        except Exception:  # a class that cannot be made without its own code
            return values


def _admits(part: Shape | None, raw: str) -> bool:
    return part is None or part.admits(raw)


def _read(part: Shape, raw: str, otherwise: Any) -> Any:
    try:
        return part.read(raw)
    except Exception:  # refused; or a validator of the user's own broke down, which the final check will tell
        return otherwise


def _parsed(raw: str) -> Any:
    """The plain value of a scalar's text. Raises `NotJson` as `checking.parse_json` would refuse it."""
    try:
        value = json.loads(raw)
        if isinstance(value, str) and "\\u" in raw:
            value.encode()  # a lone surrogate is no character
    except (ValueError, RecursionError):
        raise NotJson from None
    if isinstance(value, float) and math.isinf(value):
        raise NotJson
    return value
