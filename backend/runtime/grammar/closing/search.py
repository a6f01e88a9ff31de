"""Tokens that close a constrained text, found by search: for grammars that are not known as rules (`ways.py`).

Knows nothing of budgets (`job/rule.py`). The grammar is opaque, so the search tries what tends to close: quotes within
strings, brackets outside them, digits before words.

A greedy walk finds most ends. Where it finds none, a breadth-first search does, in which two texts of equal length with
equal masks count as one. What is found does close; that nothing shorter does is not proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..protocol import Mask, Matcher, mask_words
from ..vocabulary import Vocabulary

BEAM_TEXTS = 16  # that the breadth-first search keeps a layer
MOST_WORK = 8_000
"""What one search may take: `MASK_WORK` for a mask, 1 for a token tried. Both count once more for each `LONG_TOKENS`
before them, since copies of longer texts cost more. It is about 50 ms at 50,000 tokens. It is no time, because what is
found decides what is sampled, and that may not depend on how fast the machine is."""
MASK_WORK, LONG_TOKENS = 16, 8
MOST_CLOSING_TOKENS = 2_000  # of the first greedy walk
MOST_SEARCHED_TOKENS = 400  # of the second one, and layers of the breadth-first search
MOST_CANDIDATES = 96  # tokens of a mask that are all tried
LAST_CANDIDATES = 16  # that are tried of a larger mask, beside the handy ones


class Closer:
    """Finds closing tokens, for one vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = vocabulary.size
        ids = [i for i, data in enumerate(vocabulary.bytes) if data]
        self.free = np.array(sorted(ids, key=lambda i: _in_free_text(vocabulary.bytes[i])), dtype=np.int64)
        self.structure = np.array(sorted(ids, key=lambda i: _in_structure(vocabulary.bytes[i])), dtype=np.int64)
        self.many = len(ids) // 2
        self.words = np.zeros(vocabulary.size, dtype=bool)
        self.words[[i for i in ids if _in_structure(vocabulary.bytes[i])[0] == _WORD]] = True
        single = [i for i in ids if len(vocabulary.bytes[i]) == 1]
        self.handy = np.array([*self.structure[:32], *self.free[:8], *single], dtype=np.int64)

    def path(self, matcher: Matcher, limit: int, work: int = MOST_WORK) -> list[int] | None:
        """Return at most `limit` tokens that complete the text, or None if none were found. `matcher` stays as it is.

        `work`: what the search may take.
        """
        search = _ClosingSearch(self, work)
        found = search.greedy(matcher, min(limit, MOST_CLOSING_TOKENS))
        if found is not None or limit <= 0:
            return found
        limit = min(limit, MOST_SEARCHED_TOKENS)
        found = search.greedy(matcher, limit, last=True)
        return search.breadth_first(matcher, limit) if found is None else found


class _ClosingSearch:
    """One search, with its own row for masks. `left`: the work that it may still do."""

    def __init__(self, closer: Closer, work: int) -> None:
        self.closer = closer
        self.row: Mask = np.zeros(mask_words(closer.size), dtype=np.int32)
        self.left = work

    def greedy(self, matcher: Matcher, limit: int, last: bool = False) -> list[int] | None:
        """Follow the likeliest token, step by step. `last`: of words, take the last; the first may lead in a circle."""
        at = matcher.fork()
        path: list[int] = []
        while len(path) <= limit:
            if at.can_end():
                return path
            step: Sequence[int] = at.forced() or self._likely(at, last)
            self._work(len(step), len(path))
            if not step or not all(at.accept(token) for token in step) or self.left < 0:
                return None
            path += step
        return None

    def _likely(self, at: Matcher, last: bool = False) -> Sequence[int]:
        allowed = self._allowed(at)
        best: list[int] = allowed[:1].tolist()
        if last and best and self.closer.words[best[0]]:
            best = allowed[-1:].tolist()
        return best

    def _work(self, amount: int, length: int) -> None:
        """Count work on a text of `length` tokens."""
        self.left -= amount * (1 + length // LONG_TOKENS)

    def breadth_first(self, matcher: Matcher, limit: int) -> list[int] | None:
        """Search in layers of texts of equal length."""
        layer: list[tuple[Matcher, list[int]]] = [(matcher.fork(), [])]
        for _ in range(limit):
            seen: dict[bytes, tuple[Matcher, list[int]]] = {}
            for at, path in layer:
                for token in self._candidates(at):
                    self._work(1, len(path))
                    if self.left < 0:
                        return None
                    after = at.fork()
                    if not after.accept(token):
                        continue
                    if after.can_end():
                        return [*path, token]
                    after.fill(self.row)
                    self._work(MASK_WORK, len(path))
                    seen.setdefault(self.row.tobytes(), (after, [*path, token]))
            layer = list(seen.values())[:BEAM_TEXTS]
            if not layer:
                return None
        return None

    def _candidates(self, matcher: Matcher) -> Iterator[int]:
        forced = matcher.forced()
        if forced:
            yield forced[0]
            return
        allowed = self._allowed(matcher)
        if len(allowed) > MOST_CANDIDATES:
            handy = self.closer.handy[self._bits()[self.closer.handy]]
            allowed = np.concatenate([handy, allowed[-LAST_CANDIDATES:]])
        yield from dict.fromkeys(allowed.tolist())

    def _allowed(self, matcher: Matcher) -> npt.NDArray[np.int64]:
        """Return the tokens that the mask allows, those that most likely close first."""
        matcher.fill(self.row)
        self.left -= MASK_WORK
        bits = self._bits()
        order = self.closer.free if np.count_nonzero(bits) > self.closer.many else self.closer.structure
        return order[bits[order]]

    def _bits(self) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.row.view(np.uint8), count=self.closer.size, bitorder="little").view(np.bool_)


def _in_free_text(data: bytes) -> tuple[int, int]:
    """Rank a token where nearly everything is allowed: what ends a string, then long words, to reach a least length."""
    if data[:1] == b'"' and not data[1:].strip(b"]}"):
        return 0, -len(data)
    return 1, -min(len(data), 16) if data.isalpha() and data.isascii() else 0


_WORD = 6


def _in_structure(data: bytes) -> tuple[int, int]:
    """Rank a token elsewhere: brackets that close, `null`, a quote, digits, punctuation, openers, words."""
    if not data.strip(b"]}"):
        return 0, -len(data)
    if data == b"null":
        return 1, 0
    if data in (b'"', b")"):
        return 2, 0
    if data.isdigit():
        return 3, len(data)
    if len(data) == 1 and not data.isalpha() and data not in b"[{(\\":
        return 4, 0
    if data in (b"[", b"{", b"("):
        return 5, 0
    return _WORD, -min(len(data), 16) if data.isalpha() and data.isascii() else len(data)
