"""lang/api.py: what the constructors accept, and that nothing is ignored."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sgl
from sgl.lang.expr import Gen, RoleBegin, RoleEnd, Select, Text

SGLANG_GEN = [
    "name",
    "max_tokens",
    "min_tokens",
    "n",
    "stop",
    "stop_token_ids",
    "stop_regex",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "return_text_in_logprobs",
    "dtype",
    "choices",
    "choices_method",
    "regex",
    "json_schema",
]


def test_signatures_are_sglangs():
    assert list(inspect.signature(sgl.gen).parameters)[: len(SGLANG_GEN)] == SGLANG_GEN
    assert list(inspect.signature(sgl.select).parameters) == ["name", "choices", "temperature", "choices_method"]
    gone = {"min_tokens", "dtype", "choices", "choices_method", "regex", "json_schema"}
    assert list(inspect.signature(sgl.gen_int).parameters) == [n for n in SGLANG_GEN if n not in gone]
    assert inspect.signature(sgl.gen_string) == inspect.signature(sgl.gen_int)


def test_gen():
    expr = sgl.gen("a", 5, stop=["x"], n=2)
    assert isinstance(expr, Gen) and (expr.name, expr.n) == ("a", 2)
    assert (expr.sampling.max_tokens, expr.sampling.stop) == (5, ("x",))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 5}, "did you mean 'max_tokens'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"temperature": -1}, r"gen\('a'\): temperature"),
        ({"max_tokens": "5"}, "max_tokens must be an integer"),
        ({"choices_method": sgl.token_length_normalized}, "without choices"),
        ({"choices": ["a"], "stop": 5}, "stop must be"),
        ({"choices": ["a"], "timeout": 3, "seed": 1}, "seed=, timeout="),
        ({"choices": ["a"], "regex": "a"}, "regex="),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(sgl.OptionError, match=says):
        sgl.gen("a", **options)


def test_the_name_is_a_string():
    with pytest.raises(sgl.OptionError, match="name"):
        sgl.gen(5)


def test_the_rest_that_is_not_yet():
    for make in (
        lambda: sgl.image("x.png"),
        lambda: sgl.video("x.mp4", 5),
        lambda: sgl.separate_reasoning(sgl.gen("a"), "qwen3"),
    ):
        with pytest.raises(sgl.NotYet):
            make()
    with pytest.raises(sgl.OptionError, match="max_tokens"):
        sgl.gen_int("a", max_tokenz=5)


def test_choices():
    expr = sgl.gen("a", choices=["x", "y"], temperature=0.5)
    assert expr == sgl.select("a", ["x", "y"], 0.5)
    assert isinstance(expr, Select)
    for wrong in ([], None, "xy", ["a", "a"], [""], {"a", "b"}):
        with pytest.raises(sgl.ConstraintError):
            sgl.select("a", wrong)
    with pytest.raises(sgl.ConstraintError):
        sgl.gen("a", choices=[])
    with pytest.raises(sgl.ConstraintError, match="choice method"):
        sgl.select("a", ["x"], choices_method=max)
    with pytest.raises(sgl.OptionError, match="did you mean 'choices'"):
        sgl.select("a", choice=["x"])


def test_roles():
    assert sgl.user("x" + sgl.gen("a")).items[0] == RoleBegin("user")
    assert sgl.assistant().items == (RoleBegin("assistant"), RoleEnd("assistant"))
    assert sgl.system("x").items == (RoleBegin("system"), Text("x"), RoleEnd("system"))
    assert (sgl.user_begin(), sgl.user_end()) == (RoleBegin("user"), RoleEnd("user"))
    with pytest.raises(sgl.OptionError):
        sgl.user(5)


def test_import_is_light():
    code = "import sgl, sys; assert not {'torch', 'transformers', 'jinja2', 'tqdm'} & set(sys.modules); sgl.Runtime"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError):
        sgl.nothing  # noqa: B018
