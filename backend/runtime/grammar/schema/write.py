"""Sets written down as a schema that strict llguidance takes.

Owns: the spelling of each piece in the keywords that the engine enforces exactly, and the record of what could not be
spelled (`losses`). The scalars are in `scalars.py`. Knows nothing of the keywords that the sets came from.

What is written: `type, enum, const`-like bounds, `pattern`, closed objects, `anyOf`, and `$ref` to `#/$defs/...`.
Keys that have no name of their own are written as patterns that exclude the names, never as additionalProperties
beside properties: llguidance takes `"\\u0061"` for an additional key although `a` has a schema of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .languages import member, names, spelled, vacant
from .objects import Kind, cond_of, is_closed, tidy_object
from .pieces import Inexact, is_point
from .reach import children, possible_array, possible_object
from .scalars import constants, reachable, shorter_spellings, widened, write_number, write_string
from .sets import ANY, EVERYTHING, NEVER, ArraySet, Condition, Languages, Loss, ObjectSet, Origin, ValueSet, meet

WAYS = 64  # alternatives that a count of members is spelled out in, at most
SEQUENCES = 330  # arrays that uniqueItems is spelled out in, at most
INLINE = 6  # levels that are written in place

COUNTING = frozenset({"minProperties", "maxProperties"})
KEYING = frozenset({"patternProperties", "additionalProperties", "propertyNames"})

Json = dict[str, Any]


class SchemaWriter:
    """Writes conditions. `found`: the shapes of all that are reached; `known`: those that something meets."""

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

    def document(self, root: Condition) -> Json:
        """The whole mask."""
        self._uses[root] = self._uses.get(root, 0) + 1
        out = self._body(root, 0) if self._uses[root] == 1 else self._in_place(root, 0)
        definitions: Json = {}
        while len(definitions) < len(self._names):
            for cond, name in list(self._names.items()):
                if name not in definitions:
                    definitions[name] = self._body(cond, 0)
        return {**out, "$defs": definitions} if definitions else out

    def _in_place(self, cond: Condition, depth: int) -> Any:
        """A condition inside another one: written here, or referred to."""
        if cond == ANY:
            return {}
        if cond not in self.known:
            return False
        shape = self.found[cond]
        if not (shape.arrays or shape.objects):
            return self._body(cond, depth)
        if self._uses.get(cond, 0) == 1 and depth < INLINE:
            return self._body(cond, depth)
        name = self._names.setdefault(cond, f"s{len(self._names)}")
        return {"$ref": f"#/$defs/{name}"}

    def _body(self, cond: Condition, depth: int) -> Json:
        if cond in self.relaxed:
            return {}
        shape = self.found[cond]
        self.losses |= shape.losses
        if replace(shape, losses=frozenset()) == EVERYTHING:
            return {}
        if any(widened(num) for num in shape.numbers):
            self.widened.add(cond)
        shape = replace(shape, numbers=tuple(dict.fromkeys(reachable(num) for num in shape.numbers)))
        options: list[Json] = []
        fixed = constants(shape)
        if fixed:
            options.append({"enum": fixed})
        ranges = [num for num in shape.numbers if not is_point(num)]
        options += [option for num in ranges for option in write_number(num, self)]
        if shorter := [value for num in ranges for value in shorter_spellings(num)]:
            options.append({"enum": shorter})
        options += [write_string(text, self) for text in shape.strings if text.values is None]
        for items in shape.arrays:
            if possible_array(items, self.known):
                options += self._array(items, depth)
        for members in shape.objects:
            if possible_object(members, self.known):
                options += [self._object(variant, depth) for variant in self._counted(members)]
        if shape.booleans == {True, False}:
            options.append({"type": "boolean"})
        return options[0] if len(options) == 1 else {"anyOf": options}

    # ------------------------------------------------------------------------------------------------------ arrays

    def _array(self, items: ArraySet, depth: int) -> list[Json]:
        for origin in items.repeated:
            self.losses.add(Loss(origin, "that items repeat is only checked"))
        for some in items.duties:
            self.losses.add(Loss(some.origin, "that some item of a long array matches is only checked"))
        for _, _, _, origin in items.counts:
            self.losses.add(Loss(origin, "how many items match is only checked"))
        if items.unique:
            spread = self._spread(items)
            if spread is not None:
                return spread
            for origin in items.unique:
                self.losses.add(Loss(origin, "no mask can keep items from repeating"))
        out: Json = {"type": "array"}
        if items.prefix:
            out["prefixItems"] = [self._in_place(cond, depth + 1) for cond in items.prefix]
        rest = self._in_place(items.rest, depth + 1)
        if rest != {}:
            out["items"] = rest
        if items.least:
            out["minItems"] = items.least
        if items.most is not None:
            out["maxItems"] = items.most
        return [out]

    def _spread(self, items: ArraySet) -> list[Json] | None:
        """Arrays of different items one by one, if there are few."""
        pools = [self._values(cond) for cond in items.prefix]
        rest = self._values(items.rest) if items.rest in self.known else []
        if rest is None or any(pool is None for pool in pools):
            return None
        out: list[Json] = []
        for length in range(items.least, 64):
            if items.most is not None and length > items.most:
                break
            choice = [pool or [] for pool in pools[:length]] + [rest] * (length - len(pools))
            before = len(out)
            for row in itertools.islice(_different(choice), SEQUENCES + 1):
                out.append(
                    {
                        "type": "array",
                        "prefixItems": [{"enum": [value]} for value in row],
                        "items": False,
                        "minItems": length,
                        "maxItems": length,
                    }
                )
            if len(out) > SEQUENCES:
                return None
            if len(out) == before and length > 0:
                break
        return out or None

    def _values(self, cond: Condition) -> list[Any] | None:
        """The values that meet a condition, if there are few."""
        if cond == ANY or cond not in self.known:
            return None if cond == ANY else []
        shape = self.found[cond]
        simple = not (shape.arrays or shape.objects or shape.losses)
        listed_only = all(is_point(num) and not widened(num) for num in shape.numbers)
        if not simple or not listed_only or any(text.values is None for text in shape.strings):
            return None
        values = constants(shape) + ([False, True] if len(shape.booleans) == 2 else [])
        return values if len(values) <= 12 else None

    # ----------------------------------------------------------------------------------------------------- objects

    def _counted(self, members: ObjectSet) -> list[ObjectSet]:
        """The piece as pieces in which the engine can count: every name is required or cannot be."""
        beyond: frozenset[str] | None = None  # there must be a key that is none of these
        for some in members.duties:
            if some.cond == ANY and not some.names and beyond is None:
                beyond = some.but
                more = tuple((n, cond_of(members, n)) for n in sorted(some.but - {name for name, _ in members.named}))
                members = replace(members, named=(*members.named, *more))
            else:
                self.losses.add(Loss(some.origin, "that some further property matches is only checked"))
        if not members.least and members.most is None and beyond is None:
            return [members]
        optional = [n for n, c in members.named if n not in members.required and c in self.known]
        out: list[ObjectSet] = []
        for chosen in self._choices(members, optional):
            absent = [name for name in optional if name not in chosen]
            named = tuple(
                (n, NEVER if n in absent else c) for n, c in members.named if n in optional or n in members.required
            )
            hidden = tuple((n, NEVER) for n, _ in members.named if n not in optional and n not in members.required)
            required = (*members.required, *(n for n in optional if n in chosen))
            further = beyond is not None and all(name in beyond for name in required)
            least = max(members.least, len(required) + further)
            variant = replace(members, named=(*named, *hidden), required=required, duties=frozenset(), least=least)
            out += tidy_object(variant)
            if len(out) > WAYS:
                self._lose(members, COUNTING, "the number of properties is only checked")
                self.losses |= {
                    Loss(some.origin, "how many properties there are is only checked") for some in members.duties
                }
                return [replace(members, least=0, most=None, duties=frozenset())]
        open_keys = not is_closed(members)
        if open_keys and any(variant.least - len(variant.required) > 1 for variant in out):
            self._lose(members, COUNTING, "keys may repeat in a mask, and repeated ones count once")
        return out

    @staticmethod
    def _choices(members: ObjectSet, optional: list[str]) -> Iterator[frozenset[str]]:
        room = len(optional) if members.most is None else members.most - len(members.required)
        fewest = max(0, members.least - len(members.required)) if is_closed(members) else 0
        for count in range(fewest, min(room, len(optional)) + 1):
            for chosen in itertools.combinations(optional, count):
                yield frozenset(chosen)

    def _object(self, members: ObjectSet, depth: int) -> Json:
        out: Json = {"type": "object"}
        properties = {name: self._in_place(cond, depth + 1) for name, cond in members.named if cond in self.known}
        if members.required:
            out["required"] = list(members.required)
        if members.least:
            out["minProperties"] = members.least
        if members.most is not None:
            out["maxProperties"] = members.most
        if not members.named and not members.kinds:
            rest = self._in_place(members.others, depth + 1)
            return out if rest == {} else {**out, "additionalProperties": rest}
        patterns, taken = self._patterns(members, depth)
        properties.update(dict.fromkeys((name for name in taken if name not in properties), False))
        if properties:
            out["properties"] = properties
        if patterns is None:
            return out  # said as a loss
        if patterns:
            out["patternProperties"] = patterns
        out["additionalProperties"] = False
        return out

    def _patterns(self, members: ObjectSet, depth: int) -> tuple[Json | None, list[str]]:
        """The keys without a name of their own, as patterns that do not overlap; and the names that must be listed,
        because the engine takes them out of the patterns by itself."""
        groups = self._disjoint(members)
        out: Json = {}
        taken: list[str] = []
        for group, cond in groups or ():
            if cond not in self.known:
                continue
            names_in = {name: held for name, held in members.named if member(group, name)}
            if self._leaves_out(cond, names_in):
                text = spelled(group)
                taken += names_in
            else:
                text = spelled(group | {names(names_in).opposite()})
            if text is None:
                groups = None
                break
            out[text] = self._in_place(cond, depth + 1)
        if groups is None:
            self._lose(members, KEYING, "which further keys there may be takes too large a pattern")
            return None, []
        return out, taken

    def _leaves_out(self, cond: Condition, named: dict[str, Condition]) -> bool:
        """Whether the engine may be left to take names out of a pattern.

        It does so by their canonical spelling, and it intersects what the name and the pattern say. The first needs
        names without escapes, the second is harmless if the names meet what the pattern says anyway.
        """
        if any(char in '"\\\x7f' or char < " " for name in named for char in name):
            return False
        return cond == ANY or all(cond <= held and self._is_scalar(held) for held in named.values())

    def _is_scalar(self, cond: Condition) -> bool:
        if cond == ANY or cond not in self.known:
            return cond != ANY
        return not (self.found[cond].arrays or self.found[cond].objects)

    def _lose(self, members: ObjectSet, keywords: frozenset[str], why: str) -> None:
        origins = {origin for origin in members.origins if origin.keyword in keywords}
        self.losses |= {Loss(origin, why) for origin in origins or {Origin("", "type")}}

    def _disjoint(self, members: ObjectSet) -> list[Kind] | None:
        """The kinds without overlaps, and the rest; None if that takes too many."""
        out: list[Kind] = []
        try:
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
                if len(out) > 24:
                    return None
            if members.others != NEVER:
                rest: list[Languages] = [frozenset()]
                for group, _ in members.kinds:
                    rest = [part for piece in rest for part in _without(piece, group)]
                out += [(part, members.others) for part in rest]
        except Inexact:
            return None
        return [(group, cond) for group, cond in out if not vacant(group)]


def _without(group: Languages, other: Languages) -> list[Languages]:
    """What is in the one and not in the other, as languages that do not overlap."""
    out: list[Languages] = []
    held = group
    for pattern in sorted(other, key=lambda p: (p.kind, p.text, p.positive)):
        part = held | {pattern.opposite()}
        if not vacant(part):
            out.append(part)
        held = held | {pattern}
        if len(out) > 8:
            raise Inexact
    return out


def _different(pools: list[list[Any]], taken: tuple[str, ...] = ()) -> Iterator[list[Any]]:
    """The rows of one value of each pool, no value twice."""
    if not pools:
        yield []
        return
    for value in pools[0]:
        key = repr(value)
        if key not in taken:
            for row in _different(pools[1:], (*taken, key)):
                yield [value, *row]
