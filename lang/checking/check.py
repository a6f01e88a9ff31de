"""Finished text against what it had to be: the check that stands behind every mask.

Owns: `check`, the dialect that schemas are validated in, and the compiled validators. Knows nothing of masks or
engines, and shares no code with them but the meaning of patterns and formats; so it is an oracle for them.

A schema is validated by `jsonschema` in its own draft, with these differences: a `pattern` has the meaning of ECMA-262
(`pattern.py`), a `format` that of our table (`formats.py`), `multipleOf` is computed in decimals, OpenAPI's
`nullable` admits null, the keywords of all drafts are looked at whatever the draft, and JSON text is strict: no
repeated keys, no NaN or Infinity.

Every check is bounded in time, since it may run while others wait for the engine: no search backtracks for more than
a fraction of a second, and what cannot be decided is a `Mismatch`.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from ..constraint import Choices, Constraint, Either, Exactly, Grammar, JsonSchema, Regex, Sequenced
from ..errors import ConstraintError
from ..types.conversion import parse, value_of_dtype
from . import dialect as dialects
from .formats import check_format
from .splitting import Slow, matches, splits

MOST_KEPT = 256
PATIENCE = 0.25  # seconds of backtracking in one search


class Mismatch(ValueError):
    """A text that is not what its constraint says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check(constraint: Constraint, text: str) -> Any:
    """The value of a finished text. Raises `Mismatch` if the text is not what the constraint says.

    A text for text, regex, choices and grammars (a grammar has no oracle of its own); the parsed data, or an instance
    of the type, for a schema; the text for a sequence; the value of the first branch that matches for a union.
    """
    if isinstance(constraint, Exactly):
        if text != constraint.text:
            raise Mismatch(f"the text is {_brief(text)}, not {_brief(constraint.text)}")
        return text
    if isinstance(constraint, Regex):
        if not _fullmatch(constraint.pattern, text):
            raise Mismatch(f"{_brief(text)} does not match {_brief(constraint.pattern)}")
        return text if constraint.dtype is None else value_of_dtype(constraint.dtype, text)
    if isinstance(constraint, Choices):
        if text not in constraint.choices:
            raise Mismatch(f"{_brief(text)} is none of the {len(constraint.choices)} choices")
        return text
    if isinstance(constraint, JsonSchema):
        return _check_json(constraint, text)
    if isinstance(constraint, Either):
        return _check_either(constraint, text)
    if isinstance(constraint, Sequenced):
        if not _splits(constraint.parts, text):
            raise Mismatch(f"{_brief(text)} cannot be split into the {len(constraint.parts)} parts of the sequence")
        return text
    if isinstance(constraint, Grammar):
        return text
    raise TypeError(f"no check for {type(constraint).__name__}")


def _check_either(constraint: Either, text: str) -> Any:
    reasons = []
    for branch in constraint.branches:
        try:
            return check(branch, text)
        except Mismatch as mismatch:
            reasons.append(mismatch.reason)
    raise Mismatch("no branch matches: " + "; ".join(reasons))


# -------------------------------------------------------------------------------------------------------------- text


@functools.lru_cache(maxsize=MOST_KEPT)
def _regex(pattern: str) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.V0)
    except regex.error:
        return None  # Python's own syntax that this package does not read


def _fullmatch(pattern: str, text: str) -> bool:
    """By the `regex` package, with a time limit; where that says no or not in time, by derivatives."""
    try:
        if (compiled := _regex(pattern)) is not None and compiled.fullmatch(text, timeout=PATIENCE) is not None:
            return True
    except TimeoutError:
        pass
    try:
        return matches(pattern, text)
    except Slow as slow:
        raise Mismatch(f"{_brief(text)} against {_brief(pattern)}: {slow}") from None


def _splits(parts: tuple[Constraint, ...], text: str) -> bool:
    try:
        return splits(parts, text, _fits)
    except Slow as slow:
        raise Mismatch(f"{_brief(text)} as a sequence: {slow}") from None


def _fits(part: Constraint, text: str) -> bool:
    try:
        check(part, text)
    except Mismatch:
        return False
    return True


# -------------------------------------------------------------------------------------------------------------- JSON


def _check_json(constraint: JsonSchema, text: str) -> Any:
    value = parse_json(text)
    if constraint.type is not None:
        try:
            return parse(constraint.type, text)
        except ValueError as error:
            raise Mismatch(str(error)) from error
    return _validated(_validator(constraint.source), value)


def _validated(validator: Any, value: Any) -> Any:
    try:
        for error in validator.iter_errors(value):
            where = "/".join(str(part) for part in error.absolute_path)
            said = "/".join(str(part) for part in error.absolute_schema_path)
            raise Mismatch(f"at /{where}: {_brief(error.message, 200)} (schema: /{said})")
    except RecursionError:
        raise Mismatch("the value is nested too deeply to be checked") from None
    return value


def parse_json(text: str) -> Any:
    """Parse strict JSON: a `Mismatch` for repeated keys, NaN, Infinity, numbers beyond a double, lone surrogates."""
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
    except Mismatch:
        raise
    except RecursionError:
        raise Mismatch("the JSON text is nested too deeply") from None
    except ValueError as error:
        raise Mismatch(f"this is not JSON: {error}: {_brief(text)}") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Mismatch("a lone surrogate is no character") from None
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Mismatch(f"the key {twice!r} is there twice")
    return out


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise Mismatch(f"{_brief(number)} is out of the range of numbers")
    return value


def _no_constant(name: str) -> Any:
    raise Mismatch(f"{name} is not JSON")


@functools.lru_cache(MOST_KEPT)
def _validator(source: str) -> Any:
    """The validator of a schema as JSON text."""
    return validator_for(json.loads(source))


# ----------------------------------------------------------------------------------------------------------- dialect


def validator_for(schema: Any) -> Any:
    """A `jsonschema` validator of our dialect. Nothing is fetched."""
    _, dialect_class = dialect(schema)
    return dialect_class(dialects.without_schema_uri(schema))


_DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}


def dialect(schema: Any) -> tuple[int, Any]:
    """The draft of a schema (4, 6, 7, 2019 or 2020) and its validator class.

    By `$schema`; without a known one 2020-12, or the newest draft that the schema is valid in.
    """
    draft, _ = _examined(json.dumps(schema))
    return draft, _classes()[draft]


def metaschema_fault(schema: Any) -> tuple[str, str] | None:
    """Where a schema is no valid schema of its draft, and why; or None."""
    try:
        return _examined(json.dumps(schema))[1]
    except RecursionError:
        raise ConstraintError("(root): the schema is nested too deeply; break it up with $defs") from None


@functools.lru_cache(maxsize=64)
def _examined(source: str) -> tuple[int, tuple[str, str] | None]:
    """The draft of a schema and its fault: once for a schema, since a metaschema takes milliseconds."""
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
    import jsonschema

    base = _bases()[draft]
    best = jsonschema.exceptions.best_match(base(base.META_SCHEMA).iter_errors(schema))
    if best is None:
        return None
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in best.absolute_path]
    return "".join(f"/{part}" for part in parts), _brief(best.message, 200)


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
    return dialects.classes(_bases())


def _brief(value: Any, length: int = 60) -> str:
    text = value if length > 100 and isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


__all__ = ["Mismatch", "check", "check_format", "dialect", "metaschema_fault", "parse_json", "validator_for"]
