"""Set algebra on shapes: intersection, union, complement; and which conditions surely nothing meets.

Owns: `SetAlgebra`, the memo of what each condition comes to. A condition (places that must and must not hold) is expanded
only when somebody looks into it, so recursive schemas are no trouble; a place that needs itself to be expanded is
(`Busy`).

Everything is exact or larger, and if it is larger the shape has losses. A complement of a larger set would be
smaller, so it becomes everything, with the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

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

CAP = 64  # pieces of a type, at most
PROBES = 20_000  # conditions that are looked into to find empty ones, at most, a schema
DEPTH = 4  # how deep
WORK = 20_000  # pairs of pieces of arrays and objects that are intersected, at most, a schema
NESTED = 24  # conditions that are being expanded when one is looked into, at most

P = TypeVar("P")


class Busy(Exception):
    """A place that is being expanded is needed to expand it."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


class SetAlgebra:
    """What conditions come to. `read` expands one place; `origin` names the keyword a negated place is booked on."""

    def __init__(self, read: Callable[[int], ValueSet], origin: Callable[[int], Origin]) -> None:
        self._read = read
        self._origin = origin
        self._shapes: dict[Condition, ValueSet] = {NEVER: NOTHING, frozenset(): EVERYTHING}
        self._open: set[int] = set()
        self._making: set[Condition] = set()  # conditions whose shape is being computed
        self._empty: dict[Condition, bool] = {NEVER: True, frozenset(): False}
        self._probes = 0
        self._work = 0

    def shape(self, cond: Condition) -> ValueSet:
        """The values that meet a condition. Raises `Busy`."""
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
        """The values in both; `a` and a loss at `origin` if that takes too many pieces."""
        if b is EVERYTHING or a is EVERYTHING:
            return b if a is EVERYTHING else a
        try:
            return ValueSet(
                a.null and b.null,
                a.booleans & b.booleans,
                _numbers(a.numbers, b.numbers),
                _product(a.strings, b.strings, pieces.both_string, None),
                _product(a.arrays, b.arrays, pieces.both_array, self._barren_array, None, self._pay),
                _product(a.objects, b.objects, objects.both_object, self._barren_object, objects.covers, self._pay),
                a.losses | b.losses,
            )
        except Inexact:
            return replace(a, losses=a.losses | b.losses | {Loss(origin, TOO_MANY)})

    def either(self, shapes: Iterable[ValueSet], origin: Origin) -> ValueSet:
        """The values in any; everything of a type, and a loss, where there are too many pieces."""
        shapes = list(shapes)
        losses = frozenset[Loss]().union(*(shape.losses for shape in shapes))
        out = ValueSet(
            any(shape.null for shape in shapes),
            frozenset[bool]().union(*(shape.booleans for shape in shapes)),
            _distinct([piece for shape in shapes for piece in shape.numbers], None, None),
            _strings([piece for shape in shapes for piece in shape.strings]),
            _distinct([piece for shape in shapes for piece in shape.arrays], self._barren_array, None),
            _distinct([piece for shape in shapes for piece in shape.objects], self._barren_object, objects.covers),
            losses,
        )
        if max(len(out.strings), len(out.arrays), len(out.objects)) <= 4 * CAP:
            return out
        return replace(
            out,
            strings=out.strings if len(out.strings) <= 4 * CAP else EVERYTHING.strings,
            arrays=out.arrays if len(out.arrays) <= 4 * CAP else EVERYTHING.arrays,
            objects=out.objects if len(out.objects) <= 4 * CAP else EVERYTHING.objects,
            losses=losses | {Loss(origin, TOO_MANY)},
        )

    def complement(self, a: ValueSet, origin: Origin) -> ValueSet:
        """The values that are not in the set; everything, and a loss, if that cannot be said."""
        if a.losses:
            return replace(EVERYTHING, losses=a.losses | {Loss(origin, "what it negates is only checked")})
        try:
            return ValueSet(
                not a.null,
                frozenset({True, False}) - a.booleans,
                self._outside(a.numbers, EVERYTHING.numbers, lambda p: pieces.not_number(p, origin), _numbers),
                self._outside(
                    a.strings,
                    EVERYTHING.strings,
                    lambda p: pieces.not_string(p, origin),
                    lambda x, y: _product(x, y, pieces.both_string, None),
                ),
                self._outside(
                    a.arrays,
                    EVERYTHING.arrays,
                    lambda p: pieces.not_array(p, origin),
                    lambda x, y: _product(x, y, pieces.both_array, self._barren_array, None, self._pay),
                ),
                self._outside(
                    a.objects,
                    EVERYTHING.objects,
                    lambda p: objects.not_object(p, origin),
                    lambda x, y: _product(x, y, objects.both_object, self._barren_object, objects.covers, self._pay),
                ),
            )
        except Inexact:
            return replace(EVERYTHING, losses=frozenset({Loss(origin, TOO_MANY)}))

    def _outside(
        self,
        found: tuple[P, ...],
        full: tuple[P, ...],
        outside: Callable[[P], list[P]],
        both: Callable[[tuple[P, ...], tuple[P, ...]], tuple[P, ...]],
    ) -> tuple[P, ...]:
        out = full
        for piece in found:
            out = both(out, tuple(outside(piece)))
        return out

    def _pay(self, count: int) -> None:
        """Count pairs of pieces that are intersected; beyond the budget only single pieces are."""
        if count > 1:
            self._work += count
            if self._work > WORK:
                raise Inexact

    # ---------------------------------------------------------------------------------------- what is surely empty

    def empty(self, cond: Condition, depth: int = DEPTH) -> bool:
        """Whether surely nothing meets a condition (False: not known)."""
        if cond in self._empty:
            return self._empty[cond]
        self._probes += 1
        if depth <= 0 or self._probes > PROBES or cond in self._making or len(self._making) > NESTED:
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
        if found or depth == DEPTH:
            self._empty[cond] = found
        return found

    def disjoint(self, a: Condition, b: Condition) -> bool:
        """Whether surely nothing meets both conditions."""
        both = meet(a, b)
        return both == NEVER or self.empty(both)

    def _barren_array(self, items: ArraySet, depth: int = DEPTH - 1) -> bool:
        needed = {pieces.item(items, index) for index in range(min(items.least, len(items.prefix) + 1))}
        needed |= {meet(items.rest, some.cond) for some in items.duties if some.start >= len(items.prefix)}
        return any(self.empty(cond, depth) for cond in needed)

    def _barren_object(self, members: ObjectSet, depth: int = DEPTH - 1) -> bool:
        named = dict(members.named)
        return any(self.empty(named[name], depth) for name in members.required if name in named)


TOO_MANY = "takes more alternatives than are spelled out"


def _numbers(a: tuple[NumberSet, ...], b: tuple[NumberSet, ...]) -> tuple[NumberSet, ...]:
    points_a, points_b = ([p for p in x if pieces.is_point(p)] for x in (a, b))
    rest_a, rest_b = ([p for p in x if not pieces.is_point(p)] for x in (a, b))
    out = dict.fromkeys(set(points_a) & set(points_b)) if points_a and points_b else {}
    for points, others in ((points_a, rest_b), (points_b, rest_a)):
        for point in points:
            if point.low is not None and any(pieces.holds_number(other, point.low) for other in others):
                out[point] = None
    rest = _product(tuple(rest_a), tuple(rest_b), pieces.both_number, None)
    return (*sorted(out, key=lambda p: p.low or 0), *rest)


def _strings(found: list[StringSet]) -> tuple[StringSet, ...]:
    """The pieces, with those that list values joined in one."""
    values = dict.fromkeys(value for piece in found if piece.values is not None for value in piece.values)
    rest = list(dict.fromkeys(piece for piece in found if piece.values is None))
    if StringSet() in rest:
        return (StringSet(),)
    return (*([StringSet(tuple(values))] if values else []), *rest)


def _product(
    a: tuple[P, ...],
    b: tuple[P, ...],
    both: Callable[[P, P], list[P]],
    barren: Callable[[P], bool] | None,
    cover: Callable[[P, P], bool] | None = None,
    pay: Callable[[int], None] | None = None,
) -> tuple[P, ...]:
    if len(a) * len(b) > CAP * CAP:
        raise Inexact
    if pay is not None:
        pay(len(a) * len(b))
    out = _distinct([piece for x in a for y in b for piece in both(x, y)], barren, cover)
    if len(out) > CAP:
        raise Inexact
    return out


def _distinct(
    found: list[P], barren: Callable[[P], bool] | None, cover: Callable[[P, P], bool] | None
) -> tuple[P, ...]:
    """The pieces without doubles, empty ones, and (for a few) those that another one covers."""
    out = [piece for piece in dict.fromkeys(found) if barren is None or not barren(piece)]
    if cover is None or len(out) > CAP:
        return tuple(out)
    kept: list[P] = []
    for index, piece in enumerate(out):
        if not any(cover(other, piece) for other in kept) and not any(
            cover(other, piece) and not cover(piece, other) for other in out[index + 1 :]
        ):
            kept.append(piece)
    return tuple(kept)
