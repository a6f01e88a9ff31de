"""The search for the fewest tokens, against all texts of a few tokens; and its bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.grammar.closing.fewest import TOKEN_PRICE, FewestSearch, token_prices
from sgl.backend.runtime.grammar.rules.automata import RuleAutomata
from sgl.backend.runtime.grammar.rules.derived import BYTE_COST, Prices
from sgl.backend.runtime.grammar.rules.ebnf import read_ebnf
from sgl.backend.runtime.grammar.rules.nodes import RuleSet
from sgl.backend.runtime.grammar.rules.recogniser import Recogniser
from sgl.backend.runtime.grammar.trie import TokenTrie
from sgl.lang.pattern import PatternError, parse_regex

MOST_TOKENS = 4
GRAMMARS = {
    "brackets": 'root ::= "(" root ")" root | "a"',
    "list": 'root ::= item ("," root)?\nitem ::= "b" | "é" | "(" root ")"',
    "left": 'root ::= root "," root | "a"',
    "empty parts": 'root ::= x x "b"\nx ::= "a"? y\ny ::= "" | "(" y ")"',
}
WORDS = st.lists(st.text("ab(),é日", min_size=1, max_size=5).map(str.encode), min_size=2, max_size=7)
PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "é", "日", "[ab]", "[^b]", "[a-é]", "."]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{3}", "{2,4}"])).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(inner, inner).map(lambda two: f"(?=.*{two[0]}){two[1]}{{1,6}}"),
    ),
    max_leaves=6,
)


def vocabulary(words: list[bytes]) -> list[bytes]:
    return sorted({*words, b"a", b"b", "日".encode()[:1], "日".encode()[1:], "é".encode()[:1], "é".encode()[1:]})


def prices_of(words: list[bytes]) -> Prices:
    longest = [max((len(word) for word in words if byte in word), default=1) for byte in range(128)]
    return token_prices([*longest, max((len(word) for word in words if not word.isascii()), default=1)])


def fewest_of_all(place: Recogniser, words: list[bytes]) -> int | None:
    """The fewest tokens to an end, of all texts of up to `MOST_TOKENS`; None if there are none."""
    layer = {b"": place}
    for used in range(MOST_TOKENS + 1):
        if any(at.can_end() for at in layer.values()):
            return used
        following: dict[bytes, Recogniser] = {}
        for text, at in layer.items():
            for word in words:
                after = at.copy()
                if text + word not in following and after.feed_bytes(word):
                    following[text + word] = after
        layer = following
    return None


def compare(rules: RuleSet, words: list[bytes], begun: bytes = b"") -> None:
    trie, longest = TokenTrie(words), max(map(len, words))
    for prices, price in [(prices_of(words), TOKEN_PRICE), (None, longest * BYTE_COST)]:
        automata = RuleAutomata(rules) if prices is None else RuleAutomata(rules, prices)
        place = Recogniser(automata)
        if not place.feed_bytes(begun):
            return
        wanted, found = fewest_of_all(place, words), FewestSearch(automata, trie, price).run(place, MOST_TOKENS)
        if wanted is None:
            assert found.text is None and found.bound > MOST_TOKENS
            continue
        assert found.bound == wanted
        end = place.copy()
        assert found.text is not None and end.feed_bytes(found.text) and end.can_end()
        closer = FewestSearch(automata, trie, price).run(place, wanted - 1)
        assert wanted == 0 or closer.text is None


@settings(max_examples=60, deadline=None)
@given(PATTERNS, WORDS, st.text("abé日", max_size=2), st.integers(0, 2))
def test_patterns(pattern: str, words: list[bytes], begun: str, cut: int) -> None:
    try:
        node = parse_regex(pattern)
        rules = RuleSet({"": node}, "")
        RuleAutomata(rules)
    except PatternError:
        return
    data = begun.encode()
    compare(rules, vocabulary(words), data[: len(data) - cut])


@pytest.mark.parametrize("name", [name for name in GRAMMARS if name != "left"])
@settings(max_examples=15, deadline=None)
@given(WORDS, st.sampled_from([b"", b"(", b"((", b"a", "b,é".encode(), "é".encode()[:1]]))
def test_grammars(name: str, words: list[bytes], begun: bytes) -> None:
    compare(read_ebnf(GRAMMARS[name]), vocabulary([b"(", b")", b",", *words]), begun)


def test_left_recursion_is_not_told() -> None:
    """Its calls have no end: nothing is found, and what was known before that is the bound."""
    automata = RuleAutomata(read_ebnf(GRAMMARS["left"]))
    found = FewestSearch(automata, TokenTrie([b",", b"a"]), BYTE_COST).run(Recogniser(automata), 5)
    assert found.text is None and found.bound <= 1


def test_what_is_left_of_the_work_bounds_the_search() -> None:
    words = [bytes([a, b]) for a in range(97, 123) for b in range(97, 123)] + [b"0"]
    rules = RuleSet({"": parse_regex("[a-z]{41}0{9}|[a-y]{80}")}, "")
    automata = RuleAutomata(rules, prices_of(words))
    found = FewestSearch(automata, TokenTrie(sorted(words)), TOKEN_PRICE, work=2_000).run(Recogniser(automata), 99)
    assert found.text is None and 0 < found.bound <= 40


def test_a_trie_has_the_words() -> None:
    words = sorted([b"a", b"ab", b"abc", b"b", b"\xff\x00", b"abd"])
    trie = TokenTrie(words)
    found = []
    for node in range(len(trie.label)):
        spelled = trie.spelled(node)
        at = 0
        for byte in spelled:
            at = trie.child(at, byte)
        assert at == node
        if trie.ends[node]:
            found.append(spelled)
    assert sorted(found) == words and trie.child(0, ord("c")) == -1
