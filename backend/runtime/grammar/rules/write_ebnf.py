"""Rules, and patterns, as a grammar for xgrammar, which takes exactly their texts; or a refusal.

Knows nothing of tokens, or of what the rules were written in.

What is measured of xgrammar 0.2.8, and met here:
1. It never returns from a grammar without a finite text, nor from a repeat of what may be empty: rules are normal.
2. It is quadratic in the least count of an open repeat, on every token, and linear in a forced text: both are bounded.
3. Its masks leave out tokens that span rounds of a left recursion (`root ::= "q" | root [^a]`): that is refused. They
   allow wrong tokens where a class has some characters beyond ASCII: that is written as alternatives.
4. `\\x5ea` is one character to it, and it knows no empty alternative: escapes are spelled as \\u, the empty text as "".
"""

from __future__ import annotations

from .....lang.errors import ConstraintError
from .....lang.pattern import Chars, Concat, PatternError, PatternNode, Repeat, chars, plain, size
from .....lang.pattern.chars import Ranges
from .....lang.pattern.nodes import EMPTY, children
from .measure import least_length, least_lengths
from .nodes import RuleRef, RuleSet
from .normal import normalised
from .write_lark import counted

MOST_PATTERN_CHARACTERS = 100_000
"""Characters that a pattern may span once its repeats are written out."""
MOST_FORCED_CHARACTERS = 4_000
"""What a rule may demand at least: xgrammar is linear in it on every token."""
LARGEST_OPEN_COUNT = 500
"""Of `x{n,}`, in which xgrammar is quadratic when it looks for a forced text."""
MOST_LISTED_CHARACTERS = 1_000
"""Characters beyond ASCII of a class that is written as alternatives."""
_ASCII: Ranges = ((0, 0x7F),)
_BEYOND: Ranges = chars.difference(chars.ALL, _ASCII)
_CHOICE, _SEQUENCE, _REPEAT, _ATOM = range(4)
_INSTEAD = "; leave grammar_backend at 'auto'"


def to_xgrammar(rules: RuleSet) -> str:
    """Write rules in xgrammar's EBNF. Raises `ConstraintError` for what xgrammar would not enforce exactly."""
    rules = normalised(rules)
    least = least_lengths(rules)
    for name, length in least.items():
        if length > MOST_FORCED_CHARACTERS:
            raise ConstraintError(
                f"the shortest text of {name} has {length:.0f} characters; xgrammar takes at most "
                f"{MOST_FORCED_CHARACTERS:,}{_INSTEAD}"
            )
    if (found := _left_recursive(rules, least)) is not None:
        raise ConstraintError(
            f"the rule {found} may begin with itself (left recursion), which xgrammar's masks do not cover{_INSTEAD}"
        )
    numbers = {name: "root" if name == rules.root else f"r{i}" for i, name in enumerate(rules.rules)}
    return "".join(f"{numbers[name]} ::= {_written(node, numbers, _CHOICE)}\n" for name, node in rules.rules.items())


def pattern_to_xgrammar(node: PatternNode) -> str:
    """Write a pattern in xgrammar's EBNF. Raises `ConstraintError` for one that is too large or matches nothing."""
    try:
        node = plain(node)
    except PatternError as error:
        raise ConstraintError(str(error)) from error
    if size(node) > (most := MOST_PATTERN_CHARACTERS):
        raise ConstraintError(f"the pattern spans {size(node):,} characters; at most {most:,} are taken")
    if least_length(node, {}) == float("inf"):
        raise ConstraintError("no text matches the pattern")
    return to_xgrammar(RuleSet({"root": node}, "root"))


def _written(node: PatternNode, numbers: dict[str, str], level: int) -> str:
    """Write a node. `level`: how tightly the text around it binds; looser text gets a group."""
    if isinstance(node, RuleRef):
        return numbers[node.name]
    if isinstance(node, Chars):
        return spelled_class(node.ranges)
    if node == EMPTY:
        return '""'
    if isinstance(node, Repeat):
        if node.high is None and node.low > LARGEST_OPEN_COUNT:
            raise ConstraintError(f"xgrammar takes counts of at most {LARGEST_OPEN_COUNT} with an open end{_INSTEAD}")
        own, text = _REPEAT, _written(node.node, numbers, _ATOM) + counted(node)
    else:
        together = isinstance(node, Concat)
        own, join = (_SEQUENCE, " ") if together else (_CHOICE, " | ")
        text = join.join(_written(part, numbers, own + together) for part in children(node))
    return text if own >= level else f"({text})"


def spelled_class(ranges: Ranges) -> str:
    """A class of characters, which is not empty."""
    beyond = chars.difference(ranges, _ASCII)
    if not beyond or beyond == _BEYOND:
        return _class(ranges)
    if (count := sum(high - low + 1 for low, high in beyond)) > MOST_LISTED_CHARACTERS:
        raise ConstraintError(
            f"a class has {count:,} characters beyond ASCII, but not all: xgrammar's masks are wrong for such classes, "
            f"unless they are listed, and {MOST_LISTED_CHARACTERS:,} can be{_INSTEAD}"
        )
    ascii_part = chars.difference(ranges, _BEYOND)
    listed = [_class(ascii_part)] if ascii_part else []
    listed += [f'"{spelled_character(code)}"' for low, high in beyond for code in range(low, high + 1)]
    return f"({' | '.join(listed)})" if len(listed) > 1 else listed[0]


def _class(ranges: Ranges) -> str:
    (low, high), *more = ranges
    if low == high and not more:
        return f'"{spelled_character(low)}"'
    others = chars.negated(ranges)
    if others and others[-1][1] < 0x80:
        return f"[^{_members(others)}]"
    return f"[{_members(ranges)}]"


def _members(ranges: Ranges) -> str:
    return "".join(
        spelled_character(low) if low == high else f"{spelled_character(low)}-{spelled_character(high)}"
        for low, high in ranges
    )


def spelled_character(code: int) -> str:
    """A character in a text or a class. Not as \\xHH: xgrammar would take further hexadecimal digits for its own."""
    char = chr(code)
    if code < 0x7F and (char.isalnum() or char in " _,;:<>=!@%&~`"):
        return char
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _left_recursive(rules: RuleSet, least: dict[str, float]) -> str | None:
    """A rule whose texts may begin with one of its own, if there is one."""
    leads = {name: _leads(node, least) for name, node in rules.rules.items()}
    done: set[str] = set()
    for start in rules.rules:
        path = {} if start in done else {start: iter(sorted(leads[start]))}
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


def _leads(node: PatternNode, least: dict[str, float]) -> frozenset[str]:
    """The rules that a text of a node may begin with."""
    if isinstance(node, RuleRef):
        return frozenset({node.name})
    found: frozenset[str] = frozenset()
    for part in children(node):
        found |= _leads(part, least)
        if isinstance(node, Concat) and least_length(part, least):
            break
    return found
