"""Regular expressions of the decimal numbers between bounds.

Knows nothing of schemas, which bound a JSON number but not one that is spelled in a string or in a key.

The digits are walked from the left. As long as the number equals a bound, the bound limits the next digit; one digit
off it, the rest is free. So the alternatives are: a beginning of a bound, one digit on its right side, anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ..errors import ConstraintError

MOST_WHOLE_DIGITS, MOST_PLACES = 20, 20
"""Digits before and after the point of a number that has no limits of its own."""


class _DecimalBound(NamedTuple):
    """A bound; `open`: the bound itself is left out."""

    value: Decimal
    open: bool

    def edge(self, k: int) -> _Edge:
        whole, _, fraction = f"{self.value:f}".partition(".")
        return _Edge(whole.zfill(max(k, 1)), fraction.rstrip("0"), self.open)


@dataclass(frozen=True)
class _Edge:
    """The digits of a bound that are still to be compared, before and after the point."""

    whole: str
    fraction: str
    open: bool

    @property
    def anything(self) -> bool:
        """Whether it forbids nothing as a lower bound."""
        return not self.open and not self.fraction and not self.whole.strip("0")

    def next(self) -> _Edge:
        whole, fraction = (self.whole[1:], self.fraction) if self.whole else ("", self.fraction[1:])
        return _Edge(whole, fraction, self.open)


ZERO = _DecimalBound(Decimal(0), False)


def decimals(
    *,
    digits: int | None = None,
    places: int | None = None,
    whole: int = MOST_WHOLE_DIGITS,
    ge: Decimal | None = None,
    gt: Decimal | None = None,
    le: Decimal | None = None,
    lt: Decimal | None = None,
) -> str:
    """A pattern, without anchors, of the decimal numbers within bounds: no exponent, no leading zeros.

    `digits` in all and `places` after the point are pydantic's `max_digits` and `decimal_places`. Raises
    `ConstraintError` if there is no such number.
    """
    room = _room(digits, places, whole)
    low = max(_given((ge, False), (gt, True)), default=None)
    high = min(_given((le, False), (lt, True)), key=lambda bound: (bound.value, not bound.open), default=None)
    positive: list[str] = []
    negative: list[str] = []
    if high is None or high.value >= 0:
        positive = _magnitudes(low if low is not None and low.value >= 0 else ZERO, high, room)
    if low is None or low.value < 0:
        least = _DecimalBound(-high.value, high.open) if high is not None and high.value <= 0 else ZERO
        negative = _magnitudes(least, low and _DecimalBound(-low.value, low.open), room)
    if not positive and not negative:
        raise ConstraintError("no number is within the bounds and has so few digits; correct them")
    if positive == negative:
        return f"-?{_group(positive)}"
    return _group([*positive, *("-" + number for number in negative)])


def _given(*bounds: tuple[Decimal | None, bool]) -> list[_DecimalBound]:
    return [_DecimalBound(value, is_open) for value, is_open in bounds if value is not None]


def _room(digits: int | None, places: int | None, whole: int) -> list[int]:
    """How many digits may be after the point, by how many are before it."""
    if digits is not None:
        whole = digits if places is None else max(0, digits - places)
    if places is not None:
        return [places] * (whole + 1)
    return [MOST_PLACES if digits is None else digits - k for k in range(whole + 1)]


def _magnitudes(low: _DecimalBound, high: _DecimalBound | None, room: list[int]) -> list[str]:
    """Alternatives for the numbers >= 0 within bounds.

    `room[k]`: how many digits may be after the point when k are before it; k = 0 stands for a zero before the point.
    """
    found: list[str] = []
    free: dict[int, list[int]] = {}  # places: the numbers of digits that no bound cuts
    for k, places in enumerate(room):
        smallest = _DecimalBound(Decimal(10) ** (k - 1) if k else Decimal(0), False)
        beyond = Decimal(10) ** k
        if low.value >= beyond or (high is not None and high.value < smallest.value):
            continue
        lower = max(low, smallest)
        upper = high if high is not None and high.value < beyond else None
        if lower == smallest and upper is None:
            free.setdefault(places, []).append(k)
        elif k:
            found += _numbers(k, lower.edge(k), upper and upper.edge(k), places)
        else:
            found += ["0" + end for end in _ends(lower.edge(k).next(), upper and upper.edge(k).next(), places)]
    for places, lengths in free.items():
        heads = ["0"] if 0 in lengths else []
        if longer := [k for k in lengths if k]:
            heads.append(f"[1-9]{_times('[0-9]', longer[0] - 1, longer[-1] - 1)}")
        found.append(_group(heads) + _fraction(places))
    return found


def _numbers(n: int, low: _Edge | None, high: _Edge | None, places: int) -> list[str]:
    """Alternatives for n digits, then maybe a point and up to `places` digits more."""
    if low is not None and low.anything:
        low = None
    if n == 0:
        return _ends(low, high, places)
    if low is None and high is None:
        return [_times("[0-9]", n, n) + _fraction(places)]
    first, last = int(low.whole[0]) if low else 0, int(high.whole[0]) if high else 9
    return _split(first, last, low, high, lambda lo, hi: _numbers(n - 1, lo, hi, places))


def _ends(low: _Edge | None, high: _Edge | None, places: int) -> list[str]:
    """Alternatives for what follows the digits before the point."""
    if low is not None and low.anything:
        low = None
    if low is None and high is None:
        return [_fraction(places)]
    ends = [""] if _may_end(low, high) else []
    return ends + [f"\\.{tail}" for tail in _tails(low, high, places)]


def _tails(low: _Edge | None, high: _Edge | None, places: int) -> list[str]:
    """Alternatives for one to `places` digits after the point."""
    if low is not None and low.anything:
        low = None
    if places == 0:
        return []
    if high is not None and not high.fraction:  # equal to it: only zeros may follow
        return [] if high.open or low is not None else [_times("0", 1, places)]
    if low is None and high is None:
        return [_times("[0-9]", 1, places)]

    def rest(lo: _Edge | None, hi: _Edge | None) -> list[str]:
        if lo is None and hi is None:
            return [_times("[0-9]", 0, places - 1)]
        return ([""] if _may_end(lo, hi) else []) + _tails(lo, hi, places - 1)

    first, last = int(low.fraction[:1] or 0) if low else 0, int(high.fraction[0]) if high else 9
    return _split(first, last, low, high, rest)


_Rest = Callable[["_Edge | None", "_Edge | None"], list[str]]


def _split(first: int, last: int, low: _Edge | None, high: _Edge | None, rest: _Rest) -> list[str]:
    """Alternatives for the next digit: on the lower bound, between, on the upper bound; each with what may follow."""
    if first > last:
        return []
    if first == last:
        return [f"{first}{tail}" for tail in rest(low and low.next(), high and high.next())]
    found: list[str] = []
    top: list[str] = []
    if low is not None:
        found = [f"{first}{tail}" for tail in rest(low.next(), None)]
        first += 1
    if high is not None:
        top = [f"{last}{tail}" for tail in rest(None, high.next())]
        last -= 1
    if first <= last:
        digit = str(first) if first == last else f"[{first}-{last}]"
        found += [digit + tail for tail in rest(None, None)]
    return found + top


def _may_end(low: _Edge | None, high: _Edge | None) -> bool:
    return (low is None or low.anything) and (high is None or bool(high.fraction) or not high.open)


def _group(alternatives: list[str]) -> str:
    return alternatives[0] if len(alternatives) == 1 else f"({'|'.join(alternatives)})"


def _times(atom: str, least: int, most: int) -> str:
    if least == most:
        return "" if most == 0 else atom if most == 1 else f"{atom}{{{most}}}"
    return f"{atom}{{{least},{most}}}"


def _fraction(places: int) -> str:
    return f"(\\.{_times('[0-9]', 1, places)})?" if places else ""
