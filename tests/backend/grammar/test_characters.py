"""Control characters, NUL, surrogates and astral characters in patterns, choices and texts, raw and as escapes."""

from __future__ import annotations

import pytest

import sgl
from sgl.lang.errors import ConstraintError


@pytest.fixture(scope="module")
def runtime():
    with sgl.Runtime.toy() as made:
        yield made


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("[^\x00-\x1f]+", ["a", "é"], ["\x1f", "\n", "a\x00"]),
        (r"[^\x00-\x1f]+", ["a"], ["\x1f"]),
        ("[\x00-\x08]+", ["\x00", "\x01\x08"], ["a", "\t"]),
        ("a\x00b", ["a\x00b"], ["ab", "a"]),
        (r"a\0b", ["a\x00b"], ["ab"]),
        ("[^\x00]", ["a"], ["\x00"]),
        ("a\tb\nc\r", ["a\tb\nc\r"], ["a b c "]),
        ("\n", ["\n"], [" "]),
        (" ", [" "], ["\n"]),
        ("\x1b\\[0m\x7f\x85", ["\x1b[0m\x7f\x85"], ["[0m"]),
        ("[^\ud800-\udfff]+", ["a", "😀"], [""]),
        ("[a\ud800-\udfff]", ["a"], ["b"]),
        (r"[^\ud800-\udfff]+", ["a"], [""]),
        ("[\ud7ff-\ue000]", ["\ud7ff", "\ue000"], ["a"]),
        ("[😀-😂]{2}", ["😁😂"], ["😁"]),
        ("[\U00010000-\U0010ffff]+", ["😁"], ["a"]),
    ],
)
def test_a_regex(pattern: str, yes: list[str], no: list[str], runtime) -> None:
    constraint = sgl.regex(pattern)
    assert all(runtime.accepts(constraint, text) for text in yes)
    assert not any(runtime.accepts(constraint, text) for text in no)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^[^\x00-\x1f]+$", ['"a"'], ['"\\n"']),
        ("^[\x00-\x1f]$", ['"\\n"', '"\\u0001"'], ['"a"']),
        ("^a\x00$", ['"a\\u0000"'], ['"a"']),
        ("^a\tb$", ['"a\\tb"'], ['"a b"']),
        ("\n", ['"\\n"'], ['"a"']),
        ("^[^\ud800-\udfff]+$", ['"a"', '"😀"'], ['""']),
        ("^[^\\ud800-\\udfff]+$", ['"a"', '"😀"'], ['""']),
        ("^[😀-😂]$", ['"😁"'], ['"a"']),
        ("^\x7f$", ['"\\u007f"'], ['"a"']),
    ],
)
@pytest.mark.parametrize("place", ["pattern", "key"])
def test_a_pattern_of_a_schema(pattern: str, yes: list[str], no: list[str], place: str, runtime) -> None:
    if place == "pattern":
        constraint = sgl.json_schema({"type": "string", "pattern": pattern})
        around = "{}"
    else:
        constraint = sgl.json_schema(
            {"type": "object", "patternProperties": {pattern: {"const": 1}}, "additionalProperties": False}
        )
        around = "{{{}: 1}}"
    assert all(runtime.accepts(constraint, around.format(text)) for text in yes)
    assert not any(runtime.accepts(constraint, around.format(text)) for text in no)


def test_texts(runtime) -> None:
    choices = sgl.choice(["a\x00b", "\n", "\x1b😀"])
    assert all(runtime.accepts(choices, text) for text in ("a\x00b", "\n", "\x1b😀"))
    assert runtime.accepts("a\x00\n" + sgl.regex("b"), "a\x00\nb")
    values = sgl.json_schema({"enum": ["a\x00", "\n\x01"]})
    assert runtime.accepts(values, '"a\\u0000"') and runtime.accepts(values, '"\\n\\u0001"')


@pytest.mark.parametrize(
    "make",
    [
        lambda: sgl.regex("a\ud800"),
        lambda: sgl.regex("[\ud800-\udfff]"),
        lambda: sgl.choice(["a", "\ud800"]),
        lambda: "\ud800" + sgl.regex("a"),
        lambda: sgl.regex(""),
    ],
)
def test_half_a_character_is_refused_where_it_is_written(make) -> None:
    with pytest.raises(ConstraintError, match=r"surrogate|no text|empty"):
        make()
