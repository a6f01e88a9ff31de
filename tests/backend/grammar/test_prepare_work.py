"""What preparing a constraint does not do: work on texts that no budget holds, and work done twice."""

from __future__ import annotations

from contextlib import suppress

import pytest
import regex

import sgl
from sgl import ConstraintError, Runtime
from sgl.backend.runtime.grammar.closing.search import Closer
from sgl.backend.runtime.grammar.closing.ways import KnownWays, rule_set
from sgl.backend.runtime.grammar.rules.automata import RuleAutomata
from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.lang.checking.check import Mismatch


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "((ab){500}){250}", "(é{400}){400}"])
def test_a_text_too_long_for_any_budget_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match=r"shortest text has .* bytes.*use smaller repeat counts"):
        Runtime.toy().engine.grammars.prepare(sgl.regex(pattern))


def test_no_search_for_a_text_that_the_rules_say_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    monkeypatch.setattr(Closer, "path", lambda *args, **kwargs: searched.append(1))
    assert Runtime.toy().engine.grammars.prepare(sgl.regex("(a{200}){200}")).shortest == 0
    assert searched == []


def test_preparing_spells_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    spelled: list[bytes] = []
    confirmed = KnownWays._confirmed
    monkeypatch.setattr(
        KnownWays, "_confirmed", lambda self, begun, data, no: spelled.append(data) or confirmed(self, begun, data, no)
    )
    prepared = Runtime.toy().engine.grammars.prepare(sgl.choice([f"item {i}" for i in range(300)]))
    assert len(spelled) == 1
    assert 0 < prepared.shortest <= prepared.length


def test_rules_that_do_not_use_themselves_are_costed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {
        f"d{i}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/d{i + 1}"}, "y": {}}} for i in range(40)
    }
    constraint = sgl.json_schema({"$defs": chain | {"d40": {"type": "integer"}}, "$ref": "#/$defs/d0"})
    assert isinstance(constraint, sgl.lang.constraint.JsonSchema)
    grammar = rule_set(constraint, {constraint: lower(constraint.schema).document})
    assert grammar is not None
    automata = RuleAutomata(grammar)
    place = {name: n for n, name in enumerate(automata._from_below())}
    assert place.keys() == grammar.rules.keys()
    loops = [
        (name, used)
        for name, node in grammar.rules.items()
        for used in automata._uses(node)
        if place[used] >= place[name]
    ]
    assert all(name.endswith(":") and used.endswith(":") for name, used in loops)  # any value within any value


@pytest.mark.parametrize(
    "constraint",
    [
        sgl.regex("|".join(f"item{i}" for i in range(207))),
        sgl.regex("[0-7]{2,9}x*") | "none",
    ],
    ids=["regex", "union"],
)
def test_what_checks_a_text_is_made_while_preparing(
    constraint: sgl.Constraint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern of thousands of alternatives takes seconds to compile, and a check holds up all others."""
    made: list[str] = []
    compiled = regex.compile
    monkeypatch.setattr(regex, "compile", lambda pattern, *rest: made.append(pattern) or compiled(pattern, *rest))
    prepared = Runtime.toy().engine.grammars.prepare(constraint)
    assert made, "no other test has made this pattern"
    made.clear()
    for text in ("item7", "731", "none", "?"):
        with suppress(Mismatch):
            prepared.check(text)
    assert made == []
