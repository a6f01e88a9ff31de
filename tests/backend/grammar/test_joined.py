"""Free text, repeats and control tokens joined with JSON: what masks allow, what is kept of them, closing in time."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl
from sgl.backend.runtime.grammar import lexemes
from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.grammar.sharing.lexeme_keys import LexemeKeys
from sgl.backend.runtime.grammar.sharing.mask_cache import CachedGrammar
from sgl.lang.constraint import Constraint

from .closing_walks import without_a_way

ARGUMENTS = sgl.json_schema(
    {
        "type": "object",
        "properties": {"name": {"enum": ["a", "b"]}, "x": {"type": "integer"}, "text": {"type": "string"}},
        "required": ["name", "x"],
        "additionalProperties": False,
    }
)
PROSE = sgl.free_text(["<call>"])
CALL = "<call>\n" + ARGUMENTS + "\n</call>"
CONTROL = "<|im_start|>"

CONSTRAINTS: dict[str, Constraint] = {
    "calls in prose": sgl.repeat(PROSE + CALL) + PROSE,
    "prose, calls, prose": PROSE + sgl.repeat(CALL, 0, 3) + PROSE,
    "at least one": sgl.repeat(PROSE + CALL, 1) + PROSE,
    "a control token": sgl.repeat(PROSE + sgl.control(CONTROL) + ARGUMENTS + ";", 1, 2) + PROSE,
    "a control token behind a number": sgl.schema(int) + sgl.control(CONTROL) + sgl.free_text(),
    "numbers with separators": sgl.repeat(sgl.schema(int), 1, 4, separator=";"),
    "two bars": sgl.free_text(["ab", "ba"]) + "ab" + ARGUMENTS + sgl.control(CONTROL) + sgl.repeat("xy", 1, 3),
    "an answer or calls": ARGUMENTS | sgl.repeat("<call>" + ARGUMENTS, 1, 2, separator="\n"),
    "named calls": sgl.repeat(
        sgl.free_text(["<f="]) + "<f=" + ("get>" + sgl.schema(int) | "get_all>" + sgl.schema(list[int])) + "</f>", 1
    ),
    "nested": sgl.repeat("(" + sgl.repeat(sgl.schema(bool), 0, 2, separator=",") + ")", 0, 2),
}


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime.toy() as made:
        yield made


@pytest.fixture(scope="module")
def grammars(runtime: Any) -> Grammars:
    found: Grammars = runtime.engine.grammars
    return found


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_way_to_the_end_is_known_at_random_places(grammars: Grammars, name: str) -> None:
    assert without_a_way(grammars.prepare(CONSTRAINTS[name]), Random(name), 60) == []


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_kept_masks_are_the_engines_own(grammars: Grammars, name: str) -> None:
    """What the cache says at each place of random texts is what llguidance computes there."""
    prepared, rng = grammars.prepare(CONSTRAINTS[name]), Random(name)
    compiled = prepared.compiled
    assert isinstance(compiled, CachedGrammar) and isinstance(compiled._keys, LexemeKeys)
    vocabulary = prepared.vocabulary
    known = places = 0
    for _ in range(12):
        ours, theirs = compiled.matcher(), compiled.inner.matcher()
        for _ in range(60):
            known, places = known + ours.is_known(), places + 1
            row, wanted = vocabulary.new_row(), vocabulary.new_row()
            ours.fill(row)
            theirs.fill(wanted)
            assert (row == wanted).all()
            assert (ours.can_end(), ours.is_done()) == (theirs.can_end(), theirs.is_done())
            assert ours.forced() == theirs.forced()
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")[: vocabulary.size]).tolist()
            if not allowed:
                break
            liked = [token for token in allowed if vocabulary.bytes[token] in LIKED or token in prepared.controls]
            token = rng.choice(liked if liked and rng.random() < 0.8 else allowed)
            assert ours.accept(token) and theirs.accept(token)
    assert known > places // 10


LIKED = {bytes((byte,)) for byte in b'<>cal\n/{}":, xabf=get;(),1'}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("liked", ["<", "{", '"a1', "x"])
def test_texts_are_closed_within_each_budget(name: str, liked: str) -> None:
    """A model that likes to open and never to close gets to an end within any budget that some text fits."""
    toy = sgl.Runtime.toy()
    ids = dict.fromkeys(toy.tokenizer.encode(liked, first=False), 30.0)
    constraint = CONSTRAINTS[name]
    with sgl.Runtime.toy(favour=ids) as runtime:
        shortest = runtime.engine.grammars.prepare(constraint).shortest

        @sgl.function
        def program(s: Any, budget: int) -> None:
            s += "Go: " + sgl.gen("x", constraint=constraint, max_tokens=budget)

        for budget in {max(shortest, 1), shortest + 1, shortest + 5, 40, 71}:
            state = program.run(budget=budget, backend=runtime, seed=budget)
            assert constraint.parse(state["x"]) is not None
            assert len(state.get_meta_info("x")["token_ids"]) <= budget
            runtime.check()
        if shortest > 1:
            with pytest.raises(sgl.ConstraintError, match="no text of this constraint fits"):
                program.run(budget=shortest - 1, backend=runtime)["x"]


PIECES = [
    "<call>",
    "</call>",
    "\n",
    '{"name": "a", "x": 1}',
    "{",
    "<",
    "x",
    ";",
    CONTROL,
    "1",
    "2.5",
    "true",
    "(",
    ")",
    ",",
]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_masks_and_the_check_of_finished_texts_agree(name: str, runtime: Any) -> None:
    constraint = CONSTRAINTS[name]
    wider = name == "prose, calls, prose"  # free text on both sides of no call: the check reads it as two

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
    def agree(text: str) -> None:
        try:
            constraint.parse(text)
            right = True
        except sgl.ConstraintError:
            right = False
        taken = runtime.accepts(constraint, text).ok
        assert taken == right or (wider and right), text

    agree()


def test_a_control_token_is_one_token_of_the_text(runtime: Any) -> None:
    constraint = "a" + sgl.control(CONTROL) + sgl.schema(int) + ";"

    @sgl.function
    def program(s: Any) -> None:
        s += "Go: " + sgl.gen("x", constraint=constraint, return_logprob=True, top_logprobs_num=2) + " end"

    state = program.run(backend=runtime, seed=3)
    meta = state.get_meta_info("x")
    token = runtime.tokenizer.control_token(CONTROL)
    assert meta["token_ids"].count(token) == 1
    assert state["x"].startswith("a" + CONTROL)
    assert state.text() == "Go: " + state["x"] + " end"
    texts = [each[2] for each in meta["output_token_logprobs"]]
    assert "".join(texts) == state["x"] and CONTROL in texts
    streamed = program.run(backend=runtime, seed=3, stream=True)
    assert "".join(streamed.text_iter("x")) == state["x"]
    traced = program.run(backend=runtime, seed=3)
    with sgl.trace() as trace:
        assert program.run(backend=runtime, seed=3)["x"] == traced["x"]
    assert trace is not None
    runtime.check()


def test_what_follows_a_control_token_is_not_computed_again(runtime: Any) -> None:
    """The token stays in the transcript as it was sampled: the next call has its KV and its prompt has its id."""
    constraint = sgl.control(CONTROL) + sgl.regex("[a-c]{4}")

    @sgl.function
    def program(s: Any) -> None:
        s += "Go on and on: " + sgl.gen("x", constraint=constraint) + sgl.gen("y", max_tokens=3, temperature=0)

    state = program.run(backend=runtime, seed=1)
    ids = runtime.tokenizer.encode("Go on and on: ") + state.get_meta_info("x")["token_ids"]
    again = runtime.generate(input_ids=ids, sampling_params={"max_new_tokens": 3, "temperature": 0})
    assert again["output_ids"] == state.get_meta_info("y")["token_ids"]
    assert state.get_meta_info("y")["prompt_tokens"] == len(ids)


def test_a_joined_fork_keeps_the_control_token(runtime: Any) -> None:
    constraint = "a" + sgl.control(CONTROL) + "b" + sgl.control(CONTROL)

    @sgl.function
    def program(s: Any) -> None:
        s += "Go: "
        forks = s.fork(2)
        forks += sgl.gen("x", constraint=constraint)
        forks.join("concate_and_append")
        s += sgl.gen("y", max_tokens=1)

    state = program.run(backend=runtime, seed=1)
    text = f"a{CONTROL}b{CONTROL}" * 2
    assert state.text() == "Go: " + text + state["y"]
    wanted = runtime.tokenizer.encode("Go: " + text, special_tokens=True)
    assert state.get_meta_info("y")["prompt_tokens"] == len(wanted)


def test_a_stop_cuts_behind_and_within_a_control_tokens_text(runtime: Any) -> None:
    constraint = "ab" + sgl.control(CONTROL) + "cd"

    @sgl.function
    def program(s: Any, stop: str) -> None:
        s += "Go: " + sgl.gen("x", constraint=constraint, stop=stop, on_budget="partial") + "!"

    with pytest.raises(sgl.ConstraintError, match="stop 'd' cut the text"):
        program.run(stop="d", backend=runtime)["x"]
    with pytest.raises(sgl.ConstraintError, match="stop 'im' cut the text"):
        program.run(stop="im", backend=runtime)["x"]
    assert program.run(stop="zz", backend=runtime)["x"] == "ab" + CONTROL + "cd"


def test_control_tokens_that_are_not_there_are_refused_with_the_nearest(runtime: Any) -> None:
    with pytest.raises(sgl.ConstraintError, match=r"no control token '<\|im_strt\|>'; did you mean '<\|im_start\|>'"):
        runtime.accepts(sgl.control("<|im_strt|>") + "x", "x")
    with pytest.raises(sgl.ConstraintError, match="end of text"):
        runtime.accepts("x" + sgl.control("<|im_end|>"), "x")


def test_ordinary_tokens_do_not_spell_a_control_token(grammars: Grammars) -> None:
    prepared = grammars.prepare(sgl.control(CONTROL) + "x")
    row = prepared.vocabulary.new_row()
    prepared.compiled.matcher().fill(row)
    allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
    assert allowed == [*prepared.controls]


def test_free_text_takes_tokens_that_only_begin_what_it_is_without(runtime: Any) -> None:
    constraint = sgl.free_text(["<call>"])
    for text in ("", "a < b", "<call", "<cal<call", "<<call", "<callcall>"):
        assert runtime.accepts(constraint, text), text
    for text in ("<call>", "<<call>", "<cal<call>x"):
        assert not runtime.accepts(constraint, text), text


def test_free_text_that_touches_itself_is_one(runtime: Any) -> None:
    constraint = PROSE + sgl.repeat(CALL) + PROSE
    assert not runtime.accepts(constraint, "x<call>y")
    assert runtime.accepts(constraint, 'x<call>\n{"name": "a", "x": 1}\n</call>y')


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (sgl.free_text() + sgl.json_schema({"type": "object"}), "run into each other.*'{'"),
        (sgl.schema(int) + sgl.repeat("1" + sgl.schema(bool)), "run into each other.*'1'"),
        (sgl.free_text(["<a>"]) | sgl.schema(int) + ";", "run into each other"),
        (sgl.repeat(sgl.schema(int)), "run into each other"),
        (sgl.repeat(sgl.repeat(sgl.schema(int) + ";", 0, 100) + "x", 0, 100), "more than 5,000 places"),
        (sgl.lark('start: "a"') + "b", "cannot be joined"),
    ],
)
def test_joints_that_would_lose_texts_are_refused(runtime: Any, constraint: Constraint, why: str) -> None:
    with pytest.raises(sgl.ConstraintError, match=why):
        runtime.accepts(constraint, "x")
    assert not sgl.explain(constraint).ok


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: sgl.free_text("ab"), "must be a list"),
        (lambda: sgl.free_text([""]), "not empty"),
        (lambda: sgl.free_text([chr(0xD800)]), "surrogate"),
        (lambda: sgl.free_text(["x"] * 300), "at most 256"),
        (lambda: sgl.repeat(3), "a constraint or a text"),  # type: ignore[arg-type]
        (lambda: sgl.repeat("a", -1), "least must be"),
        (lambda: sgl.repeat("a", 3, 2), "most=2 must be at least 3"),
        (lambda: sgl.repeat("a", True), "least must be"),
        (lambda: sgl.repeat("a", separator=3), "separator must be"),  # type: ignore[arg-type]
        (lambda: sgl.control(""), "text of a control token"),
    ],
)
def test_wrong_parts_are_refused_where_they_are_written(make: Any, why: str) -> None:
    with pytest.raises(sgl.ConstraintError, match=why):
        make()


def test_explain_has_a_row_for_each_part() -> None:
    told = str(sgl.explain(CONSTRAINTS["a control token"]))
    for words in ("at least 1 time, at most 2 times", "without '<call>'", f"the token {CONTROL}", "/properties/name"):
        assert words in told
    assert "part 1: each: part 3: /properties/x" in told


def test_a_number_beyond_a_double_within_text_is_said_plainly(runtime: Any) -> None:
    number = "v=" + sgl.schema(float) + ";"
    assert runtime.accepts(number, "v=1e30;") and runtime.accepts(number, f"v={'9' * 300}.5;")
    assert "out of the range of numbers" in runtime.accepts(number, f"v={'9' * 900}.5;").why
    assert "out of the range of numbers" in runtime.accepts(number, "v=1e999;").why
    assert "out of the range of numbers" in runtime.accepts(number, f"v={'9' * 5000};").why
    assert "out of the range" in runtime.accepts(number | "w=" + sgl.schema(float), "w=1e999").why

    @sgl.function
    def writes(s: Any) -> None:
        s += "x" + sgl.gen("text", constraint=number, max_tokens=60, temperature=0, logit_bias=bias)

    (nine, power) = runtime.tokenizer.encode([("9e", False)], first=False)
    bias = {nine: 50.0, power: 100.0}
    with pytest.raises(sgl.ConstraintError, match=r"a number that no double holds.*minimum=") as caught:
        writes.run(backend=runtime)["text"]
    assert "please report" not in str(caught.value)


def test_how_parts_join_is_read_once(monkeypatch: pytest.MonkeyPatch, grammars: Grammars) -> None:
    """Of a long list of tools that takes the most time of compiling."""
    read: list[Constraint] = []
    rules = lexemes._LexemeWriter.rules
    monkeypatch.setattr(lexemes._LexemeWriter, "rules", lambda self, of: read.append(of) or rules(self, of))
    once = "once " + ARGUMENTS + sgl.control(CONTROL) + sgl.regex("[a-z]{2}")
    assert grammars.prepare(once).compiled.engine == "llguidance"
    assert read == [once]
