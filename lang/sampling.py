"""Checks and normal forms of the sampling options a user writes.

Owns: the range of every option and the message when it is left. Used by `gen(...)` and by run-level defaults, so both
accept and refuse exactly the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from .errors import ConstraintError, OptionError, suggest


def normalise(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check each given option and return it in the form `Sampling` holds (lists become tuples)."""
    out: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise OptionError(f"{where}: unknown option {name!r}{suggest(name, _CHECKS)}")
        out[name] = None if value is None else check(f"{where}: {name}", value)
    low, high = out.get("min_tokens"), out.get("max_tokens")
    if low is not None and high is not None and low > high:
        raise OptionError(f"{where}: min_tokens={low} is more than max_tokens={high}")
    return out


def _integer(low: int, high: int | None = None) -> Any:
    def check(what: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise OptionError(f"{what} must be an integer, got {value!r:.60}")
        number = int(value.__index__())
        if number < low or (high is not None and number > high):
            raise OptionError(
                f"{what} must be {f'at least {low}' if high is None else f'in [{low}, {high}]'}, got {number}"
            )
        return number

    return check


def _number(low: float, high: float, *, open_low: bool = False) -> Any:
    def check(what: str, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise OptionError(f"{what} must be a number, got {value!r:.60}") from None
        if (
            isinstance(value, (bool, str))
            or math.isnan(number)
            or not low <= number <= high
            or (open_low and number == low)
        ):
            raise OptionError(f"{what} must be in {'(' if open_low else '['}{low:g}, {high:g}], got {value!r:.60}")
        return number

    return check


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{what} must be True or False, got {value!r:.60}")
    return value


def _strings(what: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else None
    if found is None or not all(isinstance(s, str) for s in found):
        raise OptionError(f"{what} must be a string or a list of strings, got {value!r:.60}")
    if "" in found:
        raise OptionError(f"{what} has an empty string, which would stop before the first token; remove it")
    return found


def _regexes(what: str, value: Any) -> tuple[str, ...]:
    found = _strings(what, value)
    for pattern in found:
        try:
            compiled = regex.compile(pattern)
        except regex.error as e:
            raise ConstraintError(f"{what} {pattern!r} is not a valid regular expression: {e}") from None
        if compiled.fullmatch("") is not None:
            raise ConstraintError(f"{what} {pattern!r} matches the empty text, so it would stop before the first token")
    return found


def _token_ids(what: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return tuple(_integer(0)(what, v) for v in values)


def _bias(what: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{what} must map token ids to numbers, got {value!r:.60}")
    check = _integer(0)
    return tuple(
        sorted(
            (
                check(f"{what} token id", int(k) if isinstance(k, str) and k.isdigit() else k),
                _number(-100, 100)(f"{what}[{k}]", v),
            )
            for k, v in value.items()
        )
    )


def _top_k(what: str, value: Any) -> int:
    number: int = _integer(-1)(what, value)
    if number == 0:
        raise OptionError(f"{what} must be -1 (all tokens) or at least 1, got 0")
    return number


_CHECKS: dict[str, Any] = {
    "max_tokens": _integer(0),
    "min_tokens": _integer(0),
    "n": _integer(1),
    "stop": _strings,
    "stop_token_ids": _token_ids,
    "stop_regex": _regexes,
    "temperature": _number(0, 100),
    "top_p": _number(0, 1, open_low=True),
    "top_k": _top_k,
    "min_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 10, open_low=True),
    "ignore_eos": _flag,
    "return_logprob": _flag,
    "logprob_start_len": _integer(-1),
    "top_logprobs_num": _integer(0),
    "return_text_in_logprobs": _flag,
    "seed": _integer(-(2**63), 2**64 - 1),
    "logit_bias": _bias,
    "timeout": _number(0, 1e9, open_low=True),
}
SAMPLING_OPTIONS = tuple(_CHECKS)
