"""Sets of JSON values, as unions of pieces a type: what the keywords of a schema are turned into.

Owns: the immutable pieces and `ValueSet`, a union of pieces for each of the six types. Knows nothing of keywords, of the
engine, nor of how sets are combined (`combine.py`).

What a member of an object or an item of an array must be is a `Condition`: a set of places in the schema (`places.py`),
all of which must hold; a negative place must not hold. So a shape is never nested, recursion costs nothing, and there
are finitely many conditions.

A piece says exactly what it says, even what the engine cannot enforce (`unique`, `some`, `fractional`, ...); only
what is written for the engine is relaxed, and that is recorded. A shape that is larger than what was meant has
`losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Condition = frozenset[int]
FALSE = 1  # the place of the schema that nothing satisfies
ANY: Condition = frozenset()
NEVER: Condition = frozenset({FALSE})


@dataclass(frozen=True, slots=True)
class Origin:
    """A keyword at a place: what a loss is booked on."""

    pointer: str
    keyword: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A keyword that the mask enforces in part or not at all, and why."""

    origin: Origin
    note: str


def meet(a: Condition, b: Condition) -> Condition:
    """Both conditions."""
    both = a | b
    return NEVER if FALSE in both or any(-place in both for place in both) else both


def negated(place: int) -> Condition:
    """The condition that a place does not hold."""
    return ANY if place == FALSE else frozenset({-place})


@dataclass(frozen=True, slots=True)
class Language:
    """A language of strings. `kind`: "ecma" (a schema's pattern), "format" (its name), "names" (a JSON list)."""

    kind: str
    text: str
    positive: bool = True

    def opposite(self) -> Language:
        return Language(self.kind, self.text, not self.positive)


Languages = frozenset[Language]  # strings that are in all of these languages


@dataclass(frozen=True, slots=True)
class NumberSet:
    """Numbers in an interval. `apart`: not a multiple of these; `fractional`: no integer (both with their origins)."""

    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    integer: bool = False
    multiple: Fraction | None = None
    apart: frozenset[tuple[Fraction, Origin]] = frozenset()
    fractional: frozenset[Origin] = frozenset()
    steps: frozenset[Origin] = frozenset()  # of multipleOf


@dataclass(frozen=True, slots=True)
class StringSet:
    """Strings: `values` if they are listed, else those of all `patterns` of `least..most` characters."""

    values: tuple[str, ...] | None = None
    patterns: frozenset[tuple[Language, Origin]] = frozenset()
    least: int = 0
    most: int | None = None
    spans: frozenset[Origin] = frozenset()  # of the keywords that bound the length


@dataclass(frozen=True, slots=True)
class Duty:
    """A duty: a member that `names` admit and that is not in `but`, or an item from `start` on, must meet `cond`."""

    cond: Condition
    origin: Origin
    names: Languages = frozenset()
    but: frozenset[str] = frozenset()
    start: int = 0


@dataclass(frozen=True, slots=True)
class ArraySet:
    """Arrays. Item i meets `prefix[i]`, later ones `rest`. `counts`: (cond, at least, at most) of contains."""

    prefix: tuple[Condition, ...] = ()
    rest: Condition = ANY
    least: int = 0
    most: int | None = None
    unique: frozenset[Origin] = frozenset()
    repeated: frozenset[Origin] = frozenset()
    duties: frozenset[Duty] = frozenset()
    counts: frozenset[tuple[Condition, int, int | None, Origin]] = frozenset()


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """Objects. A key that is `named` meets that condition; another one those of all `kinds` it is in; else `others`.

    `named` includes what the kinds say of these names. Order: declaration order.
    """

    named: tuple[tuple[str, Condition], ...] = ()
    kinds: tuple[tuple[Languages, Condition], ...] = ()
    others: Condition = ANY
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    duties: frozenset[Duty] = frozenset()
    origins: frozenset[Origin] = frozenset()  # of the keywords that count members or say which keys there may be


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A union of pieces of each type. With `losses` it is larger than the set that was meant."""

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

    @property
    def size(self) -> int:
        return len(self.numbers) + len(self.strings) + len(self.arrays) + len(self.objects)


NOTHING = ValueSet()
EVERYTHING = ValueSet(True, frozenset({True, False}), (NumberSet(),), (StringSet(),), (ArraySet(),), (ObjectSet(),))
