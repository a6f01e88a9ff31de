r"""Rust's dialect: the syntax of the `regex` crate, as llguidance reads it. For whole texts.

Knows nothing of trees beyond their constructors; the walk is `syntax.py`'s. `\d \w \s` are Unicode's. What Rust knows
of bytes, and what looks around itself, is refused: no engine takes it. Where case is ignored, a set may be wider than
Rust's by letters of Turkish.
"""

from __future__ import annotations

import re
from dataclasses import replace

from . import chars as chars
from .chars import Ranges
from .nodes import ANY_CHAR, Chars, repeated
from .python import PythonReader

_CONTROL = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_CLASSES = {"d": r"\p{Nd}", "s": r"\p{White_Space}", "w": r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"}
_HEX = re.compile(
    r"x\{([0-9a-fA-F]{1,8})\}|u\{([0-9a-fA-F]{1,8})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"
)
_FLAGS = re.compile(r"([imsxuU]*)(?:-([imsxU]+))?([:)])")
_NAMES = {"i": "ignore_case", "m": "multiline", "s": "dot_all", "x": "verbose"}
_POSIX = re.compile(r"\[:(\^?)(\w+):\]")
_OPERATORS = ("&&", "--", "~~")


class RustReader(PythonReader):
    dollar_before_newline = False

    def greed(self, start: int) -> None:
        self.take("?")

    def quantify(self, counts: tuple[int, int | None], position: int) -> None:
        group = self.group
        if group.last == "repeat":
            group.items[-1] = repeated(group.items[-1], *counts)
        else:
            super().quantify(counts, position)

    def open_group(self, start: int) -> None:
        if not self.take("?"):
            self.open("group", start)
        elif self.take("P<") or (self.peek() == "<" and self.peek(2) not in ("<=", "<!") and self.take("<")):
            self.until(">", start)
            self.open("group", start)
        else:
            match = _FLAGS.match(self.source, self.at)
            if match is None:
                self.wrong(f"`(?{self.peek()}` is not in Rust's dialect", start, "write groups as (?:...)")
            self.at = match.end()
            flags = self.flags
            for letters, on in ((match[1], True), (match[2] or "", False)):
                for letter in letters:
                    flags = replace(flags, **{_NAMES[letter]: on}) if letter in _NAMES else flags
            if match[3] == ":":
                self.open("group", start, flags)
            else:
                self.group.flags = flags

    # --- escapes and sets ---------------------------------------------------------------------------------------------

    def escape(self, start: int) -> None:
        if self.peek() in ("A", "z", "b", "B"):
            self.wrong(f"`\\{self.peek()}` looks around itself", start, "leave it out")
        self.escaped(self._character(start), start)

    def at_start(self, position: int, multiline: bool) -> Chars:
        self.wrong("`^` and `$` look around themselves", position, "leave them out")

    def at_end(self, position: int, multiline: bool, newline: bool) -> Chars:
        self.wrong("`^` and `$` look around themselves", position, "leave them out")

    def _character(self, start: int) -> int | Ranges:
        c = self.peek()
        if c in ("p", "P"):
            return super()._character(start)
        if match := _HEX.match(self.source, self.at):
            self.at = match.end()
            code = int(next(digits for digits in match.groups() if digits), 16)
            if code > chars.LAST:
                self.wrong(f"there is no character {match[0]}", start, r"the last one is \u{10FFFF}")
            return code
        self.at += 1
        if c and c in "dsw":
            return self.cased(chars.unicode_class(_CLASSES[c]))
        if c and c in "DSW":
            return chars.negated(chars.unicode_class(_CLASSES[c.lower()]))
        if c in _CONTROL:
            return _CONTROL[c]
        if not c or (c.isascii() and (c.isalnum() or c == "<" or c == ">")):
            self.wrong(f"escape \\{c} is not in Rust's dialect", start, "write the character itself")
        return ord(c)

    def charset(self, start: int) -> None:
        self.atom(Chars(self._set(start)))

    def _set(self, start: int) -> Ranges:
        """Read a set behind its bracket: members, sets within it, and `&& -- ~~` between them."""
        inverted = self.take("^")
        total: Ranges | None = None
        operator = ""
        members: list[tuple[int, int]] = []
        empty = True
        while empty or self.peek() != "]":
            if self.peek(2) in _OPERATORS:
                total, operator, members = _joined(total, operator, chars.union(members)), self.peek(2), []
                self.at += 2
                empty = False
                continue
            position = self.at
            low = self._rust_member(start)
            empty = False
            if isinstance(low, int) and self.peek() == "-" and self.peek(2) not in ("-]", "--"):
                self.at += 1
                members += self.char_range(low, self._rust_member(start), position)
            else:
                members += self.cased(((low, low),)) if isinstance(low, int) else low
        self.at += 1
        found = _joined(total, operator, chars.union(members))
        return chars.negated(found) if inverted else found

    def _rust_member(self, start: int) -> int | Ranges:
        while self.flags.verbose and self.peek() and self.peek() in " \t\n\r\v\f":
            self.at += 1
        position = self.at
        c = self.peek()
        if not c:
            self.wrong("a set is not closed", start, "add the missing `]`")
        if (posix := _POSIX.match(self.source, position)) is not None:
            self.at = posix.end()
            ascii_part = chars.intersection(chars.unicode_class(f"[[:{posix[2]}:]]"), ((0, 127),))
            return chars.negated(ascii_part) if posix[1] else self.cased(ascii_part)
        self.at += 1
        if c == "[":
            return self._set(position)
        return self._character(position) if c == "\\" else ord(c)

    def element(self, c: str) -> None:
        if c == "." and self.flags.dot_all:
            self.at += 1
            self.atom(ANY_CHAR)
        else:
            super().element(c)


def _joined(total: Ranges | None, operator: str, members: Ranges) -> Ranges:
    if total is None:
        return members
    if operator == "&&":
        return chars.intersection(total, members)
    without = chars.difference(total, members)
    return without if operator == "--" else chars.union([*without, *chars.difference(members, total)])
