"""The languages of strings that sets are made of: what a `Language` means, and how it is spelled for the engine.

Owns: `Language` to an automaton (`lang/pattern.py`), to text that the engine takes, and to a test of one string;
whether a conjunction of them is surely empty. All of it is cached: schemas say the same patterns again and again.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable

from .....lang import pattern as regular
from .....lang.checking.formats import FORMATS, check_format
from .....lang.pattern.nodes import repeated
from .....lang.pattern.search import EcmaSearch
from .sets import Language, Languages

LIMIT = 2000  # states of an automaton that is made to decide something
SPELLED = 60_000  # characters of a pattern that is given to the engine


@functools.lru_cache(maxsize=4096)
def node(pattern: Language) -> regular.PatternNode:
    """The language as a node. Raises `PatternError` if it cannot be read."""
    if not pattern.positive:
        return regular.complement(node(pattern.opposite()))
    if pattern.kind == "ecma":
        return regular.parse_ecma(pattern.text)
    if pattern.kind == "format":
        return regular.parse_regex(FORMATS[pattern.text])
    return regular.any_of(json.loads(pattern.text))


def unreadable(pattern: Language) -> str | None:
    """Return why no mask can say a language, or None."""
    try:
        node(pattern)
    except regular.PatternError as error:
        return f"no mask can say this pattern: {error.message}"
    return None


@functools.lru_cache(maxsize=65536)
def admits(pattern: Language, text: str) -> bool:
    """Whether a string is in the language."""
    if pattern.kind == "ecma":
        found = _search(pattern.text).search(text)
    elif pattern.kind == "format":
        found = check_format(pattern.text, text)
    else:
        found = text in listed(pattern)
    return found is pattern.positive


@functools.lru_cache(maxsize=1024)
def _search(text: str) -> EcmaSearch:
    return regular.ecma_search(text)


@functools.lru_cache(maxsize=4096)
def listed(pattern: Language) -> frozenset[str]:
    """The strings of a "names" pattern (whatever its sign)."""
    return frozenset(json.loads(pattern.text))


def names(texts: Iterable[str]) -> Language:
    """The language of these strings."""
    return Language("names", json.dumps(sorted(set(texts))))


def member(group: Languages, text: str) -> bool:
    """Whether a string is in all of the languages."""
    return all(admits(pattern, text) for pattern in group)


@functools.lru_cache(maxsize=4096)
def vacant(group: Languages) -> bool:
    """Whether the languages surely have no string in common."""
    if any(pattern.opposite() in group for pattern in group if pattern.positive):
        return True
    positive = [listed(p) for p in group if p.kind == "names" and p.positive]
    if positive:
        return not any(member(group, text) for text in frozenset.intersection(*positive))
    if len(group) > 6 or all(pattern.kind == "names" for pattern in group):
        return False  # all but finitely many strings, or too many languages to decide
    try:
        return _intersection_is_empty(group)
    except regular.PatternError:
        return False


def _intersection_is_empty(group: Languages) -> bool:
    nodes = [node(pattern) for pattern in sorted(group, key=lambda p: (p.kind, p.text, p.positive))]
    if len(nodes) == 1:
        return regular.disjoint(nodes[0], regular.ANY_TEXT, LIMIT) is True
    return regular.disjoint(nodes[0], functools.reduce(regular.both, nodes[1:]), LIMIT) is True


@functools.lru_cache(maxsize=4096)
def spelled(group: Languages) -> str | None:
    """One pattern for the engine that says all of the group, or None if it cannot be said in one."""
    if not group:
        return "^(?s:.*)$"
    if len(group) == 1:
        (pattern,) = group
        if pattern.kind == "names" and not pattern.positive and all(len(name) < 200 for name in listed(pattern)):
            return f"^(?:{_other_than(sorted(listed(pattern)))})$"
    try:
        nodes = [node(p) for p in sorted(_merged(group), key=lambda p: (p.kind, p.text, p.positive))]
        whole = regular.plain(functools.reduce(regular.both, nodes))
        return _short(regular.to_schema_pattern(without_nul(whole) if _slips(whole) else whole))
    except regular.PatternError:
        return None


def _slips(plain: regular.PatternNode) -> bool:
    """Whether llguidance lets a quote or a backslash by that the language does not have.

    It takes a set of characters that has all control characters (but a newline) for "any character", and then admits
    every escape, `\\"` and `\\\\` too (1.9.1). Such a set is given to it without U+0000.
    """
    if isinstance(plain, regular.Chars):
        have = plain.ranges
        controls = all(_holds(have, code) for code in range(32) if code != 10)
        return controls and not (_holds(have, 0x22) and _holds(have, 0x5C))
    return any(_slips(part) for part in _parts(plain))


def without_nul(plain: regular.PatternNode) -> regular.PatternNode:
    """The texts of a language that have no U+0000."""
    if isinstance(plain, regular.Chars):
        return regular.Chars(tuple((max(low, 1), high) for low, high in plain.ranges if high >= 1))
    if isinstance(plain, regular.Concat):
        return regular.sequence([without_nul(part) for part in plain.parts])
    if isinstance(plain, regular.Alt):
        return regular.either([without_nul(part) for part in plain.parts])
    if isinstance(plain, regular.Repeat):
        return repeated(without_nul(plain.node), plain.low, plain.high)
    return plain


def _parts(plain: regular.PatternNode) -> tuple[regular.PatternNode, ...]:
    if isinstance(plain, (regular.Concat, regular.Alt)):
        return tuple(plain.parts)
    return (plain.node,) if isinstance(plain, regular.Repeat) else ()


def _holds(ranges: tuple[tuple[int, int], ...], code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _short(text: str) -> str | None:
    return text if len(text) <= SPELLED else None


def _merged(group: Languages) -> Languages:
    """The group with its exclusions of names as one."""
    outside = [p for p in group if p.kind == "names" and not p.positive]
    if len(outside) < 2:
        return group
    every = frozenset[str]().union(*(listed(p) for p in outside))
    return group - frozenset(outside) | {names(every).opposite()}


def _other_than(words: list[str]) -> str:
    """A regular expression of all strings but the sorted `words`: linear in their length."""
    heads: dict[str, list[str]] = {}
    for word in words:
        if word:
            heads.setdefault(word[0], []).append(word[1:])
    if not heads:
        return "(?s:.+)" if words else "(?s:.*)"
    nul = "\\x{0}" if "\0" not in heads and not {'"', "\\"}.isdisjoint(heads) else ""  # see `_slips`
    parts = ["[^" + nul + "".join(_escaped(head) for head in heads) + "](?s:.*)"]
    parts += [f"{_escaped(head)}(?:{_other_than(rest)})" for head, rest in heads.items()]
    return "|".join(parts) + ("" if words[0] == "" else "|")


def _escaped(char: str) -> str:
    return char if re.fullmatch("[A-Za-z0-9_]", char) else f"\\x{{{ord(char):x}}}"
