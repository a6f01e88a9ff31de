"""Finished text against its constraint: the check that stands behind every mask.

Knows nothing of masks or engines. It shares no code with them but the meaning of patterns and formats, so it is an
oracle for them. A JSON Schema is validated in the dialect of `dialect.py`. JSON text is strict: no repeated keys, no
NaN or Infinity.

Invariant: every check is bounded in time, since it may run while others wait for the engine. No search backtracks for
more than a fraction of a second, and what cannot be decided is a `Mismatch`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ..constraint import Choices, Constraint, Control, Either, Exactly, Grammar, JsonSchema, Regex, Repeated, Sequenced
from ..kept import by_text, kept
from ..pattern import PatternError
from ..pattern.python import PythonReader
from ..pattern.search import LONG_CHARACTERS, written
from ..types.conversion import parse, value_of_dtype
from .dialect import SEARCH_SECONDS, brief, validator_for
from .splitting import Slow, matches, splits

MOST_COMPILED = 64
"""Compiled patterns, and validators, that are kept."""


class Mismatch(ValueError):
    """A text breaks its constraint; `.reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OutOfRange(Mismatch):
    """A number of a JSON text that no double holds. Within other text no mask can tell."""


def check(constraint: Constraint, text: str) -> Any:
    """Check a finished text and read its value. Raises `Mismatch` if the text breaks the constraint.

    The value is an instance of a schema's type, the data of a JSON Schema, or what `dtype=` stands for. A union has the
    value of its first branch that matches. Any other constraint has the text. A control token is checked by its
    text. A grammar is not checked here.
    """
    if isinstance(constraint, (Exactly, Control)):
        if text != constraint.text:
            raise Mismatch(f"the text is {brief(text)}, not {brief(constraint.text)}")
        return text
    if isinstance(constraint, Regex):
        if not _fullmatch(constraint.pattern, text):
            raise Mismatch(f"{brief(text)} does not match {brief(constraint.pattern)}")
        return text if constraint.dtype is None else value_of_dtype(constraint.dtype, text)
    if isinstance(constraint, Choices):
        if text not in constraint.choices:
            raise Mismatch(f"{brief(text)} is none of the {len(constraint.choices)} choices")
        return text
    if isinstance(constraint, JsonSchema):
        return _check_json(constraint, text)
    if isinstance(constraint, Either):
        return _check_either(constraint, text)
    if isinstance(constraint, Sequenced):
        if not _splits(constraint.parts, text):
            raise Mismatch(f"{brief(text)} cannot be split into the {len(constraint.parts)} parts of the sequence")
        return text
    if isinstance(constraint, Repeated):
        if not _splits((constraint,), text):
            raise Mismatch(f"{brief(text)} cannot be split into texts of the repeated part")
        return text
    if isinstance(constraint, Grammar):
        return text
    raise TypeError(f"no check for {type(constraint).__name__}")


def _check_either(constraint: Either, text: str) -> Any:
    reasons = []
    beyond: OutOfRange | None = None
    for branch in constraint.branches:
        try:
            return check(branch, text)
        except Mismatch as mismatch:
            reasons.append(mismatch.reason)
            beyond = mismatch if isinstance(mismatch, OutOfRange) else beyond
    if beyond is not None:
        raise beyond
    raise Mismatch("no branch matches: " + "; ".join(reasons))


# -------------------------------------------------------------------------------------------------------------- text


@kept(MOST_COMPILED, by_text(100))
def _regex(pattern: str) -> Any:
    import regex

    try:
        if len(pattern) > LONG_CHARACTERS:
            pattern = written(PythonReader(pattern).read())
        return regex.compile(pattern, regex.V0)
    except (regex.error, PatternError, RecursionError):
        return None  # Python's own syntax that this package does not read


def _fullmatch(pattern: str, text: str) -> bool:
    """Match by the `regex` package, with a time limit. Where that says no or is too slow, match by derivatives."""
    try:
        if (compiled := _regex(pattern)) is not None and compiled.fullmatch(text, timeout=SEARCH_SECONDS) is not None:
            return True
    except TimeoutError:
        pass
    try:
        return matches(pattern, text)
    except Slow as slow:
        raise Mismatch(f"{brief(text)} against {brief(pattern)}: {slow}") from None


def _splits(parts: tuple[Constraint, ...], text: str) -> bool:
    """Whether a text can be split into the parts. Raises `OutOfRange` if only a number is in the way."""
    beyond: list[OutOfRange] = []

    def fits(part: Constraint, piece: str) -> bool:
        try:
            check(part, piece)
        except OutOfRange as mismatch:
            beyond.append(mismatch)
            return False
        except Mismatch:
            return False
        return True

    try:
        found = splits(parts, text, fits)
    except Slow as slow:
        raise Mismatch(f"{brief(text)} as a sequence: {slow}") from None
    if not found and beyond:
        raise beyond[0]
    return found


# -------------------------------------------------------------------------------------------------------------- JSON


def _check_json(constraint: JsonSchema, text: str) -> Any:
    value = parse_json(text)
    if constraint.type is not None:
        try:
            return parse(constraint.type, text)
        except ValueError as error:
            raise (OutOfRange if _beyond(value) else Mismatch)(str(error)) from error
    return _validated(_validator(constraint.source), value)


def _validated(validator: Any, value: Any) -> Any:
    try:
        for error in validator.iter_errors(value):
            where = "/".join(str(part) for part in error.absolute_path)
            said = "/".join(str(part) for part in error.absolute_schema_path)
            raise Mismatch(f"at /{where}: {brief(error.message, 200)} (schema: /{said})")
    except RecursionError:
        raise Mismatch("the value is nested too deeply to be checked") from None
    return value


def parse_json(text: str) -> Any:
    """Parse strict JSON: a `Mismatch` for repeated keys, NaN, Infinity, numbers beyond a double
    (`OutOfRange`), lone surrogates."""
    try:
        value = json.loads(
            text, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
    except Mismatch:
        raise
    except RecursionError:
        raise Mismatch("the JSON text is nested too deeply") from None
    except ValueError as error:
        raise Mismatch(f"this is not JSON: {error}: {brief(text)}") from None
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
        raise OutOfRange(f"{brief(number)} is out of the range of numbers")
    return value


def _whole(number: str) -> int:
    try:
        return int(number)
    except ValueError:  # Python reads at most 4,300 digits
        raise OutOfRange(f"{brief(number)} is out of the range of numbers") from None


def _beyond(value: Any) -> bool:
    """Whether data have an integer that no double holds."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, (dict, list)):
            left += one.values() if isinstance(one, dict) else one
        elif isinstance(one, int) and abs(one) > sys.float_info.max:
            return True
    return False


def _no_constant(name: str) -> Any:
    raise Mismatch(f"{name} is not JSON")


@kept(MOST_COMPILED, by_text(40, 10_000))
def _validator(source: str) -> Any:
    """The validator of a schema as JSON text."""
    return validator_for(json.loads(source))
