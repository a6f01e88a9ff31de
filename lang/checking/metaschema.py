"""Whether a schema is surely valid in its draft: the draft's metaschema as a predicate, made once.

Knows nothing of what keywords mean, nor why a schema is invalid: `dialect.py` asks `jsonschema` then, which is slow.

The predicate is never true for a schema that `jsonschema` finds invalid. It may be false for one that is valid: for a
whole number that is written as 1.0, or lists in an `enum`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

Predicate = Callable[[Any], bool]

_SILENT = frozenset({
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$defs", "definitions", "$vocabulary",
    "$comment", "title", "description", "default", "examples", "deprecated", "format",
})  # fmt: skip
"""Keywords of metaschemas that forbid nothing; a `format` is not looked at in a metaschema."""


def surely_valid(uri: str, schema: Any) -> bool:
    """Whether the metaschema with this URI surely admits a schema."""
    predicate = _predicate(uri)
    return predicate is not None and predicate(schema)


@functools.cache
def _predicate(uri: str) -> Predicate | None:
    try:
        return _Metaschema(uri).at(uri)
    except KeyError:  # a keyword that is not known here, in a metaschema that is newer
        return None


class _Metaschema:
    """A metaschema that is compiled. Its dynamic references all lead to the whole of it, which is the only way in."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._known: dict[str, Predicate] = {}

    def at(self, uri: str) -> Predicate:
        """Return the predicate of the metaschema, or the part of one, that a URI names."""
        from jsonschema_specifications import REGISTRY

        if uri not in self._known:
            self._known[uri] = lambda value: self._known[uri](value)  # for references from within
            base, fragment = urldefrag(uri)
            node: Any = REGISTRY.contents(base)
            for name in fragment.split("/")[1:]:
                node = node[unquote(name)]
            self._known[uri] = self._made(node, base)
        return self._known[uri]

    def _made(self, node: Any, base: str) -> Predicate:
        if isinstance(node, bool):
            return lambda value: node
        tests = [self._test(name, node, base) for name in node if name not in _SILENT]
        return tests[0] if len(tests) == 1 else _all(tests)

    def _test(self, keyword: str, node: Any, base: str) -> Predicate:
        value = node[keyword]
        if keyword == "$ref":
            return self.at(urljoin(base, value))
        if keyword in ("$dynamicRef", "$recursiveRef"):
            return self.at(self.uri)
        if keyword in ("allOf", "anyOf"):
            parts = [self._made(part, base) for part in value]
            return _all(parts) if keyword == "allOf" else lambda it: any(part(it) for part in parts)
        if keyword == "properties":
            return _members({name: self._made(part, base) for name, part in value.items()})
        if keyword == "additionalProperties":
            return _others(frozenset(node.get("properties", ())), self._made(value, base))
        if keyword in ("items", "propertyNames"):
            part, kind = self._made(value, base), list if keyword == "items" else dict
            return lambda it: not isinstance(it, kind) or all(map(part, it))
        return _TESTS[keyword](value, node)


def _all(tests: list[Predicate]) -> Predicate:
    def fits(value: Any) -> bool:
        for test in tests:  # noqa: SIM110 - it is asked for each keyword of a large schema
            if not test(value):
                return False
        return True

    return fits


def _members(tests: dict[str, Predicate]) -> Predicate:
    def fits(value: Any) -> bool:
        if isinstance(value, dict):
            for name, member in value.items():
                test = tests.get(name)
                if test is not None and not test(member):
                    return False
        return True

    return fits


def _others(named: frozenset[str], test: Predicate) -> Predicate:
    return lambda value: (
        not isinstance(value, dict) or all(test(member) for name, member in value.items() if name not in named)
    )


def _type(names: Any, node: Any) -> Predicate:
    tests = [_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)


def _minimum(least: Any, node: Any) -> Predicate:
    strict = node.get("exclusiveMinimum") is True  # in draft 4
    return lambda value: not _is_number(value) or (value > least if strict else value >= least)


def _exclusive_minimum(least: Any, node: Any) -> Predicate:
    return lambda value: isinstance(least, bool) or not _is_number(value) or value > least


def _dependencies(needs: Any, node: Any) -> Predicate:
    return lambda value: (
        not isinstance(value, dict)
        or all(value.keys() >= set(others) for name, others in needs.items() if name in value)
    )


def _pattern(pattern: Any, node: Any) -> Predicate:
    search = re.compile(pattern).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _distinct(value: Any) -> bool:
    """Whether the items of a list surely differ; so those of other kinds."""
    if not isinstance(value, list):
        return True
    if not all(isinstance(item, (str, int, float)) or item is None for item in value):
        return len(value) == 1
    return len(set(value)) == len(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Predicate] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}
_TESTS: dict[str, Callable[[Any, Any], Predicate]] = {
    "type": _type,
    "enum": lambda values, node: lambda value: isinstance(value, str) and value in values,
    "minimum": _minimum,
    "exclusiveMinimum": _exclusive_minimum,
    "minItems": lambda least, node: lambda value: not isinstance(value, list) or len(value) >= least,
    "uniqueItems": lambda unique, node: _distinct if unique else lambda value: True,
    "pattern": _pattern,
    "dependencies": _dependencies,
}
