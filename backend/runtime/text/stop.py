"""Where a gen's text stops: stop strings and stop regexes, token by token.

Owns: the bytes of one gen, which of them may be shown, and where a stop cut them. Knows nothing of tokens' ids, EOS,
limits, or listeners.

1. `text` only grows and is always a prefix of the final text.
2. The final text is the decoded bytes before `cut`; without a stop, all bytes.
3. A match never begins in text that was shown.
"""

from __future__ import annotations

import time
from typing import Any

import regex

from ....lang.errors import ConstraintError
from .detokenizer import Detokenizer

SEARCH_SECONDS = 0.5
"""The searches for the stop regexes of one gen may take so long together, since the engine waits meanwhile."""
FAST_SECONDS = 0.001
"""A search as fast as this takes none of that time: a long text may have as many of them as it likes."""


class StopMatcher:
    """`push` the bytes of each token; when `matched` is set the gen is over, and `cut` says where its text ends.

    `matched`: the stop string, or the source of the regex, that ended the gen. `cut`: bytes of the gen before it.

    The unit is the token. After each `push` the text so far is searched. The first push after which a stop is in the
    text ends the gen. Of several stops in one push the one that *begins* first wins, of those the longest. Strings
    are searched in the bytes. Regexes are searched in the decoded characters, leftmost and greedy on the text so far:
    a pattern does not wait for a longer match. A push that is not `armed` (before `min_tokens`) never stops the gen. A
    stop that ended before the first armed push does not count; one that ends after it does, wherever it began.

    `where` is the gen, for errors. `push` raises `ConstraintError` when a pattern takes too long to search for.
    """

    __slots__ = (
        "_data", "_decoded", "_held", "_longest", "_patterns", "_pieces", "_released", "_seen", "_shown", "_stops",
        "_whole", "cut", "matched",
    )  # fmt: skip

    def __init__(self, stop: tuple[str, ...] = (), stop_regex: tuple[str, ...] = (), where: str = "gen") -> None:
        self.matched: str | None = None
        self.cut: int | None = None
        self._stops = tuple((s, s.encode()) for s in stop)
        self._longest = max((len(data) for _, data in self._stops), default=0)
        patience = _Patience(where)
        self._patterns = tuple(_StopPattern(source, patience) for source in stop_regex)
        self._data = bytearray()  # all bytes; kept only if there are stops
        self._released = 0  # bytes that no stop string holds back; `_held` decodes these
        self._held = Detokenizer()
        self._decoded = 0  # characters that `_held` gave
        self._whole = Detokenizer()  # decodes all bytes into `_seen`, which the regexes search
        self._seen = ""
        self._pieces: list[str] = []
        self._shown = 0  # characters

    @property
    def text(self) -> str:
        """The text that may be shown so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def push(self, data: bytes, armed: bool = True) -> str:
        """Add one token's bytes; returns what may be shown now and was not before."""
        assert self.matched is None, "push after a stop"
        if not self._stops and not self._patterns:
            return self._show(self._held.push(data))
        if not data:
            return ""
        before = len(self._data)
        self._data += data
        if self._patterns:
            self._seen += self._whole.push(data)
        if self._search(before, armed):
            return self._finish(self.cut)
        released = len(self._data) - self._may_begin_stop()
        piece = self._held.push(bytes(self._data[self._released : released]))
        self._released = released
        if self._patterns:
            self._decoded += len(piece)
            visible = min(self._decoded, *(pattern.live for pattern in self._patterns))
            piece = self._seen[self._shown : visible]
        return self._show(piece)

    def finish(self) -> str:
        """End the gen without a stop; the rest of its text. An incomplete character is U+FFFD."""
        if self.matched is not None:
            return ""
        if not self._stops and not self._patterns:
            return self._show(self._held.flush())
        return self._finish(None)

    def _finish(self, cut: int | None) -> str:
        return self._show(self._data[:cut].decode("utf-8", errors="replace")[self._shown :])

    def _show(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
            self._shown += len(piece)
        return piece

    def _search(self, before: int, armed: bool) -> bool:
        """Look for stops in the text, `before` bytes of which were searched already; set `matched` and `cut`."""
        found = []  # (where it begins, minus its length, its name), in bytes
        if armed:
            for name, stop in self._stops:
                at = self._data.find(stop, max(0, before - len(stop) + 1))
                if at >= 0:
                    found.append((at, -len(stop), name))
        for pattern in self._patterns:
            if span := pattern.search(self._seen, armed):
                start, end = (_byte_offset(self._data, chars) for chars in span)
                found.append((start, start - end, pattern.source))
        if found:
            self.cut, _, self.matched = min(found, key=lambda stop: stop[:2])
        return bool(found)

    def _may_begin_stop(self) -> int:
        """Length of the longest end of the bytes that is the beginning of a stop string."""
        window = bytes(self._data[1 - self._longest :]) if self._longest > 1 else b""
        longest = 0
        for _, stop in self._stops:
            at = window.find(stop[:1], max(0, len(window) - len(stop) + 1))
            while at >= 0 and not stop.startswith(window[at:]):
                at = window.find(stop[:1], at + 1)
            if at >= 0:
                longest = max(longest, len(window) - at)
        return longest


class _Patience:
    """The time that the searches of one gen have left: patterns that backtrack may need years."""

    __slots__ = ("_left", "_where")

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = SEARCH_SECONDS

    def search(self, pattern: _StopPattern, method: Any, text: str, at: int) -> Any:
        """Call a search method of the pattern. Raises `ConstraintError` when no time is left."""
        began = time.thread_time()  # other threads and processes may take the processor meanwhile
        try:
            found = method(text, at, partial=True, timeout=max(self._left, FAST_SECONDS))
        except TimeoutError:
            self._left = 0.0
            found = None
        self._left -= max(0.0, time.thread_time() - began - FAST_SECONDS)
        if self._left <= 0:
            raise ConstraintError(
                f"{self._where}: stop_regex {pattern.source!r:.200} backtracks: searching the text for it took more "
                f"than {SEARCH_SECONDS:g} s; write it without repeats inside repeats such as (a|aa)+, or use stop="
            )
        return found


class _StopPattern:
    """One stop regex, searched again and again in a growing text.

    `live`: no match begins before this character, whatever follows; it may be shown.
    """

    __slots__ = ("_floor", "_patience", "_regex", "live", "source")

    def __init__(self, source: str, patience: _Patience) -> None:
        self.source = source
        self._patience = patience
        self.live = 0
        self._regex = regex.compile(source)
        self._floor = -1  # a match must end after this character: the end of the last unarmed push

    def search(self, text: str, armed: bool) -> tuple[int, int] | None:
        """(start, end) of the first match that counts. `regex` gives whole matches precedence over partial ones."""
        if not armed:
            self._floor = len(text)
        start, live, search = self.live, None, self._patience.search
        while start <= len(text) and (m := search(self, self._regex.search, text, start)):
            if m.partial:
                live = m.start() if live is None else live
                break
            if m.end() > self._floor:
                return m.start(), m.end()
            if live is None:
                live = self._first_live(text, start, m.start())
            start = m.start() + 1
        self.live = len(text) if live is None else live
        return None

    def _first_live(self, text: str, start: int, last: int) -> int | None:
        """Where in start..last a match that ends later may begin, now that the one at `last` does not count."""
        for at in range(start, last + 1):
            m = self._patience.search(self, self._regex.match, text, at)
            if m and (m.partial or self._patience.search(self, self._regex.fullmatch, text, at)):
                return at
        return None


def _byte_offset(data: bytes | bytearray, chars: int) -> int:
    """How many bytes spell the first `chars` characters of `data` decoded with errors="replace"."""
    at = 0
    while True:
        try:
            good, bad_end = data[at:].decode(), len(data)
        except UnicodeDecodeError as error:
            good, bad_end = data[at : at + error.start].decode(), at + error.end
        if chars <= len(good):
            return at + len(good[:chars].encode())
        chars -= len(good) + 1  # a malformed sequence is one U+FFFD
        at = bad_end
