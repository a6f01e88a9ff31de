"""The sampling options: one table, `OPTIONS`, of their names, types, units, defaults, ranges and checks.

Run-level options, the parameters of `gen_int` and `gen_string`, the names that `Runtime.generate` takes and the
documentation (`describe`) come from this table. Knows nothing of expressions, nor of how a token is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

import regex

from .errors import ConstraintError, OptionError, suggest

DEFAULT_MAX_TOKENS = 128
"""Budget of a gen of free text that names none (SGLang's)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling options of one gen, checked. None: not said here, so the program's default or ours decides."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    stop_regex: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    timeout: float | None = None

    @staticmethod
    def of(where: str, **options: Any) -> Sampling:
        """Check options as a user writes them. Raises `OptionError` that names `where`."""
        return Sampling(**normalise(where, options))

    def over(self, default: Sampling) -> Sampling:
        """These options where they are said, else those of `default`. A gen's `stop` replaces the run's."""
        theirs = _values(default)
        if theirs == _UNSAID:
            return self
        return Sampling(*[d if v is None else v for v, d in zip(_values(self), theirs)])


_values = attrgetter(*(f.name for f in fields(Sampling)))
"""The fields of a `Sampling`, in the order of its constructor."""
_UNSAID = _values(Sampling())


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


# ------------------------------------------------------------------------------------------------------------- checks


class _Check(NamedTuple):
    """Which values an option takes: in words, and as a function of (what to name in an error, the value)."""

    range: str
    of: Callable[[str, Any], Any]


MOST_SAMPLES = 4096
"""Of one gen: each sample is a branch of its own, made at once."""
MOST_STOPS, MOST_STOP_CHARACTERS = 1024, 8192
"""Stop strings of one gen, and their characters together. Each is looked for after each token, while others wait."""
MOST_STOP_PATTERNS, LONGEST_STOP_PATTERN = 64, 512
"""Stop regexes of one gen, and the characters of one. Longer literals take the `regex` package seconds to prepare."""
MOST_TOKEN_IDS = 1 << 20
"""Token ids in one option: more than any vocabulary has."""
_EMPTY_SECONDS = 0.25


def _integer(low: int, high: int | None = None) -> _Check:
    range = f"at least {low}" if high is None else f"in [{low}, {high}]"

    def check(what: str, value: Any) -> int:
        try:
            if isinstance(value, bool):
                raise TypeError
            number = int(value.__index__())
        except (AttributeError, TypeError):
            raise OptionError(f"{what} must be an integer, got {shown(value)}") from None
        if number < low or (high is not None and number > high):
            raise OptionError(f"{what} must be {range}, got {shown(number)}")
        return number

    return _Check(range, check)


def _number(low: float, high: float, *, open_low: bool = False) -> _Check:
    range = f"in {'(' if open_low else '['}{low:g}, {high:g}]"

    def check(what: str, value: Any) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            raise OptionError(f"{what} must be a number, got {shown(value)}") from None
        outside = math.isnan(number) or not low <= number <= high or (open_low and number == low)
        # bool is an int, and NumPy's a number; text and bytes are read by float() too
        no_number = isinstance(value, (bool, str, bytes, bytearray)) or type(value).__name__ in ("bool", "bool_")
        if outside or no_number:
            raise OptionError(f"{what} must be {range}, got {shown(value)}")
        return number

    return _Check(range, check)


def shown(value: Any) -> str:
    """The beginning of a value's repr, for an error about it; its type where it has none."""
    try:
        return f"{value!r:.60}"
    except Exception:  # a number of thousands of digits, a `__repr__` that fails: no reason for another error
        return f"a {type(value).__name__} that cannot be shown"


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{what} must be True or False, got {shown(value)}")
    return value


def refuse_surrogates(what: str, text: str) -> None:
    """Raise `OptionError` for text with half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = text[error.start]
        raise OptionError(
            f"{what} has a lone surrogate {lone!r} at position {error.start}, which no token can spell; remove it"
        ) from None


def _few(what: str, value: Any, most: int) -> Any:
    """The value, if it is one or a sequence of at most so many. It is not read before its length is known."""
    if isinstance(value, Sequence) and len(value) > most and not isinstance(value, str):
        raise OptionError(f"{what} has {len(value)} members; at most {most} are allowed")
    return value


def _strings(what: str, value: Any, most: int = MOST_STOPS, characters: int = MOST_STOP_CHARACTERS) -> tuple[str, ...]:
    value = _few(what, value, most)
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else None
    if found is None or not all(isinstance(s, str) for s in found):
        raise OptionError(f"{what} must be a string or a list of strings, got {shown(value)}")
    if "" in found:
        raise OptionError(f"{what} has an empty string, which would stop before the first token; remove it")
    if (total := sum(map(len, found))) > characters:
        raise OptionError(f"{what} has {total} characters; at most {characters} are allowed in all")
    for text in found:
        refuse_surrogates(what, text)
    return found


def _regexes(what: str, value: Any) -> tuple[str, ...]:
    found = _strings(what, value, MOST_STOP_PATTERNS, MOST_STOP_PATTERNS * LONGEST_STOP_PATTERN)
    for pattern in found:
        if len(pattern) > LONGEST_STOP_PATTERN:
            raise ConstraintError(
                f"{what} has a pattern of {len(pattern)} characters; at most {LONGEST_STOP_PATTERN} are allowed. Give "
                "several patterns instead of one"
            )
        try:
            empty = regex.compile(pattern).fullmatch("", timeout=_EMPTY_SECONDS) is not None
        except regex.error as e:
            raise ConstraintError(f"{what} {pattern!r} is not a valid regular expression: {e}") from None
        except TimeoutError:
            raise ConstraintError(f"{what} {pattern!r:.200} takes too long to match even the empty text") from None
        except Exception as e:  # RecursionError for deep nesting, and what else a parser runs into
            raise ConstraintError(f"{what} {pattern!r:.200} cannot be read: {type(e).__name__}") from None
        if empty:
            raise ConstraintError(f"{what} {pattern!r} matches the empty text, so it would stop before the first token")
    return found


_token_id = _integer(0).of
_bias_value = _number(-100, 100).of


def _token_ids(what: str, value: Any) -> tuple[int, ...]:
    value = _few(what, value, MOST_TOKEN_IDS)
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return tuple(dict.fromkeys(_token_id(what, v) for v in values))


def _bias(what: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{what} must map token ids to numbers, got {shown(value)}")
    if len(value) > MOST_TOKEN_IDS:
        raise OptionError(f"{what} has {len(value)} members; at most {MOST_TOKEN_IDS} are allowed")
    found: dict[int, float] = {}
    for key, bias in value.items():
        digits = isinstance(key, str) and key.isdecimal() and len(key) < 20
        token = _token_id(f"{what} token id", int(key) if digits else key)
        if token in found:
            raise OptionError(f"{what} names token {shown(token)} twice")
        found[token] = _bias_value(f"{what}[{shown(token)}]", bias)
    return tuple(sorted(found.items()))


def _top_k(what: str, value: Any) -> int:
    number: int = _integer(-1).of(what, value)
    if number == 0:
        raise OptionError(f"{what} must be -1 (all tokens) or at least 1, got 0")
    return number


# -------------------------------------------------------------------------------------------------------------- table


class SamplingOption(NamedTuple):
    """One row of the table."""

    name: str
    """gen's keyword, and the field of `Sampling`."""
    type: str
    unit: str
    default: str
    """What holds where neither the gen nor the run says anything."""
    check: _Check
    takers: tuple[str, ...]
    meaning: str
    sglang: str = ""
    """The name in SGLang's `sampling_params`, if it is another one. `Runtime.generate` takes both names."""


_ALL = ("gen", "gen_int", "gen_string", "run", "generate")
_OURS = ("gen", "run", "generate")
_ONE_CALL = ("gen", "generate")

_BUDGET = f"{DEFAULT_MAX_TOKENS}; of an endless regex 512; of another constraint the context left"
_BOOL = _Check("", _flag)
_TEXTS = _Check(f"not empty; {MOST_STOPS} at most", _strings)
_PATTERNS = _Check(f"no match of the empty text; {MOST_STOP_PATTERNS} at most", _regexes)
_IDS = _Check("at least 0", _token_ids)
_COUNT = _integer(0)
_SHARE, _POSITIVE_SHARE = _number(0, 1), _number(0, 1, open_low=True)
_PENALTY = _number(-2, 2)
_FACTOR = _number(0, 10, open_low=True)
_TOP_K = _Check("-1 or at least 1", _top_k)
_SEED = _integer(-(2**63), 2**64 - 1)
_BIAS = _Check("values in [-100, 100]", _bias)
_SECONDS = _number(0, 1e9, open_low=True)
_REPEATED = "divides the logits of tokens in the prompt or the text (Keskar et al. 2019)"
_PROMPT = "log-probabilities of the prompt from this token on; -1: none; needs `return_logprob`"
_LIKELIEST = "likeliest tokens to keep beside each token; needs `return_logprob`"

OPTIONS = tuple(
    SamplingOption(*row)
    for row in (
        ("max_tokens", "int", "tokens", _BUDGET, _COUNT, _ALL, "most tokens to write", "max_new_tokens"),
        ("min_tokens", "int", "tokens", "0", _COUNT, _ONE_CALL, "tokens before the text may end", "min_new_tokens"),
        (
            "n",
            "int",
            "samples",
            "1",
            _integer(1, MOST_SAMPLES),
            _ALL,
            "samples to draw; with more than 1 the value is a list",
        ),
        ("stop", "str or list", "text", "none", _TEXTS, _ALL, "texts that end the text and are cut off"),
        ("stop_token_ids", "list of int", "token ids", "none", _IDS, _ALL, "tokens that end the text"),
        ("stop_regex", "str or list", "pattern", "none", _PATTERNS, _ALL, "patterns that end the text and are cut off"),
        ("temperature", "float", "", "1", _number(0, 100), _ALL, "divides the logits; 0: the likeliest token"),
        ("top_p", "float", "probability", "1", _POSITIVE_SHARE, _ALL, "keeps the likeliest tokens of this mass"),
        ("top_k", "int", "tokens", "-1", _TOP_K, _ALL, "keeps so many of the likeliest tokens; -1: all"),
        ("min_p", "float", "probability", "0", _SHARE, _ALL, "keeps tokens so likely, relative to the likeliest"),
        ("frequency_penalty", "float", "logits", "0", _PENALTY, _ALL, "subtracted for each time a token was generated"),
        ("presence_penalty", "float", "logits", "0", _PENALTY, _ALL, "subtracted once from a token that was generated"),
        ("repetition_penalty", "float", "factor", "1", _FACTOR, _OURS, _REPEATED),
        ("ignore_eos", "bool", "", "False", _BOOL, _ALL, "goes on where the model would end the text"),
        ("return_logprob", "bool", "", "False", _BOOL, _ALL, "keeps the log-probabilities of the tokens"),
        ("logprob_start_len", "int", "tokens", "-1", _integer(-1), _ALL, _PROMPT),
        ("top_logprobs_num", "int", "tokens", "0", _COUNT, _ALL, _LIKELIEST),
        ("return_text_in_logprobs", "bool", "", "True", _BOOL, _ALL, "each log-probability comes with its text"),
        ("seed", "int", "", "drawn", _SEED, _OURS, "the same seed and text give the same result", "sampling_seed"),
        ("logit_bias", "dict", "logits", "none", _BIAS, _ONE_CALL, "token id to what is added to its logit"),
        ("timeout", "float", "seconds", "none", _SECONDS, _OURS, "raises `ProgramTimeout` when it has passed"),
    )
)

_CHECKS: dict[str, Callable[[str, Any], Any]] = {option.name: option.check.of for option in OPTIONS}
SGLANG_NAMES = {option.sglang: option.name for option in OPTIONS if option.sglang}
"""Name in SGLang's `sampling_params` -> ours, where they differ."""
_RUN_NAME = {"max_tokens": "max_new_tokens"}
RUN_NAMES = {_RUN_NAME.get(option.name, option.name): option.name for option in OPTIONS if "run" in option.takers}
"""Name of a run-level option (SGLang's) -> gen's name for it."""


def describe() -> str:
    """The table in Markdown, for the documentation: one row an option.

    Example:
        >>> print(describe().splitlines()[8])
        | `temperature` | float |  | 1 | in [0, 100] | divides the logits; 0: the likeliest token | all |
    """
    rows = ["| option | type | unit | default | values | meaning | taken by |", "|---|---|---|---|---|---|---|"]
    for option in OPTIONS:
        name, kind, unit, default, check, takers, meaning, sglang = option
        names = {"run": _RUN_NAME.get(name, name), "generate": sglang or name}
        renamed = {taker: f" (as `{names[taker]}`)" for taker in names if names[taker] != name}
        by = ", ".join(f"`{taker}`{renamed.get(taker, '')}" for taker in takers)
        by = "all" if takers == _ALL and not renamed else by
        rows.append(f"| `{name}` | {kind} | {unit} | {default} | {check.range} | {meaning} | {by} |")
    return "\n".join(rows) + "\n"
