"""Constrained gens at the end of their budget: what can be closed is closed, what cannot be is refused at once."""

from __future__ import annotations

import json
import re
import threading
from functools import lru_cache
from typing import Any

import pytest

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.grammar.closing import fewest
from sgl.backend.runtime.grammar.closing.fewest import FewestSearch
from sgl.backend.runtime.grammar.closing.search import Closer
from sgl.backend.runtime.grammar.closing.ways import KnownWays
from sgl.backend.runtime.grammar.compile import Prepared
from sgl.backend.runtime.model.load.store import DEFAULT_MODEL, cache_folder, is_pulled
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.constraint import Constraint
from sgl.lang.errors import ConstraintError, Truncated
from sgl.lang.expr import Sampling

from .test_constrained import CONSTRAINTS, RANKINGS, favouring, generate

EMAIL = r"^[^\s@]+@[^\s@]+\.[^\s@]+$"
OPEN = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "minProperties": 1}
KINDS: dict[str, Constraint] = {
    **{name: constraint for name, constraint in CONSTRAINTS.items() if name != "lark"},
    "email pattern": sgl.json_schema({"type": "object", "properties": {"e": {"type": "string", "pattern": EMAIL}}}),
    "email": sgl.json_schema({"type": "string", "format": "email"}),
    "uri": sgl.json_schema({"type": "string", "format": "uri"}),
    "branch": sgl.json_schema({"type": "string", "pattern": r"^refs/heads/\w+$"}),
    "user": sgl.json_schema({"type": "string", "pattern": r"^user_[a-zA-Z0-9]+$"}),
    "long string": sgl.json_schema({"type": "string", "minLength": 30, "maxLength": 4000}),
    "pattern and length": sgl.json_schema({"type": "string", "pattern": "^[a-z -]+$", "minLength": 9}),
    "step": sgl.json_schema({"type": "integer", "multipleOf": 7, "minimum": 1000}),
    "decimal": sgl.json_schema({"type": "number", "exclusiveMinimum": 0, "maximum": 1.25}),
    "open object": sgl.json_schema(OPEN),
    "keys": sgl.schema(dict[int, bool]),
    "many items": sgl.json_schema({"type": "array", "items": {"type": "integer"}, "minItems": 12}),
    "pairs": sgl.json_schema({"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["é", 1.5, None]}]}),
    "marker": sgl.regex(r"(.|\n)*END"),
    "control": sgl.json_schema({"type": "string", "pattern": '^["\\\\\\n]{3}$'}),
    "parts": sgl.json_schema({"type": "array", "items": {"type": "string"}}) + " and " + sgl.regex("[a-z]{3}"),
}


def shortest_of(constraint: Constraint) -> int:
    return model("none").engine.grammars.prepare(constraint).shortest


@lru_cache
def model(ranking: str) -> Runtime:
    """A model that never wants to end."""
    return favouring(RANKINGS[ranking], ends=-40.0)


@pytest.mark.parametrize("ranking", ["none", "quotes", "brackets", "words"])
@pytest.mark.parametrize("name", KINDS)
def test_every_budget_from_the_shortest_text_on_closes(
    name: str, ranking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is searched for."""
    monkeypatch.setattr(Prepared, "closing", None)
    shortest, runtime = shortest_of(KINDS[name]), model(ranking)
    for seed, more in enumerate([0, 1, 9]):
        budget = max(shortest + more, 1)
        result = generate(runtime, KINDS[name], seed, max_tokens=budget, temperature=float(seed % 2))
        assert len(result.token_ids) <= budget
        assert runtime.accepts(KINDS[name], result.text)


@pytest.mark.parametrize("name", KINDS)
def test_a_budget_that_no_text_fits_is_refused_before_the_first_token(name: str) -> None:
    shortest = shortest_of(KINDS[name])
    runtime = favouring("")
    for budget in {shortest - 1, 1}:
        if not 0 < budget < shortest:
            continue
        before = runtime.engine.steps
        with pytest.raises(ConstraintError) as caught:
            generate(runtime, KINDS[name], max_tokens=budget)
        assert f"shortest one known has {shortest} tokens (" in str(caught.value)
        assert f"leave {budget};" in str(caught.value)
        assert runtime.engine.steps == before
        with pytest.raises(ConstraintError):
            generate(runtime, KINDS[name], max_tokens=budget, on_budget="error")
    runtime.check()


FEWER_TOKENS: dict[str, tuple[Constraint, int]] = {
    "letters": (sgl.regex(r"\w{30}"), 5),
    "a longer alternative": (sgl.regex("xqzj|(Answer|stop){2}"), 2),
    "one of two": (sgl.regex("(aba|the|an){4}"), 4),
    "a string": (sgl.json_schema({"type": "string", "minLength": 20}), 5),
    "beyond ASCII": (sgl.regex("[é日本]{6}"), 3),
    "a name or a number": (sgl.json_schema({"anyOf": [{"minimum": 10000, "type": "integer"}, {"const": "stop"}]}), 3),
    "recursive": (sgl.ebnf('root ::= "xyz" | "(" root ")" | "stop" root?'), 1),
}
"""Constraints whose text of the fewest bytes does not have the fewest tokens, and what the fewest are on the toy."""


@pytest.mark.parametrize("name", FEWER_TOKENS)
def test_the_fewest_tokens_are_found(name: str) -> None:
    constraint, fewest = FEWER_TOKENS[name]
    for ranking in ("none", "quotes", "digits", "words"):
        for more in (0, 1, 2):
            for temperature in (0.0, 1.0):
                result = generate(model(ranking), constraint, more, max_tokens=fewest + more, temperature=temperature)
                assert len(result.token_ids) <= fewest + more
    if fewest > 1:
        with pytest.raises(ConstraintError, match=rf"has {fewest} tokens \(none has fewer\).*leave {fewest - 1};"):
            generate(model("none"), constraint, max_tokens=fewest - 1)


def test_the_fewest_tokens_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many gens ask, with whatever budgets."""
    looked: list[int] = []
    run = FewestSearch.run
    monkeypatch.setattr(FewestSearch, "run", lambda self, *given: looked.append(1) or run(self, *given))
    runtime = favouring("", ends=-40.0)
    for budget in (1, 2, 3, 4, 4, 5, 6):
        try:
            generate(runtime, FEWER_TOKENS["letters"][0], max_tokens=budget)
        except ConstraintError:
            assert budget < 5
    assert len(looked) == 1


def test_the_fewest_tokens_are_looked_for_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search waits for another program to end, which it would for ever on the thread that drives."""
    runtime, ended, run = favouring("", ends=-40.0), threading.Event(), FewestSearch.run

    def search(self: FewestSearch, *given: Any) -> Any:
        assert ended.wait(60), "no other program could go on"
        return run(self, *given)

    monkeypatch.setattr(FewestSearch, "run", search)
    constraint, fewest = FEWER_TOKENS["letters"]

    @sgl.function
    def tight(s: Any) -> None:
        s += "x" + sgl.gen("a", constraint=constraint, max_tokens=fewest)

    @sgl.function
    def other(s: Any) -> None:
        s += "y" + sgl.gen("a", max_tokens=5)

    waits = tight.run(backend=runtime, stream=True)
    assert other.run(backend=runtime)["a"]
    ended.set()
    assert waits["a"]


def test_a_search_that_stops_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewest, "MOST_SEARCH_WORK", 0)
    with pytest.raises(ConstraintError, match=r"is known to fit: the shortest one known has 31 tokens \(each has at"):
        generate(favouring(""), sgl.regex("[a-z]{31}"), max_tokens=20)


def test_a_budget_below_what_every_text_has_is_refused() -> None:
    """Also where the text is so long that none is spelled."""
    with pytest.raises(ConstraintError, match="fits: each has at least"):
        generate(favouring(""), sgl.regex("(a{200}){200}"), max_tokens=90)


def test_a_context_that_no_text_fits_is_refused() -> None:
    runtime = Runtime.toy(context_length=64)
    with pytest.raises(ConstraintError, match="shortest one known has"):
        generate(runtime, sgl.json_schema({"type": "array", "items": {"type": "integer"}, "minItems": 200}))
    assert generate(runtime, sgl.json_schema({"type": "array", "items": {"type": "integer"}, "minItems": 4}))


def test_a_partial_text_may_be_shorter_than_any_whole_one() -> None:
    result = generate(favouring(""), sgl.regex("[a-f]{30}"), max_tokens=4, on_budget="partial")
    assert len(result.token_ids) == 4 and result.receipt["complete"] is False


def test_the_shortest_text_is_short() -> None:
    """Bytes: what the rules say, whatever words the model has."""
    grammars = Runtime.toy().engine.grammars
    for name, text in [
        ("email pattern", "{}"),
        ("branch", '"refs/heads/a"'),
        ("user", '"user_a"'),
        ("marker", "END"),
        ("step", "1001"),
        ("pet", '{"name":"","kind":"cat","age":0,"likes":[]}'),
        ("many items", "[0,0,0,0,0,0,0,0,0,0,0,0]"),
        ("decimal", "1"),
        ("lookahead", "aaa0"),
    ]:
        ways = grammars.prepare(KINDS[name]).ways
        assert ways is not None
        assert ways.bytes_left(ways.start()) == len(text), name


@pytest.mark.parametrize(
    ("schema", "begun", "ends"),
    [
        ({"type": "string", "pattern": EMAIL}, '"ab', '@a.a"'),
        ({"type": "string", "minLength": 4}, '"a\\', '""""'),
        ({"type": "integer", "multipleOf": 7}, "100", "1"),
        ({"type": "number", "multipleOf": 0.25}, "3.2", "5"),
        ({"type": "number", "minimum": 2.125, "maximum": 2.5}, "2.1", "3"),
        ({"type": "object", "required": ["a"], "properties": {"b": {}, "a": {}}}, '{"b": [{"c": 1', '}], "a": 0}'),
        ({"type": "array", "minItems": 3, "items": {"type": "boolean"}}, "[true, ", "true, true]"),
        ({"enum": ["a\x7fb", "日本"]}, '"日', '本"'),
    ],
)
def test_the_way_knows_its_place(schema: Any, begun: str, ends: str) -> None:
    ways = Runtime.toy().engine.grammars.prepare(sgl.json_schema(schema)).ways
    assert ways is not None
    place = ways.start()
    assert place.feed_text(begun)
    assert ways.bytes_left(place) == len(ends.encode())


def test_keys_that_repeat_are_passed_over() -> None:
    """The rules would take the same key twice, the engine does not: the next way is taken."""
    schema = {"type": "object", "patternProperties": {"^[ab]$": {"type": "integer"}}, "additionalProperties": False}
    prepared = Runtime.toy().engine.grammars.prepare(sgl.json_schema({**schema, "minProperties": 2}))
    assert prepared.ways is not None
    way = prepared.ways.path(prepared.ways.start(), prepared.compiled.matcher(), 100)
    assert way is not None
    text = b"".join(prepared.vocabulary.bytes[token] for token in way)
    assert json.loads(text).keys() == {"a", "b"}


def test_a_search_stops_at_what_it_really_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of long texts cost more than those of short ones."""
    grammars = Runtime.toy().engine.grammars
    prepared = grammars.prepare(sgl.lark('start: "x" (start | "y")'))
    assert prepared.shortest in (0, 2)
    tried: list[int] = []
    matcher = prepared.compiled.matcher()
    accept = type(matcher).accept
    monkeypatch.setattr(type(matcher), "accept", lambda self, token: tried.append(token) or accept(self, token))
    Closer(grammars.vocabulary).path(matcher, 2_000)
    assert len(tried) < 3_000


def test_what_the_rules_lose_is_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the engine write what the rules do not say, the gen goes on as one without rules."""
    monkeypatch.setattr(KnownWays, "follow", lambda self, place, tokens: False)
    result = generate(favouring("th", ends=-40.0), sgl.json_schema({"type": "string"}), max_tokens=30)
    assert isinstance(json.loads(result.text), str)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_is_not_known_as_rules_still_closes(temperature: float) -> None:
    runtime = favouring("(", ends=-40.0)
    try:
        text = generate(runtime, CONSTRAINTS["lark"], max_tokens=40, temperature=temperature).text
    except Truncated:
        pytest.fail("the search finds brackets that close")
    assert re.fullmatch(r"[()]+", text) and text.count("(") == text.count(")")


@pytest.fixture(scope="module")
def smollm2() -> Runtime:
    return Runtime()


@pytest.mark.model
@pytest.mark.skipif(not is_pulled(DEFAULT_MODEL, cache_folder()), reason=f"run `sgl models pull {DEFAULT_MODEL}` first")
@pytest.mark.parametrize("name", ["email", "email pattern", "uri", "branch", "user", "any json", "marker", "pet"])
def test_a_real_model_closes_at_temperature_1(smollm2: Runtime, name: str) -> None:
    shortest = smollm2.engine.grammars.prepare(KINDS[name]).shortest
    assert 0 < shortest < 40
    for seed, budget in enumerate([shortest, shortest + 1, 40]):
        result = generate(smollm2, KINDS[name], seed, max_tokens=budget, temperature=1.0)
        assert smollm2.accepts(KINDS[name], result.text) and len(result.token_ids) <= budget


@pytest.mark.model
@pytest.mark.skipif(not is_pulled(DEFAULT_MODEL, cache_folder()), reason=f"run `sgl models pull {DEFAULT_MODEL}` first")
@pytest.mark.parametrize(
    ("constraint", "fewest"),
    [
        (sgl.regex(r"\w{30}"), 2),
        (sgl.choice(["xqzj", "information", "information technology"]), 1),
        (sgl.regex("[ぁ-ヿ]{12}"), 12),
        (sgl.json_schema({"type": "object", "required": ["a"], "properties": {"a": {}}}), 4),
        (sgl.json_schema({"type": "string", "minLength": 40}), 3),
    ],
    ids=["letters", "choices", "kana", "object", "string"],
)
def test_a_real_model_has_long_words(smollm2: Runtime, constraint: Constraint, fewest: int) -> None:
    for budget in (fewest, fewest + 1, 14):
        result = generate(smollm2, constraint, max_tokens=budget, temperature=1.0)
        assert smollm2.accepts(constraint, result.text) and len(result.token_ids) <= budget
    if fewest > 1:
        with pytest.raises(ConstraintError, match=rf"has {fewest} tokens \(none has fewer\)"):
            generate(smollm2, constraint, max_tokens=fewest - 1)


def test_a_way_to_close_does_not_depend_on_where_objects_lie_in_memory() -> None:
    """Of ways that are equally short it is always the same one, in another runtime too."""
    constraint = "Name: " + sgl.regex("[A-Z][a-z]+") + "\n" + sgl.json_schema({"type": "object", "maxProperties": 3})
    found = set()
    kept = []  # runtimes and constraints that live take other addresses
    for _ in range(6):
        runtime = Runtime.toy()
        branch = runtime.open(seed=1)
        branch.append("1: ")
        handle = branch.gen(GenRequest(Sampling(max_tokens=60, temperature=1.0, top_p=0.9), constraint=constraint))
        runtime.wait(handle)
        found.add(handle.value()[0].text)
        kept.append((runtime, [object() for _ in range(100)]))
    assert len(found) == 1, found
