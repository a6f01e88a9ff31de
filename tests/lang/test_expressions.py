"""Expressions where plain text is expected: what Python's own ways to join text say of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import sgl

GEN = sgl.gen("a")
WRITTEN: dict[str, Callable[[], object]] = {
    "f-string": lambda: f"Answer: {GEN}",
    "f-string with a format": lambda: f"{GEN:>10}",
    "str": lambda: str(GEN),
    "percent": lambda: "Answer: %s" % GEN,  # noqa: UP031
    "format": lambda: "Answer: {}".format(GEN),  # noqa: UP032
    "print": lambda: print(GEN),
    "a message": lambda: f"{sgl.user('hi')}",
    "a select": lambda: f"{sgl.select('x', ['a', 'b'])}",
    "special text": lambda: f"{sgl.special('<|im_end|>')} and more",
    "a sum": lambda: f"{'a' + GEN}",
}


@pytest.mark.parametrize("way", WRITTEN)
def test_an_expression_has_no_text(way: str) -> None:
    with pytest.raises(sgl.OptionError, match=r"join with \+"):
        WRITTEN[way]()


def test_a_constraint_has_no_text_either() -> None:
    digits = sgl.regex("[0-9]+")
    for write in (lambda: f"Total: {digits}", lambda: "{}".format(digits | "none"), lambda: f"{'n: ' + digits:>9}"):
        with pytest.raises(sgl.ConstraintError, match=r"join with \+"):
            write()
    assert f"{digits!r}" == repr(digits)


def test_an_expression_has_a_repr() -> None:
    assert repr(GEN).startswith("Gen(name='a'")
    assert f"{GEN!r}" == repr(GEN)


@pytest.mark.parametrize("other", [5, None, 1.5, ["a"], b"a", {"a": 1}])
def test_only_text_and_expressions_can_be_joined(other: object) -> None:
    for add in (lambda: GEN + other, lambda: other + GEN):  # type: ignore[operator]
        with pytest.raises(TypeError):
            add()
    with pytest.raises(sgl.OptionError, match=r"Use str\(\.\.\.\)"):
        GEN + other


def test_join_of_strings_names_the_expression() -> None:
    with pytest.raises(TypeError, match="Gen found"):
        "".join(["a", GEN])  # type: ignore[list-item]


def test_text_plus_expression_is_an_expression() -> None:
    assert list("a" + GEN) == [sgl.gen("a") if part is GEN else part for part in ("a" + GEN)]
    assert len(("a" + GEN + "b").items) == 3


def test_a_failing_program_with_an_expression_in_an_f_string_says_so() -> None:
    @sgl.function
    def ask(s: sgl.ProgramState) -> None:
        s += f"Answer: {sgl.gen('a')}"

    with pytest.raises(sgl.OptionError, match=r"join with \+"):
        ask.run(backend=sgl.Runtime.toy())


def test_an_expression_can_be_logged_traced_and_drawn() -> None:
    @sgl.function
    def ask(s: sgl.ProgramState, expr: object) -> None:
        s += expr  # type: ignore[misc, arg-type]

    with sgl.trace() as traced:
        state = ask.run(sgl.gen("a", max_tokens=2), backend=sgl.Runtime.toy())
        assert len(state["a"]) >= 0
    assert "Gen" in repr(traced.data()) if hasattr(traced, "data") else True
    assert "gen a" in str(ask.graph(expr=sgl.gen("a")))
    with pytest.raises(sgl.OptionError):
        ask.run(sgl.gen("a"), expr=GEN, backend=sgl.Runtime.toy())


@pytest.mark.parametrize("value", [5, None, b"<|im_end|>", ["<|im_end|>"], sgl.gen("a")])
def test_special_takes_text_alone(value: object) -> None:
    with pytest.raises(sgl.OptionError, match="special: only text"):
        sgl.special(value)  # type: ignore[arg-type]
