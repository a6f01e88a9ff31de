"""Searching finished text for an ECMA-262 pattern, with the meaning that `parse_ecma` gives the pattern.

Knows nothing of generation. Both start from what the same reader has read.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from .context import resolve
from .ecma import EcmaReader
from .marks import Mark, Right
from .nodes import ANY_TEXT, EMPTY, Alt, Chars, Concat, Not, PatternError, PatternNode, Repeat, no_deeper, sequence
from .sets import accepts

TIMEOUT_SECONDS, SLOW_SECONDS = 0.5, 0.25
"""One backtracking search may take so long; after a slow one there is none."""
LONG_CHARACTERS = 512
"""The `regex` package prepares a search for a literal text, in a time that grows with the cube of its length where the
text repeats itself, and without a look at its time limit. So longer literals are cut up (`written`)."""
_LITERAL_PARTS = 128
"""Parts of a sequence that the package may join to one literal text."""


class EcmaSearch:
    """A pattern to search texts for. Once a search was slow, derivatives decide, which do not backtrack."""

    def __init__(self, pattern: str) -> None:
        import regex

        self.pattern = pattern
        self._read = EcmaReader(pattern).read()
        self._compiled: Any = regex.compile(written(self._read), regex.V0)
        self._slow = False

    def search(self, text: str) -> bool:
        """Whether the pattern is found in the text."""
        if not self._slow:
            start = time.monotonic()
            try:
                return self._compiled.search(text, timeout=TIMEOUT_SECONDS) is not None
            except TimeoutError:
                pass
            finally:
                self._slow = time.monotonic() - start > SLOW_SECONDS
        return accepts(self._whole, text)

    @cached_property
    def _whole(self) -> PatternNode:
        return resolve(sequence([ANY_TEXT, self._read, ANY_TEXT]))


@no_deeper
def ecma_search(pattern: str) -> EcmaSearch:
    """Compile a pattern, with the meaning and the errors of `parse_ecma`."""
    return EcmaSearch(pattern)


def written(node: PatternNode) -> str:
    """A tree with marks as a pattern of the `regex` package. Raises `PatternError` for what that cannot say."""
    if isinstance(node, Mark):
        ahead = isinstance(node, Right)
        inner = node.node
        sign = "=" if not isinstance(inner, Not) else "!"
        inner = inner.node if isinstance(inner, Not) else inner
        if inner == EMPTY and sign == "=":
            return r"\Z" if ahead else r"\A"
        parts = inner.parts if isinstance(inner, Concat) else (inner,)
        if ahead:
            seen = written(sequence(parts[:-1])) if parts[-1:] == (ANY_TEXT,) else rf"(?:{written(inner)})\Z"
            return f"(?{sign}{seen})"
        seen = written(sequence(parts[1:])) if parts[:1] == (ANY_TEXT,) else rf"\A(?:{written(inner)})"
        return f"(?<{sign}{seen})"
    if isinstance(node, Concat):
        return _sequence(node)
    if isinstance(node, Alt):
        return "|".join(f"(?:{written(part)})" for part in node.parts)
    if isinstance(node, Repeat):
        high = "" if node.high is None else node.high
        return f"(?:{written(node.node)}){{{node.low},{high}}}"
    return _set(node)


def _sequence(node: Concat) -> str:
    """Write the parts one after the other. An atomic group of one character means the same, and joins no literal."""
    cut = {i for i in range(_LITERAL_PARTS, len(node.parts), _LITERAL_PARTS) if isinstance(node.parts[i], Chars)}
    return "".join(f"(?{'>' if i in cut else ':'}{written(part)})" for i, part in enumerate(node.parts))


def _set(node: PatternNode) -> str:
    """Write one character of a set in Python's syntax."""
    if not isinstance(node, Chars):
        raise PatternError("an intersection or complement in a pattern")
    if not node.ranges:
        return "(?!)"
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in node.ranges) + "]"
