"""lang/sampling.py: one table describes the sampling options, and everything that names them agrees with it."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

import sgl
from sgl.interpreter.arguments import RUN_OPTIONS
from sgl.lang.sampling import OPTIONS, RUN_NAMES, SGLANG_NAMES, Sampling, describe, normalise

NAMES = [option.name for option in OPTIONS]
NOT_SAMPLING = {
    *("name", "dtype", "choices", "choices_method", "regex", "json_schema"),
    *("schema", "ebnf", "lark", "constraint", "structural_tag", "think", "on_budget"),
}


def taken_by(who: str) -> set[str]:
    return {option.name for option in OPTIONS if who in option.takers}


def test_the_table_has_the_fields_of_sampling():
    assert [field.name for field in fields(Sampling)] == NAMES
    assert Sampling() == Sampling(**normalise("x", dict.fromkeys(NAMES)))


def test_gen_takes_what_the_table_says():
    parameters = inspect.signature(sgl.gen).parameters
    assert set(parameters) - NOT_SAMPLING == taken_by("gen") == set(NAMES)
    assert all(parameters[name].default is None for name in NAMES)
    documented = inspect.getdoc(sgl.gen) or ""
    assert all(f"\n    {name}: " in documented for name in parameters)


@pytest.mark.parametrize("func", [sgl.gen_int, sgl.gen_string])
def test_gen_int_and_gen_string_take_what_the_table_says(func):
    assert set(inspect.signature(func).parameters) - {"name"} == taken_by(func.__name__)
    expr = func("a", 5, stop="x", temperature=0)
    assert (expr.name, expr.sampling) == ("a", Sampling(max_tokens=5, stop=("x",), temperature=0.0))
    for wrong in (lambda: func("a", 5, max_tokens=5), lambda: func(*[None] * 18)):
        with pytest.raises(TypeError):
            wrong()


def test_run_and_generate_take_what_the_table_says():
    assert set(RUN_NAMES.values()) == taken_by("run")
    assert set(RUN_OPTIONS) == {*RUN_NAMES, "budget", "stream", "backend", "use_thread"}
    assert set(NAMES) == taken_by("generate")
    rt = sgl.Runtime.toy()
    renamed = {ours: theirs for theirs, ours in SGLANG_NAMES.items()}
    for name in NAMES:  # under either name: an option that is not known raises
        rt.generate("a", {"max_tokens": 1, name: None} | ({renamed[name]: None} if name in renamed else {}))
    with pytest.raises(sgl.OptionError, match="max_tokens"):
        rt.generate("a", {"max_tokenz": 1})


def test_the_documented_table_names_every_option():
    rows = describe().splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == NAMES
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows[2:])


def test_the_samples_of_a_gen_have_a_limit() -> None:
    with pytest.raises(sgl.OptionError, match=r"n must be in \[1, 4096\], got 1000000000"):
        sgl.gen("a", n=10**9)
