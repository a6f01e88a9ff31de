"""The keywords that speak of one type (numbers, strings, arrays, objects), enum and const, read as sets.

Knows nothing of the keywords that combine schemas (`read.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from .....lang.checking.formats import CHECKED_ONLY, FORMATS, MOST
from .combine import SetAlgebra
from .languages import member, unreadable
from .objects import cond_of, tidy_object
from .pieces import tidy_array, tidy_number, tidy_string
from .places import SchemaPlaces, child
from .sets import (
    ANY,
    EVERYTHING,
    NEVER,
    ArraySet,
    Condition,
    Duty,
    Language,
    Languages,
    Loss,
    NumberSet,
    ObjectSet,
    Origin,
    StringSet,
    ValueSet,
    meet,
)

NUMERIC = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
TEXTUAL = frozenset({"minLength", "maxLength", "pattern", "format"})
LISTING = frozenset({"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"})
KEYED = ("minProperties", "maxProperties", "patternProperties", "additionalProperties", "propertyNames")
NAMING = frozenset({"properties", "required", *KEYED})


def fraction(number: float | int) -> Fraction:
    """Return a number as it was written in decimals."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


LARGEST_BOUND = fraction(
    sys.float_info.max
)  # a bound that every number of JSON text is within: the check wants doubles
LARGEST_COUNT = 1_000_000_000  # of characters, items or members: no text has more, so a greater limit always holds


def of_type(types: str | list[str]) -> ValueSet:
    """Return the values of a type, or of several."""
    names = {types} if isinstance(types, str) else set(types)
    return ValueSet(
        "null" in names,
        EVERYTHING.booleans if "boolean" in names else frozenset(),
        EVERYTHING.numbers if "number" in names else (NumberSet(integer=True),) if "integer" in names else (),
        EVERYTHING.strings if "string" in names else (),
        EVERYTHING.arrays if "array" in names else (),
        EVERYTHING.objects if "object" in names else (),
    )


def enumerated(values: list[Any], constant: Callable[[Any], Condition]) -> ValueSet:
    """Return the set of these values. `constant` gives the condition of a value inside another one."""
    numbers: dict[NumberSet, None] = {}
    strings: dict[str, None] = {}
    arrays: list[ArraySet] = []
    objects: list[ObjectSet] = []
    for value in values:
        if isinstance(value, str):
            strings[value] = None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            exact = fraction(value)
            numbers[NumberSet(exact, high=exact)] = None
        elif isinstance(value, list):
            prefix = tuple(constant(item) for item in value)
            arrays.append(ArraySet(prefix, NEVER, len(value), len(value)))
        elif isinstance(value, dict):
            named = tuple((name, constant(member)) for name, member in value.items())
            objects.append(ObjectSet(named, (), NEVER, tuple(value)))
    return ValueSet(
        any(value is None for value in values),
        frozenset(value for value in values if isinstance(value, bool)),
        tuple(numbers),
        (StringSet(tuple(strings)),) if strings else (),
        tuple(dict.fromkeys(arrays)),
        tuple(dict.fromkeys(objects)),
    )


def typed(places: SchemaPlaces, sets: SetAlgebra, pointer: str, schema: dict[str, Any]) -> ValueSet:
    """Return what the keywords of each type say; other types are free."""
    said = schema.keys()
    if not said & (NUMERIC | TEXTUAL | LISTING | NAMING):
        return EVERYTHING
    losses: set[Loss] = set()
    return ValueSet(
        True,
        EVERYTHING.booleans,
        _numbers(pointer, schema) if said & NUMERIC else EVERYTHING.numbers,
        _strings(pointer, schema, losses) if said & TEXTUAL else EVERYTHING.strings,
        _arrays(places, pointer, schema) if said & LISTING else EVERYTHING.arrays,
        _objects(places, sets, pointer, schema, losses) if said & NAMING else EVERYTHING.objects,
        frozenset(losses),
    )


def _numbers(pointer: str, schema: dict[str, Any]) -> tuple[NumberSet, ...]:
    low, low_open = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, high_open = _bound(schema, "maximum", "exclusiveMaximum", min)
    low = None if low is not None and low <= -LARGEST_BOUND and not low_open else low
    high = None if high is not None and high >= LARGEST_BOUND and not high_open else high
    multiple = fraction(schema["multipleOf"]) if "multipleOf" in schema else None
    whole = multiple is not None and multiple.denominator == 1
    steps = _origins(pointer, schema, "multipleOf")
    return tuple(tidy_number(NumberSet(low, low_open, high, high_open, whole, multiple, steps=steps)))


def _origins(pointer: str, schema: dict[str, Any], *keywords: str) -> frozenset[Origin]:
    return frozenset(Origin(pointer, keyword) for keyword in keywords if keyword in schema)


def _limit(value: float | int | None) -> int | None:
    """Return the limit of a count, or None for one that always holds."""
    return None if value is None or value > LARGEST_COUNT else int(value)


def _bound(
    schema: dict[str, Any], plain: str, exclusive: str, tighter: Callable[[Fraction, Fraction], Fraction]
) -> tuple[Fraction | None, bool]:
    closed = fraction(schema[plain]) if plain in schema else None
    beyond = schema.get(exclusive)
    if isinstance(beyond, bool) or beyond is None:  # draft 4: a flag on the other keyword
        return closed, closed is not None and beyond is True
    limit = fraction(beyond)
    if closed is None:
        return limit, True
    return (limit, True) if tighter(limit, closed) == limit else (closed, False)


def _strings(pointer: str, schema: dict[str, Any], losses: set[Loss]) -> tuple[StringSet, ...]:
    patterns: set[tuple[Language, Origin]] = set()
    most = schema.get("maxLength")
    if "pattern" in schema:
        origin = Origin(pointer, "pattern")
        pattern = Language("ecma", schema["pattern"])
        if (why := unreadable(pattern)) is None:
            patterns.add((pattern, origin))
        else:
            losses.add(Loss(origin, why))
    name = schema.get("format")
    if isinstance(name, str) and name in FORMATS:
        patterns.add((Language("format", name), Origin(pointer, "format")))
        if name in MOST:
            most = MOST[name] if most is None else min(most, MOST[name])
    elif name in CHECKED_ONLY:
        losses.add(Loss(Origin(pointer, "format"), f"no mask can say {name!r}"))
    spans = _origins(pointer, schema, "minLength", "maxLength", "format")
    return tuple(
        tidy_string(StringSet(None, frozenset(patterns), int(schema.get("minLength", 0)), _limit(most), spans))
    )


def _arrays(places: SchemaPlaces, pointer: str, schema: dict[str, Any]) -> tuple[ArraySet, ...]:
    items = schema.get("items")
    heads, key = (items, "items") if isinstance(items, list) else (schema.get("prefixItems", []), "prefixItems")
    prefix = tuple(places.cond(child(pointer, key, index), part) for index, part in enumerate(heads))
    later = "additionalItems" if isinstance(items, list) else "items"
    made = ArraySet(
        prefix,
        places.cond(child(pointer, later), schema.get(later, True)),
        int(schema.get("minItems", 0)),
        _limit(schema.get("maxItems")),
        _origins(pointer, schema, "uniqueItems") if schema.get("uniqueItems") is True else frozenset(),
    )
    return tuple(tidy_array(_containing(places, pointer, schema, made) if "contains" in schema else made))


def _containing(places: SchemaPlaces, pointer: str, schema: dict[str, Any], items: ArraySet) -> ArraySet:
    """Return the piece with what `contains` says of it."""
    origin = Origin(pointer, "contains")
    cond = places.cond(child(pointer, "contains"), schema["contains"], branch=True)
    least, most = int(schema.get("minContains", 1)), schema.get("maxContains")
    items = replace(items, least=max(items.least, least))
    if least == 1 and most is None:
        return replace(items, duties=frozenset({Duty(cond, origin)}))
    if least > 0 or most is not None:
        return replace(items, counts=frozenset({(cond, least, most, origin)}))
    return items


def _objects(
    places: SchemaPlaces, sets: SetAlgebra, pointer: str, schema: dict[str, Any], losses: set[Loss]
) -> tuple[ObjectSet, ...]:
    kinds: dict[Languages, Condition] = {}
    extra = places.cond(child(pointer, "additionalProperties"), schema.get("additionalProperties", True))
    for text, part in schema.get("patternProperties", {}).items():
        pattern = Language("ecma", text)
        if (why := unreadable(pattern)) is not None:
            losses.add(Loss(Origin(pointer, "patternProperties"), why))
            extra = ANY  # which keys are additional is not known
            continue
        group = frozenset({pattern})
        cond = places.cond(child(pointer, "patternProperties", text), part)
        kinds[group] = meet(kinds.get(group, ANY), cond)
    named = []
    for name, part in schema.get("properties", {}).items():
        cond = places.cond(child(pointer, "properties", name), part)
        for group, more in kinds.items():
            if member(group, name):
                cond = meet(cond, more)
        named.append((name, cond))
    required = tuple(dict.fromkeys(schema.get("required", ()))) if isinstance(schema.get("required"), list) else ()
    made = ObjectSet(
        tuple(named),
        tuple(kinds.items()),
        extra,
        required,
        int(schema.get("minProperties", 0)),
        _limit(schema.get("maxProperties")),
        origins=_origins(pointer, schema, *KEYED),
    )
    if "propertyNames" in schema:
        made = _with_names(places, sets, pointer, schema, made, losses)
    return tuple(tidy_object(made))


def _with_names(
    places: SchemaPlaces,
    sets: SetAlgebra,
    pointer: str,
    schema: dict[str, Any],
    members: ObjectSet,
    losses: set[Loss],
) -> ObjectSet:
    """Return the piece with what `propertyNames` says of its keys."""
    shape = sets.shape(places.cond(child(pointer, "propertyNames"), schema["propertyNames"], branch=True))
    losses |= shape.losses
    if not shape.strings:
        return replace(members, named=(), kinds=(), others=NEVER)
    if len(shape.strings) > 1:
        losses.add(Loss(Origin(pointer, "propertyNames"), "names of several kinds are only checked"))
        return members
    (text,) = shape.strings
    if text.values is not None:
        declared = [name for name, _ in members.named if name in text.values]
        order = dict.fromkeys([*declared, *text.values])
        return replace(members, named=tuple((name, cond_of(members, name)) for name in order), kinds=(), others=NEVER)
    group = {pattern for pattern, _ in text.patterns}
    if text.least or text.most is not None:
        group.add(Language("ecma", f"^[\\s\\S]{{{text.least},{'' if text.most is None else text.most}}}$"))
    named = tuple((name, cond if member(frozenset(group), name) else NEVER) for name, cond in members.named)
    kinds = tuple((frozenset({pattern.opposite()}), NEVER) for pattern in sorted(group))
    return replace(members, named=named, kinds=(*members.kinds, *kinds))
