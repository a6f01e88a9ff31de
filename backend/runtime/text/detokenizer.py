"""Bytes to text, a few bytes at a time.

Owns: the incomplete UTF-8 character at the end of the bytes so far. Knows nothing of tokens.
Invariant: however the bytes are split, the joined output is `all_bytes.decode("utf-8", errors="replace")`.
"""

from __future__ import annotations

import codecs


class Detokenizer:
    """An incremental UTF-8 decoder: bytes that can never become UTF-8 turn into U+FFFD as soon as that is known."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def push(self, data: bytes) -> str:
        """The whole characters that `data` completes; an incomplete one at the end is held."""
        if not self._tail and data.isascii():
            return data.decode("ascii")
        data = self._tail + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._tail = data[used:]
        return text

    def flush(self) -> str:
        """End the text: the held bytes, which nothing completes, as U+FFFD."""
        tail, self._tail = self._tail, b""
        return tail.decode("utf-8", errors="replace")
