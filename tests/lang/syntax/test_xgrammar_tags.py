"""Our constraint beside xgrammar's structural tag of a family: the same calls fit, the same broken ones do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import sgl
from sgl.lang.syntax import CallSyntax, syntax_named

from .called import SPECS, numbered, some_calls

xgrammar = pytest.importorskip("xgrammar")

FAMILIES = {
    "hermes": "qwen_3",
    "json": "exaone",
    "qwen3-coder": "qwen_3_coder",
    "llama3": "llama",
    "deepseek-r1": "deepseek_r1",
    "deepseek-v3.1": "deepseek_v3_1",
    "deepseek-v3.2": "deepseek_v3_2",
    "deepseek-v4": "deepseek_v4",
    "gpt-oss": "harmony",
    "kimi-k2": "kimi",
    "glm-4.7": "glm_4_7",
    "minimax-m2": "minimax",
}
Fits = Callable[[str], bool]


@cache
def compiler() -> Any:
    vocabulary = [bytes([i]) for i in range(256)] + [b"<end>"]
    info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(info, max_threads=1)


@cache
def theirs(family: str, choice: str) -> Fits:
    tools = [spec.openai() for spec in SPECS]
    for tool, spec in zip(tools, SPECS, strict=True):
        tool["function"]["parameters"] = spec.parameters.schema
    tag = xgrammar.get_model_structural_tag(FAMILIES[family], tools, choice, "auto")
    compiled = compiler().compile_structural_tag(tag)

    def fits(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        return bool(matcher.accept_string(text)) and bool(matcher.accept_token(256))

    return fits


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime.toy() as made:
        yield made


def ours(runtime: Any, syntax: CallSyntax, choice: str) -> Fits:
    plain = syntax.for_tokens(())  # control tokens as text, as xgrammar takes them here
    constraint = plain.constraint(
        SPECS, choice=choice, thinking="auto" if choice == "auto" and syntax.thinking else "none"
    )
    return lambda text: bool(runtime.accepts(constraint, text))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_rendered_fits_both(runtime: Any, family: str) -> None:
    syntax = syntax_named(family)
    calls = some_calls(syntax)
    if family == "qwen3-coder":  # of a call without arguments, xgrammar wants a line more than the templates print
        calls = numbered(syntax, ("get", calls[0].arguments), ("get", {"city": "Rome", "days": 1}))
    text, thinking = ("Let me see." if syntax.text_before_calls else ""), ("Hm." if syntax.thinking else "")
    fits = ours(runtime, syntax, "auto"), theirs(family, "auto")
    wholes = [syntax.render(calls), syntax.render(calls[:1], text), syntax.render(calls, text, thinking)]
    if family != "gpt-oss":  # xgrammar's tag of it wants a mark at the end, which is the model's end token
        wholes.append(syntax.render([], "No call."))
    for whole in wholes:
        assert [fit(whole) for fit in fits] == [True, True], whole
    required = ours(runtime, syntax, "required"), theirs(family, "required")
    assert [fit(syntax.render(calls)) for fit in required] == [True, True], syntax.render(calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_broken_fits_neither(runtime: Any, family: str) -> None:
    syntax = syntax_named(family)
    (call,) = numbered(syntax, ("get", {"city": "Rome", "days": 3, "unit": "C"}))
    whole = syntax.render([call])
    wrong = {
        "another tool": whole.replace("get", "got", 1),
        "a value of another type": whole.replace("3", "three"),
        "a value that is not listed": whole.replace("C", "K") if "C" not in syntax.opening else whole[:-1],
        "no required argument": syntax.render(numbered(syntax, ("get", {"city": "Rome"}))),
        "another argument": syntax.render(numbered(syntax, ("get", {"city": "Rome", "days": 3, "other": "x"}))),
        "cut off": whole[:-1],
        "cut off within": whole[: whole.index("Rome") + 2],
    }
    fits = ours(runtime, syntax, "required"), theirs(family, "required")
    assert [fit(whole) for fit in fits] == [True, True]
    for name, text in wrong.items():
        assert [fit(text) for fit in fits] == [False, False], (name, text)
