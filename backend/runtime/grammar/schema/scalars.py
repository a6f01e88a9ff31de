"""Numbers and strings written as nodes that the engine enforces exactly; what it cannot enforce becomes a `Loss`.

Knows nothing of arrays and objects (`write.py`). The engine reads a number as a double, a fraction of more than 15
digits not always as the nearest one, and crashes near -2^63 (llguidance 1.9.1). So `reachable` widens a set of numbers
to bounds that the engine gets right. Patterns are tried, as some are too much for it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

from .....lang.kept import kept
from .engine import engine_refuses, engine_stumbles
from .languages import spelled
from .nodes import LoweredSchema, NumberSchema, Scalar, StringSchema, spelled_schema
from .pieces import common_multiple, holds_number
from .sets import Loss, NumberSet, StringSet, ValueSet

LARGEST_INTEGER = 9223372036854774784  # the largest double below 2^63: an integer's bound is no further from 0
LARGEST_NUMBER = 10**17  # the same for the bound of a number, and for a bound that has no other beside it
SMALLEST_NUMBER = Fraction(1, 10**20)  # a fraction's bound is no nearer to 0
MOST_DIGITS = 15  # of a fraction
MOST_DECIMALS = 20  # that the engine counts in a step
LARGEST_STEP = 20_000  # in units of its last decimal; for larger ones the engine takes seconds, then gigabytes
LARGEST_TEN = 10**8  # a power of ten may be larger; beyond this one the engine's arithmetic overflows (1.9.1)
MOST_PARTS_OF_STEP = 1000  # a larger step is widened to one of its parts, down to this one
MOST_MULTIPLES = 64  # that are listed one by one, where the engine cannot count in steps


def constants(shape: ValueSet) -> list[Scalar]:
    """Return the single values of a set: null, one boolean, points, listed strings."""
    out: list[Scalar] = [None] if shape.null else []
    out += list(shape.booleans) if len(shape.booleans) == 1 else []
    out += [plain(num.low) for num in shape.numbers if num.low is not None and num.is_point]
    return out + [value for text in shape.strings for value in text.values or ()]


def plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def write_number(numbers: NumberSet, losses: set[Loss]) -> list[NumberSchema]:
    """Return an interval as nodes, one of which holds. What cannot be written is added to `losses`."""
    for apart, origin in numbers.apart:
        losses.add(Loss(origin, f"that a number is not a multiple of {plain(apart)} is only checked"))
    for origin in numbers.fractional:
        losses.add(Loss(origin, "that a number is not whole is only checked"))
    multiple = numbers.multiple
    if multiple is not None and numbers.integer:
        multiple = common_multiple(multiple, Fraction(1))
    if multiple is not None and not (numbers.integer and multiple == 1) and not _counts_exactly(multiple):
        losses |= {Loss(origin, "the engine cannot count in steps of this size") for origin in numbers.steps}
        parts = (multiple / count for count in range(2, MOST_PARTS_OF_STEP) if multiple.numerator % count == 0)
        multiple = next((part for part in parts if _counts_exactly(part)), None)
    if numbers.integer:
        steps = [multiple if multiple != 1 else None]
    else:
        steps = [None] if multiple is None else [*_steps(multiple)]
    low, high = _plain_bound(numbers.low), _plain_bound(numbers.high)
    return [
        NumberSchema(numbers.integer, low, numbers.low_open, high, numbers.high_open, _plain_bound(step))
        for step in steps
    ]


def _plain_bound(value: Fraction | None) -> int | float | None:
    return None if value is None else plain(value)


def _steps(multiple: Fraction) -> list[Fraction]:
    """Return a step, and those of its multiples that are spelled with fewer decimals.

    llguidance wants as many decimals as the step has: 0.50, not 0.5, for a step of 0.25 (1.9.1).
    """
    out, places = [multiple], 0
    while (multiple * 10**places).denominator != 1:
        shorter = common_multiple(multiple, Fraction(1, 10**places))
        if _counts_exactly(shorter):
            out.append(shorter)
        places += 1
    return out


def shorter_spellings(num: NumberSet) -> list[int | float]:
    """Return the numbers of an interval that llguidance's expression for it leaves out.

    Below a bound with n decimals it wants n decimals of a number that begins with the same ones: not 1.2 for a
    maximum of 1.25 (1.9.1).
    """
    found: dict[Fraction, None] = {}
    for bound in (num.high, num.low):
        if bound is None or num.integer:
            continue
        digits = format(Decimal(repr(float(abs(bound)))), "f")
        whole, _, decimals = digits.partition(".")
        for length in range(len(decimals)):
            value = Fraction(f"{whole}.{decimals[:length]}0") * (1 if bound > 0 else -1)
            if value != bound and holds_number(num, value):
                found[value] = None
    return [plain(value) for value in found if value]


def reachable(num: NumberSet) -> NumberSet:
    """Return the piece, or a wider one with bounds that the engine can count to.

    The upper bound of 64-bit integers stays as it is said: the engine holds it exactly.
    """
    whole = num.integer or (num.is_point and num.low is not None and num.low.denominator == 1)
    low, high = _outward(num.low, whole, -1), _outward(num.high, whole, 1)
    if num.integer and not num.is_point:
        high = num.high if num.high == 2**63 - 1 else high
    if high is None and low is not None and low > LARGEST_NUMBER:
        low = Fraction(LARGEST_NUMBER)
    if low is None and high is not None and high < -LARGEST_NUMBER:
        high = Fraction(-LARGEST_NUMBER)
    low_open = num.low_open and low == num.low and not _let_by(low, high)
    high_open = num.high_open and high == num.high and not _let_by(high, low)
    if (low, high, low_open, high_open) == (num.low, num.high, num.low_open, num.high_open):
        return num
    return replace(num, low=low, low_open=low_open, high=high, high_open=high_open, integer=whole)


def _let_by(bound: Fraction | None, other: Fraction | None) -> bool:
    """Whether the engine admits an exclusive bound itself: a whole one, with the other less than 1 away (1.9.1)."""
    return bound is not None and other is not None and bound.denominator == 1 and abs(bound - other) < 1


def widened(num: NumberSet) -> bool:
    """Whether `reachable` admits more than the piece does."""
    return reachable(num) != num


def _outward(bound: Fraction | None, whole: bool, away: int) -> Fraction | None:
    """Return a bound that the engine gets right, no tighter than this. `away`: 1 for an upper, -1 for a lower one."""
    if bound is None:
        return None
    if bound * away > (LARGEST_INTEGER if whole else LARGEST_NUMBER):
        return None
    if bound * away < -(LARGEST_INTEGER if whole else LARGEST_NUMBER):
        return Fraction(-away * LARGEST_NUMBER)
    if bound.denominator == 1:
        nearest = float(bound)
        towards = math.inf * away
        return Fraction(nearest if Fraction(nearest) * away >= bound * away else math.nextafter(nearest, towards))
    if abs(bound) < SMALLEST_NUMBER:
        return SMALLEST_NUMBER * away if bound * away > 0 else Fraction(0)
    context = Context(prec=MOST_DIGITS, rounding=ROUND_CEILING if away > 0 else ROUND_FLOOR)
    return Fraction(context.divide(Decimal(bound.numerator), Decimal(bound.denominator)))


def listed_multiples(num: NumberSet) -> list[NumberSet]:
    """Return the piece, or its numbers one by one: few multiples of what the engine cannot count in steps of."""
    step = num.multiple
    if step is None or num.low is None or num.high is None or (num.high - num.low) / step > MOST_MULTIPLES:
        return [num]
    if _counts_exactly(common_multiple(step, Fraction(1)) if num.integer else step):
        return [num]
    first, last = math.ceil(num.low / step), math.floor(num.high / step)
    values = [count * step for count in range(first, last + 1)]
    return [NumberSet(value, high=value) for value in values if holds_number(num, value)]


def _counts_exactly(multiple: Fraction) -> bool:
    """Whether the engine finds this very number: it multiplies a double by ten until the product is whole.

    It must compute with it in time, too: its automaton remembers remainders. Powers of ten need few of them.
    """
    if multiple > LARGEST_TEN:
        return False
    value, places = float(multiple), 0
    while value != int(value) and places < MOST_DECIMALS:
        value *= 10.0
        places += 1
    small = 0 < value <= LARGEST_STEP or (value <= LARGEST_TEN and str(int(value)).strip("0") == "1")
    return small and Fraction(int(value), 10**places) == multiple


def write_string(text: StringSet, losses: set[Loss]) -> StringSchema:
    """Return strings as a node. Patterns that the engine finds too hard are added to `losses`."""
    parts = []
    for pattern, origin in sorted(text.patterns):
        said = spelled(frozenset({pattern}))
        if said is None or engine_refuses({"type": "string", "pattern": said}) is not None:
            losses.add(Loss(origin, "the pattern is too large for a mask"))
        else:
            parts.append((said, origin))
    while parts:
        patterns = tuple(dict.fromkeys(said for said, _ in parts))
        if not _refused(text.least, text.most, patterns):
            return StringSchema(text.least, text.most, patterns)
        if (text.least or text.most is not None) and not _refused(0, None, patterns):
            losses |= {Loss(origin, TOO_MUCH) for origin in text.spans}
            return StringSchema(patterns=patterns)
        _, origin = parts.pop()
        losses.add(Loss(origin, TOO_MUCH))
    return StringSchema(text.least, text.most)


TOO_MUCH = "with the pattern, format and lengths beside it, it is too much for a mask"


@kept(1024)
def _refused(least: int, most: int | None, patterns: tuple[str, ...]) -> bool:
    """Whether the engine refuses such strings, or meets a limit while it writes one."""
    schema = spelled_schema(LoweredSchema(StringSchema(least, most, patterns)))
    return engine_refuses(schema) is not None or engine_stumbles(schema) is not None
