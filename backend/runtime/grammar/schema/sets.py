"""Sets of JSON values, as unions of pieces a type: what the keywords of a schema are turned into.

Owns: the immutable pieces and `Shape`, a union of pieces for each of the six types. Knows nothing of keywords, of the
engine, nor of how sets are combined (`combine.py`).

What a member of an object or an item of an array must be is a `Cond`: a set of places in the schema (`places.py`),
all of which must hold; a negative place must not hold. So a shape is never nested, recursion costs nothing, and there
are finitely many conditions.

A piece says exactly what it says, even what the engine cannot enforce (`unique`, `some`, `fractional`, ...); only
what is written for the engine is relaxed, and that is recorded. A shape that is larger than what was meant has
`losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Cond = frozenset[int]
FALSE = 1  # the place of the schema that nothing satisfies
ANY: Cond = frozenset()
NEVER: Cond = frozenset({FALSE})


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


def meet(a: Cond, b: Cond) -> Cond:
    """Both conditions."""
    both = a | b
    return NEVER if FALSE in both or any(-place in both for place in both) else both


def negated(place: int) -> Cond:
    """The condition that a place does not hold."""
    return ANY if place == FALSE else frozenset({-place})


@dataclass(frozen=True, slots=True)
class Pattern:
    """A language of strings. `kind`: "ecma" (a schema's pattern), "format" (its name), "names" (a JSON list)."""

    kind: str
    text: str
    positive: bool = True

    def opposite(self) -> Pattern:
        return Pattern(self.kind, self.text, not self.positive)


Class = frozenset[Pattern]  # strings that are in all of these languages


@dataclass(frozen=True, slots=True)
class Num:
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
class Text:
    """Strings: `values` if they are listed, else those of all `patterns` of `least..most` characters."""

    values: tuple[str, ...] | None = None
    patterns: frozenset[tuple[Pattern, Origin]] = frozenset()
    least: int = 0
    most: int | None = None
    spans: frozenset[Origin] = frozenset()  # of the keywords that bound the length


@dataclass(frozen=True, slots=True)
class Some:
    """A duty: a member that `names` admit and that is not in `but`, or an item from `start` on, must meet `cond`."""

    cond: Cond
    origin: Origin
    names: Class = frozenset()
    but: frozenset[str] = frozenset()
    start: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """Arrays. Item i meets `prefix[i]`, later ones `rest`. `counts`: (cond, at least, at most) of contains."""

    prefix: tuple[Cond, ...] = ()
    rest: Cond = ANY
    least: int = 0
    most: int | None = None
    unique: frozenset[Origin] = frozenset()
    repeated: frozenset[Origin] = frozenset()
    some: frozenset[Some] = frozenset()
    counts: frozenset[tuple[Cond, int, int | None, Origin]] = frozenset()


@dataclass(frozen=True, slots=True)
class Members:
    """Objects. A key that is `named` meets that condition; another one those of all `kinds` it is in; else `others`.

    `named` includes what the kinds say of these names. Order: declaration order.
    """

    named: tuple[tuple[str, Cond], ...] = ()
    kinds: tuple[tuple[Class, Cond], ...] = ()
    others: Cond = ANY
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    some: frozenset[Some] = frozenset()
    origins: frozenset[Origin] = frozenset()  # of the keywords that count members or say which keys there may be


@dataclass(frozen=True, slots=True)
class Shape:
    """A union of pieces of each type. With `losses` it is larger than the set that was meant."""

    null: bool = False
    booleans: frozenset[bool] = frozenset()
    numbers: tuple[Num, ...] = ()
    strings: tuple[Text, ...] = ()
    arrays: tuple[Items, ...] = ()
    objects: tuple[Members, ...] = ()
    losses: frozenset[Loss] = frozenset()

    @property
    def empty(self) -> bool:
        return not (self.null or self.booleans or self.numbers or self.strings or self.arrays or self.objects)

    @property
    def size(self) -> int:
        return len(self.numbers) + len(self.strings) + len(self.arrays) + len(self.objects)


NOTHING = Shape()
NULL = Shape(null=True)
BOOLEAN = Shape(booleans=frozenset({True, False}))
NUMBER = Shape(numbers=(Num(),))
INTEGER = Shape(numbers=(Num(integer=True),))
STRING = Shape(strings=(Text(),))
ARRAY = Shape(arrays=(Items(),))
OBJECT = Shape(objects=(Members(),))
EVERYTHING = Shape(True, frozenset({True, False}), (Num(),), (Text(),), (Items(),), (Members(),))
TYPES = {
    "null": NULL,
    "boolean": BOOLEAN,
    "number": NUMBER,
    "integer": INTEGER,
    "string": STRING,
    "array": ARRAY,
    "object": OBJECT,
}
