"""JSON Schema lowered to what the engine enforces, with a row for each keyword that says how it is carried out.

Knows the order of the steps (lint, read, reach, write, try) and nothing of how they are done.

1. The mask is never weaker than the schema without a row that says "checked"; then the finished text is validated
   against the original.
2. The mask is stricter than the schema in three ways. Properties keep the order of the schema. A key and a character
   have one spelling. Numbers are plain: no exponent where there is a bound, no fraction for an integer.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from .....lang.checking.formats import known as known_format
from .....lang.errors import ConstraintError
from .....lang.kept import kept
from .....lang.pattern import PatternError
from .engine import engine_refuses
from .lint import ANNOTATIONS, ENFORCED, lint, subschemas
from .metaschemas import with_metaschemas
from .nodes import ANYTHING, LoweredSchema, spelled_schema
from .places import SchemaPlaces
from .reach import children, inhabited, reach
from .read import SchemaReader
from .sets import ANY, NEVER, Condition, Loss, Origin, ValueSet
from .typed import NUMERIC
from .write import SchemaWriter

NO_EFFECT = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
"""Keywords that say nothing without another one."""
OPEN_NOTE = "a key that repeats is found by the check"
MOST_KEPT_SCHEMAS = 32


@dataclass(frozen=True, slots=True)
class KeywordRow:
    """What becomes of a keyword. `status`: "enforced", "checked" or "annotation" (or "refused", in `explain`)."""

    pointer: str
    keyword: str
    status: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A schema as nodes and as the JSON that strict llguidance is given, and what is left to the check."""

    document: LoweredSchema
    engine_schema: dict[str, Any]
    rows: tuple[KeywordRow, ...]

    @property
    def fully_enforced(self) -> bool:
        """Whether the mask admits only what the schema admits."""
        return not self.checked

    @property
    def checked(self) -> tuple[str, ...]:
        """The JSON pointers of the keywords that the finished text is checked for."""
        return tuple(f"{row.pointer}/{row.keyword}" for row in self.rows if row.status == "checked")


def lower(schema: Any) -> Lowered:
    """Lower a JSON Schema, or find it lowered before.

    Raises `ConstraintError` for a schema that is broken, contradictory or too large.
    """
    try:
        return _lower(_Source(_text(schema), schema))
    except UnicodeEncodeError:
        schema = _escaped(schema)
    try:
        return _lower(_Source(_text(schema), schema))
    except UnicodeEncodeError as error:
        raise ConstraintError(
            f"(root): the schema has a lone surrogate {error.object[error.start]!r}, which no text can spell"
        ) from None


def _escaped(schema: Any) -> Any:
    """Copy a schema, with surrogates in its patterns as escapes: a class may name them, though no text has one."""
    schema = copy.deepcopy(schema)
    for _, node in subschemas(schema):
        if isinstance(node.get("pattern"), str):
            node["pattern"] = _spelled(node["pattern"])
        if isinstance(node.get("patternProperties"), dict):
            node["patternProperties"] = {_spelled(text): part for text, part in node["patternProperties"].items()}
    return schema


def _spelled(pattern: str) -> str:
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", pattern)


@dataclass(frozen=True, slots=True)
class _Source:
    """A schema, which is compared by its text."""

    text: str
    schema: Any = field(compare=False)


def _text(schema: Any) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False)
        text.encode()
        return text
    except UnicodeEncodeError:
        raise
    except (TypeError, ValueError, RecursionError):
        lint(schema)
        raise ConstraintError("(root): the schema is no JSON data") from None


@kept(MOST_KEPT_SCHEMAS)
def _lower(source: _Source) -> Lowered:
    try:
        draft = lint(source.schema)
        places = SchemaPlaces(with_metaschemas(source.schema), draft)
        reader = SchemaReader(places)
        root = places.cond("", places.document)
        found, known = _found(reader, root)
    except RecursionError:
        raise ConstraintError("(root): the schema is nested too deeply; break it up with $defs") from None
    except PatternError as error:
        raise ConstraintError(f"(root): a pattern of the schema: {error}") from None
    document, engine_schema, losses = _written(reader, root, found, known)
    return Lowered(document, engine_schema, tuple(_rows(reader, root, losses)))


def _found(reader: SchemaReader, root: Condition) -> tuple[dict[Condition, ValueSet], set[Condition]]:
    if root == NEVER:
        raise ConstraintError("(root): the schema is false: nothing can match")
    found = reach(root, reader.shape)
    if root != ANY and found[root].empty:
        deepest = max(reader.impossible, key=len, default="")
        why = "(root): nothing can match: the keywords of the schema contradict each other"
        raise ConstraintError(reader.impossible.get(deepest, why))
    known = inhabited(found)
    if root not in known:
        if (culprit := _needed(reader, root, found, known)) is not None:
            raise ConstraintError(culprit)
        raise ConstraintError(
            f"{_endless(reader, found, known)}: nothing can match: no finite value satisfies this schema; a recursive "
            f"schema needs a base case (an optional property, an array that may be empty, an anyOf with another branch)"
        )
    return found, known


def _needed(
    reader: SchemaReader, root: Condition, found: dict[Condition, ValueSet], known: set[Condition]
) -> str | None:
    """Return the reason why a place that the root cannot do without is impossible."""
    seen, stack = set(), [root]
    while stack:
        cond = stack.pop()
        if cond in seen or cond in known or cond not in found:
            continue
        seen.add(cond)
        for place in cond:
            if place > 0 and (said := reader.impossible.get(reader.places[place].pointer)):
                return said
        stack.extend(children(found[cond]))
    return None


def _endless(reader: SchemaReader, found: dict[Condition, ValueSet], known: set[Condition]) -> str:
    """Return the pointer of a place of the document that nothing satisfies."""
    for cond in found:
        if cond not in known and len(cond) == 1:
            (place,) = cond
            if place > 0 and not found[cond].empty:
                return reader.places[place].pointer or "(root)"
    return "(root)"


def _written(
    reader: SchemaReader, root: Condition, found: dict[Condition, ValueSet], known: set[Condition]
) -> tuple[LoweredSchema, dict[str, Any], set[Loss]]:
    """Return what the engine takes, as nodes and as JSON: exact, else with what it refuses relaxed, else any JSON."""
    if root == ANY:
        return LoweredSchema(ANYTHING), {}, set()
    writer = SchemaWriter(found, known)
    document = writer.document(root)
    engine_schema = spelled_schema(document)
    why = engine_refuses(engine_schema)
    if why is None:
        return document, engine_schema, _losses(reader, writer)
    relaxed: dict[Condition, str] = {}
    for cond in found:
        if cond in known and cond != root and (said := _refused_alone(cond, found, known)) is not None:
            relaxed[cond] = said
    if relaxed:
        writer = SchemaWriter(found, known, relaxed)
        document = writer.document(root)
        engine_schema = spelled_schema(document)
        if engine_refuses(engine_schema) is None:
            losses = {Loss(origin, said) for cond, said in relaxed.items() for origin in _origins(reader, cond)}
            return document, engine_schema, _losses(reader, writer) | losses
    refused = f"the engine refuses the schema: {why}"
    return (
        LoweredSchema(ANYTHING),
        {},
        {Loss(Origin(reader.places[n].pointer, "*"), refused) for n in reader.read_places},
    )


def _refused_alone(cond: Condition, found: dict[Condition, ValueSet], known: set[Condition]) -> str | None:
    """Return what the engine says against a condition whose items and members are left open."""
    others = {other: "" for other in found if other != cond}
    return engine_refuses(spelled_schema(SchemaWriter(found, known, others).document(cond)))


def _losses(reader: SchemaReader, writer: SchemaWriter) -> set[Loss]:
    """Return what was lost in writing. Numbers out of reach are booked on the keywords that speak of numbers."""
    return writer.losses | {
        Loss(origin, "the engine cannot count so far or so finely; the mask is a little wider")
        for cond in writer.widened
        for origin in _origins(reader, cond, NUMERIC | {"enum", "const"})
    }


def _origins(reader: SchemaReader, cond: Condition, keywords: Set[str] = frozenset()) -> list[Origin]:
    """Return the keywords at the places of a condition: those that are given, or all if none of them is there."""
    out = []
    for number in cond:
        place = reader.places[abs(number)]
        if place.made:  # a part of the value of an enum or const
            pointer, _, keyword = place.pointer.rpartition("/")
            out.append(Origin(pointer, keyword))
        else:
            said = [key for key in place.schema if key in keywords] if isinstance(place.schema, dict) else []
            out += [Origin(place.pointer, key) for key in said or ["*"]]
    return out


# ------------------------------------------------------------------------------------------------------------- rows


def _rows(reader: SchemaReader, root: Condition, losses: set[Loss]) -> list[KeywordRow]:
    """Return a row for each keyword of each place that was read, in the order of the document."""
    booked: dict[tuple[str, str], list[str]] = {}
    for loss in losses:
        booked.setdefault((loss.origin.pointer, loss.origin.keyword), []).append(loss.note)
    out: list[KeywordRow] = []
    for pointer, node in _read(reader):
        for keyword, value in node.items():
            notes = booked.pop((pointer, keyword), []) + booked.get((pointer, "*"), [])
            out.append(_row(reader, pointer, node, keyword, value, sorted(set(notes))))
    for (pointer, keyword), notes in booked.items():
        if keyword != "*":
            out.append(KeywordRow(pointer, keyword, "checked", "; ".join(sorted(set(notes)))))
    return out


def _read(reader: SchemaReader) -> list[tuple[str, dict[str, Any]]]:
    seen: dict[str, dict[str, Any]] = {}
    for number in reader.read_places:
        place = reader.places[number]
        if not place.made and isinstance(place.schema, dict):
            seen[place.pointer] = place.schema
    if "" not in seen and isinstance(reader.places.document, dict):
        seen[""] = reader.places.document
    order = {pointer: index for index, (pointer, _) in enumerate(subschemas(reader.places.document))}
    return sorted(seen.items(), key=lambda entry: order.get(entry[0], len(order)))


def _row(
    reader: SchemaReader, pointer: str, node: dict[str, Any], keyword: str, value: Any, notes: list[str]
) -> KeywordRow:
    if keyword not in ENFORCED:
        note = "" if keyword in ANNOTATIONS or keyword.startswith("x-") else "unknown keyword: it says nothing"
        return KeywordRow(pointer, keyword, "annotation", note)
    if keyword == "format" and not known_format(value):
        return KeywordRow(pointer, keyword, "annotation", f"no meaning is known for the format {value!r}")
    if keyword in NO_EFFECT and NO_EFFECT[keyword] not in node:
        return KeywordRow(pointer, keyword, "annotation", f"says nothing without {NO_EFFECT[keyword]}")
    if keyword == "additionalItems" and not isinstance(node.get("items"), list):
        return KeywordRow(pointer, keyword, "annotation", "says nothing without a list of items")
    if "$ref" in node and keyword != "$ref" and reader.places.draft <= 7:
        return KeywordRow(
            pointer, keyword, "annotation", "what stands beside $ref is ignored in this draft of JSON Schema"
        )
    if notes:
        return KeywordRow(pointer, keyword, "checked", "; ".join(notes))
    note = reader.notes.get(Origin(pointer, keyword), "")
    if not note and keyword in ("additionalProperties", "patternProperties") and value is not False:
        note = OPEN_NOTE
    return KeywordRow(pointer, keyword, "enforced", note)
