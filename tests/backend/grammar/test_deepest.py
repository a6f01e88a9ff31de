"""The bound on what a text may still need, against brute force; and what stands on it: when tokens are looked at, and
masks of many matchers at once."""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

import numpy as np
import pytest

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.grammar.closing.deepest import deepest as deepest_of
from sgl.backend.runtime.grammar.closing.ways import KnownWays
from sgl.backend.runtime.grammar.compile import Grammars, Prepared
from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance, fill_many
from sgl.backend.runtime.grammar.protocol import has, mask_words
from sgl.backend.runtime.grammar.rules.automata import RuleAutomata
from sgl.backend.runtime.grammar.rules.nodes import RuleSet
from sgl.backend.runtime.grammar.rules.recogniser import Recogniser
from sgl.backend.runtime.grammar.rules.schema_rules import schema_rules
from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.backend.runtime.grammar.schema.nodes import LoweredSchema
from sgl.backend.runtime.grammar.sharing.mask_cache import CachedGrammar
from sgl.backend.runtime.job.rule import Rule
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.constraint import Constraint
from sgl.lang.expr import Sampling
from sgl.lang.pattern import PatternNode, parse_regex, sequence
from sgl.lang.pattern.sets import Derivatives

WORD = "[A-Za-z]{3,12}"
RECORD = rf'\{{"name": "{WORD} {WORD}", "age": [1-9][0-9]{{0,2}}, "house": "(oak|birch)", "awake": (true|false)\}}'
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^{WORD}$"},
        "age": {"type": "integer", "minimum": 10, "maximum": 999},
        "size": {"type": "number", "minimum": 1, "maximum": 3, "multipleOf": 0.25},
        "kind": {"enum": ["cat", "dog", 'a "bird"', "日本", None, [1, {"a": 2}]]},
        "note": {"type": "string", "minLength": 4},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2, "maxItems": 3},
        "pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "number"}], "items": False},
        "more": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        "most": {"$ref": "#/$defs/point"},
    },
    "required": ["name", "age", "tags", "most"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "string", "pattern": '^["é]{2}$'}},
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Runtime.toy().engine.grammars


def deepest(parts: list[PatternNode | LoweredSchema], words: set[bytes] = frozenset()) -> int | None:  # type: ignore[assignment]
    """The bound of parts, one after the other."""
    rules: dict[str, PatternNode] = {}
    nodes = [part if isinstance(part, PatternNode) else schema_rules(part, rules, f"{len(rules)}.") for part in parts]
    return deepest_of(RuleAutomata(RuleSet({"": sequence(nodes), **rules}, "")), words)


def pattern(rng: Random, depth: int = 3) -> str:
    """A small pattern over three letters."""
    kind = rng.choice(["char", "seq", "alt", "repeat"]) if depth else "char"
    if kind == "char":
        return rng.choice(["a", "b", "c", "[ab]", "[abc]"])
    if kind == "repeat":
        return f"(?:{pattern(rng, depth - 1)}){rng.choice(['*', '+', '?', '{2}', '{1,3}', '{3,}', '{0,2}'])}"
    inner = [f"(?:{pattern(rng, depth - 1)})" for _ in range(rng.randint(2, 3))]
    return ("" if kind == "seq" else "|").join(inner)


def farthest(node: PatternNode) -> int:
    """The most characters that any state of the automaton is from an end."""
    walk = Derivatives()
    after = {state: {to for _, to in walk.after(state)} for state in walk.states(node, 2_000)}
    away = {state: 0 for state in after if walk.nullable(state)}
    for distance in itertools.count(1):
        new = [s for s in after if s not in away and not after[s].isdisjoint(away)]
        if not new:
            return max(away.values())
        away |= dict.fromkeys(new, distance)
    raise AssertionError


def test_the_bound_holds_for_patterns_and_is_often_exact() -> None:
    rng, exact = Random(5), 0
    for _ in range(400):
        node = parse_regex(pattern(rng))
        bound, truth = deepest([node]), farthest(node)
        assert bound is not None and bound >= truth, node
        exact += bound == truth
    assert exact > 200


def test_the_bound_counts_what_follows() -> None:
    node = parse_regex
    assert deepest([node("ab{3}c")]) == 5
    assert deepest([node("(x{9})?ab")]) == 11 and deepest([node("(x{9}|y)ab")]) == 11
    assert deepest([node("(ab){4}")]) == 8 and deepest([node("(ab)*")]) == 2
    assert deepest([node("é")]) == 2 and deepest([node("[a😀]")]) == 3  # 3 bytes of a begun character
    assert deepest([node("[a-z]+"), node(": ok")]) == 5
    schema = {"type": "object", "properties": {"k": {"enum": [7]}}, "required": ["k"], "additionalProperties": False}
    document = lower(schema).document
    assert deepest([node("say "), document]) == 4 + len('{"k":7}')  # the short style is still open there
    words = {b"say", b" ", b'{"', b'": ', b"k", b"}", *(bytes((i,)) for i in range(256))}
    compact = ["{", '"', "k", '"', ":", "7", "}"]  # without the space there is no word for what is behind the key
    assert deepest([node("say "), document], words - {b'{"'}) == len(["a", "y", " ", *compact])


def test_what_cannot_be_told_is_not() -> None:
    for schema in (
        True,
        {},
        {"type": "object"},
        {"type": "array"},
        {"type": ["string", "object"]},
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
    ):
        assert deepest([lower(schema).document]) is None, schema
    assert deepest([parse_regex("a{3000}")]) is None


def test_intersections_are_told() -> None:
    assert (deepest([parse_regex("(?=.*[0-9])[a-z0-9]{4,}")]) or 0) >= 4
    length = {"type": "string", "pattern": "^a*$", "minLength": 3}
    assert (deepest([lower(length).document]) or 0) >= len('"aaa"')


def walked(prepared: Prepared, ways: KnownWays, rng: Random, most: int) -> Any:
    """A matcher, and its place in the rules, everywhere in one random text."""
    at, place = prepared.compiled.matcher(), ways.start()
    row = np.empty(mask_words(prepared.vocabulary.size), dtype=np.int32)
    for _ in range(most):
        yield at, place
        if at.is_done():
            return
        at.fill(row)
        allowed = [i for i in range(prepared.vocabulary.size) if has(row, i)]
        if not allowed:
            return
        token = rng.choice(allowed)
        assert at.accept(token) and ways.follow(place, [token])


@pytest.mark.parametrize("constraint", [sgl.regex(RECORD), sgl.json_schema(SCHEMA), "> " + sgl.json_schema(SCHEMA)])
def test_no_place_of_a_text_needs_more(grammars: Grammars, constraint: Constraint) -> None:
    prepared, rng, places = grammars.prepare(constraint), Random(2), 0
    assert prepared.deepest is not None and prepared.ways is not None
    for _ in range(6):
        for at, place in walked(prepared, prepared.ways, rng, 120):
            places += 1
            if places % 3 == 0:
                way = prepared.ways.path(place, at, 2_000)
                assert way is not None and len(way) <= prepared.deepest + prepared.deepest // 4 + 8
    assert places > 100


def test_the_bound_of_a_union_is_that_of_its_deepest_branch(grammars: Grammars) -> None:
    small, large = sgl.regex("a{3}"), sgl.json_schema(SCHEMA)
    alone = grammars.prepare(large).deepest
    assert alone is not None and grammars.prepare(small | large).deepest == alone
    assert grammars.prepare(small | sgl.json_schema({"type": "object"})).deepest is None
    assert grammars.prepare(sgl.lark('start: "a"+')).deepest is not None
    assert grammars.prepare(sgl.lark('start: "a"+\n%ignore " "')).deepest is None


def test_far_from_the_end_of_the_budget_nothing_is_searched(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And near it every token is looked at."""
    prepared = grammars.prepare(sgl.regex(RECORD))
    searched: list[int] = []
    follow = KnownWays.follow

    def seen(self: KnownWays, place: Recogniser, tokens: list[int]) -> bool:
        searched.append(len(tokens))
        return follow(self, place, tokens)

    monkeypatch.setattr(KnownWays, "follow", seen)
    rule = Rule(prepared, (), None, (), steer=True)
    assert prepared.deepest is not None
    for left in range(1_000, 400, -1):
        assert rule.steer(rule.forced()[0], left) is not None
    assert not searched
    assert rule.steer(rule.forced()[0], prepared.deepest) is not None
    assert searched


@pytest.mark.parametrize("constraint", [sgl.regex(RECORD), sgl.json_schema(SCHEMA)])
def test_tight_budgets_close(constraint: Constraint) -> None:
    """Every budget from that of the shortest text known on."""
    plain = Runtime.toy()
    shortest = plain.engine.grammars.prepare(constraint).shortest
    wordy = {i: 30.0 for i, data in enumerate(plain.tokenizer.token_bytes) if data[:1].isalpha()}
    runtime = Runtime.toy(favour=wordy | dict.fromkeys(plain.tokenizer.eos_ids, -40.0))
    for more in (0, 1, 2, 4, 9, 20, 45, 90):
        branch = runtime.open(seed=more)
        handle = branch.gen(GenRequest(Sampling(max_tokens=shortest + more), 1, "gen", constraint))
        runtime.wait(handle)
        assert constraint.parse(handle.value()[0].text) is not None


@pytest.mark.parametrize("constraint", [sgl.regex(RECORD), sgl.json_schema(SCHEMA), sgl.json_schema({})])
def test_many_masks_are_those_of_each(grammars: Grammars, constraint: Constraint) -> None:
    """On several threads, from several stems of a grammar."""
    engine, rng = LLGuidance(grammars.vocabulary, threads=3), Random(9)
    prepared = grammars.prepare(constraint)
    assert isinstance(prepared.compiled, CachedGrammar)
    compiled = engine.compile_lark(prepared.compiled.inner.source, json=constraint.kind == "json_schema")
    matchers = [compiled.matcher() for _ in range(20)]
    assert {matcher.stem for matcher in matchers} == {0, 1, 2}
    twins = [prepared.compiled.matcher() for _ in matchers]
    rows_MW = np.full((len(matchers), mask_words(prepared.vocabulary.size)), -1, dtype=np.int32)
    row = np.empty_like(rows_MW[0])
    for _ in range(25):
        assert fill_many(matchers, rows_MW) == [None] * len(matchers)
        for i, (matcher, twin) in enumerate(zip(matchers, twins)):
            twin.fill(row)
            assert (row == rows_MW[i]).all()
            allowed = [token for token in range(prepared.vocabulary.size) if has(row, token)]
            if not matcher.forced():
                tried = rng.sample(range(prepared.vocabulary.size), 20)
                assert [matcher.allows(token) for token in tried] == [has(row, token) for token in tried]
            if allowed:
                token = rng.choice(allowed)
                assert matcher.accept(token) and twin.accept(token)
    assert matchers[1].fork().stem == matchers[1].stem


def test_stems_are_for_crowds_alone(grammars: Grammars) -> None:
    engine = LLGuidance(grammars.vocabulary, threads=4)
    compiled = engine.compile_lark('start: "a" "b"*')
    for _ in range(50):
        assert compiled.matcher().stem == 0  # one at a time
    crowd = [compiled.matcher() for _ in range(40)]
    assert sorted({matcher.stem for matcher in crowd}) == [0, 1, 2, 3]


def test_the_schema_of_the_tests_is_enforced_whole() -> None:
    assert lower(SCHEMA).fully_enforced and json.dumps(lower(SCHEMA).engine_schema)
