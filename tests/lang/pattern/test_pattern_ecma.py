"""ECMA patterns are searched for, with ECMA-262's meaning."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl.lang.pattern import PatternError, accepts, ecma_search, is_empty, parse_ecma

TEXTS = ["".join(letters) for length in range(5) for letters in itertools.product("aB1 \n", repeat=length)]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("foo", ["foo", "xfoox", "\nfoo\n"], ["fo"]),
        ("^foo", ["foox"], ["xfoo", "\nfoo"]),
        ("foo$", ["xfoo"], ["foo\n", "foox"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
        (r"^\d+$", ["12"], ["٣", "", "1\n"]),
        (r"^\w$", ["a", "_"], ["é", "-"]),
        (r"^\s$", [" ", "\ufeff", "\u2028", "\xa0"], ["\x1c", "\u180e"]),
        ("^.$", ["a", "\x85", "😀"], ["\n", "\r", "\u2028", "\u2029"]),
        (r"^[\w-.]+$", ["a-b.c"], ["a b"]),
        (r"^\-\/\_\@\:\ \#$", ["-/_@: #"], ["-"]),
        (r"^{a}{1,$", ["{a}{1,"], ["a"]),
        (r"^a{2}b{,2}$", ["aab{,2}"], ["aab"]),
        ("(?i)^foo$", ["FOO", "Foo"], ["f"]),
        ("(?i)^i$", ["i", "I"], ["ı", "İ"]),
        (r"^\u{1F600}\uD83D\uDE00$", ["😀😀"], ["😀"]),
        (r"^\cJ\x41\u0042\t$", ["\nAB\t"], ["JAB"]),
        (r"^(?<year>\d{4})$", ["2024"], ["24"]),
        (r"^[^]$", ["a", "\n"], [""]),
        (r"^[\b]$", ["\b"], ["b"]),
        (r"\bfoo\b", ["a foo b", "foo", "éfooé"], ["xfoo"]),
        (r"^(?!.*foo).*$", ["bar"], ["a foo"]),
        (r"^(?=.*\d)(?=.*[a-z])[a-z\d]{3,5}$", ["a1b"], ["abc", "a1"]),
        (r"\Aab\Z", ["ab"], ["ab\n", "xab"]),
        (r"^\p{Lu}\p{Script=Greek}$", ["Aα"], ["aα"]),
        (r"(?<=\$)\d+", ["$5"], ["5"]),
        ("", ["", "x"], []),
    ],
)
def test_constructs(pattern: str, yes: list[str], no: list[str]) -> None:
    node, search = parse_ecma(pattern), ecma_search(pattern)
    for text in yes + no:
        assert accepts(node, text) == search.search(text) == (text in yes), text


def test_nothing_is_in_an_empty_set() -> None:
    assert is_empty(parse_ecma("[]")) and not ecma_search("[]").search("a")


@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        (r"(a)\1", 3),
        (r"(?<n>a)\k<n>", 7),
        ("a++", 1),
        ("(?>a)", 0),
        ("a(?i)b", 1),
        ("(", 0),
        ("[a", 0),
        (r"\y", 0),
    ],
)
def test_refusals_say_where(pattern: str, position: int) -> None:
    for read in (parse_ecma, ecma_search):
        with pytest.raises(PatternError) as caught:
            read(pattern)
        assert caught.value.position == position and caught.value.hint


_PARTS = [
    "a",
    "b",
    "B",
    "1",
    " ",
    r"\n",
    "[ab]",
    "[^a]",
    r"\w",
    r"\d",
    "(a|B1)",
    "(?:a|^b)",
    "^",
    "$",
    r"\b",
    r"\B",
    "(?=a)",
]
_PARTS += ["(?!a.)", "(?<=a)", "(?<!b)", "|"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(_PARTS), st.sampled_from(["", "", "*", "+?", "{2}"])), max_size=5))
def test_random_patterns_are_found_where_re_finds_them(parts: list[tuple[str, str]]) -> None:
    fixed = ("^", "$", r"\b", r"\B", "|", "(?=a)", "(?!a.)", "(?<=a)", "(?<!b)")
    pattern = "".join(part if part in fixed else part + count for part, count in parts)
    try:
        node, search = parse_ecma(pattern), ecma_search(pattern)
    except PatternError as error:
        assert "too much to enforce" in error.message  # an anchor in a repeat: most are rewritten, the rest refused
        return
    oracle = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
    for text in TEXTS[1::3] if r"\B" in pattern else TEXTS[::3]:
        right = oracle.search(text) is not None
        assert accepts(node, text) == right, text
        assert search.search(text) == right, text


def test_a_search_that_backtracks_for_ever_ends() -> None:
    assert not ecma_search(r"^(a+)+$").search("a" * 40 + "b")


def test_schema_patterns_of_the_wild_are_read() -> None:
    rows = Path(__file__).parents[2] / "data" / "schemas.jsonl"
    if not rows.exists():
        pytest.skip("no schemas here")
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("pattern"), str):
                found.add(value["pattern"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for line in rows.open(encoding="utf-8"):
        walk(json.loads(line)["schema"])
    for pattern in found:
        try:
            parse_ecma(pattern)
        except PatternError as error:
            assert error.hint
