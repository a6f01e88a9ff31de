"""Reading a pattern: the walk over its characters that all dialects of regular expressions share.

Knows nothing of what an escape or a `(?` means: `python.py` and `ecma.py` say that. Groups are a stack, so nothing
recurses. What is read is a tree of `nodes.py`, with the marks of `marks.py` where it looks around itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from . import chars as chars
from .chars import Ranges
from .marks import Atomic, Left, Right
from .nodes import (
    ANY_CHAR,
    ANY_TEXT,
    EMPTY,
    Chars,
    PatternError,
    PatternNode,
    both,
    complement,
    either,
    repeated,
    sequence,
)

MOST_GROUP_LEVELS = 200
"""The engines take fewer: see `within_depth`."""
MOST_REPEATS = 1_000_000
MOST_SOURCE_CHARACTERS = 1_000_000
"""Of one pattern: reading is linear, and a longer one is a list of choices or a grammar."""
NO_REFERENCE = "no engine can enforce it"
LIST_THEM = "list the alternatives instead"

Kind = Literal["group", "ahead", "not ahead", "behind", "not behind", "atomic"]


@dataclass(frozen=True)
class Flags:
    ignore_case: bool = False
    multiline: bool = False
    dot_all: bool = False
    verbose: bool = False
    ascii: bool = False


@dataclass
class Group:
    """An open group. `last`: what a quantifier would repeat."""

    kind: Kind
    position: int
    flags: Flags
    branches: list[PatternNode] = field(default_factory=list)
    items: list[PatternNode] = field(default_factory=list)
    last: Literal["nothing", "atom", "anchor", "repeat"] = "nothing"
    lazy: bool = False
    """The group has a lazy quantifier."""
    lazy_atom: bool = False
    """Its last item is a group that has a lazy quantifier."""


class PatternReader:
    """Reads one pattern. A dialect adds its escapes, sets and groups."""

    def __init__(self, source: str) -> None:
        if len(source) > MOST_SOURCE_CHARACTERS:
            raise PatternError(f"a pattern of {len(source):,} characters", None, "use choices or a grammar instead")
        self.source = source
        self.at = 0
        self.groups = [Group("group", 0, Flags())]

    # --- the walk -----------------------------------------------------------------------------------------------------

    def read(self) -> PatternNode:
        while self.at < len(self.source):
            c = self.source[self.at]
            if c == "|":
                self.at += 1
                self.end_branch()
            elif c == ")":
                self.close()
            else:
                self.element(c)
        if len(self.groups) > 1:
            raise PatternError("a group is not closed", self.group.position, "add the missing `)`")
        self.end_branch()
        return either(self.group.branches)

    def element(self, c: str) -> None:
        """Read the element that begins with `c`."""
        start = self.at
        if c in "*+?{":
            counts = self.counts()
            if counts is not None:
                self.quantify(counts, start)
                self.greed(start)
                return
        self.at += 1
        if c == "\\":
            self.escape(start)
        elif c == "[":
            self.charset(start)
        elif c == "(":
            self.open_group(start)
        elif c == ".":
            self.atom(ANY_CHAR if self.flags.dot_all else Chars(chars.negated(self.line_ends.ranges)))
        elif c == "^":
            self.anchor(self.at_start(start, self.flags.multiline))
        elif c == "$":
            self.anchor(self.at_end(start, self.flags.multiline, self.dollar_before_newline))
        else:
            self.literal(ord(c), start)

    # --- what a dialect says ------------------------------------------------------------------------------------------

    line_ends: Chars
    dollar_before_newline: bool
    """Whether `$` also stands before a last line end."""

    def braces_count(self, low: str, comma: str, high: str) -> bool:
        """Whether `{low,high}` counts (or is just text)."""
        raise NotImplementedError

    def greed(self, start: int) -> None:
        """Read what may stand behind a quantifier: `?`, `+`."""
        raise NotImplementedError

    def escape(self, start: int) -> None:
        """Read the escape behind the backslash at `start`."""
        raise NotImplementedError

    def charset(self, start: int) -> None:
        """Read the set behind the bracket at `start`."""
        raise NotImplementedError

    def open_group(self, start: int) -> None:
        """Read how the group behind the parenthesis at `start` begins."""
        raise NotImplementedError

    # --- helpers ------------------------------------------------------------------------------------------------------

    @property
    def group(self) -> Group:
        return self.groups[-1]

    @property
    def flags(self) -> Flags:
        return self.group.flags

    def peek(self, length: int = 1) -> str:
        return self.source[self.at : self.at + length]

    def take(self, text: str) -> bool:
        """Skip `text` if it stands here; whether it did."""
        if self.source.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def until(self, end: str, start: int) -> str:
        stop = self.source.find(end, self.at)
        if stop < 0:
            raise PatternError(f"`{self.source[start : self.at]}` is not ended", start, f"add the missing `{end}`")
        text = self.source[self.at : stop]
        self.at = stop + len(end)
        return text

    def wrong(self, message: str, position: int, hint: str) -> NoReturn:
        raise PatternError(message, position, hint)

    def atom(self, node: PatternNode) -> None:
        self.group.items.append(node)
        self.group.last, self.group.lazy_atom = "atom", False

    def anchor(self, mark: PatternNode) -> None:
        self.group.items.append(mark)
        self.group.last = "anchor"

    def literal(self, code: int, position: int) -> None:
        if 0xD800 <= code <= 0xDFFF:
            self.wrong(f"the lone surrogate U+{code:04X}", position, "no text has one; write the whole character")
        self.atom(Chars(self.cased(((code, code),))))

    def escaped(self, found: int | Ranges, position: int) -> None:
        """An escape outside a set: a character, or a set of them."""
        if isinstance(found, int):
            self.literal(found, position)
        else:
            self.atom(Chars(found))

    def char_set(self, ranges: Iterable[tuple[int, int]], inverted: bool, position: int) -> None:
        """A set of characters."""
        found = chars.union(ranges)
        self.atom(Chars(chars.negated(found) if inverted else found))

    def char_range(self, low: int | Ranges, high: int | Ranges, position: int) -> Ranges:
        """The characters of `low-high` in a set."""
        if not isinstance(low, int) or not isinstance(high, int) or high < low:
            self.wrong("a range in a set goes backwards", position, r"write \- for the character -")
        return self.cased(((low, high),))

    def cased(self, ranges: Ranges) -> Ranges:
        return chars.any_case(ranges, self.flags.ascii) if self.flags.ignore_case else ranges

    # --- groups -------------------------------------------------------------------------------------------------------

    def open(self, kind: Kind, position: int, flags: Flags | None = None) -> None:
        if len(self.groups) > MOST_GROUP_LEVELS:
            self.wrong(f"groups are nested more than {MOST_GROUP_LEVELS} deep", position, "use fewer levels of groups")
        self.groups.append(Group(kind, position, self.flags if flags is None else flags))

    def end_branch(self) -> None:
        group = self.group
        group.branches.append(sequence(group.items))
        group.items, group.last = [], "nothing"

    def close(self) -> None:
        if len(self.groups) == 1:
            self.wrong("`)` without a group", self.at, r"write \) for the character itself")
        self.at += 1
        self.end_branch()
        group = self.groups.pop()
        node = either(group.branches)
        if group.kind == "atomic":
            if group.lazy:
                self.wrong("lazy quantifier in an atomic group", group.position, "leave ?> out")
            self.atom(Atomic(node, group.position))
        elif group.kind == "group":
            self.atom(node)
            self.group.lazy_atom = group.lazy
        else:
            ahead = group.kind.endswith("ahead")
            seen = sequence([node, ANY_TEXT] if ahead else [ANY_TEXT, node])
            seen = complement(seen) if group.kind.startswith("not") else seen
            self.atom((Right if ahead else Left)(seen, group.position))

    # --- quantifiers --------------------------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int | None] | None:
        """Read the quantifier that stands here; None if none does."""
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self.peek() in simple and self.peek():
            self.at += 1
            return simple[self.source[self.at - 1]]
        start = self.at
        stop = self.source.find("}", start, start + 40_000)
        if self.peek() != "{" or stop < 0:
            return None
        low, comma, high = self.source[start + 1 : stop].partition(",")
        digits = low + high
        if not (self.braces_count(low, comma, high) and (not digits or (digits.isascii() and digits.isdigit()))):
            return None
        if len(low) > 10 or len(high) > 10 or max(int(low or 0), int(high or 0)) > MOST_REPEATS:
            self.wrong("a repeat count is too large", start, f"at most {MOST_REPEATS:,}")
        self.at = stop + 1
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if most is not None and most < least:
            self.wrong("a repeat has its most below its least", start, "write the smaller number first")
        return least, most

    def quantify(self, counts: tuple[int, int | None], position: int) -> None:
        group = self.group
        if group.last in ("nothing", "anchor"):
            self.wrong(
                "there is nothing to repeat", position, f"write \\{self.source[position]} for the character itself"
            )
        if group.last == "repeat":
            self.wrong("a repeat of a repeat", position, "put the first one into a group")
        group.items[-1] = repeated(group.items[-1], *counts)
        group.last = "repeat"

    # --- marks --------------------------------------------------------------------------------------------------------

    def at_start(self, position: int, multiline: bool) -> PatternNode:
        return Left(either([EMPTY, sequence([ANY_TEXT, self.line_ends])]) if multiline else EMPTY, position)

    def at_end(self, position: int, multiline: bool, newline: bool) -> PatternNode:
        """`$`. With `newline`, a last line end may follow."""
        if multiline:
            return Right(either([EMPTY, sequence([self.line_ends, ANY_TEXT])]), position)
        return Right(either([EMPTY, self.line_ends]) if newline else EMPTY, position)

    def word_edge(self, word: Ranges, position: int, inside: bool, somewhere: bool = False) -> PatternNode:
        """`\\b`: exactly one of the neighbours belongs to a word. With `inside`, `\\B`: none or both do.

        `somewhere`: not in an empty text.
        """
        ends, begins = sequence([ANY_TEXT, Chars(word)]), sequence([Chars(word), ANY_TEXT])
        no_end, no_begin = complement(ends), complement(begins)
        pairs = [(ends, begins), (no_end, no_begin)] if inside else [(ends, no_begin), (no_end, begins)]
        if inside and somewhere:
            some = sequence([ANY_CHAR, ANY_TEXT])
            pairs[1:] = [(both(no_end, some), no_begin), (EMPTY, both(no_begin, some))]
        return either(sequence([Left(left, position), Right(right, position)]) for left, right in pairs)
