"""The constructors of calls: `gen`, `select`, `gen_int` and `gen_string`.

Signatures are SGLang's names in SGLang's order, then ours, keyword-only. Knows nothing of how an expression runs.
An option that is misspelt, contradictory or not carried out by this version raises where it is written.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

from . import constraint as constraints
from .advice import advice
from .choices import ChoiceMethod, token_length_normalized
from .constraint import Constraint, check_choices
from .errors import ConstraintError, OptionError, suggest
from .expr import Gen, Sampling, Select, Seq, Text
from .sampling import OPTIONS, normalise, refuse_surrogates
from .tags import formats as tags

P = ParamSpec("P")
R = TypeVar("R")

Strings = str | Sequence[str]


def checked(func: Callable[P, R]) -> Callable[P, R]:
    """Make `func` raise `OptionError`, with the nearest name, for a keyword that it does not have."""
    known = tuple(inspect.signature(func).parameters)

    @functools.wraps(func)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise OptionError(f"{func.__name__}: unknown option {name!r}{suggest(name, known)}")
        return func(*args, **kwargs)

    return call


@checked
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
    structural_tag: Any = None,
    seed: int | None = None,
    logit_bias: Mapping[int, float] | None = None,
    repetition_penalty: float | None = None,
    think: int | None = None,
    timeout: float | None = None,
    on_budget: str | None = None,
) -> Gen | Select | Seq:
    """The model writes here; with `choices`, it picks one of them.

    At most one of `regex`, `json_schema`, `schema`, `dtype`, `ebnf`, `lark` and `constraint` may be given. The text
    then holds what was asked for, or reading it raises. None leaves an option to the program's run
    (`run(temperature=...)`), and then to the default below.

    Args:
        name: variable that holds the text, `s[name]`; None: the text is only appended.
        max_tokens: most tokens to write; default 128; of a regex without a longest text 512; of any other constraint
            the context left. With 0, `return_logprob` and `top_logprobs_num` tell of the token that would come.
        min_tokens: tokens before the text may end; default 0.
        n: samples to draw; default 1; with more, the value is a list.
        stop: text or texts that end the text and are no part of it.
        stop_token_ids: ids of tokens that end the text.
        stop_regex: pattern or patterns whose first match ends the text and is no part of it.
        temperature: divides the logits, in [0, 100]; default 1; 0 takes the likeliest token.
        top_p: keeps the likeliest tokens that have this mass, in (0, 1]; default 1.
        top_k: keeps so many of the likeliest tokens; default -1, all.
        min_p: keeps tokens at least so likely, relative to the likeliest, in [0, 1]; default 0.
        frequency_penalty: subtracted from a logit for each time the token was generated, in [-2, 2]; default 0.
        presence_penalty: subtracted once from the logit of a token that was generated, in [-2, 2]; default 0.
        ignore_eos: goes on where the model would end the text; default False.
        return_logprob: keeps the tokens' log-probabilities, in `s.get_meta_info(name)`; default False.
        logprob_start_len: token of the prompt that its log-probabilities begin at; default -1, none.
        top_logprobs_num: likeliest tokens to keep beside each one; default 0.
        return_text_in_logprobs: gives each log-probability with its token's text; default True.
        dtype: int, float, bool or str, or the name of one: SGLang's texts of such values.
        choices: texts to pick from, as `select` does; only `temperature` and `choices_method` mean something there.
        choices_method: how to pick; default `token_length_normalized`.
        regex: pattern of the whole text, in Python's syntax.
        json_schema: a JSON Schema, as a string or a mapping.
        schema: a Python type; `s.value(name)` is an instance of it.
        ebnf: a grammar in EBNF (xgrammar's dialect, or llama.cpp's GBNF).
        lark: a grammar in llguidance's Lark dialect.
        constraint: any constraint, also joined ones: `sgl.regex("[0-9]+") + " euros"`.
        structural_tag: a structural tag as in xgrammar, SGLang and vLLM (`sgl.structural_tag`).
        seed: integer; the same seed and text give the same result; default drawn by the run.
        logit_bias: token id to what is added to its logit, in [-100, 100].
        repetition_penalty: makes tokens that occurred less likely, in (0, 10]; default 1, none.
        think: most tokens of reasoning between `<think>` and `</think>` before the text, which `s[name +
            "_reasoning_content"]` holds; default none.
        timeout: seconds until `ProgramTimeout`; default none.
        on_budget: what happens to a constrained text near `max_tokens`. "close" (the default) steers it to a valid
            end. "error" raises `Truncated`. "partial" keeps the text as far as it came.

    Returns:
        An expression to append: `s += sgl.gen("answer")`.

    Raises:
        OptionError: an option is unknown, out of its range, or has no use beside the others.
        ConstraintError: the constraint is wrong, or there are two.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def greet(s):
        ...     s += "Hello " + sgl.gen("whom", max_tokens=4, temperature=0)
        >>> state = greet.run(backend=sgl.Runtime.toy())
        >>> len(state.get_meta_info("whom")["token_ids"])
        4
    """
    where = name_of_call("gen", name)
    # read first, while locals() is the arguments and nothing else
    options = {k: v for k, v in locals().items() if v is not None and k not in ("name", "where")}
    if choices is not None:
        return _gen_choices(where, name, options)
    if choices_method is not None:
        raise OptionError(f"{where}: choices_method= without choices=")
    wanted = _constraint(where, {k: options.pop(k) for k in _CONSTRAINTS if k in options})
    budget = options.pop("on_budget", None)
    if budget is not None and wanted is None:
        raise OptionError(f"{where}: on_budget={budget!r} has no use without a constraint")
    budget = checked_budget(where, budget)
    thought = options.pop("think", None)
    sampling = Sampling.of(where, **options)
    written = Gen(name, sampling, sampling.n or 1, wanted, budget)
    return written if thought is None else thinking(where, name, thought, written)


_CONSTRAINTS: dict[str, Callable[[Any], Constraint]] = {
    "regex": constraints.regex,
    "json_schema": constraints.json_schema,
    "schema": constraints.schema,
    "dtype": constraints.of_dtype,
    "ebnf": constraints.ebnf,
    "lark": constraints.lark,
    "constraint": constraints.constraint_of,
    "structural_tag": tags.structural_tag,
}
_ON_BUDGET = ("close", "partial", "error")


def checked_budget(where: str, on_budget: str | None) -> str:
    """What happens near the end of the budget, "close" by default. Raises `OptionError` for another word."""
    if on_budget is not None and on_budget not in _ON_BUDGET:
        raise OptionError(f"{where}: on_budget={on_budget!r} must be one of {', '.join(_ON_BUDGET)}")
    return on_budget or "close"


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


def thinking(where: str, name: str | None, think: object, written: Gen) -> Seq:
    """Put reasoning before a gen, as constant text and a gen of its own."""
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
    if both := [k for k in options if k not in _IDLE_WITH_CHOICES]:
        raise OptionError(
            f"{where}: choices= picks one of the choices and has no use for "
            f"{', '.join(k + '=' for k in both)}; remove it"
        )
    if options:
        normalise(where, options)
        idle = ", ".join(k + "=" for k in options)
        advice.give(("choices", idle), f"{where}: beside choices= there is no effect of {idle}")
    return _select(where, name, choices, temperature, method)


_IDLE_WITH_CHOICES = frozenset(option.name for option in OPTIONS if "gen_int" in option.takers) | {"min_tokens"}
"""Options of a gen that SGLang's programs pass beside `choices=`, where they have no effect."""


@checked
def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoiceMethod = token_length_normalized,
) -> Select:
    """The model picks one of `choices`, scored as continuations of the text.

    Args:
        name: variable that holds the choice; None: the choice is only appended.
        choices: the texts to pick from: a list of strings, none empty, all different.
        temperature: 0 (the default) takes the best; above, the choice is drawn by its score, in [0, 100].
        choices_method: turns log-probabilities into scores; default `token_length_normalized`.

    Returns:
        An expression to append.

    Raises:
        OptionError: `name` is no string, or the temperature is out of its range.
        ConstraintError: `choices` is empty or has an empty, repeated or non-string member; no choice method.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def judge(s):
        ...     s += "Is water wet? " + sgl.select("verdict", ["yes", "no"])
        >>> judge.run(backend=sgl.Runtime.toy())["verdict"] in ("yes", "no")
        True
    """
    return _select(name_of_call("select", name), name, choices, temperature, choices_method)


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


@checked
def special(text: str) -> Text:
    """Constant text whose control tokens are meant, such as a hand-written chat template.

    Plain text never spells a control token: `"<|im_end|>"` in it is ten characters. This text does. So put no text of a
    user into it; join that with `+`.

    Args:
        text: the text, in the spelling of the model's tokenizer.

    Returns:
        An expression to append.

    Raises:
        OptionError: `text` is no string, or has a lone surrogate.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def ask(s, question):
        ...     s += sgl.special("<|im_start|>user\\n") + question
        ...     s += sgl.special("<|im_end|>\\n<|im_start|>assistant\\n")
        ...     s += sgl.gen("answer", max_tokens=4)
        >>> ask.run("Why?", backend=sgl.Runtime.toy()).text()[:22]
        '<|im_start|>user\\nWhy?<'
    """
    if not isinstance(text, str):
        raise OptionError(f"special: only text can spell control tokens, got {type(text).__name__} {text!r:.60}")
    refuse_surrogates("special: the text", text)
    return Text(text, special=True)


_TYPED = ("name", *(option.name for option in OPTIONS if "gen_int" in option.takers))


def _typed(func: Callable[..., Gen]) -> Callable[..., Gen]:
    """Give `func` the signature of SGLang's `gen_int`: the parameters of `gen` that the table says."""
    known = inspect.signature(gen).parameters
    func.__signature__ = inspect.Signature([known[name] for name in _TYPED], return_annotation="Gen")  # type: ignore[attr-defined]
    return checked(func)


def _gen_dtype(dtype: type, positional: tuple[Any, ...], options: dict[str, Any]) -> Gen:
    if len(positional) > len(_TYPED):
        raise OptionError(f"takes {len(_TYPED)} positional arguments, got {len(positional)}")
    return cast(Gen, gen(dtype=dtype, **dict(zip(_TYPED, positional)), **options))


@_typed
def gen_int(*args: Any, **options: Any) -> Gen:
    """A whole number: `gen(dtype=int)`. `s[name]` is its text; `s.value(name)` is the number.

    Args:
        *args: `name`, and further options in SGLang's order.
        **options: SGLang's sampling options of a gen, as `gen` documents them: `max_tokens` ... `temperature` ...

    Returns:
        An expression to append.

    Raises:
        OptionError: an option is unknown or out of its range.

    Example:
        >>> import sgl
        >>> sgl.gen_int("age", max_tokens=3).constraint.pattern
        '[-+]?[0-9]{1,20}'
    """
    return _gen_dtype(int, args, options)


@_typed
def gen_string(*args: Any, **options: Any) -> Gen:
    """A quoted string of letters, digits and spaces: `gen(dtype=str)`. `s.value(name)` is the string without quotes.

    Args:
        *args: `name`, and further options in SGLang's order.
        **options: SGLang's sampling options of a gen, as `gen` documents them.

    Returns:
        An expression to append.

    Raises:
        OptionError: an option is unknown or out of its range.

    Example:
        >>> import sgl
        >>> sgl.gen_string("word", max_tokens=8).sampling.max_tokens
        8
    """
    return _gen_dtype(str, args, options)


def name_of_call(op: str, name: object) -> str:
    """How messages name a call of the model. Raises `OptionError` for a name that is no string."""
    if name is not None and not isinstance(name, str):
        raise OptionError(f"{op}: the first argument is the variable's name, a string; got {name!r:.60}")
    return f"{op}({'' if name is None else repr(name)})"
