"""JSON numbers between bounds and in steps, as patterns over their digits.

Knows nothing of engines. An interval is exact, whatever digits its bounds have. A step is `MultipleOf`: a pattern and a
remainder, which no tree of characters can say shortly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from .....lang.kept import kept
from .....lang.pattern import Chars, PatternNode, any_of, either, sequence
from .....lang.pattern.nodes import EMPTY, NOTHING, both, literal, repeated
from ..schema.nodes import NumberSchema

_DIGIT = Chars(((0x30, 0x39),))
_NOT_ZERO = Chars(((0x31, 0x39),))
_DIGITS = repeated(_DIGIT, 0, None)
_WHOLE = either([literal("0"), sequence([_NOT_ZERO, _DIGITS])])
_FRACTION = repeated(sequence([literal("."), repeated(_DIGIT, 1, None)]), 0, 1)
_EXPONENT = sequence([any_of(["e", "E"]), repeated(any_of(["+", "-"]), 0, 1), repeated(_DIGIT, 1, None)])
_SIGN = repeated(literal("-"), 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class MultipleOf(PatternNode):
    """The texts of `pattern` whose digits, behind others that leave `remainder`, are a multiple of `modulus`."""

    pattern: PatternNode
    modulus: int
    remainder: int

    def __post_init__(self) -> None:
        self.note((self.pattern, self.modulus, self.remainder), (self.pattern,), plain=False)


def number(node: NumberSchema) -> PatternNode:
    """Return the texts of the numbers of a schema."""
    return _number(
        node.integer, node.minimum, node.exclusive_minimum, node.maximum, node.exclusive_maximum, node.multiple
    )


@kept(1024)
def _number(
    integer: bool,
    minimum: int | float | None,
    exclusive_minimum: bool,
    maximum: int | float | None,
    exclusive_maximum: bool,
    multiple: int | float | None,
) -> PatternNode:
    low, high = _exact(minimum), _exact(maximum)
    if integer:
        whole = _integers(_lowest(low, exclusive_minimum), None if high is None else _highest(high, exclusive_maximum))
    elif low is None and high is None and multiple is None:
        whole = sequence([_SIGN, _WHOLE, _FRACTION, repeated(_EXPONENT, 0, 1)])
    else:
        whole = _decimals(low, exclusive_minimum, high, exclusive_maximum)
    if multiple is None:
        return whole
    step, places = Decimal(repr(multiple)), 0
    while step != step.to_integral_value():
        step, places = step * 10, places + 1
    if not integer:
        fraction = sequence([literal("."), repeated(_DIGIT, places, places)]) if places else EMPTY
        whole = both(whole, sequence([_SIGN, _WHOLE, repeated(fraction, 0, 1)]))
        forms = [sequence([_SIGN, _WHOLE, fraction])] if places else [whole]
        return either(MultipleOf(both(whole, form), int(step), 0) for form in forms)
    return MultipleOf(whole, int(step), 0)


def _exact(value: int | float | None) -> Fraction | None:
    return None if value is None else Fraction(repr(value))


def _lowest(low: Fraction | None, exclusive: bool) -> int | None:
    if low is None:
        return None
    return math.floor(low) + 1 if exclusive else math.ceil(low)


def _highest(high: Fraction, exclusive: bool) -> int:
    return math.ceil(high) - 1 if exclusive else math.floor(high)


def _integers(low: int | None, high: int | None) -> PatternNode:
    above = NOTHING if high is not None and high < 0 else _natural(max(low or 0, 0), high)
    below = NOTHING if low is not None and low >= 0 else _natural(max(-high if high is not None else 1, 1), _minus(low))
    zero = literal("-0") if above != NOTHING and (low is None or low <= 0) else NOTHING
    return either([above, sequence([literal("-"), below]), zero])


def _minus(value: int | None) -> int | None:
    return None if value is None else -value


def _natural(low: int, high: int | None) -> PatternNode:
    """Return the numbers from `low` to `high`, neither of them negative."""
    if high is not None and high < low:
        return NOTHING
    first = str(low)
    if high is None:
        longer = sequence([_NOT_ZERO, repeated(_DIGIT, len(first), None)])
        return either([_between(first, "9" * len(first)), longer])
    last = str(high)
    if len(first) == len(last):
        return _between(first, last)
    options = [_between(first, "9" * len(first)), _between("1" + "0" * (len(last) - 1), last)]
    if len(first) + 1 < len(last):
        options.append(sequence([_NOT_ZERO, repeated(_DIGIT, len(first), len(last) - 2)]))
    return either(options)


def _between(low: str, high: str) -> PatternNode:
    """Return the digits from `low` to `high`, of equal length."""
    same = 0
    while same < len(low) and low[same] == high[same]:
        same += 1
    if same == len(low):
        return literal(low)
    more = len(low) - same - 1
    options = [sequence([_range(low[same], high[same]), repeated(_DIGIT, more, more)])]
    options.append(sequence([literal(low[same]), _bounded(low[same + 1 :], up=True)]))
    options.append(sequence([literal(high[same]), _bounded(high[same + 1 :], up=False)]))
    return sequence([literal(low[:same]), either(options)])


def _bounded(digits: str, up: bool) -> PatternNode:
    """Return the digits from `digits` up or down, of equal length."""
    node: PatternNode = EMPTY
    for place, digit in reversed([*enumerate(digits)]):
        more = len(digits) - place - 1
        other = _range(digit, ":") if up else _range("/", digit)
        node = either([sequence([literal(digit), node]), sequence([other, repeated(_DIGIT, more, more)])])
    return node


def _range(low: str, high: str) -> PatternNode:
    """Return one of the characters between two, without both ends."""
    first, last = ord(low) + 1, ord(high) - 1
    return Chars(((first, last),)) if first <= last else NOTHING


def _decimals(low: Fraction | None, low_open: bool, high: Fraction | None, high_open: bool) -> PatternNode:
    above: PatternNode = NOTHING
    if high is None or high >= 0:
        least = None if low is None else max(low, Fraction(0))
        above = _positive(least, low_open and least == low, high, high_open)
    below: PatternNode = NOTHING
    if low is None or low <= 0:
        least = None if high is None or high > 0 else -high
        below = _positive(least, high_open and least is not None, None if low is None else -low, low_open)
    return either([above, sequence([literal("-"), below])])


def _positive(low: Fraction | None, low_open: bool, high: Fraction | None, high_open: bool) -> PatternNode:
    """Return the numbers between bounds that are not negative, written without a sign."""
    node = sequence([_WHOLE, _FRACTION])
    if low is not None and (low > 0 or low_open):
        whole, digits = _split(low)
        beyond = sequence([_natural(whole + 1, None), _FRACTION])
        node = both(node, either([beyond, sequence([literal(str(whole)), _at_least(digits, low_open)])]))
    if high is not None:
        whole, digits = _split(high)
        within = sequence([_natural(0, whole - 1), _FRACTION]) if whole else NOTHING
        node = both(node, either([within, sequence([literal(str(whole)), _at_most(digits, high_open)])]))
    return node


def _split(value: Fraction) -> tuple[int, str]:
    """Return the whole part of a decimal number and the digits behind its point, without zeros at the end."""
    whole, rest, digits = value.numerator // value.denominator, value % 1, ""
    while rest:
        rest *= 10
        digits += str(int(rest))
        rest %= 1
    return whole, digits


def _at_least(digits: str, more: bool) -> PatternNode:
    """Return the fractions of at least 0.`digits`; `more`: larger ones."""
    if not digits and not more:
        return _FRACTION
    node: PatternNode = sequence([repeated(literal("0"), 0, None), _NOT_ZERO, _DIGITS]) if more else _DIGITS
    for digit in reversed(digits):
        node = either([sequence([literal(digit), node]), sequence([_range(digit, ":"), _DIGITS])])
    return sequence([literal("."), node])


def _at_most(digits: str, less: bool) -> PatternNode:
    """Return the fractions of at most 0.`digits`; `less`: smaller ones."""
    zeros = repeated(literal("0"), 0, None)
    node = NOTHING if less else zeros
    for digit in reversed(digits):
        node = either([sequence([literal(digit), node]), sequence([_range("/", digit), _DIGITS]), EMPTY])
    begun = sequence([literal("."), both(node, repeated(_DIGIT, 1, None))])
    return begun if less and not digits else either([EMPTY, begun])
