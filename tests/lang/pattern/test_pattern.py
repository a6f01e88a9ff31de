"""Patterns are exactly what Python's `re` says, and llguidance understands exactly that of what we print."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl.lang.pattern import (
    ANY_TEXT,
    Chars,
    PatternError,
    PatternNode,
    accepts,
    any_of,
    both,
    complement,
    disjoint,
    either,
    first,
    follows,
    included,
    is_empty,
    literal,
    nullable,
    parse_regex,
    plain,
    sequence,
    shortest,
    size,
    to_lark,
    to_rust,
    to_schema_pattern,
)
from sgl.lang.pattern import chars as pattern_chars
from sgl.lang.pattern.sets import Derivatives

from ...watchdog import within
from .samples import samples

ROWS = [json.loads(line) for line in (Path(__file__).parents[2] / "data" / "regexes.jsonl").open(encoding="utf-8")]


class _Bytes:
    """A tokenizer whose tokens are the 256 bytes."""

    tokens = (*(bytes([i]) for i in range(256)), b"<eos>")
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)

    def __call__(self, text: Any) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@pytest.fixture(scope="module")
def matcher() -> Any:
    """Makes `accepts(text)` of a Lark source, by llguidance itself."""
    llguidance = pytest.importorskip("llguidance")
    vocabulary = _Bytes()
    vocabulary.tokens = list(vocabulary.tokens)  # type: ignore[assignment]
    vocabulary.special_token_ids = [256]  # type: ignore[assignment]
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), n_vocab=257)

    def make(node: PatternNode) -> Any:
        whole = llguidance.LLMatcher(tokenizer, f"start: T\nT: {to_lark(node)}\n", log_level=0)
        assert not whole.is_error(), whole.get_error()

        def enforced(text: str) -> bool:
            one, data = whole.deep_copy(), list(text.encode())
            return bool(one.try_consume_tokens(data) == len(data) and one.is_accepting())

        return enforced

    return make


def mutated(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    c = rng.choice("aZ0 \n-.é日" + text)
    return rng.choice([text[:at] + c + text[at:], text[:at] + text[at + 1 :], text[:at] + c + text[at + 1 :]])


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_practical_patterns(row: dict[str, Any], matcher: Any) -> None:
    pattern = row["pattern"]
    if row["id"] == "backref":
        with pytest.raises(PatternError, match=r"backreference \\1 at position 4: no engine can enforce it; list"):
            parse_regex(pattern)
        return
    node = parse_regex(pattern)
    enforced = matcher(node)
    oracle = (regex if r"\p" in pattern or r"\P" in pattern or "++" in pattern else re).compile(pattern)
    rng = random.Random(row["id"])
    drawn = samples(node, rng, 20)
    assert drawn
    labelled = [(text, True) for text in row["positive"]] + [(text, False) for text in row["negative"]]
    for text in drawn:
        labelled.append((text, True))
        changed = mutated(text, rng)
        labelled.append((changed, oracle.fullmatch(changed) is not None))
    for text, right in labelled:
        assert (oracle.fullmatch(text) is not None) == right, text
        assert accepts(node, text) == right, text
        assert enforced(text) == right, text


# --- random patterns against re ---------------------------------------------------------------------------------------

TEXTS = ["".join(letters) for length in range(5) for letters in itertools.product("aB1 \n", repeat=length)]
_ATOMS = ["a", "b", "B", "1", " ", r"\n", ".", "[ab]", "[^a]", r"\w", r"\d", r"\s", r"\W", r"[^\w]", "k"]
_PLACES = ["^", "$", r"\b", r"\B", r"\A", r"\Z"]
_GROUPS = ["({})", "(?:{})", "(?i:{})", "(?s:{})", "(?m:{})", "(?-i:{})", "(?a:{})", "(?={})", "(?!{})"]
_BEHIND = ["(?<={})", "(?<!{})"]
_COUNTS = ["", "", "", "*", "+", "?", "{2}", "{0,2}", "*?", "+?", "??", "{1,}"]
if hasattr(re, "_parser"):  # 3.11
    _COUNTS += ["++", "?+"]
    _GROUPS += ["(?>{})"]


def _pattern() -> st.SearchStrategy[str]:
    behind = st.builds(
        str.format, st.sampled_from(_BEHIND), st.sampled_from(["a", "ab", "[ab]", r"\w", ".\\n", "^a", r"\ba"])
    )
    leaf = st.one_of(st.sampled_from(_ATOMS), st.sampled_from(_ATOMS), st.sampled_from(_PLACES), behind)

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = st.builds(str.format, st.sampled_from(_GROUPS), inner)
        one = st.builds(lambda x, n: x if x in _PLACES else x + n, st.one_of(leaf, group), st.sampled_from(_COUNTS))
        line = st.lists(one, max_size=4).map("".join)
        return st.lists(line, min_size=1, max_size=3).map("|".join)

    flags = st.sampled_from(["", "", "(?i)", "(?m)", "(?s)", "(?a)", "(?im)"])
    return st.builds(str.__add__, flags, st.recursive(leaf, grown, max_leaves=10))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(_pattern())
def test_random_patterns_mean_what_re_says(pattern: str) -> None:
    try:
        oracle = re.compile(pattern)
    except re.error:
        return
    try:
        with within(2):
            node = parse_regex(pattern)
    except PatternError as error:
        assert error.hint
        return
    walk = Derivatives()
    after = {"": node}
    for text in TEXTS:
        if text:
            after[text] = walk.step(after[text[:-1]], ord(text[-1]))
        assert walk.nullable(after[text]) == (oracle.fullmatch(text) is not None), text


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_pattern())
def test_random_patterns_mean_the_same_to_llguidance(matcher: Any, pattern: str) -> None:
    try:
        oracle = re.compile(pattern)
        node = parse_regex(pattern)
        if is_empty(node):
            return
    except (re.error, PatternError):
        return
    enforced = matcher(node)
    for text in TEXTS[::7]:
        assert enforced(text) == (oracle.fullmatch(text) is not None), text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a$", ["a"], ["a\n", ""]),
        ("a$\n", ["a\n"], ["a"]),
        ("^$|^\\d+$", ["", "12"], ["a"]),
        ("^a|b$", ["a", "b"], ["ab"]),
        (r"(?m)^a$\n^b$", ["a\nb"], ["ab"]),
        (r"\bfoo\b.*", ["foo", "foo x"], ["foox"]),
        (r"(?:(?!-->).)*", ["a-->"[:3], "abc"], ["-->", "x-->y"]),
        (r"(\b\w+\b ?)+", ["a b c", "ab"], ["", " a", "a  b"]),
        (r"(?=.{8,64}$)(?=.*\d)(?=.*[a-z])(?=.*[A-Z]).*", ["Passw0rd"], ["password", "P0a"]),
        (r"(?!foo|bar)\w+(?<!qux|zip)", ["baz", "x"], ["foox", "aqux"]),
        ("(?x) a b # c\n \\ ", ["ab "], ["ab"]),
        (r"[[:alpha:]]+\p{Nd}\PL", ["a1-"], ["1", "a1a"]),
        (r"[]a]|[^]a]{2}", ["]", "xy"], ["x", "]]"]),
        (r"\x41\u0042\U00000043\N{DIGIT ONE}\101\n", ["ABC1A\n"], ["ABC1A"]),
        ("a{,2}b{}{", ["b{}{", "aab{}{"], ["aaab{}{"]),
        (r"(?>abc|abd)x|(?:ab|cd)++e", ["abdx", "abcde"], ["abd", "abc"]),
        (r"(?=a)*b(?=c)?c", ["bc"], ["c"]),
    ],
)
def test_constructs(pattern: str, yes: list[str], no: list[str], matcher: Any) -> None:
    node = parse_regex(pattern)
    enforced = matcher(node)
    for text in yes + no:
        assert accepts(node, text) == enforced(text) == (text in yes), text


@pytest.mark.parametrize(
    ("pattern", "position", "says"),
    [
        (r"(\w)\1", 4, "backreference"),
        ("(?P<a>x)(?P=a)", 8, "backreference"),
        ("(a)?(?(1)b|c)", 4, "conditional"),
        ("ab++b", 2, "possessive"),
        ("(?>a|ab)c", 0, "atomic"),
        ("(?>a+?)b", 0, "lazy"),
        (r"x\X", 1, r"\X"),
        (r"x\R", 1, r"\R"),
        (r"x\q", 1, r"\q"),
        ("a(?R)", 1, "recursive"),
        ("\ud800", 0, "surrogate"),
        ("(a", 0, "not closed"),
        ("a)", 1, "without a group"),
        ("[a", 0, "not closed"),
        ("a**", 2, "repeat"),
        ("*a", 0, "nothing to repeat"),
        ("^*", 1, "nothing to repeat"),
        ("a{3,1}", 1, "most below"),
        ("a{99999999}", 1, "too large"),
        ("[b-a]", 2, "backwards"),
        (r"[\w-a]", 3, "backwards"),
        ("a(?i)b", 1, "flags in the middle"),
        ("(?<n>a)", 0, "not Python's"),
        (r"\p{Klingonese}", 0, "unknown"),
        ("\\", 0, "backslash"),
        (r"\x4", 0, "hexadecimal"),
        ("(" * 3000 + "a" + ")" * 3000, 200, "nested"),
        (r"(?<=\b)a", 0, "lookbehind"),
    ],
)
def test_refusals_say_where_and_what_to_do(pattern: str, position: int, says: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_regex(pattern)
    assert caught.value.position == position
    assert says in caught.value.message and caught.value.hint and f"at position {position}" in str(caught.value)


@pytest.mark.parametrize("letter", ["k", "s", "i", "ß", "σ", "Ω", "[^k]", "𐐀", "İ", "(?-i:k)", "[𐐀-𐐂]", "(?a:k)"])
def test_ignoring_case_is_that_of_re(letter: str) -> None:
    pattern = f"(?i){letter}"
    node = parse_regex(pattern)
    assert isinstance(node, Chars)
    every = (chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF)
    right = re.compile(pattern)
    assert node.ranges == pattern_chars.of(c for c in every if right.fullmatch(c))


def test_ignoring_case_of_every_letter_is_that_of_re() -> None:
    letters = "".join(chr(c) for low, high in pattern_chars.of_cased() for c in range(low, high + 1))
    rng = random.Random(0)
    for c in rng.sample(letters, 400):
        expected = pattern_chars.of(re.findall(re.escape(c), letters, re.IGNORECASE))
        assert pattern_chars.any_case(pattern_chars.of(c)) == expected, c


@pytest.mark.parametrize("name", ["d", "w", "s"])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_classes_are_those_of_re(name: str, ascii_only: bool) -> None:
    right = re.compile(f"\\{name}", re.ASCII if ascii_only else 0)
    every = (chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF)
    assert pattern_chars.python_class(name, ascii_only) == pattern_chars.of(c for c in every if right.match(c))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a{1,1000}){1,1000}",
        "(.*a){30}",
        "(?:" * 150 + "(?=.*a)b|c" + ")*" * 150,
        r"(\b\w+\b[ ,]*){1,30}",
        r"\b.*" * 12,
        "(?=(a+b?)*c)" * 6 + "[abc]*",
        "(?!.*(ab|cd){3,8}.*x).{0,300}",
        "((a|b|(?!c).)*x){40}",
        r"[\w\W]*" * 50,
        "(x|" * 150 + "(?<=a)$" + ")" * 150,
        "(?=.*a)" * 20 + "x",
    ],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    parse_regex(r"\w\W")  # the tables
    parse_regex.forget()  # type: ignore[attr-defined]
    start = time.process_time()
    try:
        to_lark(parse_regex(pattern))
    except PatternError as error:
        assert error.hint
    assert time.process_time() - start < 1.0


# --- what can be said of a language -----------------------------------------------------------------------------------


def test_questions() -> None:
    words = parse_regex("[a-z]+")
    assert not nullable(words) and nullable(ANY_TEXT)
    assert first(words) == follows(words) == Chars(((97, 122),))
    assert follows(parse_regex("a|ab|cd")) == Chars(((98, 98),))
    assert follows(parse_regex("ab?c*")) == Chars(((98, 99),))
    assert follows(parse_regex("[0-9]{3}")) == Chars(())
    assert disjoint(words, parse_regex(r"\d+")) is True
    assert disjoint(words, parse_regex(r"x\w*")) is False
    assert disjoint(parse_regex(".{0,500}a"), parse_regex(".{0,500}b.{0,500}c"), limit=10) is None
    assert included(parse_regex("ab|cd"), words) is True and included(words, parse_regex("ab|cd")) is False
    assert is_empty(parse_regex("a$b")) and is_empty(both(literal("a"), literal("b"))) and not is_empty(words)
    assert shortest(parse_regex(r"x{3}(?=.*\d)\w+")) == "xxx0" and shortest(both(literal("a"), literal("b"))) is None
    assert size(parse_regex("(ab){10}c*")) == 21 and size(parse_regex("((a{1000}){1000}){1000}")) == 10**9
    assert size(parse_regex("(((a{1000}){1000}){1000}){1000}")) == 10**9


def test_intersections_go_away() -> None:
    node = parse_regex(r"(?a)(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,}")
    with pytest.raises(PatternError):
        to_rust(node)
    simple = plain(node)
    assert disjoint(node, complement(simple)) and disjoint(simple, complement(node))
    assert to_schema_pattern(node).startswith("^(?:")
    with pytest.raises(PatternError, match="too large"):
        plain(node, 3)


def test_many_choices_are_factored(matcher: Any) -> None:
    rng = random.Random(1)
    texts = sorted({"".join(rng.choices("abcdefgh ", k=rng.randint(1, 12))) for _ in range(5000)})
    start = time.process_time()
    node = any_of(texts)
    printed = to_lark(node)
    assert time.process_time() - start < 1.0
    assert len(printed) < sum(map(len, texts))
    enforced = matcher(node)
    assert all(enforced(text) for text in texts[::20]) and not enforced("abcx")
    assert accepts(any_of(["", "a", "ab"]), "") and is_empty(any_of([]))


def test_deep_trees_are_printed_or_refused(matcher: Any) -> None:
    node = parse_regex("(?:a" * 50 + "b" + ")?c" * 50)
    assert matcher(node)("a" * 50 + "b" + "c" * 50)
    node = parse_regex("(?=.*a)" * 30 + "x.*")
    assert matcher(node)("xa")
    for texts in (any_of(["x" * i for i in range(1, 150)]), any_of(["x" * i + "y" for i in range(1, 150)])):
        matcher(texts)
    with pytest.raises(PatternError, match="nested too deeply"):
        parse_regex("(?:a" * 150 + "b" + ")?c" * 150)


def test_a_deep_stack_is_no_crash() -> None:
    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
            return
        with pytest.raises(PatternError, match="nested too deeply"):
            parse_regex("(a|" * 199 + "b" + ")*" * 199)

    deeper(sys.getrecursionlimit() - 500)


def test_printed_text_has_nothing_to_misread(matcher: Any) -> None:
    every = "".join(chr(c) for c in range(1, 256))
    assert matcher(literal(every))(every)
    joined = sequence([either([literal("/"), complement(parse_regex("b*"))]), literal('"')])
    assert matcher(joined)('/"') and not matcher(joined)('b"')


def test_samples_are_texts_of_the_language() -> None:
    rng = random.Random(3)
    for pattern in [r"(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{8,}", "(a|b)*c{2,3}", r"\w{3}-\d+", "a{30}"]:
        drawn = samples(parse_regex(pattern), rng, 10)
        assert drawn and all(re.fullmatch(pattern, text) for text in drawn)
        assert len(set(drawn)) == len(drawn) and all(len(text) <= 40 for text in drawn)


def test_python_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_regex("[[:alpha:]][a&&b]")


@pytest.mark.parametrize("pattern", ["(a*?)++", "(?:b(a+?))*+", "((a??)b)?+"])
def test_a_lazy_quantifier_within_a_possessive_one_is_refused(pattern: str) -> None:
    """It stops as soon as it can, and the possessive one never asks it for more: `(a*?)++` does not match "a"."""
    with pytest.raises(PatternError, match="lazy quantifier in a possessive one"):
        parse_regex(pattern)


def test_a_lazy_quantifier_beside_a_possessive_one_is_not() -> None:
    parse_regex("(a*?)b++c")
    parse_regex("a*?b++c")
