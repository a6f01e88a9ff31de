"""Which sampling options a service takes, how they are written in a request, and the refusal of all others.

Knows nothing of any one service. An option that would change the text and is not taken is a `CapabilityError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...lang.errors import CapabilityError, OptionError
from ...lang.expr import Sampling
from .service import Taken

_OURS = {"max_tokens", "timeout", "return_logprob", "return_text_in_logprobs"}
"""Options that every backend here obeys, or has a capability of its own for."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_tokens": (0,),
    "n": (1,),
    "top_k": (-1,),
    "top_p": (1,),
    "min_p": (0,),
    "temperature": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "ignore_eos": (False,),
    "logprob_start_len": (-1,),
    "top_logprobs_num": (0,),
    "stop": ((),),
    "stop_token_ids": ((),),
    "stop_regex": ((),),
    "logit_bias": ((),),
}
"""Values that change nothing, which no service needs to know."""


def check_sampling(name: str, sampling: Sampling, taken: Mapping[str, Taken], where: str) -> None:
    """Raise `CapabilityError` for an option that the service `name` does not take, or a value that it cannot take."""
    for field in fields(Sampling):
        option, value = field.name, getattr(sampling, field.name)
        if value is None or option in _OURS or value in _NEUTRAL.get(option, ()):
            continue
        if option not in taken:
            raise CapabilityError(
                f"{where}: {name} has no option {option}=, so {option}={_shown(value)} would be lost; leave it out, or "
                "run on a backend that has it, such as sgl.Runtime(...)"
            )
        most = taken[option].most
        size = len(value) if isinstance(value, tuple) else value
        if most is not None and size > most:
            what = f"{most:g} members" if isinstance(value, tuple) else f"{most:g}"
            raise CapabilityError(f"{where}: {name} takes {option}= of at most {what}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def as_fields(sampling: Sampling, taken: Mapping[str, Taken], *skip: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that were said as fields of a request, less those of `skip`, and the extensions among them."""
    plain: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for option, how in taken.items():
        value = getattr(sampling, option)
        if value is None or value == () or option in skip:
            continue
        if option == "logit_bias":
            value = {str(token): bias for token, bias in value}
        elif isinstance(value, tuple):
            value = list(value)
        (extra if how.extra else plain)[how.wire] = value
    return plain, extra


def one_of(what: str, value: Any, *values: str) -> str:
    """`value`, if it is one of `values`; else `OptionError`."""
    if value not in values:
        raise OptionError(f"{what} must be one of {', '.join(map(repr, values))}, got {value!r:.60}")
    return str(value)


def number(what: str, value: Any, least: float, whole: bool = False) -> Any:
    """`value`, if it is a number of at least `least`; else `OptionError`."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
        raise OptionError(
            f"{what} must be {'an integer' if whole else 'a number'} of at least {least:g}, got {value!r:.60}"
        )
    return value
