"""The keywords that combine schemas (`$ref`, allOf, anyOf, oneOf, not, if, dependent...), read as sets of JSON values.

Knows nothing of the engine. The keywords of one type are in `typed.py`.

Each keyword is an equation of sets. oneOf is each branch without the others. `if` is (if and then) or (not if and
else). dependentRequired is (absent) or (present with the others).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .....lang.errors import ConstraintError
from .combine import Busy, SetAlgebra
from .languages import unreadable
from .lint import ENFORCED, contradiction, crossed
from .objects import tidy_object
from .pieces import tidy_array
from .places import SchemaPlaces, child
from .sets import (
    ANY,
    EVERYTHING,
    NEVER,
    NOTHING,
    ArraySet,
    Condition,
    Language,
    Loss,
    ObjectSet,
    Origin,
    ValueSet,
    opposite,
)
from .typed import enumerated, of_type, typed
from .unevaluated import evaluated

MOST_ONE_OF_BRANCHES = 64  # that are told apart: each is compared with each
NEGATING = re.compile(r"^(.*)/(oneOf|not|if|dependentSchemas|dependencies|anyOf)(/|$)")


class SchemaReader:
    """Reads the places of a document. `notes`: what an account says of a keyword that is enforced."""

    def __init__(self, places: SchemaPlaces) -> None:
        self.places = places
        self.notes: dict[Origin, str] = {}
        self.impossible: dict[str, str] = {}  # places that no value matches by what they say themselves
        self.read_places: set[int] = set()
        self.sets = SetAlgebra(self.read, self.origin)
        self._steps: dict[str, Callable[[str, dict[str, Any], str], ValueSet]] = {
            **dict.fromkeys(("$ref", "$recursiveRef", "$dynamicRef"), self._reference),
            "allOf": self._all_of,
            "anyOf": self._any_of,
            "oneOf": self._one_of,
            "not": self._not,
            "if": self._if,
            **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), self._dependent),
            **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), self._unevaluated),
        }

    def origin(self, number: int) -> Origin:
        """Return the keyword that negates a place, or the one that holds it."""
        pointer = self.places[number].pointer
        found = NEGATING.match(pointer)
        if found:
            return Origin(found[1], found[2])
        parent, _, name = pointer.rpartition("/")
        owner, _, keyword = parent.rpartition("/")
        if keyword in ("definitions", "$defs"):  # a definition that is subtracted from another
            schema = self.places[number].schema
            return Origin(pointer, next((key for key in schema if key in ENFORCED), "type"))
        return Origin(owner, keyword) if keyword in ("properties", "patternProperties") else Origin(parent, name)

    def shape(self, cond: Condition) -> ValueSet:
        """Return the set of a condition. Raises `ConstraintError` for a place that is needed to read itself."""
        try:
            return self.sets.shape(cond)
        except Busy as busy:
            pointer = self.places[busy.place].pointer
            raise ConstraintError(
                f"{pointer or '(root)'}: this schema refers to itself in place, so it says nothing; "
                f"recursion must go through properties or items"
            ) from None

    def read(self, number: int) -> ValueSet:
        """Return the values that a place admits."""
        place = self.places[number]
        schema, pointer = place.schema, place.pointer
        if schema is False:
            return NOTHING
        if not isinstance(schema, dict):
            return EVERYTHING
        self.read_places.add(number)
        out = self._direct(pointer, schema)
        if out.empty and not self._nullable(schema):
            self._impossible(pointer, schema, place.branch)
        for keyword, step in self._steps.items():
            if keyword in schema:
                out = self.sets.both(out, step(pointer, schema, keyword), Origin(pointer, keyword))
        if self._nullable(schema):
            self.notes[Origin(pointer, "nullable")] = "null, or what the rest of this schema says"
            out = self.sets.either([ValueSet(null=True), out], Origin(pointer, "nullable"))
        return out

    @staticmethod
    def _nullable(schema: dict[str, Any]) -> bool:
        return schema.get("nullable") is True

    def _direct(self, pointer: str, schema: dict[str, Any]) -> ValueSet:
        """Read the keywords that look at the value itself."""
        out = EVERYTHING
        if "type" in schema:
            out = self.sets.both(out, of_type(schema["type"]), Origin(pointer, "type"))
        if "enum" in schema:
            out = self.sets.both(out, self._enum(pointer, schema["enum"], "enum"), Origin(pointer, "enum"))
        if "const" in schema:
            out = self.sets.both(out, self._enum(pointer, [schema["const"]], "const"), Origin(pointer, "const"))
        return self.sets.both(out, typed(self.places, self.sets, pointer, schema), Origin(pointer, "type"))

    def _enum(self, pointer: str, values: list[Any], keyword: str) -> ValueSet:
        return enumerated(values, lambda value: self.places.constant(child(pointer, keyword), value))

    def _impossible(self, pointer: str, schema: dict[str, Any], branch: bool) -> None:
        keyword, why = contradiction(schema)
        if not branch and crossed(schema) is not None:
            raise ConstraintError(f"{pointer or '(root)'}: {keyword}: nothing can match: {why}")
        self.impossible[pointer] = f"{pointer or '(root)'}: {keyword}: nothing can match: {why}"
        self.notes[Origin(pointer, keyword)] = f"no value can match, so there will be none: {why}"

    # ------------------------------------------------------------------------------------------------- applicators

    def _reference(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        if keyword != "$ref" and not self.places.is_static(keyword, schema[keyword]):
            loss = Loss(Origin(pointer, keyword), "a dynamic reference with several targets is only checked")
            return replace(EVERYTHING, losses=frozenset({loss}))
        target, found = self.places.resolve(pointer, schema[keyword])
        return self.sets.shape(self.places.cond(target, found))

    def _all_of(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        out = EVERYTHING
        for index, part in enumerate(schema[keyword]):
            cond = self.places.cond(child(pointer, keyword, index), part, branch=True)
            out = self.sets.both(out, self.sets.shape(cond), Origin(pointer, keyword))
        return out

    def _branches(self, pointer: str, schema: dict[str, Any], keyword: str) -> list[Condition]:
        parts = enumerate(schema[keyword])
        return [self.places.cond(child(pointer, keyword, index), part, branch=True) for index, part in parts]

    def _any_of(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        conds = self._branches(pointer, schema, keyword)
        return self.sets.either([self.sets.shape(cond) for cond in conds], Origin(pointer, keyword))

    def _one_of(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        conds = self._branches(pointer, schema, keyword)
        origin = Origin(pointer, keyword)
        if len(conds) > MOST_ONE_OF_BRANCHES:
            loss = Loss(origin, f"more than {MOST_ONE_OF_BRANCHES} branches are only checked")
            out = self._any_of(pointer, schema, keyword)
            return replace(out, losses=out.losses | {loss})
        parts = []
        for index, cond in enumerate(conds):
            part = self.sets.shape(cond)
            for other in (*conds[:index], *conds[index + 1 :]):
                if not self.sets.disjoint(cond, other):
                    part = self.sets.both(part, self.sets.shape(opposite(other)), origin)
            parts.append(part)
        return self.sets.either(parts, origin)

    def _not(self, pointer: str, schema: dict[str, Any], _: str) -> ValueSet:
        cond = self.places.cond(child(pointer, "not"), schema["not"], branch=True)
        return self.sets.shape(opposite(cond))

    def _if(self, pointer: str, schema: dict[str, Any], _: str) -> ValueSet:
        cond = self.places.cond(child(pointer, "if"), schema["if"], branch=True)
        out = []
        for test, keyword in ((cond, "then"), (opposite(cond), "else")):
            follows = self.places.cond(child(pointer, keyword), schema.get(keyword, True), branch=True)
            out.append(self.sets.both(self.sets.shape(test), self.sets.shape(follows), Origin(pointer, keyword)))
        return self.sets.either(out, Origin(pointer, "if"))

    def _dependent(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        out, origin = EVERYTHING, Origin(pointer, keyword)
        for name, needs in schema[keyword].items():
            absent = replace(EVERYTHING, objects=tuple(tidy_object(ObjectSet(((name, NEVER),)))))
            required = tuple(dict.fromkeys([name, *needs])) if isinstance(needs, list) else (name,)
            present = ValueSet(objects=(ObjectSet(tuple((n, ANY) for n in required), required=required),))
            if not isinstance(needs, list):
                cond = self.places.cond(child(pointer, keyword, name), needs, branch=True)
                present = self.sets.both(self.sets.shape(cond), present, origin)
            out = self.sets.both(out, self.sets.either([absent, present], origin), origin)
        return out

    def _unevaluated(self, pointer: str, schema: dict[str, Any], keyword: str) -> ValueSet:
        properties = keyword == "unevaluatedProperties"
        seen = evaluated(self.places, pointer, schema, properties)
        if seen.all:
            return EVERYTHING
        patterns = [Language("ecma", text) for text in seen.patterns]
        if seen.unsure or any(unreadable(pattern) for pattern in patterns):
            loss = Loss(Origin(pointer, keyword), "what is evaluated depends on the value")
            return replace(EVERYTHING, losses=frozenset({loss}))
        cond = self.places.cond(child(pointer, keyword), schema[keyword])
        if not properties:
            return replace(EVERYTHING, arrays=tuple(tidy_array(ArraySet((ANY,) * seen.items, cond))))
        kinds = tuple((frozenset({pattern}), ANY) for pattern in patterns)
        made = ObjectSet(tuple((name, ANY) for name in seen.names), kinds, cond)
        return replace(EVERYTHING, objects=tuple(tidy_object(made)))
