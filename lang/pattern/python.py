"""Python's dialect: the syntax and meaning of `re`, with `\\p{..}`, `\\P{..}` and `[[:alpha:]]` of the `regex` package.

Knows nothing of trees beyond their constructors; the walk is `syntax.py`'s. A pattern means every text that
`re.fullmatch(pattern, text)` accepts. `\\d \\w \\s` are Unicode's (ASCII's under the flag a), `$` also stands before a
last newline, `\\z` is the same as `\\Z`. Lookbehinds may be of any width. `\\p` and POSIX classes follow the flag i.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from . import chars as chars
from .chars import Ranges
from .marks import Atomic
from .nodes import Chars, PatternError
from .syntax import LIST_THEM, NO_REFERENCE, Flags, PatternReader

_CONTROL = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_FLAGS = {"i": "ignore_case", "m": "multiline", "s": "dot_all", "x": "verbose", "a": "ascii", "u": "ascii"}
_HEX = {"x": 2, "u": 4, "U": 8}
_PROPERTY = re.compile(r"\\[pP](?:\{\^?[^{}]+\}|[A-Za-z])")
_POSIX = re.compile(r"\[:\^?\w+:\]")
_NOT_IN_NOTHING = re.fullmatch(r"\B", "") is None  # before Python 3.14 an empty text has no \B


class PythonReader(PatternReader):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.names: set[str] = set()

    line_ends = Chars(((10, 10),))
    dollar_before_newline = True

    def element(self, c: str) -> None:
        if self.flags.verbose and c in " \t\n\r\v\f":
            self.at += 1
        elif self.flags.verbose and c == "#":
            end = self.source.find("\n", self.at)
            self.at = len(self.source) if end < 0 else end + 1
        else:
            super().element(c)

    def braces_count(self, low: str, comma: str, high: str) -> bool:
        return bool(low or comma)  # {} is text, {,} and {,n} count

    def greed(self, start: int) -> None:
        if self.take("+"):
            if self.group.lazy_atom:
                self.wrong("lazy quantifier in a possessive one", start, "leave the second + out")
            self.group.items[-1] = Atomic(self.group.items[-1], start)
        elif self.take("?"):
            for group in self.groups:
                group.lazy = True

    # --- groups -------------------------------------------------------------------------------------------------------

    def open_group(self, start: int) -> None:
        if not self.take("?") or self.take(":"):
            self.open("group", start)
        elif self.take("P<"):
            self._name(self.until(">", start), start)
            self.open("group", start)
        elif self.take("P="):
            name = self.until(")", start)
            self.wrong(f"backreference (?P={name}): {NO_REFERENCE}", start, LIST_THEM)
        elif self.take("#"):
            self.until(")", start)
        elif self.take("="):
            self.open("ahead", start)
        elif self.take("!"):
            self.open("not ahead", start)
        elif self.take("<="):
            self.open("behind", start)
        elif self.take("<!"):
            self.open("not behind", start)
        elif self.take(">"):
            self.open("atomic", start)
        elif self.take("("):
            self.wrong(f"conditional group: {NO_REFERENCE}", start, "write both cases as alternatives")
        elif self.peek() in ("R", "&") or self.peek().isdigit() or self.take("P>"):
            self.wrong(f"recursive pattern: {NO_REFERENCE}", start, "use a grammar (sgl.lark, sgl.ebnf)")
        elif self.peek() == "<":
            self.wrong("`(?<` is not Python's", start, "a named group is (?P<name>...)")
        else:
            self._flags(start)

    def _name(self, name: str, start: int) -> None:
        if not name.isidentifier():
            self.wrong(f"group name {name!r} is not an identifier", start, "use letters, digits and _")
        if name in self.names:
            self.wrong(f"group name {name!r} is used twice", start, "rename one of them")
        self.names.add(name)

    def _flags(self, start: int) -> None:
        """`(?i)` for the whole pattern, `(?i:...)` and `(?-i:...)` for a group."""
        match = re.compile(r"([aiLmsux]*)(?:-([imsx]+))?([:)])").match(self.source, self.at)
        if match is None or not (match[1] or match[2]):
            self.wrong(f"`(?{self.peek()}` is not known", start, "see Python's `re` for what can follow (?")
        added, taken, end = match[1], match[2] or "", match[3]
        if "L" in added:
            self.wrong("flag L: text has no locale", start, "leave it out")
        if ("a" in added and "u" in added) or set(added) & set(taken):
            self.wrong("flags that contradict each other", start, "keep one of them")
        self.at = match.end()
        flags = self.flags
        for letter in added:
            flags = _with(flags, letter, letter != "u")
        for letter in taken:
            flags = _with(flags, letter, False)
        if end == ":":
            self.open("group", start, flags)
            return
        root = self.group
        if taken or len(self.groups) > 1 or root.branches or root.items:
            self.wrong("flags in the middle of the pattern", start, "put them first, or write (?i:...) around a part")
        root.flags = flags

    # --- escapes and sets ---------------------------------------------------------------------------------------------

    def escape(self, start: int) -> None:
        c = self.peek()
        if c in ("A", "Z", "z", "b", "B"):
            self.at += 1
            if c == "A":
                self.anchor(self.at_start(start, False))
            elif c in "Zz":
                self.anchor(self.at_end(start, False, False))
            else:
                word = chars.python_class("w", self.flags.ascii)
                self.anchor(self.word_edge(word, start, c == "B", _NOT_IN_NOTHING))
            return
        if c.isdigit() and c.isascii():
            self._number(start)
            return
        self.escaped(self._character(start), start)

    def _number(self, start: int) -> None:
        """`\\0`, `\\012` and `\\123` are characters, `\\1` and `\\12` are backreferences."""
        match = re.compile(r"0[0-7]{0,2}|[0-7]{3}").match(self.source, self.at)
        if match is not None:
            self.at = match.end()
            self.literal(self._octal(match[0], start), start)
            return
        number = re.compile(r"[0-9]{1,2}").match(self.source, self.at)
        self.wrong(f"backreference \\{number[0] if number else ''}: {NO_REFERENCE}", start, LIST_THEM)

    def _octal(self, digits: str, start: int) -> int:
        if int(digits, 8) > 0o377:
            self.wrong(f"octal escape \\{digits} is above \\377", start, r"write \xNN or \uNNNN")
        return int(digits, 8)

    def _character(self, start: int) -> int | Ranges:
        """The escape behind the backslash at `start`, in a set or not: a character, or a set of them."""
        c = self.peek()
        if not c:
            self.wrong("a backslash at the end", start, r"write \\ for the character itself")
        if c in "pP":
            match = _PROPERTY.match(self.source, start)
            if match is None:
                self.wrong(f"`\\{c}` without a property", start, r"write \p{Greek} or \p{L}")
            self.at = match.end()
            return self.cased(_known(match[0], start))
        self.at += 1
        if c in "dDsSwW":
            return chars.python_class(c, self.flags.ascii)
        if c in _HEX:
            digits = self.peek(_HEX[c])
            if len(digits) < _HEX[c] or not re.fullmatch(r"[0-9a-fA-F]+", digits):
                self.wrong(f"escape \\{c} needs {_HEX[c]} hexadecimal digits", start, "add the missing ones")
            self.at += len(digits)
            if int(digits, 16) > chars.LAST:
                self.wrong(f"there is no character \\{c}{digits}", start, r"the last one is \U0010ffff")
            return int(digits, 16)
        if c == "N":
            return self._named(start)
        if c in _CONTROL:
            return _CONTROL[c]
        if c.isascii() and c.isalpha():
            hint = {"X": r"write . for a character", "R": r"write (?:\r\n|\n|\r) for a line end"}
            self.wrong(f"escape \\{c} is not supported", start, hint.get(c, f"write {c} for the letter itself"))
        return ord(c)

    def _named(self, start: int) -> int:
        if not self.take("{"):
            self.wrong(r"escape \N needs a name", start, r"write \N{EM DASH}")
        name = self.until("}", start)
        try:
            return ord(unicodedata.lookup(name))
        except (KeyError, TypeError):
            self.wrong(f"there is no character named {name!r}", start, "see the Unicode tables for names")

    def charset(self, start: int) -> None:
        inverted = self.take("^")
        members: list[tuple[int, int]] = []
        empty = True
        while empty or self.peek() != "]":
            low, position = self._member(start), self.at
            empty = False
            if self.peek() == "-" and self.peek(2) != "-]":
                self.at += 1
                members += self.char_range(low, self._member(start), position)
            else:
                members += self.cased(((low, low),)) if isinstance(low, int) else low
        self.at += 1
        self.char_set(members, inverted, start)

    def _member(self, start: int) -> int | Ranges:
        position = self.at
        c = self.peek()
        if not c:
            self.wrong("a set is not closed", start, "add the missing `]`")
        posix = _POSIX.match(self.source, position)
        if posix is not None:
            self.at = posix.end()
            return self.cased(_known(f"[{posix[0]}]", position))
        self.at += 1
        if c != "\\":
            return ord(c)
        if self.peek().isdigit() and self.peek().isascii():
            match = re.compile(r"[0-7]{1,3}").match(self.source, self.at)
            if match is None:
                self.wrong(f"escape \\{self.peek()} in a set", position, "leave the backslash out")
            self.at = match.end()
            return self._octal(match[0], position)
        return self._character(position)


def _with(flags: Flags, letter: str, on: bool) -> Flags:
    return replace(flags, **{_FLAGS[letter]: on})


def _known(source: str, position: int) -> Ranges:
    try:
        return chars.unicode_class(source)
    except ValueError:
        raise PatternError(f"unknown character class {source}", position, r"see Unicode's: \p{L}, \p{Greek}") from None
