"""The words a program is written in: `gen`, `select`, `system`, `user`, `assistant` and their kin.

Owns: their signatures (SGLang's names and keyword order, then ours, keyword-only) and the checks of each option. What
they return is described in `expr.py`. Nothing runs here.

An option that is misspelt, contradictory or not carried out by this version raises where it is written; none is
ignored.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from . import constraint as constraints
from .choices import ChoiceMethod, token_length_normalized
from .constraint import Constraint
from .errors import ConstraintError, NotYet, OptionError, suggest
from .expr import (
    Appendable,
    Expr,
    Gen,
    RoleBegin,
    RoleEnd,
    Sampling,
    Select,
    Seq,
    Text,
    as_expr,
    check_choices,
)
from .sampling import normalise

P = ParamSpec("P")
R = TypeVar("R")

Strings = str | Sequence[str]


def _checked(func: Callable[P, R]) -> Callable[P, R]:
    """`func`, with an `OptionError` that suggests the right name for a keyword it does not have."""
    known = tuple(inspect.signature(func).parameters)

    @functools.wraps(func)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise OptionError(f"{func.__name__}: unknown option {name!r}{suggest(name, known)}")
        return func(*args, **kwargs)

    return call


@_checked
def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: Strings | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: Strings | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoiceMethod | None = None,
    regex: str | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    *,
    schema: Any = None,
    ebnf: str | None = None,
    lark: str | None = None,
    constraint: Any = None,
    seed: int | None = None,
    logit_bias: Mapping[int, float] | None = None,
    repetition_penalty: float | None = None,
    think: int | None = None,
    timeout: float | None = None,
    on_budget: str | None = None,
) -> Gen | Select | Seq:
    """The model writes here; with `choices`, it picks one of them.

    What it writes can be constrained, by one of `regex` (Python's syntax, the whole text), `json_schema` (a string or a
    mapping), `schema` (a Python type), `dtype` (int, float, bool, str), `ebnf`, `lark`, or `constraint` (any of these
    joined with `+` and `|`). The text then holds what was asked for, or an error says why not. Without `max_tokens` its
    budget is the context that is left; `on_budget` says what happens near its end: "close" (steer to a valid end),
    "error" (`Truncated`), "partial" (the text as far as it came; `s.value` raises). `think=N` lets the model reason in
    up to N tokens first, between `<think>` and `</think>`; `s[name + "_reasoning_content"]` is what it wrote there.

    `None` leaves an option to the program's defaults (`run(temperature=...)`), then to ours: 128 tokens, temperature 1.
    `max_tokens`, `min_tokens` are in tokens, `timeout` in seconds; `stop` ends the text and is not part of it.
    Raises `OptionError`, `ConstraintError` or `NotYet`, with the gen's name.
    """
    where = _where("gen", name)
    # read first, while locals() is the arguments and nothing else
    options = {k: v for k, v in locals().items() if v is not None and k not in ("name", "where")}
    if choices is not None:
        return _gen_choices(where, name, options)
    if choices_method is not None:
        raise OptionError(f"{where}: choices_method= without choices=")
    wanted = _constraint(where, {k: options.pop(k) for k in _CONSTRAINTS if k in options})
    budget = options.pop("on_budget", None)
    if budget is not None and (wanted is None or budget not in _ON_BUDGET):
        what = "has no use without a constraint" if wanted is None else f"must be one of {', '.join(_ON_BUDGET)}"
        raise OptionError(f"{where}: on_budget={budget!r} {what}")
    thought = options.pop("think", None)
    sampling = Sampling.of(where, **options)
    written = Gen(name, sampling, sampling.n or 1, wanted, budget or "close")
    return written if thought is None else _thinking(where, name, thought, written)


_CONSTRAINTS: dict[str, Callable[[Any], Constraint]] = {
    "regex": constraints.regex,
    "json_schema": constraints.json_schema,
    "schema": constraints.schema,
    "dtype": constraints.dtype,
    "ebnf": constraints.ebnf,
    "lark": constraints.lark,
    "constraint": constraints.constraint_of,
}
_ON_BUDGET = ("close", "partial", "error")


def _constraint(where: str, given: dict[str, Any]) -> Constraint | None:
    if len(given) > 1:
        raise ConstraintError(
            f"{where}: {' and '.join(k + '=' for k in given)} together; give one, or join constraints with + and |"
        )
    for option, value in given.items():
        try:
            return _CONSTRAINTS[option](value)
        except ConstraintError as error:
            raise ConstraintError(f"{where}: {error}") from error
    return None


def _thinking(where: str, name: str | None, think: object, written: Gen) -> Seq:
    """Reasoning before the text, as text and a gen of its own."""
    if isinstance(think, bool) or not isinstance(think, int) or think < 1:
        raise OptionError(f"{where}: think must be a number of tokens of at least 1, got {think!r:.60}")
    if written.n > 1:
        raise OptionError(f"{where}: think= with n={written.n}: samples cannot share their reasoning; use fork")
    sampling = replace(
        Sampling(),
        max_tokens=think,
        stop=("</think>",),
        timeout=written.sampling.timeout,
        temperature=written.sampling.temperature,
        seed=written.sampling.seed,
    )
    reasoning = Gen(None if name is None else f"{name}_reasoning_content", sampling)
    return Seq((Text("<think>\n"), reasoning, Text("\n</think>\n\n"), written))


def _gen_choices(where: str, name: str | None, options: dict[str, Any]) -> Select:
    choices, method = options.pop("choices"), options.pop("choices_method", None)
    temperature = options.pop("temperature", None)
    if options:
        raise OptionError(
            f"{where}: choices= picks one of the choices and has no use for "
            f"{', '.join(k + '=' for k in options)}; remove it"
        )
    return _select(where, name, choices, temperature, method)


@_checked
def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoiceMethod = token_length_normalized,
) -> Select:
    """The model picks one of `choices`, scored as continuations; `choices_method` decides (temperature 0: the best)."""
    return _select(_where("select", name), name, choices, temperature, choices_method)


def _select(where: str, name: str | None, choices: object, temperature: float | None, method: Any) -> Select:
    found = check_choices(where, choices)
    method = token_length_normalized if method is None else method
    if not callable(method) or not hasattr(method, "requires_unconditional_logprobs"):
        raise ConstraintError(
            f"{where}: choices_method must be a choice method such as sgl.token_length_normalized (a "
            f"callable with requires_unconditional_logprobs), got {method!r:.60}"
        )
    heat = normalise(where, {"temperature": temperature})["temperature"]
    return Select(name, found, heat or 0.0, method)


@_checked
def gen_int(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: Strings | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: Strings | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
) -> Gen:
    """A whole number: `gen(dtype=int)` with SGLang's parameters. The value is text; `s.value(name)` is the number."""
    options = {k: v for k, v in locals().items() if v is not None and k != "name"}
    return cast(Gen, gen(name, dtype=int, **options))


@_checked
def gen_string(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: Strings | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: Strings | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
) -> Gen:
    """A quoted string of letters, digits and spaces: `gen(dtype=str)` with SGLang's parameters."""
    options = {k: v for k, v in locals().items() if v is not None and k != "name"}
    return cast(Gen, gen(name, dtype=str, **options))


@_checked
def system(expr: Appendable | None = None) -> Seq:
    """A system message."""
    return _turn("system", expr)


@_checked
def user(expr: Appendable | None = None) -> Seq:
    """A user message."""
    return _turn("user", expr)


@_checked
def assistant(expr: Appendable | None = None) -> Seq:
    """An assistant message, usually with a gen in it."""
    return _turn("assistant", expr)


def system_begin() -> RoleBegin:
    return RoleBegin("system")


def system_end() -> RoleEnd:
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    return RoleBegin("user")


def user_end() -> RoleEnd:
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    return RoleEnd("assistant")


@_checked
def image(expr: object) -> Expr:
    """An image. Not carried out by this version: raises `NotYet`."""
    _refuse("image(...)", "an image in a prompt")


@_checked
def video(path: str, num_frames: int) -> Expr:
    """Frames of a video. Not carried out by this version: raises `NotYet`."""
    _refuse("video(...)", "a video in a prompt")


@_checked
def separate_reasoning(expr: Appendable | None = None, model_type: str | None = None) -> Expr:
    """Keep a model's reasoning apart from its answer. Not carried out by this version: raises `NotYet`."""
    _refuse("separate_reasoning(...)", "splitting off a model's reasoning")


def _turn(role: str, expr: Appendable | None) -> Seq:
    return Seq((RoleBegin(role), *(() if expr is None else as_expr(expr).parts()), RoleEnd(role)))


def _where(op: str, name: object) -> str:
    if name is not None and not isinstance(name, str):
        raise OptionError(f"{op}: the first argument is the variable's name, a string; got {name!r:.60}")
    return f"{op}({'' if name is None else repr(name)})"


def _refuse(where: str, what: str) -> NoReturn:
    raise NotYet(f"{where}: {what} is not supported by this version of sgl yet")
