"""The algebra of one piece of a set: numbers, strings and arrays (objects are in `objects.py`).

Knows nothing of unions of pieces (`combine.py`). `both_*` is what is in two pieces, `not_*` what is not in a piece
(`Inexact` if pieces cannot say it). Both return lists of pieces that `tidy_*` has simplified. Impossible pieces are
gone, and duties that can be met in a few ways are spelled out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from .languages import listed, member, names, vacant
from .sets import ANY, NEVER, ArraySet, Condition, Duty, Language, NumberSet, Origin, StringSet, meet, negated, opposite

MOST_WAYS = 64  # in which one duty is spelled out
MOST_COMBINED_WAYS = 512  # in which all duties of a piece are spelled out


class Inexact(Exception):
    """A set that cannot be said with pieces, or only with too many of them."""


def fewest(a: int | None, b: int | None) -> int | None:
    """Return the smaller of two limits, of which None is no limit."""
    return b if a is None else a if b is None else min(a, b)


def unmet(duty: Duty) -> Condition:
    """Return what every item or member must meet, if a duty is not met by any."""
    if len(duty.cond) > 1:
        raise Inexact
    return opposite(duty.cond)


# ---------------------------------------------------------------------------------------------------------- numbers


def both_number(a: NumberSet, b: NumberSet) -> list[NumberSet]:
    low, low_open = _tighter((a.low, a.low_open), (b.low, b.low_open), up=True)
    high, high_open = _tighter((a.high, a.high_open), (b.high, b.high_open), up=False)
    multiple = a.multiple or b.multiple
    if a.multiple and b.multiple:
        multiple = common_multiple(a.multiple, b.multiple)
    integer = a.integer or b.integer or (multiple is not None and multiple.denominator == 1)
    apart, fractional, steps = a.apart | b.apart, a.fractional | b.fractional, a.steps | b.steps
    return tidy_number(NumberSet(low, low_open, high, high_open, integer, multiple, apart, fractional, steps))


def tidy_number(num: NumberSet) -> list[NumberSet]:
    """Return the piece with whole bounds if it is of integers; none if it is empty."""
    if num.integer:
        low = None if num.low is None else math.floor(num.low) + 1 if num.low_open else math.ceil(num.low)
        high = None if num.high is None else math.ceil(num.high) - 1 if num.high_open else math.floor(num.high)
        num = replace(num, low=_whole(low), low_open=False, high=_whole(high), high_open=False)
    if num.low is not None and num.high is not None:
        if num.low > num.high or (num.low == num.high and (num.low_open or num.high_open)):
            return []
        if num.low == num.high:
            return [NumberSet(num.low, high=num.high)] if holds_number(num, num.low) else []
    return [] if _steps_over(num) else [num]


def _whole(value: int | None) -> Fraction | None:
    return None if value is None else Fraction(value)


def _steps_over(num: NumberSet) -> bool:
    """Whether no step falls within the bounds, or all of them are ruled out."""
    step = num.multiple or (Fraction(1) if num.integer else None)
    if step is None:
        return False
    if any(step % apart == 0 for apart, _ in num.apart):
        return True
    if num.fractional and (num.integer or step.denominator == 1):
        return True
    if num.low is None or num.high is None:
        return False
    first = math.ceil(num.low / step) * step
    return first > num.high or (first == num.high and num.high_open and not num.low_open)


def holds_number(num: NumberSet, value: Fraction) -> bool:
    """Whether a number is in the piece."""
    return not (
        (num.low is not None and (value < num.low or (num.low_open and value == num.low)))
        or (num.high is not None and (value > num.high or (num.high_open and value == num.high)))
        or (num.integer and value.denominator != 1)
        or (num.multiple is not None and value % num.multiple != 0)
        or any(value % apart == 0 for apart, _ in num.apart)
        or (num.fractional and value.denominator == 1)
    )


def not_number(num: NumberSet, origin: Origin) -> list[NumberSet]:
    out: list[NumberSet] = []
    if num.low is not None:
        out.append(NumberSet(high=num.low, high_open=not num.low_open))
    if num.high is not None:
        out.append(NumberSet(low=num.high, low_open=not num.high_open))
    if num.multiple is not None:
        out.append(NumberSet(apart=frozenset({(num.multiple, origin)})))
    if num.integer:
        out.append(NumberSet(fractional=frozenset({origin})))
    out += [NumberSet(multiple=apart) for apart, _ in num.apart]
    if num.fractional:
        out.append(NumberSet(integer=True))
    return out


def _tighter(
    a: tuple[Fraction | None, bool], b: tuple[Fraction | None, bool], *, up: bool
) -> tuple[Fraction | None, bool]:
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    if a[0] == b[0]:
        return a[0], a[1] or b[1]
    return a if (a[0] > b[0]) is up else b


def common_multiple(a: Fraction, b: Fraction) -> Fraction:
    """Return the least common multiple."""
    return Fraction(math.lcm(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)


# ---------------------------------------------------------------------------------------------------------- strings


def both_string(a: StringSet, b: StringSet) -> list[StringSet]:
    values = b.values if a.values is None else a.values
    if a.values is not None and b.values is not None:
        other = frozenset(b.values)
        values = tuple(value for value in a.values if value in other)
    return tidy_string(
        StringSet(values, a.patterns | b.patterns, max(a.least, b.least), fewest(a.most, b.most), a.spans | b.spans)
    )


def tidy_string(text: StringSet) -> list[StringSet]:
    group = frozenset(pattern for pattern, _ in text.patterns)
    if text.values is not None:
        kept = tuple(
            value
            for value in text.values
            if text.least <= len(value) and (text.most is None or len(value) <= text.most) and member(group, value)
        )
        return [StringSet(kept)] if kept else []
    if (text.most is not None and text.least > text.most) or vacant(group):
        return []
    if text.most == 0:
        return [StringSet(("",))] if member(group, "") else []
    return [text]


def not_string(text: StringSet, origin: Origin) -> list[StringSet]:
    if text.values is not None:
        return [StringSet(patterns=frozenset({(names(text.values).opposite(), origin)}))]
    out: list[StringSet] = []
    for pattern, _ in sorted(text.patterns):
        out += outside(pattern, origin)
    if text.least > 0:
        out.append(StringSet(most=text.least - 1, spans=frozenset({origin})))
    if text.most is not None:
        out.append(StringSet(least=text.most + 1, spans=frozenset({origin})))
    return [tidy for piece in out for tidy in tidy_string(piece)]


def outside(pattern: Language, origin: Origin) -> list[StringSet]:
    """Return the strings that are not in a language."""
    opposite = pattern.opposite()
    if opposite.kind == "names" and opposite.positive:
        return [StringSet(tuple(sorted(listed(opposite))))]
    return [StringSet(patterns=frozenset({(opposite, origin)}))]


# ----------------------------------------------------------------------------------------------------------- arrays


def both_array(a: ArraySet, b: ArraySet) -> list[ArraySet]:
    length = max(len(a.prefix), len(b.prefix))
    made = ArraySet(
        tuple(meet(a.item(i), b.item(i)) for i in range(length)),
        meet(a.rest, b.rest),
        max(a.least, b.least),
        fewest(a.most, b.most),
        a.unique | b.unique,
        a.repeated | b.repeated,
        a.duties | b.duties,
        a.counts | b.counts,
    )
    return tidy_array(made)


def tidy_array(items: ArraySet) -> list[ArraySet]:
    prefix, most = items.prefix, items.most
    if items.rest == NEVER or NEVER in prefix:
        most = fewest(most, prefix.index(NEVER) if NEVER in prefix else len(prefix))
    if most is not None:
        prefix = prefix[:most]
    while prefix and prefix[-1] == items.rest and most is None:
        prefix = prefix[:-1]
    least = items.least
    if most is not None and least > most:
        return []
    unique, repeated = items.unique, items.repeated
    if most is not None and most < 2:
        if repeated:
            return []
        unique = frozenset()
    if unique and repeated:
        return []
    rest = NEVER if most is not None and most <= len(prefix) else items.rest
    return _with_some(replace(items, prefix=prefix, rest=rest, least=least, most=most, unique=unique))


def _with_some(items: ArraySet) -> list[ArraySet]:
    """Return the piece with its duties spelled out, where that is possible in a few ways."""
    for duty in sorted(items.duties, key=lambda s: (s.start, sorted(s.cond), s.origin.pointer)):
        others = replace(items, duties=items.duties - {duty})
        if all(duty.cond <= cond for cond in items.prefix[duty.start :]) and duty.cond <= items.rest:
            return tidy_array(replace(others, least=max(items.least, duty.start + 1)))
        if duty.start < items.least and duty.start < len(items.prefix) and duty.cond <= items.item(duty.start):
            return tidy_array(others)
        if items.most is None or items.most - duty.start > MOST_WAYS or _ways(items, items.most) > MOST_COMBINED_WAYS:
            continue
        out: list[ArraySet] = []
        for index in range(duty.start, items.most):
            prefix = [items.item(i) for i in range(max(index + 1, len(items.prefix)))]
            prefix[index] = meet(prefix[index], duty.cond)
            if prefix[index] != NEVER:
                out += tidy_array(replace(others, prefix=tuple(prefix), least=max(items.least, index + 1)))
        return out
    return [items]


def _ways(items: ArraySet, most: int) -> int:
    """Return a bound on the number of ways to meet all duties."""
    return math.prod(max(most - duty.start, 1) for duty in items.duties)


def not_array(items: ArraySet, origin: Origin) -> list[ArraySet]:
    if items.counts:
        raise Inexact
    out: list[ArraySet] = []
    if items.least > 0:
        out.append(ArraySet(most=items.least - 1))
    if items.most is not None:
        out.append(ArraySet(least=items.most + 1))
    for index, cond in enumerate(items.prefix):
        out += [ArraySet((ANY,) * index + (negated(place),), least=index + 1) for place in sorted(cond)]
    if items.most is None or items.most > len(items.prefix):
        start = len(items.prefix)
        out += [ArraySet(duties=frozenset({Duty(negated(place), origin, start=start)})) for place in sorted(items.rest)]
    if items.unique:
        out.append(ArraySet(repeated=frozenset({origin})))
    if items.repeated:
        out.append(ArraySet(unique=frozenset({origin})))
    out += [ArraySet((ANY,) * duty.start, unmet(duty)) for duty in items.duties]
    return [tidy for piece in out for tidy in tidy_array(piece)]
