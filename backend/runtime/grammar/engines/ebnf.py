"""EBNF in xgrammar's GBNF dialect: read, checked, and made harmless before xgrammar sees it.

Owns: the reader of the dialect. Knows nothing of tokens.

What is measured of xgrammar 0.2.8, and met here:
1. It never returns from a grammar without a finite text (`root ::= "a" root`), or allows nothing (`root ::= root`).
   So each rule that root leads to has a finite shortest text, of at most `MOST_FORCED_CHARACTERS`.
2. It is quadratic in the least count of an open repeat, on every token: counts are bounded.
3. Its masks leave out tokens that span rounds of a left recursion (`root ::= "q" | root [^a]`): that is refused. They
   allow wrong tokens where a class has some characters beyond ASCII: that is written as alternatives.
4. `\\x5ea` is one character to it, and it knows no empty alternative: escapes are spelled as \\u, the empty text as "".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .....lang.errors import ConstraintError
from .....lang.pattern import chars
from .....lang.pattern.chars import Ranges
from .ebnf_spelling import spelled_character, spelled_class

MOST_FORCED_CHARACTERS = 4_000
"""What an alternative may demand at least: xgrammar is linear in it on every token."""
LARGEST_OPEN_COUNT, LARGEST_COUNT = 500, 100_000
"""Of `x{n,}`, in which xgrammar is quadratic when it looks for a forced text; and of other repeats."""
MOST_NESTED = 150
"""Parentheses within parentheses; each is a level of Python's stack."""
MOST_SOURCE_CHARACTERS = 2_000_000
MOST_LISTED_CHARACTERS = 1_000
"""Characters beyond ASCII of a class that is written as alternatives."""
_ASCII: Ranges = ((0, 0x7F),)
_BEYOND: Ranges = chars.difference(chars.ALL, _ASCII)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_RULE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t\r\n]*::=")
_CHAR = re.compile(r"\\(?:x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}|[^xuU])|[^\\\n]")
_COUNT = re.compile(r"\{[ \t]*(\d*)[ \t]*(?:(,)[ \t]*(\d*)[ \t]*)?\}")

LeastLength = Callable[[dict[str, float]], float]
"""The length of the shortest text of a part, given those of the rules (infinity: there is none)."""
LeadingRules = Callable[[dict[str, float]], frozenset[str]]
"""The rules that a text of a part may begin with, given the rules' least lengths."""
Rules = dict[str, list[tuple["EbnfPart", int]]]
"""By name, the alternatives and where they begin."""


@dataclass(frozen=True)
class EbnfPart:
    """A piece of a rule. `names`: the rules that it names, and where; `leads`: those that it may begin with."""

    least: LeastLength
    names: tuple[tuple[str, int], ...] = ()
    leads: LeadingRules = lambda known: frozenset()


def checked(source: str) -> str:
    """The grammar as xgrammar can be given it. Raises `ConstraintError` with line and column."""
    reader = EbnfReader(source)
    rules = reader.rules()
    reached = _reached(reader, rules)
    least = _least(rules, reached)
    for name in reached:
        at = reader.begins[name]
        if least[name] == math.inf:
            raise reader.error(at, f"no finite text matches the rule {name}: each of its alternatives goes on for ever")
    if (recursive := _left_recursive(rules, reached, least)) is not None:
        raise reader.error(
            reader.begins[recursive],
            f"the rule {recursive} may begin with itself (left recursion), which xgrammar's masks do not cover: "
            f"write {recursive} ::= b a* for {recursive} ::= {recursive} a | b",
            XGrammarUnfit,
        )
    for name in reached:
        for alternative, at in rules[name]:
            length, most = alternative.least(least), MOST_FORCED_CHARACTERS
            if length == math.inf:
                raise reader.error(at, f"no text matches this alternative of {name}; remove it")
            if length > most:
                raise reader.error(
                    at, f"the shortest text of {name} here has {length:.0f} characters; at most {most:,} fit"
                )
    return reader.normalised()


class XGrammarUnfit(ConstraintError):
    """A grammar that is right, but that xgrammar would not enforce exactly; another engine may."""


class EbnfReader:
    """A recursive-descent reader. `edits`: (start, end, text) where xgrammar needs another spelling."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.begins: dict[str, int] = {}
        self.edits: list[tuple[int, int, str]] = []
        if len(source) > (most := MOST_SOURCE_CHARACTERS):
            raise ConstraintError(f"the grammar has {len(source):,} characters; at most {most:,} are taken")
        if (nul := source.find("\0")) >= 0:
            raise self.error(nul, r"a NUL character; write \x00")
        if lone := re.search("[\ud800-\udfff]", source):
            raise self.error(lone.start(), "a lone surrogate, which no text has")

    def error(self, at: int, message: str, kind: type[ConstraintError] = ConstraintError) -> ConstraintError:
        line = self.source.count("\n", 0, at) + 1
        column = at - (self.source.rfind("\n", 0, at) + 1) + 1
        return kind(f"EBNF, line {line}, column {column}: {message}")

    def normalised(self) -> str:
        pieces, done = [], 0
        for start, end, text in sorted(self.edits):
            pieces += [self.source[done:start], text]
            done = end
        return "".join([*pieces, self.source[done:]])

    def rules(self) -> Rules:
        rules: Rules = {}
        self._blank()
        while self.at < len(self.source):
            start = self.at
            if not (head := _RULE.match(self.source, start)):
                raise self.error(start, f"expected a rule (name ::= ...), found {self._shown(start)}")
            if (name := head[1]) in rules:
                raise self.error(start, f"the rule {name} is defined twice")
            self.begins[name] = start
            self.at = head.end()
            rules[name] = self._alternatives(0)
            if self.at < len(self.source) and not _RULE.match(self.source, self.at):
                raise self.error(self.at, f"unexpected {self._shown(self.at)}")
        if "root" not in rules:
            raise self.error(0, "there is no rule named root, which is where a text begins")
        return rules

    def _alternatives(self, depth: int) -> list[tuple[EbnfPart, int]]:
        if depth > MOST_NESTED:
            raise self.error(self.at, f"nested more than {MOST_NESTED} deep")
        alternatives: list[tuple[EbnfPart, int]] = []
        empty: list[int] = []
        while True:
            self._blank()
            start = self.at
            parts = self._sequence(depth)
            if not parts:
                empty.append(start)
            alternatives.append((_together(parts), start))
            if self.source[self.at : self.at + 1] != "|":
                break
            self.at += 1
        if empty and len(alternatives) == 1:
            raise self.error(empty[0], f'expected text, found {self._shown(empty[0])}; write "" for the empty text')
        self.edits += [(place, place, ' "" ') for place in empty]
        return alternatives

    def _sequence(self, depth: int) -> list[EbnfPart]:
        parts: list[EbnfPart] = []
        while True:
            self._blank()
            if _RULE.match(self.source, self.at) or self.source[self.at : self.at + 1] in ("", "|", ")"):
                return parts
            parts.append(self._repeats(self._element(depth)))

    def _element(self, depth: int) -> EbnfPart:
        start, char = self.at, self.source[self.at]
        if char == '"':
            return self._string(start)
        if char == "[":
            return self._class(start)
        if char == "(":
            if self.source.startswith("(=", start):
                raise self.error(start, "lookahead is not supported")
            self.at += 1
            alternatives = [part for part, _ in self._alternatives(depth + 1)]
            if self.source[self.at : self.at + 1] != ")":
                raise self.error(start, "this parenthesis is never closed")
            self.at += 1
            return _either(alternatives)
        if name := _NAME.match(self.source, start):
            self.at = name.end()
            if self.source[self.at : self.at + 1] == "(":
                raise self.error(start, f"{name[0]}(...) is not supported here: plain rules, texts and classes only")
            return _rule(name[0], start)
        raise self.error(start, f"unexpected {self._shown(start)}")

    def _string(self, start: int) -> EbnfPart:
        at, length = start + 1, 0
        while self.source[at : at + 1] != '"':
            if not (char := _CHAR.match(self.source, at)):
                raise self.error(
                    at, "bad escape" if self.source[at : at + 1] == "\\" else "this text has no closing quote"
                )
            self._code(char[0], at)
            at, length = char.end(), length + 1
        self.at = at + 1
        return EbnfPart(lambda known: length)

    def _class(self, start: int) -> EbnfPart:
        at = start + 1
        if negative := self.source.startswith("^", at):
            at += 1
        ranges: list[tuple[int, int]] = []
        while self.source[at : at + 1] != "]":
            low, at = self._member(at)
            high = low
            if self.source.startswith("-", at) and self.source[at + 1 : at + 2] not in ("]", ""):
                high, at = self._member(at + 1)
            if low > high:
                raise self.error(at, "the range is upside down")
            ranges.append((low, high))
        self.at = at + 1
        members = chars.union(ranges)
        if negative:
            members = chars.negated(members)
        if not members:
            return EbnfPart(lambda known: math.inf)
        beyond = chars.difference(members, _ASCII)
        if beyond and beyond != _BEYOND:
            self.edits = [edit for edit in self.edits if edit[0] < start]
            self.edits.append((start, self.at, self._listed(members, beyond, start)))
        return EbnfPart(lambda known: 1)

    def _listed(self, members: Ranges, beyond: Ranges, start: int) -> str:
        """A class that has some characters beyond ASCII, as alternatives."""
        if (count := sum(high - low + 1 for low, high in beyond)) > MOST_LISTED_CHARACTERS:
            raise self.error(
                start,
                f"the class has {count:,} characters beyond ASCII, but not all: xgrammar's masks are wrong for such "
                f"classes, unless they are listed, and {MOST_LISTED_CHARACTERS:,} can be; use lark= instead, or [^...] "
                "without characters beyond ASCII",
                XGrammarUnfit,
            )
        ascii_part = chars.difference(members, _BEYOND)
        listed = [spelled_class(ascii_part)] if ascii_part else []
        listed += [f'"{spelled_character(code)}"' for low, high in beyond for code in range(low, high + 1)]
        return f"({' | '.join(listed)})"

    def _member(self, at: int) -> tuple[int, int]:
        if not (char := _CHAR.match(self.source, at)):
            raise self.error(at, "bad escape" if self.source[at : at + 1] == "\\" else "this class is never closed")
        return self._code(char[0], at), char.end()

    def _code(self, char: str, at: int) -> int:
        """The code point of a character of a text or a class."""
        if char[0] != "\\":
            return ord(char)
        code = int(char[2:].strip("{}"), 16) if char[1] in "xuU" else ord(char[1])
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise self.error(at, f"{char} is not a character")
        if char[1] == "x" or char[2:3] == "{":
            self.edits.append((at, at + len(char), spelled_character(code)))
        return code

    def _repeats(self, part: EbnfPart) -> EbnfPart:
        while True:
            self._blank()
            start, char = self.at, self.source[self.at : self.at + 1]
            if char and char in "*?":
                self.at += 1
                part = EbnfPart(lambda known: 0.0, part.names, part.leads)
            elif char == "+":
                self.at += 1
            elif char == "{":
                part = self._counted(part, start)
            else:
                return part

    def _counted(self, part: EbnfPart, start: int) -> EbnfPart:
        count = _COUNT.match(self.source, start)
        if not count or not count[1]:
            raise self.error(start, "expected a count: {n}, {n,} or {n,m}")
        low = int(count[1])
        high = low if not count[2] else int(count[3]) if count[3] else None
        if high is not None and low > high:
            raise self.error(start, f"the counts are upside down: {low} is more than {high}")
        if (high is None and low > LARGEST_OPEN_COUNT) or max(low, high or 0) > LARGEST_COUNT:
            raise self.error(start, f"counts end at {LARGEST_COUNT:,} (at {LARGEST_OPEN_COUNT} with an open end)")
        self.at = count.end()
        return EbnfPart(lambda known: low * part.least(known) if low else 0.0, part.names, part.leads)

    def _blank(self) -> None:
        blank = _BLANK.match(self.source, self.at)
        assert blank
        self.at = blank.end()

    def _shown(self, at: int) -> str:
        return repr(self.source[at : at + 12].split("\n")[0]) if at < len(self.source) else "the end"


def _together(parts: list[EbnfPart]) -> EbnfPart:
    names = tuple(name for part in parts for name in part.names)

    def leads(known: dict[str, float]) -> frozenset[str]:
        first: frozenset[str] = frozenset()
        for part in parts:
            first |= part.leads(known)
            if part.least(known):
                break
        return first

    return EbnfPart(lambda known: sum(part.least(known) for part in parts), names, leads)


def _either(parts: list[EbnfPart]) -> EbnfPart:
    names = tuple(name for part in parts for name in part.names)
    return EbnfPart(
        lambda known: min(part.least(known) for part in parts),
        names,
        lambda known: frozenset().union(*(part.leads(known) for part in parts)),
    )


def _rule(name: str, at: int) -> EbnfPart:
    return EbnfPart(lambda known: known[name], ((name, at),), lambda known: frozenset({name}))


def _reached(reader: EbnfReader, rules: Rules) -> list[str]:
    """The rules that root leads to, those that others need first. Raises for a name without a rule."""
    order: list[str] = []
    seen = {"root"}

    def named(name: str) -> Iterator[tuple[str, int]]:
        return (use for part, _ in rules[name] for use in part.names)

    stack = [("root", named("root"))]
    while stack:
        name, uses = stack[-1]
        for used, at in uses:
            if used not in rules:
                raise reader.error(at, f"there is no rule named {used}")
            if used not in seen:
                seen.add(used)
                stack.append((used, named(used)))
                break
        else:
            order.append(name)
            stack.pop()
    return order


def _least(rules: Rules, order: list[str]) -> dict[str, float]:
    """The least fixed point: lengths of the shortest texts (Knuth 1977, by iteration)."""
    least = dict.fromkeys(order, math.inf)
    changed = True
    while changed:
        changed = False
        for name in order:
            value = min(part.least(least) for part, _ in rules[name])
            if value < least[name]:
                least[name], changed = value, True
    return least


def _left_recursive(rules: Rules, reached: list[str], least: dict[str, float]) -> str | None:
    """A rule whose texts may begin with one of its own, if there is one."""
    leads = {name: frozenset().union(*(part.leads(least) for part, _ in rules[name])) for name in reached}
    done: set[str] = set()
    for start in reached:
        path: dict[str, Iterator[str]] = {} if start in done else {start: iter(sorted(leads[start]))}
        while path:
            name = next(reversed(path))
            found = next((other for other in path[name] if other not in done), None)
            if found is None:
                done.add(name)
                del path[name]
            elif found in path:
                return found
            else:
                path[found] = iter(sorted(leads[found]))
    return None
