r"""EBNF read into rules: xgrammar's dialect and llama.cpp's GBNF, which are one language but for details.

Knows nothing of engines. Characters are code points, and a grammar says nothing of tokens.

1. Texts stand in double quotes, classes in brackets, `.` is any character, `#` begins a comment. Line ends are blanks.
2. `\xHH`, `\uHHHH`, `\u{H...}` and `\UHHHHHHHH` are code points. `\n \r \t \f \v \a \b \e \0` are controls, and a
   backslash before punctuation is that character.
3. Names have letters, digits, `_ - .`. A name with dots that is no rule is read as names with `.` between them.
4. What speaks of tokens, or looks ahead, is refused: a mask says what follows, character by character.
"""

from __future__ import annotations

import math
import re

from .....lang.errors import ConstraintError, suggest
from .....lang.kept import kept
from .....lang.pattern import ANY_CHAR, Chars, PatternNode, chars, either, literal, sequence
from .....lang.pattern.nodes import EMPTY, repeated
from .measure import least_length, least_lengths, reached
from .nodes import RuleRef, RuleSet

LARGEST_COUNT = 100_000
MOST_NESTED = 150
"""Parentheses within parentheses; each is a level of Python's stack."""
MOST_SOURCE_CHARACTERS = 2_000_000
KEPT_GRAMMARS = 64

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_HEAD = re.compile(r"([A-Za-z0-9_.-]+)(\[[^\]\r\n]*\])?(?:[ \t\r\n]|#[^\r\n]*)*::=")
_SKIPPED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\](?![ \t]*::=)|#[^\r\n]*', re.DOTALL)
_CHAR = re.compile(
    r"\\(?:x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}|[^xuU])|[^\\]", re.DOTALL
)
_COUNT = re.compile(r"\{[ \t]*(\d*)[ \t]*(?:(,)[ \t]*(\d*|-1)[ \t]*)?\}")
_CONTROL = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "a": 7, "b": 8, "e": 27, "0": 0}
_CLASSES = dict.fromkeys("dDsSwW", "write the characters of the class, as in [0-9]")
_MACROS = ("TagDispatch", "TokenTagDispatch", "Token", "ExcludeToken", "AnyToken", "Regex")
_SIMPLE: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_NO_TOKENS = (
    "a grammar cannot name tokens: write the token's text as a string; a control token is no text, "
    "so end the gen before it and let the program append it"
)


@kept(KEPT_GRAMMARS)
def read_ebnf(source: str) -> RuleSet:
    """Read a grammar; its root is the rule `root`.

    Raises `ConstraintError` with line and column for what is wrong, and for rules that no finite text matches.
    """
    return EbnfReader(source).rule_set()


class EbnfReader:
    """A recursive-descent reader."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.begins: dict[str, int] = {}
        self.uses: list[tuple[str, int]] = []
        if len(source) > (most := MOST_SOURCE_CHARACTERS):
            raise ConstraintError(f"the grammar has {len(source):,} characters; at most {most:,} are taken")
        if (nul := source.find("\0")) >= 0:
            raise self.error(nul, r"a NUL character; write \x00")
        if lone := re.search("[\ud800-\udfff]", source):
            raise self.error(lone.start(), "a lone surrogate, which no text has")
        self.heads = {match[1] for match in _HEAD.finditer(_SKIPPED.sub(lambda m: " " * len(m[0]), source))}

    def error(self, at: int, message: str) -> ConstraintError:
        line = self.source.count("\n", 0, at) + 1
        column = at - (self.source.rfind("\n", 0, at) + 1) + 1
        return ConstraintError(f"EBNF, line {line}, column {column}: {message}")

    def rule_set(self) -> RuleSet:
        """Read all rules and check them."""
        alternatives = self._rules()
        rules = RuleSet({name: either(node for node, _ in found) for name, found in alternatives.items()}, "root")
        for name, at in self.uses:
            if name not in rules.rules:
                raise self.error(at, f"there is no rule named {name}{suggest(name, sorted(rules.rules))}")
        order = reached(rules)
        least = least_lengths(rules)
        for name in order:
            if least[name] == math.inf:
                raise self.error(
                    self.begins[name],
                    f"no finite text matches the rule {name}: each of its alternatives goes on for ever",
                )
            for node, at in alternatives[name]:
                if least_length(node, least) == math.inf:
                    raise self.error(at, f"no text matches this alternative of {name}; remove it")
        return RuleSet({name: rules.rules[name] for name in order}, "root")

    # -- rules and alternatives

    def _rules(self) -> dict[str, list[tuple[PatternNode, int]]]:
        rules: dict[str, list[tuple[PatternNode, int]]] = {}
        self._blank()
        while self.at < len(self.source):
            start = self.at
            if not (head := _HEAD.match(self.source, start)):
                raise self.error(start, f"expected a rule (name ::= ...), found {self._shown(start)}")
            name = head[1]
            if head[2]:
                raise self.error(start, f"attributes ({head[2]}) are not supported; the rule is {name} ::= ...")
            if name in rules:
                raise self.error(start, f"the rule {name} is defined twice")
            self.begins[name] = start
            self.at = head.end()
            rules[name] = self._alternatives(0)
            if self.at < len(self.source) and not _HEAD.match(self.source, self.at):
                raise self.error(self.at, f"unexpected {self._shown(self.at)}")
        if "root" not in rules:
            raise self.error(0, "there is no rule named root, which is where a text begins")
        return rules

    def _alternatives(self, depth: int) -> list[tuple[PatternNode, int]]:
        if depth > MOST_NESTED:
            raise self.error(self.at, f"nested more than {MOST_NESTED} deep")
        alternatives: list[tuple[PatternNode, int]] = []
        while True:
            self._blank()
            start = self.at
            parts = self._sequence(depth)
            alternatives.append((sequence(parts), start))
            if self.source[self.at : self.at + 1] != "|":
                if not parts and len(alternatives) == 1 and not depth:
                    raise self.error(start, f'expected text, found {self._shown(start)}; write "" for the empty text')
                return alternatives
            self.at += 1

    def _sequence(self, depth: int) -> list[PatternNode]:
        parts: list[PatternNode] = []
        while True:
            self._blank()
            if self.source[self.at : self.at + 1] in ("", "|", ")") or _HEAD.match(self.source, self.at):
                return parts
            *before, last = self._element(depth)
            parts += [*before, self._repeats(last)]

    def _element(self, depth: int) -> list[PatternNode]:
        start, char = self.at, self.source[self.at]
        if char == '"':
            return [self._string(start)]
        if char == "[":
            return [self._class(start)]
        if char == "(":
            if self.source.startswith("(=", start):
                raise self.error(start, "lookahead is not supported; write what follows as part of the rule")
            self.at += 1
            inner = either(node for node, _ in self._alternatives(depth + 1))
            if self.source[self.at : self.at + 1] != ")":
                raise self.error(start, "this parenthesis is never closed")
            self.at += 1
            return [inner]
        if name := _NAME.match(self.source, start):
            self.at = name.end()
            return self._named(name[0], start)
        hints = {
            "<": _NO_TOKENS,
            "!": _NO_TOKENS,
            "'": "texts stand in double quotes",
            "/": "regular expressions are not part of EBNF: write classes, texts and repeats, or use lark=",
        }
        if char in "*+?{":
            raise self.error(start, f"there is nothing to repeat before {char}")
        raise self.error(start, f"unexpected {self._shown(start)}" + (f"; {hints[char]}" if char in hints else ""))

    def _named(self, name: str, start: int) -> list[PatternNode]:
        """The rule of this name; or the rules between the dots of it, and any character for each dot."""
        if name in self.heads or "." not in name:
            if name in _MACROS and name not in self.heads and self.source.startswith("(", _blank(self.source, self.at)):
                more = f"; {_NO_TOKENS}" if "Token" in name else ""
                raise self.error(start, f"{name}(...) is not supported: rules, texts and classes are{more}")
            self.uses.append((name, start))
            return [RuleRef(name)]
        found: list[PatternNode] = []
        at = start
        for piece in re.split(r"(\.)", name):
            if piece == ".":
                found.append(ANY_CHAR)
            elif piece:
                if piece not in self.heads:
                    raise self.error(start, f"there is no rule named {name}{suggest(name, sorted(self.heads))}")
                self.uses.append((piece, at))
                found.append(RuleRef(piece))
            at += len(piece)
        return found

    # -- texts and classes

    def _string(self, start: int) -> PatternNode:
        at, codes = start + 1, []
        while self.source[at : at + 1] != '"':
            code, at = self._code(at, "this text has no closing quote")
            codes.append(code)
        self.at = at + 1
        return literal("".join(map(chr, codes))) if codes else EMPTY

    def _class(self, start: int) -> PatternNode:
        at = start + 1
        negative = self.source.startswith("^", at)
        at += negative
        ranges: list[tuple[int, int]] = []
        while self.source[at : at + 1] != "]":
            low, at = self._code(at, "this class is never closed", start)
            high = low
            if self.source.startswith("-", at) and self.source[at + 1 : at + 2] not in ("]", ""):
                high, at = self._code(at + 1, "this class is never closed", start)
            if low > high:
                raise self.error(at, r"the range is upside down; write the smaller character first, or \- for a -")
            ranges.append((low, high))
        self.at = at + 1
        members = chars.union(ranges)
        return Chars(chars.negated(members) if negative else members)

    def _code(self, at: int, unclosed: str, start: int | None = None) -> tuple[int, int]:
        """The code point of the character of a text or a class at `at`, and where the next one begins."""
        match = _CHAR.match(self.source, at)
        if not match or (start is not None and match[0] in "\r\n"):
            wrong = "this escape is not complete" if self.source[at : at + 2] in (r"\x", r"\u", r"\U") else unclosed
            raise self.error(at if start is None or wrong is not unclosed else start, wrong)
        char = match[0]
        if char[0] != "\\":
            return ord(char), match.end()
        kind = char[1]
        if kind in "xuU":
            code = int(char[2:].strip("{}"), 16)
            if code > chars.LAST or 0xD800 <= code <= 0xDFFF:
                hint = "; write one escape, as in \\U0001F600, for a character beyond U+FFFF" if code <= 0xFFFF else ""
                raise self.error(at, f"{char} is not a character{hint}")
            return code, match.end()
        if kind in _CONTROL:
            return _CONTROL[kind], match.end()
        if kind.isascii() and kind.isprintable() and not kind.isalnum() and kind != " ":
            return ord(kind), match.end()
        raise self.error(at, f"there is no escape {char}; {_CLASSES.get(kind, 'write the character itself')}")

    # -- repeats and blanks

    def _repeats(self, node: PatternNode) -> PatternNode:
        while True:
            self._blank()
            start, char = self.at, self.source[self.at : self.at + 1]
            if char in _SIMPLE:
                self.at += 1
                node = repeated(node, *_SIMPLE[char])
            elif char == "{":
                node = self._counted(node, start)
            else:
                return node

    def _counted(self, node: PatternNode, start: int) -> PatternNode:
        count = _COUNT.match(self.source, start)
        if not count or not (count[1] or count[3]):
            raise self.error(start, "expected a count: {n}, {n,}, {,m} or {n,m}")
        if max(len(count[1]), len(count[3] or "")) > 9:
            raise self.error(start, f"counts end at {LARGEST_COUNT:,}")
        low = int(count[1] or 0)
        high = low if not count[2] else None if count[3] in ("", "-1") else int(count[3])
        if high is not None and low > high:
            raise self.error(start, f"the counts are upside down: {low} is more than {high}")
        if max(low, high or 0) > LARGEST_COUNT:
            raise self.error(start, f"counts end at {LARGEST_COUNT:,}")
        self.at = count.end()
        return repeated(node, low, high)

    def _blank(self) -> None:
        self.at = _blank(self.source, self.at)

    def _shown(self, at: int) -> str:
        return repr(self.source[at : at + 12].split("\n")[0]) if at < len(self.source) else "the end"


def _blank(source: str, at: int) -> int:
    blank = _BLANK.match(source, at)
    assert blank
    return blank.end()
