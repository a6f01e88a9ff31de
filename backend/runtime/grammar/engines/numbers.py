"""What no JSON grammar says: that digits end, and that an object's keys differ.

Owns: where a JSON text stands (`Position`), and taking from a mask what would make a run of digits too long or a key
repeat. A grammar lets digits go on for ever, and a model that loves zeros would write them until its budget ends;
here a run has at most `DIGITS` (more than a float64 or any usual integer needs), an exponent at most `EXPONENT`.
Where nothing else is allowed, the mask stays as it is; a repeated key is then found by the check of the finished
text.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from .protocol import Mask
from .vocabulary import Vocabulary

DIGITS = 40
EXPONENT = 2

_DIGIT = frozenset(b"0123456789")
_QUOTE, _ESCAPE = ord('"'), ord("\\")

Frame = frozenset[bytes] | None
"""An open object's keys so far, as they are spelled; None for an open array."""


class Position(NamedTuple):
    """Where a JSON text stands: in a string, after a backslash in it; digits in a row, of an exponent or not; what is
    open; and whether a key may come, or how much of one is there."""

    in_string: bool = False
    escaped: bool = False
    run: int = 0
    exponent: bool = False
    open: tuple[Frame, ...] = ()
    wants_key: bool = False
    key: bytes | None = None


class NumberGuard:
    """Takes from the masks of one vocabulary what no JSON grammar forbids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._bytes = vocabulary.bytes
        words = (vocabulary.size + 31) // 32
        self._leading = np.zeros(words * 32, dtype=np.uint8)  # digits a token begins with
        for i, data in enumerate(vocabulary.bytes):
            if data and data[0] in _DIGIT:
                self._leading[i] = len(data) - len(data.lstrip(b"0123456789"))
        self._within: dict[int, Mask] = {}
        self._named = vocabulary.by_bytes
        quoted = sorted((data, i) for i, data in enumerate(vocabulary.bytes) if _QUOTE in data)
        self._quoted, self._quoted_ids = [data for data, _ in quoted], [i for _, i in quoted]

    def after(self, position: Position, token: int) -> Position:
        """The position after `token`."""
        in_string, escaped, run, exponent, frames, wants_key, key = position
        for byte in self._bytes[token]:
            if in_string:
                if byte == _QUOTE and not escaped:
                    in_string = False
                    if key is not None:
                        frames, key, wants_key = (*frames[:-1], (frames[-1] or frozenset()) | {key}), None, False
                    continue
                escaped = byte == _ESCAPE and not escaped
                key = None if key is None else key + bytes((byte,))
                continue
            if byte in _DIGIT:
                run += 1
                continue
            exponent = byte in b"eE" or (exponent and not run and byte in b"+-")
            run = 0
            if byte == _QUOTE:
                in_string, escaped = True, False
                key = b"" if wants_key else None
            elif byte == 0x7B:  # {
                frames, wants_key = (*frames, frozenset()), True
            elif byte == 0x5B:  # [
                frames, wants_key = (*frames, None), False
            elif byte in b"}]":
                frames, wants_key = frames[:-1], False
            elif byte == 0x2C:  # ,
                wants_key = bool(frames) and frames[-1] is not None
        return Position(in_string, escaped, run, exponent, frames, wants_key, key)

    def minds(self, position: Position, token: int) -> bool:
        """Whether `bound` might take this token from a mask."""
        if position.in_string:
            return position.key is not None and bool(position.open[-1])
        return position.wants_key or bool(self._leading[token])

    def bound(self, row: Mask, position: Position, may_end: bool = False) -> None:
        """Take the tokens from `row` that would make a run of digits too long or a key repeat, unless nothing else is
        allowed (an end, with `may_end`, is something else)."""
        if position.in_string:
            if position.key is not None and position.open[-1] and not position.escaped:
                self._distinct(row, position.key, position.open[-1])
            return
        if position.wants_key and position.open[-1]:
            self._distinct(row, None, position.open[-1])
        room = (EXPONENT if position.exponent else DIGITS) - position.run
        if room < 16:  # no token begins with so many digits that more room matters
            bounded = row & self._tokens_within(max(room, 0))
            if may_end or bounded.any():
                row[:] = bounded

    def would_repeat(self, position: Position) -> list[int]:
        """Tokens that would write a key that is there already, all but its closing quote, which may not come then."""
        key, keys = position.key, position.open[-1] if position.open else None
        if key is None or not keys or position.escaped:
            return []
        rests = [taken[len(key) :] for taken in keys if taken.startswith(key) and len(taken) > len(key)]
        return [token for rest in rests for token in self._named.get(rest, ())]

    def _tokens_within(self, room: int) -> Mask:
        mask = self._within.get(room)
        if mask is None:
            bits = np.packbits(self._leading <= room, bitorder="little")
            mask = self._within[room] = bits.view(np.int32)
        return mask

    def _distinct(self, row: Mask, begun: bytes | None, keys: frozenset[bytes]) -> None:
        """Take the tokens that would close one of `keys` again. `begun`: what is written of the key; None before its
        opening quote."""
        before = b'"' if begun is None else b""
        written = begun or b""
        taken: dict[int, np.int32] = {}
        for key in keys:
            if not key.startswith(written):
                continue
            closing = before + key[len(written) :] + b'"'
            at = bisect_left(self._quoted, closing)
            while at < len(self._quoted) and self._quoted[at].startswith(closing):
                token = self._quoted_ids[at]
                taken[token >> 5] = taken.get(token >> 5, np.int32(0)) | np.uint32(1 << (token & 31)).astype(np.int32)
                at += 1
        if taken:
            bounded = row.copy()
            for word, bits in taken.items():
                bounded[word] &= ~bits
            if bounded.any():
                row[:] = bounded
