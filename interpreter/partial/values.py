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
import re
from collections.abc import Iterator
from typing import Any

from ...lang.constraint import Constraint, JsonSchema
from .shapes import Container, Shape, shape_of

MAX_DEPTH = 200
"""Most containers that may be open at once: as deep as pydantic itself reads JSON."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"[-+.0-9eE]*")
_A_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"t": "true", "f": "false", "n": "null"}
_MATCHING = {"{": "}", "[": "]"}

# What may come next. In a container: its first member or end, the next member, what is after one.
_VALUE, _FIRST, _KEY, _COLON, _AFTER, _NOTHING = range(6)


class Malformed(Exception):
    """The text is not JSON; there will be no more snapshots."""


class Partials:
    """The partial values of one gen. Not thread-safe: one reader each."""

    def __init__(self, constraint: Constraint | None) -> None:
        self._over = not isinstance(constraint, JsonSchema)
        self._root = shape_of(constraint) if isinstance(constraint, JsonSchema) else None
        self._scanner = _Scanner()
        self._open: list[_Open] = []

    def feed(self, text_so_far: str) -> list[Any]:
        """The snapshots that became known since the last call, in order. `text_so_far` is the gen's text from its
        start, of which the earlier calls saw a prefix."""
        return list(self.events(text_so_far))

    def events(self, text_so_far: str) -> Iterator[Any]:
        """`feed`, one at a time: a reader who comes late to a long text holds one snapshot, not all. To be read to its
        end before the next call."""
        while not self._over:
            try:
                found = self._scanner.next(text_so_far)
                if found is None:
                    return
                kind, start, end = found
                if kind == "key":
                    self._key(_parsed(text_so_far[start:end]))
                    continue
                if kind == "open":
                    self._begin(text_so_far[start], start)
                    continue
                if kind == "close":
                    value, start = self._ended(text_so_far, end)
                else:
                    value = self._scalar(text_so_far[start:end])
            except Malformed:
                self._over = True
                return
            yield self._placed(value, text_so_far, start, end)

    # -- what the scanner found
    def _key(self, key: str) -> None:
        self._open[-1].name(key)

    def _begin(self, opening: str, start: int) -> None:
        if len(self._open) == MAX_DEPTH:
            raise Malformed
        self._open.append(_Open(self._here(), opening, start))

    def _scalar(self, raw: str) -> Any:
        plain, shape = _parsed(raw), self._here()
        return plain if shape is None else _read(shape, raw, plain)

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
            raise Malformed  # the key is there twice
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
    """The plain value of a scalar's text. Raises `Malformed` as `checking.parse_json` would refuse it."""
    try:
        value = json.loads(raw)
        if isinstance(value, str) and "\\u" in raw:
            value.encode()  # a lone surrogate is no character
    except (ValueError, RecursionError):
        raise Malformed from None
    if isinstance(value, float) and math.isinf(value):
        raise Malformed
    return value


class _Scanner:
    """Finds keys and values in JSON text that grows: ("key" | "scalar" | "open" | "close", start, end)."""

    __slots__ = ("_at", "_expect", "_from", "_nest")

    def __init__(self) -> None:
        self._at = 0  # all before it is done with
        self._from = 0  # of the token that begins there: what was looked at
        self._expect = _VALUE
        self._nest: list[str] = []  # the containers that are open, by what closes them

    def next(self, text: str) -> tuple[str, int, int] | None:
        """The next thing that is complete; None where the text must grow first. Raises `Malformed`."""
        while True:
            start = self._at = _after(_SPACE, text, self._at)
            if start == len(text):
                return None
            self._from = max(self._from, start)
            char, expect = text[start], self._expect
            if char in "}]":
                return self._close(char, start)
            if expect == _AFTER and char == ",":
                self._expect = _KEY if self._nest[-1] == "}" else _VALUE
                self._at = start + 1
            elif expect == _COLON and char == ":":
                self._expect = _VALUE
                self._at = start + 1
            elif expect == _KEY or (expect == _FIRST and self._nest[-1] == "}"):
                return self._token("key", start, self._string_end(text) if char == '"' else -1, _COLON)
            elif expect not in (_VALUE, _FIRST):
                raise Malformed
            elif char in "{[":
                self._nest.append(_MATCHING[char])
                return self._token("open", start, start + 1, _FIRST)
            else:
                return self._token("scalar", start, self._scalar_end(text, char), self._then())

    def _close(self, char: str, start: int) -> tuple[str, int, int]:
        if self._expect not in (_FIRST, _AFTER) or self._nest.pop() != char:
            raise Malformed
        self._at, self._expect = start + 1, self._then()
        return "close", start, start + 1

    def _then(self) -> int:
        return _AFTER if self._nest else _NOTHING

    def _token(self, kind: str, start: int, end: int | None, expect: int) -> tuple[str, int, int] | None:
        """A token of that end (None: not yet; negative: it is none)."""
        if end is None:
            return None
        if end < 0:
            raise Malformed
        self._at, self._expect = end, expect
        return kind, start, end

    def _scalar_end(self, text: str, char: str) -> int | None:
        if char == '"':
            return self._string_end(text)
        if char in _WORDS:
            word = _WORDS[char]
            if text.startswith(word, self._at):
                return self._at + len(word)
            return None if word.startswith(text[self._at : self._at + len(word)]) else -1
        self._from = _after(_NUMBER, text, self._from)
        if self._from == len(text):
            return None
        complete = text[self._from] in " \t\n\r,]}" and _A_NUMBER.fullmatch(text, self._at, self._from)
        return self._from if complete else -1

    def _string_end(self, text: str) -> int | None:
        at = max(self._from, self._at + 1)
        while (at := _after(_STRING, text, at)) < len(text):
            if text[at] == '"':
                return at + 1
            if text[at] != "\\":
                return -1
            if at + 1 == len(text):
                break
            at += 2
        self._from = at
        return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None, pattern  # each of them matches the empty text
    return found.end()
