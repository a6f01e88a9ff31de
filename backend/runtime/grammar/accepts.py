"""Whether a text fits a constraint: a walk of its tokens through the masks that generation uses.

Owns: the walk and its verdict. Knows nothing of engines. A text can be cut into tokens in many ways; any way that the
masks allow will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ....lang.checking.check import Mismatch
from ....lang.errors import ConstraintError, OptionError
from .compile import Prepared
from .protocol import Matcher
from .vocabulary import Vocabulary

MOST_TRIED_TOKENS = 200_000
"""Tokens after which the walk gives up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok`: generation could write this text and hand it over. If not, `why` gives the reason.

    `at` is the first character that is not allowed. It is the text's length if the text ends too early, or fails the
    check of finished texts.
    """

    ok: bool
    at: int
    why: str

    def __bool__(self) -> bool:
        return self.ok


def accepts(prepared: Prepared, text: str) -> Verdict:
    """Walk `text` through the masks of `prepared`, its end included; then check it as a finished text."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        return Verdict(False, error.start, f"{text[error.start]!r} is a lone surrogate, which no token can spell")
    walk = AcceptanceWalk(prepared.vocabulary, data, prepared.controls)
    if not walk.run(prepared.compiled.matcher()):
        at = len(walk.data[: walk.furthest].decode("utf-8", errors="ignore"))
        return Verdict(False, at, walk.why(text, at))
    try:
        prepared.check(text)
    except Mismatch as mismatch:
        return Verdict(False, len(text), f"the mask allows it, but the finished text fails its check: {mismatch}")
    return Verdict(True, len(text), "")


class AcceptanceWalk:
    """The walk of one text. `furthest`: bytes that some cut into tokens got through. `controls`: the texts of the
    control tokens that may be in it, by id."""

    def __init__(self, vocabulary: Vocabulary, data: bytes, controls: Mapping[int, bytes]) -> None:
        self.vocabulary, self.data, self.controls = vocabulary, data, controls
        self.row = vocabulary.new_row()
        self.furthest = 0
        self.expected: list[bytes] = []
        self.may_end = False
        self.canonical: dict[int, int] = {}
        at = 0
        try:
            tokens = vocabulary.encode(data.decode())
        except OptionError:
            tokens = []  # some character has no token: the walk will stop there
        for token in tokens:
            self.canonical[at] = token
            at += len(vocabulary.bytes[token])

    def run(self, start: Matcher) -> bool:
        """Search depth first, canonical tokens first; no place is tried twice."""
        stack = [(start.fork(), 0, self._candidates(start, 0))]
        dead: set[tuple[int, bytes]] = set()
        for _ in range(MOST_TRIED_TOKENS):
            if not stack:
                return False
            matcher, at, candidates = stack[-1]
            if at == len(self.data) and matcher.can_end():
                return True
            token = next(candidates, None)
            if token is None:
                stack.pop()
                continue
            after = matcher.fork()
            if not after.accept(token):
                continue
            end = at + len(self._bytes(token))
            after.fill(self.row)
            place = (end, self.row.tobytes())
            if place in dead:
                continue
            dead.add(place)
            self._note(after, end)
            stack.append((after, end, self._candidates(after, end)))
        raise ConstraintError(f"accepts: no verdict after {MOST_TRIED_TOKENS:,} tokens were tried; try a shorter text")

    def _candidates(self, matcher: Matcher, at: int) -> Iterator[int]:
        """The tokens that the mask allows and the text goes on with."""
        matcher.fill(self.row)
        row = self.row.copy()
        first = self.canonical.get(at)
        names = self.vocabulary.by_bytes
        found = [token for token, text in self.controls.items() if self.data.startswith(text, at)]
        found += [] if first is None else [first]
        for length in range(min(self.vocabulary.longest, len(self.data) - at), 0, -1):
            found += names.get(self.data[at : at + length], ())
        if at == 0 and not self.expected:
            self._note(matcher, 0)
        yield from (t for t in dict.fromkeys(found) if row[t >> 5] >> (t & 31) & 1)

    def _bytes(self, token: int) -> bytes:
        return self.controls.get(token) or self.vocabulary.bytes[token]

    def _note(self, matcher: Matcher, at: int) -> None:
        """Remember what the mask allows, if this is the furthest place."""
        if at < self.furthest or (at == self.furthest and self.expected):
            return
        self.furthest = at
        self.may_end = matcher.can_end()
        bits = np.unpackbits(self.row.view(np.uint8), count=self.vocabulary.size, bitorder="little")
        allowed = [self._bytes(i) for i in np.flatnonzero(bits)[:2000].tolist()]
        self.expected = sorted({data[:1] for data in allowed})

    def why(self, text: str, at: int) -> str:
        shown = [data.decode("utf-8", errors="replace") for data in self.expected[:12]]
        more = ", ..." if len(self.expected) > 12 else ""
        could = ", ".join(repr(s) for s in shown) + more if shown else "nothing"
        if at >= len(text):
            return f"the text ends too early; it would have to go on with one of {could}"
        end = " or end" if self.may_end else ""
        return f"{text[at : at + 20]!r} is not allowed here; the text may go on with {could}{end}"
