"""The dialect of JSON Schema that finished text is checked in, as classes of `jsonschema`.

Owns: the keywords whose meaning differs from that library's: see `checking.py`. A keyword of any draft is looked at
in every draft, because one that is silently passed over is a constraint that was not applied; what stands beside
`$ref` is ignored in drafts 4 to 7, as they say.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..pattern import PatternError, accepts, ecma_search, parse_ecma
from .formats import check_format

Keyword = Callable[[Any, Any, Any, Any], Any]
DATA = frozenset({"const", "enum", "default", "examples", "example"})
SLOW = 0.25  # seconds of a search that backtracks too much


def classes(bases: dict[int, Any]) -> dict[int, Any]:
    """A validator class of our dialect for each draft."""
    from jsonschema import validators

    newest = bases[2020].VALIDATORS
    out = {}
    for draft, base in bases.items():
        keywords: dict[str, Keyword] = {}
        for name, keyword in newest.items():
            keywords[name] = base.VALIDATORS.get(name, keyword)
        keywords.update(base.VALIDATORS)
        keywords.update(_OWN)
        keywords["contains"] = newest["contains"]
        for name, all_of_it in _ALL_EVALUATED.items():
            keywords[name] = _unless_evaluated(keywords[name], all_of_it)
        out[draft] = validators.extend(base, {name: _nullable(keyword) for name, keyword in keywords.items()})
    return out


def without_schema_uri(node: Any) -> Any:
    """A copy of a schema without `$schema`, which would take a validator out of our dialect half-way."""
    if isinstance(node, dict):
        return {
            name: value if name in DATA else without_schema_uri(value)
            for name, value in node.items()
            if name != "$schema" or not isinstance(value, str)
        }
    return [without_schema_uri(value) for value in node] if isinstance(node, list) else node


def _nullable(keyword: Keyword) -> Keyword:
    """The keyword, but for null where OpenAPI's `nullable: true` stands beside it."""

    @functools.wraps(keyword)
    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        if instance is None and schema.get("nullable") is True:
            return None
        return keyword(validator, value, instance, schema)

    return checked


def _unless_evaluated(keyword: Keyword, all_of_it: Callable[[Any], bool]) -> Keyword:
    """An unevaluated... keyword, but where nothing is left to it (jsonschema overlooks that in 2019-09)."""

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


def decimal_multiple(value: int | float, step: int | float) -> bool:
    """Whether a number is a multiple of another one, in decimals as they are written."""
    return _exact(value) % _exact(step) == 0


def _exact(number: int | float) -> Fraction:
    return Fraction(Decimal(repr(number))) if isinstance(number, float) else Fraction(number)


@functools.lru_cache(maxsize=1024)
def finder(pattern: str) -> Callable[[str], bool]:
    """The search for an ECMA-262 pattern; `regex`'s for one that no mask can say. Raises `ValueError`."""
    try:
        return _Search(pattern).search
    except PatternError:
        import regex

        try:
            compiled = regex.compile(pattern, regex.V0)
        except regex.error as error:
            raise ValueError(str(error)) from None

        def search(text: str) -> bool:
            try:
                return compiled.search(text, timeout=SLOW) is not None
            except TimeoutError:
                return False  # not known, so not let by

        return search


class _Search:
    """A search for a pattern. One that was slow once is done by derivatives, which do not backtrack, from then on."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._slow = pattern, False
        self._backtracking = ecma_search(pattern)

    def search(self, text: str) -> bool:
        if self._slow:
            return accepts(parse_ecma(self._pattern), text)
        start = time.monotonic()
        found = self._backtracking.search(text)
        self._slow = time.monotonic() - start > SLOW
        return found


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not finder(pattern)(instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and isinstance(name, str) and not check_format(name, instance):
        yield _error(f"{instance!r} is not of the format {name!r}")


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "number") and not decimal_multiple(instance, step):
        yield _error(f"{instance!r} is not a multiple of {step!r}")


def _bound(validator: Any, limit: Any, instance: Any, fits: Callable[[Any, Any], bool], what: str) -> Iterator[Any]:
    if validator.is_type(instance, "number") and not fits(_exact(instance), _exact(limit)):
        yield _error(f"{instance!r} is {what} {limit!r}")


def _minimum(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[Any]:
    open_end = schema.get("exclusiveMinimum") is True
    yield from _bound(validator, limit, instance, lambda a, b: a > b or (a == b and not open_end), "below the minimum")


def _maximum(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[Any]:
    open_end = schema.get("exclusiveMaximum") is True
    yield from _bound(validator, limit, instance, lambda a, b: a < b or (a == b and not open_end), "above the maximum")


def _exclusive_minimum(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(limit, bool):
        yield from _bound(validator, limit, instance, lambda a, b: a > b, "not above")


def _exclusive_maximum(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(limit, bool):
        yield from _bound(validator, limit, instance, lambda a, b: a < b, "not below")


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
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _exclusive_minimum,
    "exclusiveMaximum": _exclusive_maximum,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "items": _items,
    "additionalItems": _additional_items,
    "dependencies": _dependencies,
}
