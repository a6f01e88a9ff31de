"""The dialect of JSON Schema that finished text is checked in, as classes of `jsonschema`.

Knows nothing of constraints. A schema is validated in its own draft, with these differences:

1. A `pattern` has the meaning of ECMA-262, a `format` that of `formats.py`; numbers are compared in exact decimals.
2. A keyword of any draft is looked at in every draft, so that no constraint is passed over in silence. Only what stands
   beside `$ref` is ignored in drafts 4 to 7, as these drafts say.
3. OpenAPI's `nullable: true` admits null.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..errors import ConstraintError
from ..kept import by_text, kept
from ..pattern import PatternError, ecma_search
from ..pattern.search import LONG_CHARACTERS
from .formats import check_format
from .metaschema import surely_valid

Keyword = Callable[[Any, Any, Any, Any], Any]
DATA = frozenset({"const", "enum", "default", "examples", "example"})
SEARCH_SECONDS = 0.25
"""Backtracking of one search, at most: others may wait for the engine meanwhile."""


def validator_for(schema: Any) -> Any:
    """Make a `jsonschema` validator in our dialect. It fetches nothing."""
    return dialect(schema)[1](without_schema_uri(schema))


_DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
_URIS = {draft: uri for uri, draft in _DRAFTS.items()}


def dialect(schema: Any) -> tuple[int, Any]:
    """Find the draft of a schema (4, 6, 7, 2019 or 2020) and its validator class.

    `$schema` decides. Without a known one it is the newest draft in which the schema is valid, else 2020-12.
    """
    draft, _ = _examined(json.dumps(schema))
    return draft, _classes()[draft]


def metaschema_fault(schema: Any) -> tuple[str, str] | None:
    """Say where a schema is invalid in its draft, and why; None if it is valid."""
    try:
        return _examined(json.dumps(schema))[1]
    except RecursionError:
        raise ConstraintError("(root): the schema is nested too deeply; break it up with $defs") from None


@kept(64)
def _examined(source: str) -> tuple[int, tuple[str, str] | None]:
    """Find the draft of a schema and its fault. Cached: checking a metaschema takes milliseconds."""
    schema = json.loads(source)
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if isinstance(named, str):
        key = named.rstrip("#").replace("http://json-schema.org/draft/", "https://json-schema.org/draft/")
        key = key.replace("https://json-schema.org/draft-0", "http://json-schema.org/draft-0")
        if key in _DRAFTS:
            return _DRAFTS[key], _first_fault(_DRAFTS[key], schema)
    faults = []
    for draft in (2020, 2019, 7, 4):
        fault = _first_fault(draft, schema)
        if fault is None:
            return draft, None
        faults.append(fault)
    return 2020, faults[0]


def _first_fault(draft: int, schema: Any) -> tuple[str, str] | None:
    if surely_valid(_URIS[draft], schema):
        return None
    import jsonschema

    base = _bases()[draft]
    best = jsonschema.exceptions.best_match(base(base.META_SCHEMA).iter_errors(schema))
    if best is None:
        return None
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in best.absolute_path]
    return "".join(f"/{part}" for part in parts), brief(best.message, 200)


@functools.cache
def _bases() -> dict[int, Any]:
    import jsonschema

    return {
        4: jsonschema.Draft4Validator,
        6: jsonschema.Draft6Validator,
        7: jsonschema.Draft7Validator,
        2019: jsonschema.Draft201909Validator,
        2020: jsonschema.Draft202012Validator,
    }


@functools.cache
def _classes() -> dict[int, Any]:
    """A validator class of our dialect for each draft."""
    from jsonschema import validators

    newest = _bases()[2020].VALIDATORS
    out = {}
    for draft, base in _bases().items():
        keywords: dict[str, Keyword] = {**newest, **base.VALIDATORS, **_OWN, "contains": newest["contains"]}
        for name, all_of_it in _ALL_EVALUATED.items():
            keywords[name] = _unless_evaluated(keywords[name], all_of_it)
        out[draft] = validators.extend(base, {name: _nullable(keyword) for name, keyword in keywords.items()})
    return out


def without_schema_uri(node: Any) -> Any:
    """Copy a schema without `$schema`, which would make `jsonschema` leave our dialect half-way."""
    if isinstance(node, dict):
        return {
            name: value if name in DATA else without_schema_uri(value)
            for name, value in node.items()
            if name != "$schema" or not isinstance(value, str)
        }
    return [without_schema_uri(value) for value in node] if isinstance(node, list) else node


def _nullable(keyword: Keyword) -> Keyword:
    """Make a keyword admit null where OpenAPI's `nullable: true` stands beside it."""

    @functools.wraps(keyword)
    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        if instance is None and schema.get("nullable") is True:
            return None
        return keyword(validator, value, instance, schema)

    return checked


def _unless_evaluated(keyword: Keyword, all_of_it: Callable[[Any], bool]) -> Keyword:
    """Skip an `unevaluated...` keyword where nothing is left to it (jsonschema overlooks that in 2019-09)."""

    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        return None if all_of_it(schema) else keyword(validator, value, instance, schema)

    return checked


_ALL_EVALUATED: dict[str, Callable[[Any], bool]] = {
    "unevaluatedProperties": lambda schema: "additionalProperties" in schema,
    "unevaluatedItems": lambda schema: (
        isinstance(schema.get("items"), (dict, bool)) or ("items" in schema and "additionalItems" in schema)
    ),
}


def _error(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)


def _exact(number: int | float) -> Fraction:
    """A number as its decimals are written."""
    return Fraction(Decimal(repr(number))) if isinstance(number, float) else Fraction(number)


@kept(1024, by_text(100))
def finder(pattern: str) -> Callable[[str], bool]:
    """Make the search for an ECMA-262 pattern, by the `regex` package if no mask can enforce it. Else `ValueError`."""
    try:
        return ecma_search(pattern).search
    except PatternError:
        import regex

        if len(pattern) > LONG_CHARACTERS:
            raise ValueError(f"it is longer than {LONG_CHARACTERS} characters") from None
        try:
            compiled = regex.compile(pattern, regex.V0)
        except (regex.error, RecursionError) as error:
            raise ValueError(str(error)) from None

        def search(text: str) -> bool:
            try:
                return compiled.search(text, timeout=SEARCH_SECONDS) is not None
            except TimeoutError:
                return False  # not known, so not let by

        return search


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not finder(pattern)(instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and isinstance(name, str) and not check_format(name, instance):
        yield _error(f"{instance!r} is not of the format {name!r}")


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "number") and _exact(instance) % _exact(step) != 0:
        yield _error(f"{instance!r} is not a multiple of {step!r}")


def _bound(fits: Callable[[Fraction, Fraction], bool], what: str, strict: str = "") -> Keyword:
    """A keyword that bounds numbers. `strict`: the keyword that, if true, leaves the bound itself out (draft 4)."""

    def keyword(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "number") or (isinstance(limit, bool) and not strict):
            return  # a bool is the draft 4 form of an exclusive bound, which stands beside the other one
        value, end = _exact(instance), _exact(limit)
        if not fits(value, end) or (strict and value == end and schema.get(strict) is True):
            yield _error(f"{instance!r} is {what} {limit!r}")

    return keyword


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if finder(pattern)(name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, extra: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for name, value in instance.items():
        if name in schema.get("properties", {}):
            continue
        if any(finder(pattern)(name) for pattern in schema.get("patternProperties", {})):
            continue
        if extra is False:
            yield _error(f"the property {name!r} is not allowed here")
        else:
            yield from validator.descend(value, extra, path=name)


def _items(validator: Any, items: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, list):
        return
    if isinstance(items, list):
        for index, (value, part) in enumerate(zip(instance, items)):
            yield from validator.descend(value, part, path=index, schema_path=index)
        return
    for index in range(len(schema.get("prefixItems", [])), len(instance)):
        yield from validator.descend(instance[index], items, path=index)


def _additional_items(validator: Any, extra: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, list) and isinstance(schema.get("items"), list):
        for index in range(len(schema["items"]), len(instance)):
            yield from validator.descend(instance[index], extra, path=index)


def _dependencies(validator: Any, dependencies: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for name, needs in dependencies.items():
        if name not in instance:
            continue
        if isinstance(needs, list):
            for other in needs:
                if other not in instance:
                    yield _error(f"{name!r} needs {other!r} beside it")
        else:
            yield from validator.descend(instance, needs, schema_path=name)


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "format": _format,
    "multipleOf": _multiple_of,
    "minimum": _bound(operator.ge, "below the minimum", "exclusiveMinimum"),
    "maximum": _bound(operator.le, "above the maximum", "exclusiveMaximum"),
    "exclusiveMinimum": _bound(operator.gt, "not above"),
    "exclusiveMaximum": _bound(operator.lt, "not below"),
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "items": _items,
    "additionalItems": _additional_items,
    "dependencies": _dependencies,
}


def brief(value: Any, length: int = 60) -> str:
    """A value for a message, cut to `length` characters."""
    text = value if length > 100 and isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
