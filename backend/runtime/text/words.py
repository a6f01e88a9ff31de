"""`Words`: the tokens of words that were encoded before.

Owns: which words of a text are known, and which must be encoded. Knows nothing of tokenizers: `encode` is given, and so
is the promise that a text may be cut before any space between two ASCII letters. A *word* is what lies between two such
places, be it ". The" or a text without any.

A tokenizer takes a microsecond a token, a dictionary a tenth of that, and programs write new texts of old words.

Invariant: `tokens(text)` is `encode(text)`. Thread-safe: single operations on one dict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain

WORDS_BYTES = 8 << 20
"""What the kept words and their tokens may take; when that is full, all is forgotten."""
_WORD_BYTES, _TOKEN_BYTES = 250, 40
"""Of a word beside its characters and tokens (the dictionary's entry, a string, a tuple); and of a token, an int."""
LONGEST_WORD_CHARACTERS = 64
"""Longer words are not kept."""
WORDS_A_NEW_ONE = 4
"""Where fewer than one word in so many is new, the new ones are encoded one by one, else the text as a whole."""
_CUT = re.compile(r" (?=[A-Za-z])(?<=[A-Za-z] )")


class Words:
    """`encode(text)`: its tokens; `token_bytes[id]`: the bytes that a token spells."""

    def __init__(self, encode: Callable[[str], list[int]], token_bytes: Sequence[bytes]) -> None:
        self._encode, self._token_bytes = encode, token_bytes
        # Keys are words without the space before them; a text's first word has a space more instead.
        self._known: dict[str, tuple[int, ...]] = {}
        self._held = 0

    @property
    def held(self) -> dict[str, int | None]:
        """How many words are kept, about their bytes, and the bound."""
        return {"entries": len(self._known), "bytes": self._held, "most_bytes": WORDS_BYTES}

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text`; raises what `encode` raises."""
        words = _CUT.split(text)
        words[0] = " " + words[0]
        known = self._known
        found = list(map(known.get, words))
        new = found.count(None)
        if new * WORDS_A_NEW_ONE > len(words):
            ids = self._encode(text)
            self._learn(text, words, ids)
            return ids
        if new:
            found = [self._keep(w, self._encode(_spelled(w))) if ids is None else ids for w, ids in zip(words, found)]
        return list(chain.from_iterable(found))  # type: ignore[arg-type]  # none is None now

    def _keep(self, word: str, ids: Sequence[int]) -> tuple[int, ...]:
        tokens = tuple(ids)
        if len(word) <= LONGEST_WORD_CHARACTERS:
            size = _WORD_BYTES + 2 * len(word) + _TOKEN_BYTES * len(tokens)
            if self._held + size > WORDS_BYTES:
                self._known.clear()
                self._held = 0
            self._known[word] = tokens
            self._held += size  # a word that two threads add at once counts twice
        return tokens

    def _learn(self, text: str, words: list[str], ids: list[int]) -> None:
        """Keep the words of a text whose tokens are `ids`: each has those that spell its bytes."""
        if all(len(word) > LONGEST_WORD_CHARACTERS for word in words):
            return
        data = [self._token_bytes[i] for i in ids]
        if b"".join(data) != text.encode():
            return  # the tokenizer normalised it: which bytes are whose is not known
        at = 0
        for word in words:
            first, left = at, len(_spelled(word).encode())
            while left > 0:
                left -= len(data[at])
                at += 1
            assert not left, "a token reaches across a certain cut"
            self._keep(word, ids[first:at])


def _spelled(word: str) -> str:
    return word[1:] if word.startswith(" ") else " " + word
