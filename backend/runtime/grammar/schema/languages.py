"""Languages of strings: what a `Language` means, whether languages are disjoint, how they are spelled for the engine.

Knows nothing of sets and keywords. Everything is cached, as schemas repeat their patterns.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable

from .....lang import pattern as regular
from .....lang.checking.formats import FORMATS, check_format
from .....lang.kept import by_text, kept
from .....lang.pattern.chars import contains
from .....lang.pattern.nodes import children, rebuilt
from .....lang.pattern.search import EcmaSearch
from .sets import Language, Languages

MOST_STATES = 2000  # of an automaton that is made to decide whether languages are disjoint
MOST_PATTERN_CHARACTERS = 60_000  # of a pattern that is given to the engine
MOST_INTERSECTED = 6  # languages that are intersected to see whether they have a string in common


@kept(4096)
def node(pattern: Language) -> regular.PatternNode:
    """Return the language as a pattern. Raises `PatternError` if it cannot be read."""
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


@kept(65536)
def admits(pattern: Language, text: str) -> bool:
    """Whether a string is in the language."""
    if pattern.kind == "ecma":
        found = _search(pattern.text).search(text)
    elif pattern.kind == "format":
        found = check_format(pattern.text, text)
    else:
        found = text in listed(pattern)
    return found is pattern.positive


@kept(1024, by_text(100))
def _search(text: str) -> EcmaSearch:
    return regular.ecma_search(text)


@kept(4096)
def listed(pattern: Language) -> frozenset[str]:
    """Return the strings that a language of kind "names" lists, positive or not."""
    return frozenset(json.loads(pattern.text))


def names(texts: Iterable[str]) -> Language:
    """Return the language of these strings."""
    return Language("names", json.dumps(sorted(set(texts))))


def member(group: Languages, text: str) -> bool:
    """Whether a string is in all of the languages."""
    return all(admits(pattern, text) for pattern in group)


@kept(4096)
def vacant(group: Languages) -> bool:
    """Whether the languages surely have no string in common."""
    if any(pattern.opposite() in group for pattern in group if pattern.positive):
        return True
    positive = [listed(p) for p in group if p.kind == "names" and p.positive]
    if positive:
        return not any(member(group, text) for text in frozenset.intersection(*positive))
    if len(group) > MOST_INTERSECTED or all(pattern.kind == "names" for pattern in group):
        return False  # all but finitely many strings, or too many languages to decide
    try:
        first, *others = (node(pattern) for pattern in sorted(group))
        rest = functools.reduce(regular.both, others) if others else regular.ANY_TEXT
        return regular.disjoint(first, rest, MOST_STATES) is True
    except regular.PatternError:
        return False


@kept(4096)
def spelled(group: Languages) -> str | None:
    """Return one pattern for the engine that matches what is in all languages; None if it would be too large."""
    if not group:
        return "^(?s:.*)$"
    if len(group) == 1:
        (pattern,) = group
        if pattern.kind == "names" and not pattern.positive and all(len(name) < 200 for name in listed(pattern)):
            return f"^(?:{_other_than(sorted(listed(pattern)))})$"
    try:
        nodes = [node(pattern) for pattern in sorted(_merged(group))]
        whole = regular.plain(functools.reduce(regular.both, nodes))
        text = regular.to_schema_pattern(_without_nul(whole) if _slips(whole) else whole)
    except regular.PatternError:
        return None
    return text if len(text) <= MOST_PATTERN_CHARACTERS else None


_SPELLED_CHARACTER = re.compile(r"\\x\{([0-9a-fA-F]+)\}")


def parse_spelled(pattern: str) -> regular.PatternNode:
    """Read a pattern that `spelled` returned: all in it but its characters means the same to Python."""
    return regular.parse_regex(_SPELLED_CHARACTER.sub(lambda m: f"\\U{int(m[1], 16):08x}", pattern))


def _slips(plain: regular.PatternNode) -> bool:
    """Whether llguidance admits a quote or a backslash that the pattern does not match.

    A set of characters with all control characters but a newline is "any character" to llguidance (1.9.1): it admits
    every escape, `\\"` and `\\\\` too. So llguidance is given such a set without U+0000.
    """
    if isinstance(plain, regular.Chars):
        have = plain.ranges
        controls = all(contains(have, code) for code in range(32) if code != 10)
        return controls and not (contains(have, 0x22) and contains(have, 0x5C))
    return any(_slips(part) for part in children(plain))


def _without_nul(plain: regular.PatternNode) -> regular.PatternNode:
    """Return the pattern of the same texts without those that have a U+0000."""
    if isinstance(plain, regular.Chars):
        return regular.Chars(tuple((max(low, 1), high) for low, high in plain.ranges if high >= 1))
    return rebuilt(plain, _without_nul)


def _merged(group: Languages) -> Languages:
    """Return the same group, with its exclusions of names joined in one."""
    outside = [p for p in group if p.kind == "names" and not p.positive]
    if len(outside) < 2:
        return group
    every = frozenset[str]().union(*(listed(p) for p in outside))
    return group - frozenset(outside) | {names(every).opposite()}


def _other_than(words: list[str]) -> str:
    """Return a regular expression of all strings but the sorted `words`, linear in their length."""
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
