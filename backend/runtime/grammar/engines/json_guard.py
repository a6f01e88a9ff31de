"""What no JSON grammar can say: that the digits of a number end, and that the keys of an object differ.

Owns: where a guarded text stands (`GuardedText`), and taking out of masks the tokens that break these two rules.
Knows nothing of schemas or of how an engine makes its masks.

1. A model that likes zeros would write digits until its budget ends, so a run of digits is bounded.
2. Where nothing else is allowed, a mask stays as it is: the check of the finished text then finds a repeated key.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from .....lang.json_text import JsonReader
from ..protocol import Mask, mask_words
from ..vocabulary import Vocabulary

MOST_DIGITS, MOST_EXPONENT_DIGITS = 40, 2
"""Digits in a row; a float64 and the usual integers need fewer."""
_LONGEST_DIGIT_TOKEN = 16
"""Digits that no token begins with: with more room than that, no token is too long."""
_DIGITS = "0123456789"


class GuardedText(JsonReader):
    """Where a JSON text stands, and its keys. `keys`: of each open container those that are complete, as they are
    spelled, or None for an array. `key`: what there is of the key that is being written; None outside keys."""

    __slots__ = ("key", "keys")

    def __init__(self) -> None:
        super().__init__()
        self.keys: tuple[frozenset[bytes] | None, ...] = ()
        self.key: bytes | None = None

    def copy(self) -> GuardedText:
        made = GuardedText.__new__(GuardedText)
        made.containers, made.expects, made.inside = self.containers, self.expects, self.inside
        made.keys, made.key = self.keys, self.key
        return made

    def follow(self, data: bytes) -> None:
        """Read the bytes of the next token."""
        if self.inside == '"' and b'"' not in data and b"\\" not in data:  # the usual token of a string
            if self.key is not None:
                self.key += data
            return
        text, at = data.decode("latin-1"), 0
        while at < len(text):
            piece, end = self.read(text, at)
            if self.key is not None:
                if piece == "unquote":
                    self.keys, self.key = (*self.keys[:-1], self.taken | {self.key}), None
                else:
                    self.key += data[at:end]
            elif piece == "quote" and self.at_key:
                self.key = b""
            elif piece == "open":
                self.keys = (*self.keys, frozenset() if text[at] == "{" else None)
            elif piece == "close":
                self.keys = self.keys[:-1]
            at = end

    @property
    def in_string(self) -> bool:
        return self.inside in ('"', "\\")

    @property
    def taken(self) -> frozenset[bytes]:
        """The keys that the innermost container has already."""
        return (self.keys[-1] if self.keys else None) or frozenset()

    @property
    def digits_left(self) -> int:
        """How many more digits may follow in a row."""
        word = self.inside
        most = MOST_EXPONENT_DIGITS if "e" in word or "E" in word else MOST_DIGITS
        return max(most - len(word) + len(word.rstrip(_DIGITS)), 0)


class JsonGuard:
    """Narrows the masks of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._by_bytes = vocabulary.by_bytes
        self._digits = np.zeros(mask_words(vocabulary.size) * 32, dtype=np.uint8)  # that each token begins with
        for i, data in enumerate(vocabulary.bytes):
            if data[:1].isdigit():
                self._digits[i] = min(len(data) - len(data.lstrip(_DIGITS.encode())), 255)
        self._within: dict[int, Mask] = {}
        quoted = sorted((data, i) for i, data in enumerate(vocabulary.bytes) if b'"' in data)
        self._quoted, self._quoted_ids = [data for data, _ in quoted], [i for _, i in quoted]

    def may_forbid(self, text: GuardedText, token: int) -> bool:
        """Whether `narrow` may take this token out of a mask."""
        if text.in_string:
            return text.key is not None and bool(text.taken)
        return text.at_key or bool(self._digits[token])

    def narrow(self, row: Mask, text: GuardedText, may_end: bool) -> None:
        """Take out of `row` the tokens that write too many digits, or a key again.

        `row` stays as it is if it has no other token, and no end (`may_end`).
        """
        if text.in_string:
            if text.key is not None and text.inside != "\\":
                self._forbid_keys(row, text.key, text.taken)
        elif text.at_key:
            self._forbid_keys(row, None, text.taken)
        elif (left := text.digits_left) < _LONGEST_DIGIT_TOKEN:
            bounded = row & self._at_most(left)
            if may_end or bounded.any():
                row[:] = bounded

    def repeating(self, text: GuardedText) -> list[int]:
        """The tokens that complete a key which is there already, up to its closing quote, which may not follow."""
        key = text.key
        if key is None or text.inside == "\\":
            return []
        rests = [taken[len(key) :] for taken in text.taken if taken.startswith(key) and len(taken) > len(key)]
        return [token for rest in rests for token in self._by_bytes.get(rest, ())]

    def _at_most(self, digits: int) -> Mask:
        if digits not in self._within:
            self._within[digits] = np.packbits(self._digits <= digits, bitorder="little").view(np.int32)
        return self._within[digits]

    def _forbid_keys(self, row: Mask, begun: bytes | None, keys: frozenset[bytes]) -> None:
        """Take out the tokens that would close one of `keys` again. `begun`: what there is of the key; None before its
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
