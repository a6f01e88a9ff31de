"""Set algebra on sets of JSON values: intersection, union, complement; and which conditions surely nothing meets.

Knows nothing of keywords: `SetAlgebra` is given the set of each place, and keeps the set of each condition.

1. A condition is expanded only when it is looked into, so recursive schemas end. A place that is needed to expand
   itself raises `Busy`.
2. What is returned is exact, or larger and has losses. A complement of a larger set would be smaller, so it becomes
   everything, with the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from . import objects, pieces
from .pieces import Inexact
from .sets import (
    EVERYTHING,
    NEVER,
    NOTHING,
    ArraySet,
    Condition,
    Loss,
    NumberSet,
    ObjectSet,
    Origin,
    StringSet,
    ValueSet,
    meet,
)

MOST_PIECES = 64  # of one type in an intersection
MOST_UNITED_PIECES = 256  # of one type in a union
MOST_PROBES = 20_000  # conditions of a schema that are looked into to find empty ones
MOST_PROBE_LEVELS = 4  # how deep
MOST_PAIRS = 20_000  # of pieces of arrays and objects that are intersected, a schema
MOST_OPEN_CONDITIONS = 24  # conditions that are being expanded when one is looked into

P = TypeVar("P")


class Busy(Exception):
    """A place is needed to expand itself."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


class SetAlgebra:
    """The sets of conditions. `read` expands one place; `origin` is the keyword that its losses are booked on."""

    def __init__(self, read: Callable[[int], ValueSet], origin: Callable[[int], Origin]) -> None:
        self._read = read
        self._origin = origin
        self._shapes: dict[Condition, ValueSet] = {NEVER: NOTHING, frozenset(): EVERYTHING}
        self._open: set[int] = set()
        self._making: set[Condition] = set()  # conditions whose set is being computed
        self._empty: dict[Condition, bool] = {NEVER: True, frozenset(): False}
        self._probes = 0
        self._pairs = 0

    def shape(self, cond: Condition) -> ValueSet:
        """Return the values that meet a condition. Raises `Busy`."""
        if cond not in self._shapes:
            places = sorted(cond, key=lambda place: (place < 0, abs(place)))
            self._making.add(cond)
            try:
                self._shapes[cond] = self._one(places[0]) if len(places) == 1 else self._all(places)
            finally:
                self._making.discard(cond)
        return self._shapes[cond]

    def _one(self, place: int) -> ValueSet:
        if place < 0:
            return self.complement(self.shape(frozenset({-place})), self._origin(-place))
        if place in self._open:
            raise Busy(place)
        self._open.add(place)
        try:
            return self._read(place)
        finally:
            self._open.discard(place)

    def _all(self, places: list[int]) -> ValueSet:
        out = EVERYTHING
        for place in places:
            out = self.both(out, self.shape(frozenset({place})), self._origin(abs(place)))
        return out

    # ------------------------------------------------------------------------------------------------ the algebra

    def both(self, a: ValueSet, b: ValueSet, origin: Origin) -> ValueSet:
        """Return the values in both; `a` and a loss at `origin` if that takes too many pieces."""
        if b is EVERYTHING or a is EVERYTHING:
            return b if a is EVERYTHING else a
        try:
            return ValueSet(
                a.null and b.null,
                a.booleans & b.booleans,
                _both_numbers(a.numbers, b.numbers),
                _both_strings(a.strings, b.strings),
                self._both_arrays(a.arrays, b.arrays),
                self._both_objects(a.objects, b.objects),
                a.losses | b.losses,
            )
        except Inexact:
            return replace(a, losses=a.losses | b.losses | {Loss(origin, TOO_MANY)})

    def _both_arrays(self, a: tuple[ArraySet, ...], b: tuple[ArraySet, ...]) -> tuple[ArraySet, ...]:
        self._pay(len(a) * len(b))
        return _product(a, b, pieces.both_array, self._barren_array)

    def _both_objects(self, a: tuple[ObjectSet, ...], b: tuple[ObjectSet, ...]) -> tuple[ObjectSet, ...]:
        self._pay(len(a) * len(b))
        named = {piece: dict(piece.named) for piece in (*a, *b)}

        def both(x: ObjectSet, y: ObjectSet) -> list[ObjectSet]:
            return [] if self._clash(x, named[x], y, named[y]) else objects.both_object(x, y)

        return _product(a, b, both, self._barren_object, objects.covers)

    def _clash(self, x: ObjectSet, named_x: dict[str, Condition], y: ObjectSet, named_y: dict[str, Condition]) -> bool:
        """Whether two pieces demand a member of which it is known that nothing meets both of its conditions.

        Most pairs of large unions are such: they need not be joined first.
        """
        return any(
            name in named_x and name in named_y and self._empty.get(meet(named_x[name], named_y[name]), False)
            for name in (*x.required, *y.required)
        )

    def either(self, shapes: Iterable[ValueSet], origin: Origin) -> ValueSet:
        """Return the values in any; everything of a type, and a loss, where there are too many pieces."""
        shapes = list(shapes)
        out = ValueSet(
            any(shape.null for shape in shapes),
            frozenset[bool]().union(*(shape.booleans for shape in shapes)),
            _distinct([piece for shape in shapes for piece in shape.numbers]),
            _joined_strings([piece for shape in shapes for piece in shape.strings]),
            _distinct([piece for shape in shapes for piece in shape.arrays], self._barren_array),
            _distinct([piece for shape in shapes for piece in shape.objects], self._barren_object, objects.covers),
            frozenset[Loss]().union(*(shape.losses for shape in shapes)),
        )
        crowded: dict[str, Any] = {
            kind: getattr(EVERYTHING, kind)
            for kind in ("strings", "arrays", "objects")
            if len(getattr(out, kind)) > MOST_UNITED_PIECES
        }
        return replace(out, **crowded, losses=out.losses | {Loss(origin, TOO_MANY)}) if crowded else out

    def complement(self, a: ValueSet, origin: Origin) -> ValueSet:
        """Return the values that are not in the set; everything, and a loss, if that cannot be said."""
        if a.losses:
            return replace(EVERYTHING, losses=a.losses | {Loss(origin, "what it negates is only checked")})
        try:
            return ValueSet(
                not a.null,
                EVERYTHING.booleans - a.booleans,
                _outside(a.numbers, EVERYTHING.numbers, origin, pieces.not_number, _both_numbers),
                _outside(a.strings, EVERYTHING.strings, origin, pieces.not_string, _both_strings),
                _outside(a.arrays, EVERYTHING.arrays, origin, pieces.not_array, self._both_arrays),
                _outside(a.objects, EVERYTHING.objects, origin, objects.not_object, self._both_objects),
            )
        except Inexact:
            return replace(EVERYTHING, losses=frozenset({Loss(origin, TOO_MANY)}))

    def _pay(self, pairs: int) -> None:
        """Count pairs of pieces that are intersected; beyond the budget only single pieces are."""
        if 1 < pairs <= MOST_PIECES * MOST_PIECES:  # more are refused anyway
            self._pairs += pairs
            if self._pairs > MOST_PAIRS:
                raise Inexact

    # ---------------------------------------------------------------------------------------- what is surely empty

    def empty(self, cond: Condition, depth: int = MOST_PROBE_LEVELS) -> bool:
        """Whether surely nothing meets a condition; False where it is not known."""
        if cond in self._empty:
            return self._empty[cond]
        self._probes += 1
        if depth <= 0 or self._probes > MOST_PROBES or cond in self._making or len(self._making) > MOST_OPEN_CONDITIONS:
            return False
        try:
            shape = self.shape(cond)
        except Busy:
            return False
        found = shape.empty or (
            not (shape.null or shape.booleans or shape.numbers or shape.strings)
            and all(self._barren_array(piece, depth - 1) for piece in shape.arrays)
            and all(self._barren_object(piece, depth - 1) for piece in shape.objects)
        )
        if found or depth == MOST_PROBE_LEVELS:
            self._empty[cond] = found
        return found

    def disjoint(self, a: Condition, b: Condition) -> bool:
        """Whether surely nothing meets both conditions."""
        both = meet(a, b)
        return both == NEVER or self.empty(both)

    def _barren_array(self, items: ArraySet, depth: int = MOST_PROBE_LEVELS - 1) -> bool:
        needed = items.needed | {
            meet(items.rest, duty.cond) for duty in items.duties if duty.start >= len(items.prefix)
        }
        return any(self.empty(cond, depth) for cond in needed)

    def _barren_object(self, members: ObjectSet, depth: int = MOST_PROBE_LEVELS - 1) -> bool:
        named = dict(members.named)
        return any(self.empty(named[name], depth) for name in members.required if name in named)


TOO_MANY = "takes more alternatives than are spelled out"


def _outside(
    found: tuple[P, ...],
    full: tuple[P, ...],
    origin: Origin,
    outside: Callable[[P, Origin], list[P]],
    both: Callable[[tuple[P, ...], tuple[P, ...]], tuple[P, ...]],
) -> tuple[P, ...]:
    out = full
    for piece in found:
        out = both(out, tuple(outside(piece, origin)))
    return out


def _both_numbers(a: tuple[NumberSet, ...], b: tuple[NumberSet, ...]) -> tuple[NumberSet, ...]:
    points_a, points_b = ([p for p in x if p.is_point] for x in (a, b))
    rest_a, rest_b = ([p for p in x if not p.is_point] for x in (a, b))
    out = dict.fromkeys(set(points_a) & set(points_b)) if points_a and points_b else {}
    for points, others in ((points_a, rest_b), (points_b, rest_a)):
        for point in points:
            if point.low is not None and any(pieces.holds_number(other, point.low) for other in others):
                out[point] = None
    rest = _product(tuple(rest_a), tuple(rest_b), pieces.both_number)
    return (*sorted(out, key=lambda p: p.low or 0), *rest)


def _both_strings(a: tuple[StringSet, ...], b: tuple[StringSet, ...]) -> tuple[StringSet, ...]:
    return _product(a, b, pieces.both_string)


def _joined_strings(found: list[StringSet]) -> tuple[StringSet, ...]:
    """Return the pieces, with those that list values joined in one."""
    values = dict.fromkeys(value for piece in found if piece.values is not None for value in piece.values)
    rest = list(dict.fromkeys(piece for piece in found if piece.values is None))
    if StringSet() in rest:
        return (StringSet(),)
    return (*([StringSet(tuple(values))] if values else []), *rest)


def _product(
    a: tuple[P, ...],
    b: tuple[P, ...],
    both: Callable[[P, P], list[P]],
    barren: Callable[[P], bool] | None = None,
    cover: Callable[[P, P], bool] | None = None,
) -> tuple[P, ...]:
    """Return what is in a piece of the one and in a piece of the other."""
    if not a or not b:
        return ()
    if len(a) * len(b) > MOST_PIECES * MOST_PIECES:
        raise Inexact
    out = _distinct([piece for x in a for y in b for piece in both(x, y)], barren, cover)
    if len(out) > MOST_PIECES:
        raise Inexact
    return out


def _distinct(
    found: list[P], barren: Callable[[P], bool] | None = None, cover: Callable[[P, P], bool] | None = None
) -> tuple[P, ...]:
    """Return the pieces without doubles, empty ones, and (of a few) those that another one covers."""
    out = [piece for piece in dict.fromkeys(found) if barren is None or not barren(piece)]
    if cover is None or len(out) > MOST_PIECES:
        return tuple(out)
    kept: list[P] = []
    for index, piece in enumerate(out):
        if not any(cover(other, piece) for other in kept) and not any(
            cover(other, piece) and not cover(piece, other) for other in out[index + 1 :]
        ):
            kept.append(piece)
    return tuple(kept)
