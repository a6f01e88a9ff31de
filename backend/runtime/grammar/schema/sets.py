"""Sets of JSON values, as unions of pieces of each type: what the keywords of a schema are read as.

Knows nothing of keywords, of the engine, nor of how sets are combined (`combine.py`).

1. What a member or an item must be is a `Condition`: places of the schema (`places.py`) that must hold, and negative
   ones that must not. So no set is nested, recursion costs nothing, and conditions are finitely many.
2. A piece is exact, even where the engine cannot enforce it (`unique`, `duties`, `fractional`, ...). Only what is
   written for the engine is relaxed, and that is recorded.
3. A set that is larger than what was meant has `losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Condition = frozenset[int]
FALSE = 1  # the place of the schema that nothing satisfies
ANY: Condition = frozenset()
NEVER: Condition = frozenset({FALSE})


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """A keyword at a place of the schema."""

    pointer: str
    keyword: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A keyword that the mask enforces in part or not at all, and the reason."""

    origin: Origin
    note: str


def meet(a: Condition, b: Condition) -> Condition:
    """Return the condition that both hold."""
    both = a | b
    return NEVER if FALSE in both or any(-place in both for place in both) else both


def negated(place: int) -> Condition:
    """Return the condition that a place does not hold."""
    return ANY if place == FALSE else frozenset({-place})


def opposite(cond: Condition) -> Condition:
    """Return the condition that a condition of at most one place does not hold."""
    if cond == ANY:
        return NEVER
    (place,) = cond
    return negated(place)


@dataclass(frozen=True, slots=True, order=True)
class Language:
    """A language of strings. `kind`: "ecma" (`text` is a pattern), "format" (a name), "names" (a JSON list of strings).

    A language that is not `positive` has all other strings.
    """

    kind: str
    text: str
    positive: bool = True

    def opposite(self) -> Language:
        return Language(self.kind, self.text, not self.positive)


Languages = frozenset[Language]
"""The strings that are in all of these languages."""


@dataclass(frozen=True, slots=True)
class NumberSet:
    """Numbers in an interval. `apart`: they are multiples of none of these. `fractional`: they are no integers."""

    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    integer: bool = False
    multiple: Fraction | None = None
    apart: frozenset[tuple[Fraction, Origin]] = frozenset()
    fractional: frozenset[Origin] = frozenset()
    steps: frozenset[Origin] = frozenset()  # the keywords `multipleOf`

    @property
    def is_point(self) -> bool:
        """Whether it is one number."""
        return self.low is not None and self.low == self.high


@dataclass(frozen=True, slots=True)
class StringSet:
    """Strings: `values` if they are listed, else those of `least` to `most` characters in all languages `patterns`."""

    values: tuple[str, ...] | None = None
    patterns: frozenset[tuple[Language, Origin]] = frozenset()
    least: int = 0
    most: int | None = None
    spans: frozenset[Origin] = frozenset()  # the keywords that bound the length


@dataclass(frozen=True, slots=True)
class Duty:
    """Some member, whose key is in `names` and not among `but`, or some item from `start` on, meets `cond`."""

    cond: Condition
    origin: Origin
    names: Languages = frozenset()
    but: frozenset[str] = frozenset()
    start: int = 0


@dataclass(frozen=True, slots=True)
class ArraySet:
    """Arrays of `least` to `most` items. Item i meets `prefix[i]`, later ones meet `rest`.

    `unique`: no items are equal; `repeated`: some are. `counts`: at least and at most so many items meet a condition.
    """

    prefix: tuple[Condition, ...] = ()
    rest: Condition = ANY
    least: int = 0
    most: int | None = None
    unique: frozenset[Origin] = frozenset()
    repeated: frozenset[Origin] = frozenset()
    duties: frozenset[Duty] = frozenset()
    counts: frozenset[tuple[Condition, int, int | None, Origin]] = frozenset()

    def item(self, index: int) -> Condition:
        """Return what the item at an index must meet."""
        return self.prefix[index] if index < len(self.prefix) else self.rest

    @property
    def needed(self) -> set[Condition]:
        """What the items that must be there have to meet."""
        return {self.item(index) for index in range(min(self.least, len(self.prefix) + 1))}


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """Objects of `least` to `most` members, in the order of `named`.

    The member of a `named` key meets that condition, which includes what the kinds say of the key. The member of any
    other key meets the conditions of all `kinds` that the key is in; if it is in none, it meets `others`.
    """

    named: tuple[tuple[str, Condition], ...] = ()
    kinds: tuple[tuple[Languages, Condition], ...] = ()
    others: Condition = ANY
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    duties: frozenset[Duty] = frozenset()
    origins: frozenset[Origin] = frozenset()  # the keywords that count members or say which keys there may be

    @property
    def closed(self) -> bool:
        """Whether only named keys can be in it."""
        return not self.kinds and self.others == NEVER


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A union of pieces of each type."""

    null: bool = False
    booleans: frozenset[bool] = frozenset()
    numbers: tuple[NumberSet, ...] = ()
    strings: tuple[StringSet, ...] = ()
    arrays: tuple[ArraySet, ...] = ()
    objects: tuple[ObjectSet, ...] = ()
    losses: frozenset[Loss] = frozenset()

    @property
    def empty(self) -> bool:
        return not (self.null or self.booleans or self.numbers or self.strings or self.arrays or self.objects)


NOTHING = ValueSet()
EVERYTHING = ValueSet(True, frozenset({True, False}), (NumberSet(),), (StringSet(),), (ArraySet(),), (ObjectSet(),))
