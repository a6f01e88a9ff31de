"""The keywords that speak of one type: numbers, strings, arrays, objects; and enum and const.

Owns: their reading as pieces. Knows nothing of applicators in place (`read.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .....lang.checking.formats import CHECKED_ONLY, FORMATS, MOST
from .....lang.pattern import PatternError
from .languages import member, node
from .objects import cond_of, tidy_object
from .pieces import tidy_array, tidy_number, tidy_string
from .places import child
from .sets import (
    ANY,
    EVERYTHING,
    NEVER,
    NOTHING,
    TYPES,
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

if TYPE_CHECKING:
    from .read import SchemaReader


def fraction(number: float | int) -> Fraction:
    """A number as it was written in decimals."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def of_type(types: str | list[str]) -> ValueSet:
    """The values of a type, or of several."""
    out = NOTHING
    found = [types] if isinstance(types, str) else types
    for name in found:
        if name == "integer" and "number" in found:
            continue
        shape = TYPES[name]
        out = ValueSet(
            out.null or shape.null,
            out.booleans | shape.booleans,
            out.numbers + shape.numbers,
            out.strings + shape.strings,
            out.arrays + shape.arrays,
            out.objects + shape.objects,
        )
    return out


def enumerated(values: list[Any], constant: Callable[[Any], Condition]) -> ValueSet:
    """These values. `constant` gives the condition of a value inside another one."""
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


def typed(reader: SchemaReader, pointer: str, schema: dict[str, Any]) -> ValueSet:
    """What the keywords of each type say; other types are free."""
    losses: set[Loss] = set()
    return (
        replace(
            EVERYTHING,
            numbers=_numbers(pointer, schema) if schema.keys() & NUMERIC else EVERYTHING.numbers,
            strings=_strings(reader, pointer, schema, losses) if schema.keys() & TEXTUAL else EVERYTHING.strings,
            arrays=_arrays(reader, pointer, schema) if schema.keys() & LISTING else EVERYTHING.arrays,
            objects=_objects(reader, pointer, schema, losses) if schema.keys() & NAMING else EVERYTHING.objects,
            losses=frozenset(losses),
        )
        if schema.keys() & (NUMERIC | TEXTUAL | LISTING | NAMING)
        else EVERYTHING
    )


LARGEST = fraction(sys.float_info.max)  # a bound that every number of JSON text is within: the check wants doubles
NUMERIC = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
ENDLESS = 1_000_000_000
"""Characters that no text has: a greater `maxLength` holds of itself."""
TEXTUAL = {"minLength", "maxLength", "pattern", "format"}
LISTING = {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"}
KEYED = ("minProperties", "maxProperties", "patternProperties", "additionalProperties", "propertyNames")
NAMING = {
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "propertyNames",
}


def _numbers(pointer: str, schema: dict[str, Any]) -> tuple[NumberSet, ...]:
    low, low_open = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, high_open = _bound(schema, "maximum", "exclusiveMaximum", min)
    low = None if low is not None and low <= -LARGEST and not low_open else low
    high = None if high is not None and high >= LARGEST and not high_open else high
    multiple = fraction(schema["multipleOf"]) if "multipleOf" in schema else None
    whole = multiple is not None and multiple.denominator == 1
    steps = frozenset({Origin(pointer, "multipleOf")}) if multiple is not None else frozenset[Origin]()
    return tuple(tidy_number(NumberSet(low, low_open, high, high_open, whole, multiple, steps=steps)))


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


def _strings(reader: SchemaReader, pointer: str, schema: dict[str, Any], losses: set[Loss]) -> tuple[StringSet, ...]:
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
    whole = None if most is None or most > ENDLESS else int(most)
    spans = frozenset(Origin(pointer, key) for key in ("minLength", "maxLength", "format") if key in schema)
    return tuple(tidy_string(StringSet(None, frozenset(patterns), int(schema.get("minLength", 0)), whole, spans)))


def unreadable(pattern: Language) -> str | None:
    """Why no mask can say a pattern, or None."""
    try:
        node(pattern)
    except PatternError as error:
        return f"no mask can say this pattern: {error.message}"
    return None


def _arrays(reader: SchemaReader, pointer: str, schema: dict[str, Any]) -> tuple[ArraySet, ...]:
    prefix: tuple[Condition, ...] = ()
    rest = ANY
    items = schema.get("items")
    heads, key = (items, "items") if isinstance(items, list) else (schema.get("prefixItems", []), "prefixItems")
    prefix = tuple(reader.cond(child(pointer, key, index), part) for index, part in enumerate(heads))
    if isinstance(items, list):
        rest = reader.cond(child(pointer, "additionalItems"), schema.get("additionalItems", True))
    elif items is not None:
        rest = reader.cond(child(pointer, "items"), items)
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    some: set[Duty] = set()
    counts: set[tuple[Condition, int, int | None, Origin]] = set()
    if "contains" in schema:
        origin = Origin(pointer, "contains")
        cond = reader.cond(child(pointer, "contains"), schema["contains"], branch=True)
        fewest, utmost = int(schema.get("minContains", 1)), schema.get("maxContains")
        least = max(least, fewest)
        if fewest == 1 and utmost is None:
            some.add(Duty(cond, origin))
        elif fewest > 0 or utmost is not None:
            counts.add((cond, fewest, utmost, origin))
    unique = frozenset({Origin(pointer, "uniqueItems")}) if schema.get("uniqueItems") is True else frozenset[Origin]()
    whole = None if most is None or most > ENDLESS else int(most)
    return tuple(
        tidy_array(ArraySet(prefix, rest, least, whole, unique, frozenset(), frozenset(some), frozenset(counts)))
    )


def _objects(reader: SchemaReader, pointer: str, schema: dict[str, Any], losses: set[Loss]) -> tuple[ObjectSet, ...]:
    kinds: dict[Languages, Condition] = {}
    known = True
    for text, part in schema.get("patternProperties", {}).items():
        pattern = Language("ecma", text)
        if (why := unreadable(pattern)) is not None:
            losses.add(Loss(Origin(pointer, "patternProperties"), why))
            known = False
            continue
        group = frozenset({pattern})
        cond = reader.cond(child(pointer, "patternProperties", text), part)
        kinds[group] = meet(kinds.get(group, ANY), cond)
    extra = schema.get("additionalProperties", True)
    others = reader.cond(child(pointer, "additionalProperties"), extra) if known else ANY
    plain = ObjectSet((), tuple(kinds.items()), others)
    named = []
    for name, part in schema.get("properties", {}).items():
        cond = reader.cond(child(pointer, "properties", name), part)
        for group, more in plain.kinds:
            if member(group, name):
                cond = meet(cond, more)
        named.append((name, cond))
    required = tuple(dict.fromkeys(schema.get("required", ()))) if isinstance(schema.get("required"), list) else ()
    most = schema.get("maxProperties")
    limits = frozenset(Origin(pointer, key) for key in KEYED if key in schema)
    whole = None if most is None or most > ENDLESS else int(most)
    least = int(schema.get("minProperties", 0))
    made = ObjectSet(tuple(named), plain.kinds, others, required, least, whole, frozenset(), limits)
    if "propertyNames" in schema:
        made = _with_names(reader, pointer, schema, made, losses)
    return tuple(tidy_object(made))


def _with_names(
    reader: SchemaReader, pointer: str, schema: dict[str, Any], members: ObjectSet, losses: set[Loss]
) -> ObjectSet:
    """The piece with what `propertyNames` says of its keys."""
    cond = reader.cond(child(pointer, "propertyNames"), schema["propertyNames"], branch=True)
    shape = reader.sets.shape(cond)
    origin = Origin(pointer, "propertyNames")
    losses |= shape.losses
    if not shape.strings:
        return replace(members, named=(), kinds=(), others=NEVER, required=members.required)
    if len(shape.strings) > 1:
        losses.add(Loss(origin, "names of several kinds are only checked"))
        return members
    (text,) = shape.strings
    if text.values is not None:
        order = sorted(
            text.values,
            key=lambda name: (
                [n for n, _ in members.named].index(name) if name in dict(members.named) else len(members.named)
            ),
        )
        return replace(members, named=tuple((name, cond_of(members, name)) for name in order), kinds=(), others=NEVER)
    group = {pattern for pattern, _ in text.patterns}
    if text.least or text.most is not None:
        group.add(Language("ecma", f"^[\\s\\S]{{{text.least},{'' if text.most is None else text.most}}}$"))
    named = tuple((name, cond if member(frozenset(group), name) else NEVER) for name, cond in members.named)
    kinds = tuple((frozenset({pattern.opposite()}), NEVER) for pattern in sorted(group, key=lambda p: p.text))
    return replace(members, named=named, kinds=(*members.kinds, *kinds))
