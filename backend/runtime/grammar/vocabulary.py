"""One table of token id to bytes for all grammar engines, and how forced bytes are spelled in tokens.

Knows nothing of grammars.

1. The table is empty (b"") for control tokens, end-of-text tokens and ids without a token: none can be taken for text.
2. `size` is the width of the model's logits, which masks cover.
3. A forced token depends on the forced bytes alone (`first_forced`), so it is the same however far one looks ahead.
"""

from __future__ import annotations

import codecs
import copy
import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from ....lang.errors import OptionError
from ..text.tokenizer import Tokenizer
from .protocol import Mask, mask_words
from .trie import TokenTrie

CONTROL_CODES, MOST_CONTROLS = 0xFDD0, 32
"""The characters that stand for the control tokens of a constraint where it is read as characters. They are no
characters by Unicode, so that a model has no use for them."""
FORCED_WINDOW_BYTES = 96
"""Of a forced text, those that decide its first token."""


class TokenTable:
    """The tokens as bytes: all that an engine needs to compile. Plain data, which travels to the worker process."""

    def __init__(self, token_bytes: Sequence[bytes], eos_ids: Sequence[int]) -> None:
        self.bytes = list(token_bytes)
        self.size = len(self.bytes)
        self.eos_ids = tuple(eos_ids)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the table, for the keys of what is compiled for it."""
        state = hashlib.sha256(repr((self.size, self.eos_ids)).encode())
        for data in self.bytes:
            state.update(len(data).to_bytes(4, "little") + data)
        return state.hexdigest()


class Vocabulary(TokenTable):
    """The tokens as grammar engines see them, with the tokenizer that spells text canonically."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """`size`: width of the model's logits (at least the tokenizer's vocabulary)."""
        ends = set(tokenizer.eos_ids)
        table = [b"" if i in ends or tokenizer.is_special(i) else data for i, data in enumerate(tokenizer.token_bytes)]
        super().__init__(table + [b""] * (size - len(table)), tokenizer.eos_ids)
        self.tokenizer = tokenizer
        self._bind()

    def _bind(self) -> None:
        self._first = lru_cache(maxsize=8192)(self._first_of)
        self.mask_of_few = lru_cache(maxsize=64)(self._mask_of_few)
        self.beginning_with = lru_cache(maxsize=64)(self._beginning_with)

    def with_controls(self, ids: Sequence[int]) -> Vocabulary:
        """This vocabulary with some control tokens, each as the character that stands for it. No other token is one."""
        twin = copy.copy(self)
        for name in ("by_bytes", "spells_all", "longest", "longest_with", "text_mask", "trie", "words", "digest"):
            twin.__dict__.pop(name, None)
        letters = {chr(CONTROL_CODES + at).encode(): token for at, token in enumerate(ids)}
        twin.bytes = [b"" if data in letters else data for data in self.bytes]
        for letter, token in letters.items():
            twin.bytes[token] = letter
        twin._bind()
        return twin

    @property
    def table(self) -> TokenTable:
        """The plain data alone."""
        return TokenTable(self.bytes, self.eos_ids)

    def encode(self, text: str) -> list[int]:
        """The canonical tokens of ordinary text in the middle of a text."""
        return self.tokenizer.encode([(text, False)], first=False)

    def spell(self, data: bytes) -> list[int]:
        """Spell exactly these bytes in tokens: in the canonical ones, if there are any.

        Where the tokenizer would normalise the text or cannot spell it: from the left, the longest tokens that fit.
        """
        try:
            tokens = self.encode(data.decode())
            if b"".join([self.bytes[t] for t in tokens]) == data:
                return tokens
        except (OptionError, UnicodeDecodeError):
            pass
        tokens, at = [], 0
        while at < len(data):
            found = next(
                (
                    self.by_bytes[data[at : at + n]][0]
                    for n in range(min(self.longest, len(data) - at), 0, -1)
                    if data[at : at + n] in self.by_bytes
                ),
                None,
            )
            if found is None:
                break  # no token for this byte
            tokens.append(found)
            at += len(self.bytes[found])
        return tokens

    @cached_property
    def by_bytes(self) -> dict[bytes, list[int]]:
        """The tokens that spell given bytes, usually one."""
        names: dict[bytes, list[int]] = {}
        for i, data in enumerate(self.bytes):
            if data:
                names.setdefault(data, []).append(i)
        return names

    @cached_property
    def spells_all(self) -> bool:
        """Whether every byte that text can have is a token."""
        never = {0xC0, 0xC1, *range(0xF5, 0x100)}
        return all(bytes((byte,)) in self.by_bytes for byte in range(256) if byte not in never)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.bytes))

    @cached_property
    def longest_with(self) -> list[int]:
        """Bytes of the longest token that has each ASCII character, and of the longest with a byte beyond ASCII."""
        longest = [1] * 129
        for word in sorted(self.words, key=len):
            for byte in set(word):
                longest[min(byte, 128)] = len(word)
        return longest

    def new_row(self) -> Mask:
        """An uninitialised mask."""
        return np.empty(mask_words(self.size), dtype=np.int32)

    def mask_of(self, ids: Iterable[int]) -> Mask:
        """The mask of these tokens."""
        bits = np.zeros(mask_words(self.size) * 32, dtype=bool)
        bits[list(ids)] = True
        return np.packbits(bits, bitorder="little").view(np.int32)

    def _mask_of_few(self, ids: tuple[int, ...]) -> Mask:
        """`mask_of`, remembered, for reading only."""
        mask = self.mask_of(ids)
        mask.flags.writeable = False
        return mask

    @cached_property
    def text_mask(self) -> Mask:
        """The mask of all tokens that are text."""
        return self.mask_of(i for i, data in enumerate(self.bytes) if data)

    def _beginning_with(self, data: bytes) -> Mask:
        """The mask of the tokens that begin with these bytes, for reading only."""
        return self.mask_of(i for i, token in enumerate(self.bytes) if token.startswith(data))

    @cached_property
    def trie(self) -> TokenTrie:
        """The tokens as a trie of their bytes."""
        return TokenTrie(self.words)

    @cached_property
    def words(self) -> list[bytes]:
        """The bytes of the tokens, sorted, each once."""
        return sorted({data for data in self.bytes if data})

    def extends(self, data: bytes) -> bool:
        """Whether some token begins with `data` and is longer."""
        words = self.words
        at = bisect_right(words, data)
        return at < len(words) and words[at].startswith(data)

    def first_forced(self, data: bytes) -> int | None:
        """The next token of a text that must go on with `data`; None while that depends on what follows `data`.

        It is the first canonical token of `data`, if no token could begin within `data` and reach beyond it. None too
        if `data` does not begin with a whole character.
        """
        return self._first(data[:FORCED_WINDOW_BYTES]) if data else None

    def settled(self, data: bytes, *, cut: bool = False, most: int = 64) -> list[int]:
        """The forced tokens of forced bytes, at most `most`: one `first_forced` after the other.

        `cut`: `data` goes on, but its rest is not known.
        """
        tokens: list[int] = []
        while len(tokens) < most and not (cut and len(data) < FORCED_WINDOW_BYTES):
            token = self.first_forced(data)
            if token is None:
                break
            tokens.append(token)
            data = data[len(self.bytes[token]) :]
        return tokens

    def _first_of(self, window: bytes) -> int | None:
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(window)
            token = self.encode(text)[0] if text else None
        except (UnicodeDecodeError, OptionError):  # in the middle of a character, or one that no token spells
            return None
        data = self.bytes[token] if token is not None else b""
        if not data or not window.startswith(data):
            return None  # the tokenizer normalises: it would spell another text
        if any(self.extends(window[start:]) for start in range(len(data))):
            return None
        return token
