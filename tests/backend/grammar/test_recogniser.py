"""The recogniser of rules and its least completions, against texts that are listed by brute force."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.grammar.rules.automata import RuleAutomata
from sgl.backend.runtime.grammar.rules.completion import bytes_left, completion, completions
from sgl.backend.runtime.grammar.rules.nodes import RuleRef, RuleSet
from sgl.backend.runtime.grammar.rules.recogniser import Recogniser, is_text
from sgl.lang.pattern import Alt, Chars, Concat, PatternError, PatternNode, Repeat, any_of, parse_regex
from sgl.lang.pattern.nodes import EMPTY, both, complement, either, literal, repeated, sequence

LETTERS = "aé"
LONGEST = 5
NAMES = ("r", "s", "t")


def nodes(refs: bool = True) -> st.SearchStrategy[PatternNode]:
    leaves = [st.just(EMPTY), st.sampled_from([literal("a"), literal("é"), literal("aé"), any_of(["a", "é"])])]
    if refs:
        leaves += [st.sampled_from([RuleRef(name) for name in NAMES])] * 2
    counts = st.sampled_from([(0, 1), (0, None), (1, None), (2, 3), (0, 3)])
    return st.recursive(
        st.one_of(leaves),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(sequence),
            st.lists(inner, min_size=1, max_size=3).map(either),
            st.tuples(inner, counts).map(lambda found: repeated(found[0], *found[1])),
        ),
        max_leaves=6,
    )


def regular() -> st.SearchStrategy[PatternNode]:
    """Intersections and complements of regular nodes."""
    inner = nodes(refs=False)
    return st.one_of(
        st.tuples(inner, inner).map(lambda pair: both(*pair)),
        inner.map(lambda node: both(complement(node), parse_regex(f"[{LETTERS}]*"))),
    )


GRAMMARS = st.fixed_dictionaries(
    {"r": nodes(), "s": nodes(), "t": st.one_of(nodes(), regular())},
).map(lambda rules: RuleSet(rules, "r"))


def language(grammar: RuleSet) -> frozenset[str]:
    """All texts of a grammar of at most `LONGEST` characters, by the definition: the least fixpoint over its rules."""
    known: dict[str, frozenset[str]] = dict.fromkeys(grammar.rules, frozenset())

    def joined(a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return frozenset(x + y for x in a for y in b if len(x + y) <= LONGEST)

    def of(node: PatternNode) -> frozenset[str]:
        if isinstance(node, RuleRef):
            return known[node.name]
        if isinstance(node, Chars):
            return frozenset(c for c in LETTERS if any(low <= ord(c) <= high for low, high in node.ranges))
        if isinstance(node, Alt):
            return frozenset().union(*map(of, node.parts))
        if isinstance(node, Concat):
            found = frozenset([""])
            for part in node.parts:
                found = joined(found, of(part))
            return found
        if isinstance(node, Repeat):
            body, found = of(node.node), frozenset([""])
            for _ in range(node.low):
                found = joined(found, body)
            for _ in range(LONGEST if node.high is None else node.high - node.low):
                found |= joined(found, body)
            return found
        from sgl.lang.pattern import accepts

        return frozenset(text for text in every_text() if accepts(node, text))

    while True:
        after = {name: of(node) for name, node in grammar.rules.items()}
        if after == known:
            return known[grammar.root]
        known = after


@cache
def every_text() -> tuple[str, ...]:
    return tuple("".join(text) for length in range(LONGEST + 1) for text in product(LETTERS, repeat=length))


def automata_of(grammar: RuleSet) -> RuleAutomata | None:
    try:
        return RuleAutomata(grammar)
    except PatternError:
        return None


OPTIONAL = repeated(literal("a"), 0, 1)


@example(RuleSet({"r": Repeat(OPTIONAL, 1, None)}, "r"))
@example(RuleSet({"r": Repeat(Repeat(OPTIONAL, 2, 3), 1, 2)}, "r"))
@example(RuleSet({"r": either([RuleRef("r"), sequence([RuleRef("r"), RuleRef("r")]), literal("a"), EMPTY])}, "r"))
@settings(max_examples=300)
@given(GRAMMARS)
def test_it_accepts_exactly_the_texts_of_a_grammar(grammar: RuleSet) -> None:
    texts = language(grammar)
    automata = automata_of(grammar)
    if automata is None:
        assert not texts
        return
    assert {text for text in every_text() if is_text(automata, text)} == texts


@settings(max_examples=300)
@given(GRAMMARS, st.data())
def test_a_least_completion_is_a_text_and_none_is_shorter(grammar: RuleSet, data: st.DataObject) -> None:
    texts = language(grammar)
    automata = automata_of(grammar)
    if automata is None or not texts:
        return
    text = data.draw(st.sampled_from(sorted(texts))).encode()
    cut = data.draw(st.integers(0, len(text)))
    place = Recogniser(automata)
    assert place.feed_bytes(text[:cut])
    ways = [each.encode()[cut:] for each in texts if each.encode().startswith(text[:cut])]
    way = completion(place)
    assert len(way) == bytes_left(place) == min(map(len, ways))
    assert is_text(automata, (text[:cut] + way).decode())
    others = [found for found, _ in zip(completions(place), range(20))]
    assert others[0] == way and len(set(others)) == len(others)
    assert [*map(len, others)] == sorted(map(len, others))
    assert all(is_text(automata, (text[:cut] + other).decode()) for other in others)


@given(GRAMMARS, st.sampled_from(every_text()))
def test_a_character_is_refused_where_no_text_goes_on(grammar: RuleSet, text: str) -> None:
    automata = automata_of(grammar)
    if automata is None:
        return
    place = Recogniser(automata)
    begins = any(each.startswith(text) for each in language(grammar))
    taken = place.feed_text(text)
    assert taken or not begins
    if taken:
        assert is_text(automata, text + completion(place).decode())


def grammar(**rules: PatternNode) -> RuleSet:
    return RuleSet(rules, next(iter(rules)))


A, B, X = literal("a"), literal("b"), RuleRef("x")
SHAPES = {
    "right": grammar(x=either([sequence([A, X]), A])),
    "left": grammar(x=either([sequence([X, A]), A])),
    "empty": grammar(x=either([sequence([A, X]), EMPTY])),
    "optional": grammar(x=sequence([A, repeated(X, 0, 1)])),
    "mutual": grammar(x=either([sequence([A, RuleRef("y")]), A]), y=either([sequence([A, X]), A])),
    "hidden": grammar(x=either([sequence([RuleRef("e"), X, A]), A]), e=either([EMPTY, B])),
    "counted": grammar(x=repeated(A, 0, 10**9)),
    "nullable body": grammar(x=repeated(repeated(A, 0, 1), 0, 10**6)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_items_of_a_long_text_stay_few(shape: str) -> None:
    place = Recogniser(RuleAutomata(SHAPES[shape]))
    most = 0
    for _ in range(20_000):
        assert place.feed("a")
        most = max(most, len(place.items))
    assert most <= 4
    assert place.can_end() or len(completion(place)) == bytes_left(place) > 0


def test_deep_nesting_needs_no_recursion() -> None:
    automata = RuleAutomata(grammar(x=either([sequence([A, X, B]), EMPTY])))
    place = Recogniser(automata)
    assert place.feed_text("a" * 20_000)
    assert bytes_left(place) == 20_000
    assert completion(place) == b"b" * 20_000
    assert place.feed_text("b" * 20_000) and place.can_end()
    assert not place.feed("b")


def test_a_copy_is_independent() -> None:
    place = Recogniser(RuleAutomata(SHAPES["right"]))
    other = place.copy()
    assert other.feed_text("aa") and other.can_end()
    assert not place.can_end() and not other.feed("b") and other.feed("a")


def test_a_begun_character_is_finished() -> None:
    place = Recogniser(RuleAutomata(grammar(x=sequence([any_of(["é", "è", "😀"]), A]))))
    assert not place.copy().feed_bytes(b"\xe2")
    assert place.feed_bytes(b"\xf0\x9f") and completion(place) == "😀".encode()[2:] + b"a"
    assert not place.copy().feed_bytes(b"a") and place.feed_bytes(b"\x98\x80a") and place.can_end()


def test_a_grammar_without_a_text_is_refused() -> None:
    with pytest.raises(PatternError, match="no finite text"):
        RuleAutomata(grammar(x=sequence([A, X])))
    with pytest.raises(PatternError, match="no rule 'y'"):
        RuleAutomata(grammar(x=RuleRef("y")))
