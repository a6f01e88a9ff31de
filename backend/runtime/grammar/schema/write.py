"""Sets written down as a lowered schema: each piece as nodes that the engine enforces exactly.

Knows nothing of the keywords that the sets came from; scalars are in `scalars.py`. What no node can say becomes a
`Loss`. Keys without a name of their own are written as patterns that exclude the names. They are never written as
additionalProperties beside properties: there llguidance takes `"\\u0061"` for another key than `a`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .languages import member, names, spelled, vacant
from .nodes import (
    ANYTHING,
    IMPOSSIBLE,
    ArraySchema,
    BooleanSchema,
    EnumSchema,
    LoweredSchema,
    ObjectSchema,
    ReferenceSchema,
    Scalar,
    SchemaNode,
    UnionSchema,
)
from .objects import Kind, cond_of, tidy_object
from .pieces import Inexact
from .reach import children, possible_array, possible_object
from .scalars import (
    constants,
    listed_multiples,
    reachable,
    shorter_spellings,
    widened,
    write_number,
    write_string,
)
from .sets import ANY, EVERYTHING, NEVER, ArraySet, Condition, Languages, Loss, ObjectSet, Origin, ValueSet, meet

MOST_COUNTED = 64  # alternatives that a count of members is spelled out in
MOST_SPREAD_ARRAYS, MOST_SPREAD_ITEMS = 330, 64  # arrays that uniqueItems is spelled out in, and their items
MOST_SPREAD_VALUES = 12  # values that one item of them may have
MOST_KEY_PATTERNS = 24  # patterns of the keys of one object
MOST_PARTS_OF_PATTERN = 8  # that one pattern of keys is cut into by another
INLINE_LEVELS = 6  # that are written in place

COUNTING = frozenset({"minProperties", "maxProperties"})
KEYING = frozenset({"patternProperties", "additionalProperties", "propertyNames"})


class SchemaWriter:
    """Writes conditions. `found`: the sets of all that are reached. `known`: those that some finite value meets.

    `relaxed`: those that are written as any value, because the engine refuses them.
    """

    def __init__(
        self, found: dict[Condition, ValueSet], known: set[Condition], relaxed: dict[Condition, str] | None = None
    ) -> None:
        self.found = found
        self.known = known
        self.relaxed = relaxed or {}
        self.losses: set[Loss] = set()
        self.widened: set[Condition] = set()  # the engine cannot count to a number that they speak of
        self._uses: dict[Condition, int] = {}
        self._names: dict[Condition, str] = {}
        for shape in found.values():
            for cond in children(shape):
                self._uses[cond] = self._uses.get(cond, 0) + 1

    def document(self, root: Condition) -> LoweredSchema:
        """Return the whole schema, with a definition for each condition that is not written in place."""
        self._uses[root] = self._uses.get(root, 0) + 1
        out = self._body(root, 0) if self._uses[root] == 1 else self._in_place(root, 0)
        definitions: dict[str, SchemaNode] = {}
        while len(definitions) < len(self._names):
            for cond, name in list(self._names.items()):
                if name not in definitions:
                    definitions[name] = self._body(cond, 0)
        return LoweredSchema(out, definitions)

    def _in_place(self, cond: Condition, depth: int) -> SchemaNode:
        """Write a condition inside another one, or refer to its definition."""
        if cond == ANY:
            return ANYTHING
        if cond not in self.known:
            return IMPOSSIBLE
        shape = self.found[cond]
        nested = shape.arrays or shape.objects
        if not nested or (self._uses.get(cond, 0) == 1 and depth < INLINE_LEVELS):
            return self._body(cond, depth)
        return ReferenceSchema(self._names.setdefault(cond, f"s{len(self._names)}"))

    def _body(self, cond: Condition, depth: int) -> SchemaNode:
        if cond in self.relaxed:
            return ANYTHING
        shape = self.found[cond]
        self.losses |= shape.losses
        if replace(shape, losses=frozenset()) == EVERYTHING:
            return ANYTHING
        numbers = [one for number in shape.numbers for one in listed_multiples(number)]
        if any(widened(number) for number in numbers):
            self.widened.add(cond)
        shape = replace(shape, numbers=tuple(dict.fromkeys(map(reachable, numbers))))
        options = self._scalars(shape)
        for items in shape.arrays:
            if possible_array(items, self.known):
                options += self._array(items, depth)
        for members in shape.objects:
            if possible_object(members, self.known):
                options += [self._object(variant, depth) for variant in self._counted(members)]
        if shape.booleans == {True, False}:
            options.append(BooleanSchema())
        return options[0] if len(options) == 1 else UnionSchema(tuple(options))

    def _scalars(self, shape: ValueSet) -> list[SchemaNode]:
        """Write all but the arrays, the objects and the two booleans."""
        fixed = constants(shape)
        out: list[SchemaNode] = [EnumSchema(tuple(fixed))] if fixed else []
        ranges = [number for number in shape.numbers if not number.is_point]
        out += [option for number in ranges for option in write_number(number, self.losses)]
        if shorter := [value for number in ranges for value in shorter_spellings(number)]:
            out.append(EnumSchema(tuple(shorter)))
        return [*out, *(write_string(text, self.losses) for text in shape.strings if text.values is None)]

    # ------------------------------------------------------------------------------------------------------ arrays

    def _array(self, items: ArraySet, depth: int) -> list[SchemaNode]:
        self._lose(items.repeated, "that items repeat is only checked")
        self._lose((duty.origin for duty in items.duties), "that some item of a long array matches is only checked")
        self._lose((origin for *_, origin in items.counts), "how many items match is only checked")
        if items.unique:
            if spread := self._spread(items):
                return spread
            self._lose(items.unique, "no mask can keep items from repeating")
        prefix = tuple(self._in_place(cond, depth + 1) for cond in items.prefix)
        return [ArraySchema(prefix, self._in_place(items.rest, depth + 1), items.least, items.most)]

    def _lose(self, origins: Iterable[Origin], why: str) -> None:
        self.losses |= {Loss(origin, why) for origin in origins}

    def _spread(self, items: ArraySet) -> list[SchemaNode]:
        """Write arrays of different items one by one, if there are few; else none."""
        pools = [self._values(cond) for cond in items.prefix]
        rest = self._values(items.rest) if items.rest in self.known else []
        if rest is None or any(pool is None for pool in pools):
            return []
        out: list[SchemaNode] = []
        for length in range(items.least, MOST_SPREAD_ITEMS):
            if items.most is not None and length > items.most:
                break
            choice = [pool or [] for pool in pools[:length]] + [rest] * (length - len(pools))
            before = len(out)
            for row in itertools.islice(_different(choice), MOST_SPREAD_ARRAYS + 1):
                out.append(ArraySchema(tuple(EnumSchema((value,)) for value in row), IMPOSSIBLE, length, length))
            if len(out) > MOST_SPREAD_ARRAYS:
                return []
            if len(out) == before and length > 0:
                break
        return out

    def _values(self, cond: Condition) -> list[Scalar] | None:
        """Return the values that meet a condition, if there are few."""
        if cond == ANY or cond not in self.known:
            return None if cond == ANY else []
        shape = self.found[cond]
        simple = not (shape.arrays or shape.objects or shape.losses)
        listed_only = all(num.is_point and not widened(num) for num in shape.numbers)
        if not simple or not listed_only or any(text.values is None for text in shape.strings):
            return None
        values = constants(shape) + ([False, True] if len(shape.booleans) == 2 else [])
        return values if len(values) <= MOST_SPREAD_VALUES else None

    # ----------------------------------------------------------------------------------------------------- objects

    def _counted(self, members: ObjectSet) -> list[ObjectSet]:
        """Return pieces in which the engine can count: every name is required or cannot be."""
        members, beyond = self._without_duties(members)
        if not members.least and members.most is None and beyond is None:
            return [members]
        optional = [n for n, c in members.named if n not in members.required and c in self.known]
        out: list[ObjectSet] = []
        for chosen in _choices(members, optional):
            out += tidy_object(_with_exactly(members, optional, chosen, beyond))
            if len(out) > MOST_COUNTED:
                self._lose(_of(members, COUNTING), "the number of properties is only checked")
                counted = (duty.origin for duty in members.duties)
                self._lose(counted, "how many properties there are is only checked")
                return [replace(members, least=0, most=None, duties=frozenset())]
        if not members.closed and any(variant.least - len(variant.required) > 1 for variant in out):
            self._lose(_of(members, COUNTING), "keys may repeat in a mask, and repeated ones count once")
        return out

    def _without_duties(self, members: ObjectSet) -> tuple[ObjectSet, frozenset[str] | None]:
        """Return the piece, and the names beyond which it must have a key; the other duties are lost."""
        beyond: frozenset[str] | None = None
        for duty in members.duties:
            if duty.cond == ANY and not duty.names and beyond is None:
                beyond = duty.but
                more = tuple((n, cond_of(members, n)) for n in sorted(duty.but - {name for name, _ in members.named}))
                members = replace(members, named=(*members.named, *more))
            else:
                self._lose([duty.origin], "that some further property matches is only checked")
        return members, beyond

    def _object(self, members: ObjectSet, depth: int) -> SchemaNode:
        properties = {name: self._in_place(cond, depth + 1) for name, cond in members.named if cond in self.known}
        patterns: dict[str, SchemaNode] = {}
        others: SchemaNode = IMPOSSIBLE
        if not members.named and not members.kinds:
            others = self._in_place(members.others, depth + 1)
        else:
            try:
                patterns, taken = self._patterns(members, depth)
                properties.update(dict.fromkeys((name for name in taken if name not in properties), IMPOSSIBLE))
            except Inexact:
                self._lose(_of(members, KEYING), "which further keys there may be takes too large a pattern")
                others = ANYTHING
        return ObjectSchema(properties, patterns, others, members.required, members.least, members.most)

    def _patterns(self, members: ObjectSet, depth: int) -> tuple[dict[str, SchemaNode], list[str]]:
        """Write the keys without a name of their own, as patterns that do not overlap.

        Returns the names too that must be listed as properties, because the engine takes them out of the patterns by
        itself. Raises `Inexact` if the patterns are too large or too many.
        """
        out: dict[str, SchemaNode] = {}
        taken: list[str] = []
        for group, cond in _disjoint(members):
            if cond not in self.known:
                continue
            names_in = {name: held for name, held in members.named if member(group, name)}
            if self._leaves_out(cond, names_in):
                text = spelled(group)
                taken += names_in
            else:
                text = spelled(group | {names(names_in).opposite()})
            if text is None:
                raise Inexact
            out[text] = self._in_place(cond, depth + 1)
        return out, taken

    def _leaves_out(self, cond: Condition, named: dict[str, Condition]) -> bool:
        """Whether the engine may be left to take names out of a pattern.

        The engine takes them out by their canonical spelling, so the names must need no escapes. It also intersects
        what the name and the pattern say, which is harmless if the name says all that the pattern does.
        """
        if any(char in '"\\\x7f' or char < " " for name in named for char in name):
            return False
        return cond == ANY or all(cond <= held and self._is_scalar(held) for held in named.values())

    def _is_scalar(self, cond: Condition) -> bool:
        if cond == ANY or cond not in self.known:
            return cond != ANY
        return not (self.found[cond].arrays or self.found[cond].objects)


def _of(members: ObjectSet, keywords: frozenset[str]) -> set[Origin]:
    """Return the origins of a piece with one of these keywords, or the root's type."""
    return {origin for origin in members.origins if origin.keyword in keywords} or {Origin("", "type")}


def _choices(members: ObjectSet, optional: list[str]) -> Iterator[frozenset[str]]:
    """Yield the choices of optional names that leave the number of members within bounds."""
    room = len(optional) if members.most is None else members.most - len(members.required)
    fewest = max(0, members.least - len(members.required)) if members.closed else 0
    for count in range(fewest, min(room, len(optional)) + 1):
        for chosen in itertools.combinations(optional, count):
            yield frozenset(chosen)


def _with_exactly(
    members: ObjectSet, optional: list[str], chosen: frozenset[str], beyond: frozenset[str] | None
) -> ObjectSet:
    """Return the piece with the chosen names required and the other optional ones forbidden."""
    required = (*members.required, *(name for name in optional if name in chosen))
    named = [(name, cond if name in required else NEVER) for name, cond in members.named]
    named.sort(key=lambda entry: entry[0] not in optional and entry[0] not in members.required)
    further = beyond is not None and all(name in beyond for name in required)
    least = max(members.least, len(required) + further)
    return replace(members, named=tuple(named), required=required, duties=frozenset(), least=least)


def _disjoint(members: ObjectSet) -> list[Kind]:
    """Return the kinds without overlaps, and the rest. Raises `Inexact` if that takes too many."""
    out: list[Kind] = []
    for group, cond in members.kinds:
        left = [group]
        for other, there in list(out):
            if vacant(group | other):
                continue
            out.remove((other, there))
            out += [(part, there) for part in _without(other, group)]
            out.append((other | group, meet(there, cond)))
            left = [part for piece in left for part in _without(piece, other)]
        out += [(part, cond) for part in left]
        if len(out) > MOST_KEY_PATTERNS:
            raise Inexact
    if members.others != NEVER:
        rest: list[Languages] = [frozenset()]
        for group, _ in members.kinds:
            rest = [part for piece in rest for part in _without(piece, group)]
        out += [(part, members.others) for part in rest]
    return [(group, cond) for group, cond in out if not vacant(group)]


def _without(group: Languages, other: Languages) -> list[Languages]:
    """Return what is in the one and not in the other, as languages that do not overlap."""
    out: list[Languages] = []
    held = group
    for pattern in sorted(other):
        part = held | {pattern.opposite()}
        if not vacant(part):
            out.append(part)
        held = held | {pattern}
        if len(out) > MOST_PARTS_OF_PATTERN:
            raise Inexact
    return out


def _different(pools: list[list[Scalar]], taken: tuple[str, ...] = ()) -> Iterator[list[Scalar]]:
    """Yield the rows of one value of each pool, no value twice."""
    if not pools:
        yield []
        return
    for value in pools[0]:
        key = repr(value)
        if key not in taken:
            for row in _different(pools[1:], (*taken, key)):
                yield [value, *row]
