"""The pattern algebra against an independent oracle: interegular's finite automata.

Both sides read the same regular expressions and combine them in the same way; nothing is shared between them. The
characters are a, b, c and a line end; "é" stands for all others, which no pattern here names.

Two of interegular's operations are wrong and are not used as they are. Its `star` takes an automaton that comes back to
its initial state for one that may end there: `(a*b)*` accepts "a". So counts in a pattern stand behind finite atoms
only, and `starred` gives an automaton a fresh initial state first. Its `isdisjoint` says that `a` and `a*` differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, reject, settings
from hypothesis import strategies as st

from sgl.lang.pattern import (
    PatternError,
    PatternNode,
    accepts,
    both,
    complement,
    disjoint,
    either,
    first,
    included,
    is_empty,
    nullable,
    parse_regex,
    plain,
    sequence,
    shortest,
)
from sgl.lang.pattern.chars import contains
from sgl.lang.pattern.nodes import repeated
from sgl.lang.pattern.sets import Derivatives

interegular = pytest.importorskip("interegular")
from interegular.fsm import FSM, Alphabet, anything_else  # noqa: E402

LETTERS = "abc\n"
OTHER = "é"
LIMIT_STATES = 16  # of the oracle's automata: what is made of larger ones may take minutes

ATOMS = ["a", "b", "c", "ab", "[ab]", "[^a]", "[^bc]", ".", r"\n", "", "(?:)", "abc"]
COUNTS = ["", "", "*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}"]
SOURCES = st.recursive(
    st.tuples(st.sampled_from(ATOMS), st.sampled_from(COUNTS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(?:" + "|".join(parts) + ")"),
    ),
    max_leaves=5,
)
Expression = Any
"""A regular expression, or an operation and its operands."""
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    SOURCES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or", "minus", "then"]), inner, inner),
        st.tuples(st.sampled_from(["not", "many", "maybe"]), inner),
    ),
    max_leaves=4,
)
fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def ours(expression: Expression) -> PatternNode:
    if isinstance(expression, str):
        return parse_regex(expression)
    operation, *operands = expression
    nodes = [ours(operand) for operand in operands]
    if operation == "and":
        return both(*nodes)
    if operation == "or":
        return either(nodes)
    if operation == "minus":
        return both(nodes[0], complement(nodes[1]))
    if operation == "then":
        return sequence(nodes)
    if operation == "not":
        return complement(nodes[0])
    return repeated(nodes[0], 0, None if operation == "many" else 1)


def theirs(expression: Expression) -> FSM:
    """The automaton that interegular makes, small enough to be combined further."""
    alphabet = Alphabet.from_groups(*[{letter} for letter in LETTERS], {anything_else})
    if isinstance(expression, str):
        made = interegular.parse_pattern(expression).to_fsm(alphabet)
    else:
        operation, *operands = expression
        parts = [theirs(operand) for operand in operands]
        if operation == "and":
            made = parts[0] & parts[1]
        elif operation == "or":
            made = parts[0] | parts[1]
        elif operation == "minus":
            made = parts[0] - parts[1]
        elif operation == "then":
            made = parts[0] + parts[1]
        elif operation == "not":
            made = parts[0].everythingbut()
        elif operation == "many":
            made = starred(parts[0])
        else:
            made = parts[0] | interegular.parse_pattern("").to_fsm(alphabet)
    made = made.reduce()
    assume(len(made.states) <= LIMIT_STATES)
    return made


def starred(fsm: FSM) -> FSM:
    start = max(fsm.states) + 1
    arrows = {**fsm.map, start: fsm.map.get(fsm.initial, {})}
    finals = set(fsm.finals) | ({start} if fsm.initial in fsm.finals else set())
    return FSM(alphabet=fsm.alphabet, states={*fsm.states, start}, initial=start, finals=finals, map=arrows).star()


def automaton(node: PatternNode) -> FSM:
    """Our derivatives of a node as one of interegular's automata."""
    walk = Derivatives()
    numbers: dict[PatternNode, int] = {}
    arrows: dict[int, dict[int, int]] = {}
    alphabet = Alphabet.from_groups(*[{letter} for letter in LETTERS], {anything_else})
    for state in walk.states(node, 300):
        number = numbers.setdefault(state, len(numbers))
        arrows[number] = {}
        for letter in LETTERS + OTHER:
            key = alphabet[anything_else if letter == OTHER else letter]
            arrows[number][key] = numbers.setdefault(walk.step(state, ord(letter)), len(numbers))
    for number in numbers.values():
        arrows.setdefault(number, {})  # what nothing leads on from
    finals = {number for state, number in numbers.items() if walk.nullable(state)}
    return FSM(alphabet=alphabet, states=set(arrows), initial=numbers[node], finals=finals, map=arrows)


def same(node: PatternNode, oracle: FSM) -> bool:
    return bool(automaton(node).equivalent(oracle))


@contextmanager
def within_limits() -> Iterator[None]:
    """An example that is refused as too large to analyse is no example."""
    try:
        yield
    except PatternError:
        reject()


def spelled(text: str) -> list[Any]:
    return [letter if letter in LETTERS else anything_else for letter in text]


@fuzz
@given(EXPRESSIONS)
def test_the_language_of_an_expression(expression: Expression) -> None:
    """The derivatives, the tree without intersections and complements, and the oracle's automaton are one language."""
    node, oracle = ours(expression), theirs(expression)
    with within_limits():
        assert same(node, oracle)
        assert same(plain(node, 300), oracle)


@fuzz
@given(EXPRESSIONS)
@example(("many", ("and", "(?:ab)", "(?:abc)")))  # a repeat of nothing that does not look like nothing
def test_what_is_said_of_one_language(expression: Expression) -> None:
    node, oracle = ours(expression), theirs(expression)
    assert is_empty(node) == oracle.empty()
    assert nullable(node) == oracle.accepts("")
    assert {letter for letter in LETTERS + OTHER if begins(oracle, letter)} <= firsts(node)


@fuzz
@given(SOURCES)
def test_what_a_pattern_begins_with(source: str) -> None:
    """Exactly: only an empty intersection behind something else may make `first` say more."""
    node, oracle = ours(source), theirs(source)
    assert {letter for letter in LETTERS + OTHER if begins(oracle, letter)} == firsts(node)


def firsts(node: PatternNode) -> set[str]:
    return {letter for letter in LETTERS + OTHER if contains(first(node).ranges, ord(letter))}


def begins(oracle: FSM, letter: str) -> bool:
    """Whether a text of the language begins with the letter."""
    after = oracle.map.get(oracle.initial, {}).get(oracle.alphabet[anything_else if letter == OTHER else letter])
    return after is not None and bool(oracle.islive(after))


@fuzz
@given(EXPRESSIONS)
def test_a_shortest_text(expression: Expression) -> None:
    node, oracle = ours(expression), theirs(expression)
    text = shortest(node)
    if text is None:
        assert oracle.empty()
        return
    assert oracle.accepts(spelled(text)) and accepts(node, text)
    assert len(text) == len(next(iter(oracle.strings())))


@fuzz
@given(EXPRESSIONS, EXPRESSIONS)
def test_what_is_said_of_two_languages(left: Expression, right: Expression) -> None:
    a, b, oracle_a, oracle_b = ours(left), ours(right), theirs(left), theirs(right)
    apart, within = disjoint(a, b), included(a, b)
    assume(apart is not None and within is not None)
    assert apart == (oracle_a & oracle_b).empty()
    assert within == oracle_a.issubset(oracle_b)
    assert (within and included(b, a)) == oracle_a.equivalent(oracle_b)


@fuzz
@given(SOURCES, st.lists(st.text(LETTERS + OTHER, max_size=6), min_size=5, max_size=10))
def test_membership(source: str, texts: list[str]) -> None:
    node, oracle = ours(source), theirs(source)
    for text in texts:
        assert accepts(node, text) == oracle.accepts(spelled(text)), text
