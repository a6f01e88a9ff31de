"""What `explain` says of regular expressions is what compiling does: lookarounds with counts, and what is too large."""

from __future__ import annotations

import pytest

import sgl
from sgl.lang.errors import ConstraintError

HARD = [
    r"(?!.*(?:might|hypothetically))[^\n]{1,80}",
    r"(?!.*(?:might|hypothetically|possibly))[^\n]{1,800}",
    r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z])(?=.*[!@#]).{8,64}",
    r"(?!.*foo)(?!.*bar)(?!.*baz)[a-z ]{1,200}",
    r"(?=.{20,40}$)[a-z]+(?: [a-z]+)*",
    r"(a{1000}){3000}",
]


LONG = {
    "pattern": sgl.regex("(a{1000}){1000}"),
    "schema": sgl.json_schema({"type": "string", "minLength": 300_000}),
    "items": sgl.json_schema({"type": "array", "items": {"type": "string", "minLength": 3000}, "minItems": 100}),
    "joined": "Text: " + sgl.json_schema({"type": "string", "pattern": "^(ab){150000}$"}),
    "ebnf": sgl.ebnf("root ::= x x x x\nx ::= y{100}\ny ::= z{50}\nz ::= [a-z]{20}"),
    "long, but not too long": sgl.regex("(a{1000}){100}"),
    "short": sgl.json_schema({"type": "array"}) | sgl.regex("(a{1000}){1000}"),
}


@pytest.fixture(scope="module")
def runtime():
    with sgl.Runtime.toy() as made:
        yield made


@pytest.mark.parametrize("pattern", HARD)
def test_explain_and_compile_agree(pattern: str, runtime) -> None:
    said = sgl.explain(sgl.regex(pattern))
    try:
        runtime.prepare(sgl.regex(pattern))
    except ConstraintError:
        assert not said.ok
    else:
        assert said.ok and said.fully_enforced


def test_a_lookahead_beside_a_count(runtime) -> None:
    constraint = sgl.regex(HARD[0])
    assert runtime.accepts(constraint, "It may be so")
    assert not runtime.accepts(constraint, "It might be so") and not runtime.accepts(constraint, "a" * 81)


def test_a_refused_pattern_is_one_row() -> None:
    (row,) = sgl.explain(sgl.regex(r"(a{1000}){3000}")).rows
    assert row.status == "refused" and "smaller counts" in row.note


@pytest.mark.parametrize("name", LONG)
def test_explain_and_compile_agree_on_long_texts(name: str, runtime) -> None:
    said = sgl.explain(LONG[name])
    try:
        runtime.prepare(LONG[name])
    except ConstraintError as error:
        assert not said.ok and (name == "ebnf" or said.rows[-1].note in str(error))
    else:
        assert said.ok
