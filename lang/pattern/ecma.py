"""ECMA-262's dialect with the flag u, in which JSON Schema's `pattern` is written.

Knows nothing of schemas; the walk is `syntax.py`'s. `\\d` and `\\w` are ASCII's, `\\s` is ECMA's own set, `.` is no
line end (\\n \\r U+2028 U+2029), `$` is the very end.

Beyond the standard, since real schemas need it: any punctuation may be escaped (`\\-`, `\\_`, `\\@`); `{`, `}` and `]`
that do not count or close are text; `-` beside a class in a set is itself (`[\\w-.]`); `(?i)`, `(?s)` and `(?m)` may
stand first; `(?P<name>..)` names a group; `\\A`, `\\Z` and `\\z` are the very start and end.
"""

from __future__ import annotations

import re
from dataclasses import replace

from . import chars as chars
from .chars import Ranges
from .nodes import Chars, PatternError
from .syntax import LIST_THEM, NO_REFERENCE, PatternReader

_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_SPACE = chars.union(
    [
        *((9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F)),
        *((0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    ]
)
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROL = {"f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_PROPERTY = re.compile(r"\\[pP]\{[^{}]+\}")
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]+)\}")
_LOW_HALF = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_DOTLESS: Ranges = ((0x130, 0x131),)  # Turkish i's: Python takes them for i, ECMA does not


class EcmaReader(PatternReader):
    line_ends = Chars(_LINE_ENDS)
    dollar_before_newline = False

    def braces_count(self, low: str, comma: str, high: str) -> bool:
        return bool(low)

    def greed(self, start: int) -> None:
        if self.peek() == "+":
            self.wrong("possessive quantifier: not in ECMA-262", start, "leave the second + out")
        self.take("?")

    def cased(self, ranges: Ranges) -> Ranges:
        if not self.flags.ignore_case:
            return ranges
        found = chars.any_case(chars.difference(ranges, _DOTLESS))
        return chars.union([*chars.difference(found, _DOTLESS), *chars.intersection(ranges, _DOTLESS)])

    def open_group(self, start: int) -> None:
        if not self.take("?") or self.take(":"):
            self.open("group", start)
        elif self.take("="):
            self.open("ahead", start)
        elif self.take("!"):
            self.open("not ahead", start)
        elif self.take("<="):
            self.open("behind", start)
        elif self.take("<!"):
            self.open("not behind", start)
        elif self.take("<") or self.take("P<"):
            name = self.until(">", start)
            if not name.replace("$", "_").isidentifier():
                self.wrong(f"group name {name!r} is not an identifier", start, "use letters, digits and _")
            self.open("group", start)
        else:
            self._flags(start)

    def _flags(self, start: int) -> None:
        match = re.compile(r"([ims]+)\)").match(self.source, self.at)
        if match is None or start != 0:
            what = "an atomic group" if self.peek() == ">" else f"`(?{self.peek()}`"
            self.wrong(f"{what}: not in ECMA-262", start, "(?i) may only stand first; write groups as (?:...)")
        self.at = match.end()
        names = {"i": "ignore_case", "m": "multiline", "s": "dot_all"}
        self.group.flags = replace(self.flags, **{names[letter]: True for letter in match[1]})

    def escape(self, start: int) -> None:
        c = self.peek()
        if c in ("b", "B"):
            self.at += 1
            self.anchor(self.word_edge(self.cased(_WORD), start, c == "B"))
        elif c == "A":
            self.at += 1
            self.anchor(self.at_start(start, False))
        elif c in ("Z", "z"):
            self.at += 1
            self.anchor(self.at_end(start, False, False))
        elif c in "123456789" and c:
            number = re.compile(r"[0-9]+").match(self.source, self.at)
            self.wrong(f"backreference \\{number[0] if number else c}: {NO_REFERENCE}", start, LIST_THEM)
        elif c == "k" and self.peek(2) == "k<":
            self.wrong(f"backreference: {NO_REFERENCE}", start, LIST_THEM)
        else:
            self.escaped(self._character(start), start)

    def _character(self, start: int) -> int | Ranges:
        """The escape behind the backslash at `start`, in a set or not: a character, or a set of them."""
        c = self.peek()
        if not c:
            self.wrong("a backslash at the end", start, r"write \\ for the character itself")
        if c in "pP":
            return self._property(start)
        if c in "xu":
            return self._hex(start)
        self.at += 1
        if c in "dws":
            return self.cased(_CLASSES[c])
        if c in "DWS":
            return chars.negated(self.cased(_CLASSES[c.lower()]))
        if c in _CONTROL:
            return _CONTROL[c]
        if c == "0" and not self.peek().isdigit():
            return 0
        if c == "c" and self.peek().isascii() and self.peek().isalpha():
            self.at += 1
            return ord(self.source[self.at - 1]) % 32
        if c.isascii() and c.isalnum():
            self.wrong(f"escape \\{c}: not in ECMA-262", start, f"write {c} for the character itself")
        return ord(c)

    def _property(self, start: int) -> Ranges:
        match = _PROPERTY.match(self.source, start)
        if match is None:
            self.wrong("`\\p` without a property", start, r"write \p{L} or \p{Script=Greek}")
        self.at = match.end()
        try:
            return self.cased(chars.unicode_class(match[0]))
        except ValueError:
            raise PatternError(f"unknown property {match[0]}", start, r"see Unicode's: \p{L}, \p{Greek}") from None

    def _hex(self, start: int) -> int:
        match = _HEX.match(self.source, self.at)
        if match is None:
            self.wrong("an escape without its hexadecimal digits", start, r"write \xNN, \uNNNN or \u{N}")
        self.at = match.end()
        code = int(match[1] or match[2] or match[3], 16)
        if code > chars.LAST:
            self.wrong(f"there is no character {match[0]}", start, r"the last one is \u{10FFFF}")
        low = _LOW_HALF.match(self.source, self.at)
        if 0xD800 <= code <= 0xDBFF and match[2] and low is not None:
            self.at = low.end()
            return 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        return code

    def charset(self, start: int) -> None:
        inverted = self.take("^")
        members: list[tuple[int, int]] = []
        while self.peek() != "]":
            low, position = self._member(start), self.at
            if self.peek() != "-" or self.peek(2) == "-]":
                members += self.cased(((low, low),)) if isinstance(low, int) else low
                continue
            self.at += 1
            high = self._member(start)
            if isinstance(low, int) and isinstance(high, int):
                members += self.char_range(low, high, position)
                continue
            members.append((45, 45))  # [\w-.]: the - is itself
            for member in (low, high):
                members += self.cased(((member, member),)) if isinstance(member, int) else member
        self.at += 1
        self.char_set(members, inverted, start)

    def _member(self, start: int) -> int | Ranges:
        position = self.at
        c = self.peek()
        if not c:
            self.wrong("a set is not closed", start, "add the missing `]`")
        self.at += 1
        if c != "\\":
            return ord(c)
        if self.peek() == "b":
            self.at += 1
            return 8
        return self._character(position)
