"""Sets of characters: sorted ranges of code points, Unicode classes, and letters equal if case is ignored.

Knows nothing of patterns. A set is a tuple of `(low, high)` pairs: sorted, disjoint, not touching, without surrogates
(U+D800 to U+DFFF), which no text has. Tables come from `re` itself (`\\d \\w \\s`, case) and from `regex` (`\\p{..}`,
`[:alpha:]`), so they agree with what Python matches. Each table is made at its first use (5 to 30 ms) and kept.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from ..kept import kept

Ranges = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
ALL: Ranges = ((0, 0xD7FF), (0xE000, LAST))
_SURROGATES = ((0xD800, 0xDFFF),)


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Unite ranges, given in any order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if merged and merged[-1][1] >= 0xD800 and any(low <= 0xDFFF and high >= 0xD800 for low, high in merged):
        return difference(merged, _SURROGATES)
    return tuple(merged)


def difference(ranges: Iterable[tuple[int, int]], taken: Ranges) -> Ranges:
    """Leave the ranges `taken` out of sorted ranges."""
    kept: list[tuple[int, int]] = []
    holes = list(taken)
    at = 0
    for low, high in ranges:
        while at < len(holes) and holes[at][1] < low:
            at += 1
        i = at
        while i < len(holes) and holes[i][0] <= high:
            if holes[i][0] > low:
                kept.append((low, holes[i][0] - 1))
            low = holes[i][1] + 1
            i += 1
        if low <= high:
            kept.append((low, high))
    return tuple(kept)


def negated(ranges: Ranges) -> Ranges:
    return difference(ALL, ranges)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    shared: list[tuple[int, int]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            shared.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(shared)


def contains(ranges: Ranges, code: int) -> bool:
    at = bisect_right(ranges, (code, LAST)) - 1
    return at >= 0 and ranges[at][0] <= code <= ranges[at][1]


def of(text: Iterable[str]) -> Ranges:
    """The set of these characters."""
    return union((ord(c), ord(c)) for c in text)


def partition(sets: Iterable[Ranges]) -> list[Ranges]:
    """The coarsest partition of all characters in which each of `sets` is a union of parts.

    Ranges in the same sets are one part, so there are few parts even for large classes.
    """
    distinct = list(dict.fromkeys(sets))
    edges: dict[int, list[int]] = {ALL[0][0]: [], ALL[1][0]: []}
    for index, ranges in enumerate(distinct):
        for low, high in ranges:
            edges.setdefault(low, []).append(index)
            edges.setdefault(high + 1, []).append(index)
    parts: dict[frozenset[int], list[tuple[int, int]]] = {}
    member: set[int] = set()
    cuts = sorted(edges)
    for at, low in enumerate(cuts):
        for index in edges[low]:
            member ^= {index}
        high = (cuts[at + 1] if at + 1 < len(cuts) else LAST + 1) - 1
        if low <= high and low <= LAST and not 0xD800 <= low <= 0xDFFF:
            parts.setdefault(frozenset(member), []).append((low, high if high < 0xD800 or low > 0xDFFF else 0xD7FF))
    return [union(ranges) for ranges in parts.values()]


# --- Unicode ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _every_character() -> str:
    codes = array("I", range(0xD800))
    codes.extend(range(0xE000, LAST + 1))
    return codes.tobytes().decode("utf-32")


def _span(start: int, end: int) -> list[tuple[int, int]]:
    """Turn indices into `_every_character()` into ranges of code points."""
    ranges = [(start, min(end, 0xD800) - 1)] if start < 0xD800 else []
    if end > 0xD800:
        ranges.append((max(start, 0xD800) + 0x800, end - 1 + 0x800))
    return ranges


@kept(256)
def unicode_class(source: str) -> Ranges:
    """The characters that a one-character pattern of the `regex` package matches (`\\p{Greek}`, `[[:alpha:]]`).

    Raises `ValueError` for one that it does not know.
    """
    import regex

    try:
        found = regex.compile(f"(?:{source})+").finditer(_every_character())
    except regex.error as error:
        raise ValueError(str(error)) from None
    return union(pair for match in found for pair in _span(*match.span()))


@lru_cache(maxsize=16)
def python_class(letter: str, ascii_only: bool) -> Ranges:
    """`\\d \\w \\s \\D \\W \\S` as `re` understands them."""
    if letter.isupper():
        return negated(python_class(letter.lower(), ascii_only))
    found = re.compile(rf"\{letter}+", re.ASCII if ascii_only else 0).finditer(_every_character())
    return union(pair for match in found for pair in _span(*match.span()))


@lru_cache(maxsize=1)
def _cased() -> str:
    """All characters that differ from their upper or lower case, and all that are the case of another one."""
    codes = (*range(0xD800), *range(0xE000, 0x20000))  # planes 2 and up have no letters with case
    found = {c for c in map(chr, codes) if c.lower() != c or c.upper() != c}
    found |= {other for c in found for other in c.lower() + c.upper()}
    return "".join(sorted(found))


@lru_cache(maxsize=4096)
def _equals(code: int, ascii_only: bool) -> Ranges:
    flags = re.IGNORECASE | (re.ASCII if ascii_only else 0)
    return of(re.findall(re.escape(chr(code)), _cased() + chr(code), flags))


def any_case(ranges: Ranges, ascii_only: bool = False) -> Ranges:
    """Add the characters that `re` takes for one of `ranges` when it ignores case."""
    letters = (((65, 90), (97, 122))) if ascii_only else of_cased()
    cased = [code for low, high in intersection(ranges, letters) for code in range(low, high + 1)]
    return union([*ranges, *(pair for code in cased for pair in _equals(code, ascii_only))])


@lru_cache(maxsize=1)
def of_cased() -> Ranges:
    return of(_cased())
