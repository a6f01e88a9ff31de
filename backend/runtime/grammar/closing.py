"""The shortest way to close: tokens that end a constrained text from where it is.

Owns: the search for such tokens, over any engine's matchers. Knows nothing of budgets (`constrained.py`).

Grammars are opaque, so the search tries what tends to close: quotes within strings, brackets outside them, digits
before words. A greedy walk finds most ends; where it does not, or not soon enough, a breadth-first search does, in
which two texts of equal length with equal masks count as one. What it finds does close; that nothing shorter does is
not proven.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .protocol import Mask, Matcher, mask_words
from .vocabulary import Vocabulary

BEAM = 16
"""Texts that the breadth-first search keeps a layer."""
TRIES = 4_000
"""Tokens it tries in all: some 40 ms."""


class Closer:
    """Finds closing tokens, for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size
        ids = [i for i, data in enumerate(vocabulary.bytes) if data]
        self._free = np.array(sorted(ids, key=lambda i: _in_free_text(vocabulary.bytes[i])), dtype=np.int64)
        self._structure = np.array(sorted(ids, key=lambda i: _in_structure(vocabulary.bytes[i])), dtype=np.int64)
        self._many = len(ids) // 2
        self._row: Mask = np.zeros(mask_words(vocabulary.size), dtype=np.int32)
        single = [i for i in ids if len(vocabulary.bytes[i]) == 1]
        self._handy = np.array([*self._structure[:64], *self._free[:16], *single], dtype=np.int64)

    def path(self, matcher: Matcher, limit: int) -> list[int] | None:
        """At most `limit` tokens that complete the text (`matcher` stays as it is), or None if none were found."""
        found = self._greedy(matcher, min(limit, 2_000))
        if found is None and limit > 0:
            found = self._search(matcher, min(limit, 400))
        return found

    def _greedy(self, matcher: Matcher, limit: int) -> list[int] | None:
        at = matcher.fork()
        path: list[int] = []
        while len(path) <= limit:
            if at.can_end():
                return path
            step = at.forced() or [int(t) for t in self._allowed(at)[:1]]
            if not step:
                return None
            for token in step:
                if not at.accept(token):
                    return None
            path += step
        return None

    def _search(self, matcher: Matcher, limit: int) -> list[int] | None:
        """Breadth first: layers of texts of equal length."""
        layer: list[tuple[Matcher, list[int]]] = [(matcher.fork(), [])]
        tried = 0
        for _ in range(limit):
            seen: dict[bytes, tuple[Matcher, list[int]]] = {}
            for at, path in layer:
                for token in self._candidates(at):
                    tried += 1
                    if tried > TRIES:
                        return None
                    after = at.fork()
                    if not after.accept(token):
                        continue
                    if after.can_end():
                        return [*path, token]
                    after.fill(self._row)
                    seen.setdefault(self._row.tobytes(), (after, [*path, token]))
            layer = list(seen.values())[:BEAM]
            if not layer:
                return None
        return None

    def _candidates(self, matcher: Matcher) -> Iterator[int]:
        forced = matcher.forced()
        if forced:
            yield forced[0]
            return
        allowed = self._allowed(matcher)
        if len(allowed) > 96:
            handy = self._handy[self._bits()[self._handy]]
            allowed = np.concatenate([handy, allowed[len(allowed) - 16 :]])
        yield from dict.fromkeys(allowed.tolist())

    def _allowed(self, matcher: Matcher) -> npt.NDArray[np.int64]:
        """Ids that the mask allows, the most likely to close first."""
        matcher.fill(self._row)
        bits = self._bits()
        order = self._free if np.count_nonzero(bits) > self._many else self._structure
        return order[bits[order]]

    def _bits(self) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self._row.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)


def _in_free_text(data: bytes) -> tuple[int, int]:
    """Rank of a token where nearly everything is allowed (a string, a text): what ends it, then long words, so that a
    least length is soon reached."""
    if data[:1] == b'"' and not data[1:].strip(b"]}"):
        return 0, -len(data)
    return 1, -min(len(data), 16) if data.isalpha() and data.isascii() else 0


def _in_structure(data: bytes) -> tuple[int, int]:
    """Rank of a token elsewhere: brackets that close, `null`, digits, a quote, punctuation, openers, words."""
    if not data.strip(b"]})"):
        return 0, -len(data)
    if data == b"null":
        return 1, 0
    if data.isdigit():
        return 2, len(data)
    if data == b'"':
        return 3, 0
    if len(data) == 1 and not data.isalpha() and data not in b"[{(\\":
        return 4, 0
    if data in (b"[", b"{", b"("):
        return 5, 0
    return 6, -min(len(data), 16) if data.isalpha() and data.isascii() else len(data)
