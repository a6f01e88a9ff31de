"""Constrained gens on the toy model: whatever it loves to write, the text holds what was asked for, or an error says
so."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.constraint import Constraint, Regex, constraint_of
from sgl.lang.errors import ConstraintError, OptionError, Truncated
from sgl.lang.expr import Sampling


class Pet(BaseModel):
    name: str = Field(max_length=12)
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)
    likes: list[str] = Field(max_length=3)
    mother: Pet | None = None


TREE = {
    "type": "object",
    "properties": {"v": {"type": "number"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}},
    "required": ["v"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Constraint] = {
    "digits": sgl.regex(r"\d+"),
    "date": sgl.regex(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"),
    "any text": sgl.regex(r"(?s).*"),
    "lazy": sgl.regex(r"<.+?>"),
    "lookahead": sgl.regex(r"(?=.*\d)[a-z0-9]{4,}"),
    "choices": sgl.choice(["yes", "yes, please", "no", "日本"]),
    "tree": sgl.json_schema(TREE),
    "any json": sgl.json_schema({}),
    "strings": sgl.json_schema({"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}),
    "pet": sgl.schema(Pet),
    "joined": "Name: " + sgl.regex("[A-Z][a-z]+") + "\n" + sgl.json_schema({"type": "object", "maxProperties": 3}),
    "either": sgl.json_schema({"type": "integer"}) | sgl.choice(["none", "unknown"]),
    "lark": sgl.lark('start: "(" start* ")"'),
}
RANKINGS = {
    "none": "",
    "quotes": '"',
    "newlines": "\n \t",
    "digits": "0123456789",
    "brackets": "[{(",
    "escapes": "\\u",
    "words": "th",
}


def favouring(characters: str, ends: float = 0.0, **options: Any) -> Runtime:
    """A toy that loves tokens which begin with these characters; `ends` is how it likes to end."""
    plain = Runtime.toy()
    table = plain.tokenizer.token_bytes
    favour = {i: 40.0 for i, data in enumerate(table) if data and data[:1].decode("latin-1") in characters}
    favour |= dict.fromkeys(plain.tokenizer.eos_ids, ends)
    return Runtime.toy(favour=favour, **options)


def generate(runtime: Runtime, constraint: Constraint, seed: int = 0, **options: Any) -> Any:
    on_budget = options.pop("on_budget", "close")
    n, follow = options.pop("n", 1), options.pop("follow", "")
    branch = runtime.open(seed=seed)
    branch.append("Write: ")
    handle = branch.gen(GenRequest(Sampling(**options), n, "gen('x')", constraint, on_budget, follow))
    runtime.wait(handle)
    results = handle.value()
    runtime.check()
    return results if n > 1 else results[0]


def holds(name: str, text: str) -> None:
    """An oracle that knows nothing of ours."""
    constraint = CONSTRAINTS[name]
    if isinstance(constraint, Regex):
        assert re.fullmatch(constraint.pattern, text), text
    elif name == "choices":
        assert text in ["yes", "yes, please", "no", "日本"]
    elif name == "pet":
        Pet.model_validate_json(text)
    elif name == "joined":
        found = re.fullmatch(r"Name: [A-Z][a-z]+\n(.*)", text, re.S)
        assert found and len(json.loads(found[1])) <= 3
    elif name == "either":
        assert text in ("none", "unknown") or re.fullmatch(r"-?(0|[1-9]\d*)(\.0+)?", text), text
    elif name == "lark":
        depth = 0
        for i, c in enumerate(text):
            depth += 1 if c == "(" else -1
            assert depth > 0 or i == len(text) - 1
        assert depth == 0 and text
    else:
        value = json.loads(text)
        if name == "tree":
            assert isinstance(value["v"], (int, float)) and set(value) <= {"v", "left", "right"}
        if name == "strings":
            assert len(value) >= 2 and all(len(s) >= 3 for s in value)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_valid_or_refused_whatever_the_model_loves(name: str, ranking: str) -> None:
    """T9, T10: every budget that the shortest text fits ends in a valid text; any other is refused at once."""
    runtime = favouring(RANKINGS[ranking], ends=-40.0)
    done = 0
    for seed, budget in enumerate([1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]):
        try:
            result = generate(runtime, CONSTRAINTS[name], seed, max_tokens=budget, temperature=float(seed % 2))
        except ConstraintError as error:
            assert f"leave {budget};" in str(error) and not done
        else:
            assert len(result.token_ids) <= budget
            holds(name, result.text)
            done += 1
    assert done, "no budget was enough, not even 144 tokens"


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_eager_ends_never_cut_a_text_short(name: str) -> None:
    runtime = favouring("", ends=60.0)
    for seed in range(3):
        holds(name, generate(runtime, CONSTRAINTS[name], seed, max_tokens=200).text)


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forced_tokens_change_nothing(name: str, temperature: float) -> None:
    """Log-probabilities send every token through the model: the same tokens come out."""
    runtime = favouring("")
    for seed in range(4):
        fast = generate(runtime, CONSTRAINTS[name], seed, max_tokens=120, temperature=temperature)
        slow = generate(runtime, CONSTRAINTS[name], seed, max_tokens=120, temperature=temperature, return_logprob=True)
        assert slow.usage.forced == 0
        assert slow.token_ids == fast.token_ids
        assert len(slow.logprobs) == len(slow.token_ids) + (slow.usage.generated - len(slow.token_ids))


def test_forced_tokens_save_steps() -> None:
    runtime = favouring("")
    before = runtime.engine.steps
    result = generate(runtime, sgl.regex("the answer: yes and the other: no"), max_tokens=50)
    assert result.text == "the answer: yes and the other: no"
    assert result.usage.forced > 0 and runtime.engine.steps - before <= 1


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_text_depends_on_the_program_alone(name: str) -> None:
    """Invariant 8 for constrained gens: batch, chunk, pool and cache do not matter."""
    alone = [generate(favouring(""), CONSTRAINTS[name], seed, max_tokens=60).text for seed in range(6)]
    for chunk, pool, reuse in [(1, 50_000, True), (7, 400, False), (64, 300, True)]:
        runtime = favouring("", chunked_prefill_size=chunk, max_total_tokens=pool, disable_radix_cache=not reuse)
        branches, handles = [], []
        for seed in range(6):
            branch = runtime.open(seed=seed)
            branch.append("Write: ")
            request = GenRequest(Sampling(max_tokens=60), 1, "gen('x')", CONSTRAINTS[name])
            handles.append(branch.gen(request))
            branches.append(branch)
        for handle in handles:
            runtime.wait(handle)
        runtime.check()
        assert [handle.value()[0].text for handle in handles] == alone


def test_samples_and_forks_share_no_matcher() -> None:
    runtime = favouring("")
    results = generate(runtime, CONSTRAINTS["pet"], n=5, max_tokens=150)
    texts = [r.text for r in results]
    assert len(set(texts)) == 5
    for text in texts:
        holds("pet", text)


def test_control_tokens_are_never_text() -> None:
    plain = Runtime.toy()
    control = [i for i in range(plain.tokenizer.vocab_size + 5) if not (plain.tokenizer.token_bytes + [b""] * 5)[i]]
    runtime = Runtime.toy(favour=dict.fromkeys(control, 90.0))
    for name in ("any text", "any json", "strings"):
        result = generate(runtime, CONSTRAINTS[name], max_tokens=30)
        assert not set(result.token_ids) & set(control)
        holds(name, result.text)


def test_every_end_token_is_legal_where_the_text_is_complete() -> None:
    for end in Runtime.toy().tokenizer.eos_ids:
        runtime = Runtime.toy(favour={end: 90.0})
        result = generate(runtime, sgl.regex("[a-z]{3,}"), max_tokens=30, temperature=0.0)
        assert len(result.text) == 3 or result.text[:3].isalpha()
        assert result.finish_reason == {"type": "stop", "matched": end}


def test_a_finished_text_needs_no_end_token() -> None:
    runtime = favouring("")
    before = runtime.engine.steps
    result = generate(runtime, sgl.regex("[ab]"), temperature=0.0)
    assert result.text in "ab" and result.finish_reason == {"type": "stop", "matched": None}
    assert runtime.engine.steps == before + 1


def test_the_next_constant_ends_a_text_too() -> None:
    plain = Runtime.toy()
    [word] = plain.tokenizer.encode([("and", False)], first=False)
    runtime = Runtime.toy(favour={word: 50.0, **dict.fromkeys(plain.tokenizer.eos_ids, -50.0)})
    result = generate(runtime, sgl.regex("[0-9]+"), follow="and", max_tokens=40, temperature=0.0)
    assert len(result.token_ids) == 1 and result.text.isdigit()  # it wanted to say the constant as soon as it could
    result = generate(runtime, sgl.regex("[0-9]+"), max_tokens=40, temperature=0.0)
    assert len(result.token_ids) == 40
    # where the text itself may go on like the constant, the constant is no end
    result = generate(runtime, sgl.regex("[0-9](and)*"), follow="and", max_tokens=9, temperature=0.0)
    assert result.text.endswith("andand")


def test_on_budget() -> None:
    runtime = favouring('abc"', ends=-50.0)
    wordy = sgl.json_schema({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    closed = generate(runtime, wordy, max_tokens=20)
    json.loads(closed.text)
    assert closed.receipt["steered"] >= 0 and closed.receipt["complete"]
    runtime = favouring("abc", ends=-50.0)
    closed = generate(runtime, wordy, max_tokens=20)
    assert json.loads(closed.text) and closed.receipt["steered"] > 0
    with pytest.raises(Truncated) as caught:
        generate(runtime, wordy, max_tokens=20, on_budget="error")
    assert caught.value.text.startswith('{"a":') and "max_tokens" in str(caught.value)
    partial = generate(runtime, wordy, max_tokens=20, on_budget="partial")
    assert partial.text == caught.value.text and not partial.receipt["complete"] and partial.value is None


def test_min_tokens_does_not_keep_a_finished_text_from_ending() -> None:
    runtime = favouring("", ends=50.0)
    assert len(generate(runtime, sgl.regex("a{0,30}"), min_tokens=10, max_tokens=40).token_ids) >= 10
    assert generate(runtime, sgl.regex("(ab)?"), min_tokens=10).text in ("", "ab")


def test_digits_are_bounded() -> None:
    runtime = favouring("0123456789", ends=-50.0)
    text = generate(runtime, sgl.json_schema({"type": "array", "items": {"type": "number"}}), max_tokens=300).text
    assert all(len(run) <= 40 for run in re.findall(r"\d+", text)) and "[" in text


class Even(BaseModel):
    n: int = Field(ge=0, le=9)

    @field_validator("n")
    @classmethod
    def even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("must be even")
        return n


class Never(BaseModel):
    n: int = Field(ge=0, le=9)

    @field_validator("n")
    @classmethod
    def never(cls, n: int) -> int:
        raise ValueError("is never right")


def test_validators_are_checked_afterwards_and_sampled_afresh() -> None:
    runtime = favouring("")
    attempts = set()
    for seed in range(12):
        try:
            result = generate(runtime, sgl.schema(Even), seed, temperature=0.0 if seed % 2 else 1.0)
        except ConstraintError as error:
            assert "must be even" in str(error)
        else:
            assert result.value.n % 2 == 0
            attempts.add(result.receipt["attempts"])
    assert attempts - {1}, "no sample was ever rejected"
    with pytest.raises(ConstraintError, match="is never right") as caught:
        generate(runtime, sgl.schema(Never))
    assert "gen('x')" in str(caught.value) and "4 samples" in str(caught.value)


def test_nothing_unchecked_is_streamed() -> None:
    runtime = favouring("")
    for seed in range(8):
        branch = runtime.open(seed=seed)
        branch.append("Write: ")
        handle = branch.gen(GenRequest(Sampling(), 1, "gen", sgl.schema(Even)))
        seen: list[str] = []
        handle.listen(lambda h=handle, s=seen: s.append(h.text))
        runtime.wait(handle)
        if handle.error is None:
            assert all(handle.value()[0].text.startswith(text) for text in seen)


def test_accepts_walks_the_masks() -> None:
    runtime = Runtime.toy()
    assert runtime.accepts(Pet, '{"name": "Tom", "kind": "cat", "age": 3, "likes": []}')
    assert runtime.accepts(Pet, '{"name":"Tom","kind":"cat","age":3,"likes":["日本","the"]}').ok
    bad = runtime.accepts(Pet, '{"name": "Tom", "kind": "cow"')
    assert not bad.ok and bad.at == len('{"name": "Tom", "kind": "c') and "'a'" in bad.why
    early = runtime.accepts(sgl.regex(r"\d{4}"), "12")
    assert not early.ok and early.at == 2 and "too early" in early.why
    assert runtime.accepts(sgl.regex("a|ab|abc"), "ab") and not runtime.accepts(sgl.regex("a|ab|abc"), "abcd")
    assert not runtime.accepts(sgl.regex(r"\w+"), "a\ud800")
    late = runtime.accepts(Even, '{"n": 3}')
    assert not late.ok and late.at == 8 and "must be even" in late.why
    with pytest.raises(OptionError):
        runtime.accepts(Pet, 3)  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="ambiguous"):
        runtime.accepts("abc", "abc")


def test_a_stop_ends_a_text_where_it_is_complete() -> None:
    plain = Runtime.toy()
    newline = [i for i, data in enumerate(plain.tokenizer.token_bytes) if data.startswith(b"\n")]
    runtime = Runtime.toy(favour={**dict.fromkeys(newline, 50.0), **dict.fromkeys(plain.tokenizer.eos_ids, -50.0)})
    result = generate(runtime, sgl.regex("[a-z]{3,}"), stop=("\n",), max_tokens=40, temperature=0.0)
    assert 3 <= len(result.text) <= 8 and result.finish_reason == {"type": "stop", "matched": "\n"}
    assert len(generate(runtime, sgl.regex("[a-z]{3,}"), max_tokens=40, temperature=0.0).token_ids) == 40
    number = generate(runtime, constraint_dtype(int), max_tokens=40, temperature=0.0)
    assert number.finish_reason == {"type": "stop", "matched": "\n"} and number.value == int(number.text)


def constraint_dtype(kind: type) -> Constraint:
    return sgl.gen("x", dtype=kind).constraint  # type: ignore[union-attr, return-value]


def test_stop_and_constraint_together() -> None:
    runtime = favouring("0123456789", ends=-50.0)
    result = generate(runtime, sgl.regex(r"\d+;.*"), stop=(";",), max_tokens=30, on_budget="partial")
    assert result.text.isdigit() if result.receipt["complete"] else True
    with pytest.raises(ConstraintError, match="stop"):
        generate(favouring(";"), sgl.regex(r"\d+;+x"), stop=(";",), max_tokens=30)


def test_a_penalty_or_bias_does_not_lift_the_mask() -> None:
    runtime = favouring("")
    x = runtime.tokenizer.encode([("x", False)], first=False)[0]
    result = generate(runtime, sgl.regex("a{1,20}b"), logit_bias=((x, 100.0),), frequency_penalty=2.0, max_tokens=40)
    assert re.fullmatch("a{1,20}b", result.text)


def test_a_wrong_constraint_is_refused_before_anything_runs() -> None:
    runtime = Runtime.toy()
    before = runtime.engine.steps

    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "Write: "
        s += sgl.gen("x", json_schema={"type": "integer", "minimum": 3, "maximum": 2})

    with pytest.raises(ConstraintError, match="minimum"):
        program.run(backend=runtime)["x"]
    assert runtime.engine.steps == before


def test_constraint_of() -> None:
    assert constraint_of(sgl.regex("a")) == sgl.regex("a") and constraint_of(int).kind == "json_schema"


REGULAR = ["digits", "date", "any text", "lazy", "choices"]


@pytest.mark.parametrize("engine", ["xgrammar", "outlines"])
@pytest.mark.parametrize("name", REGULAR)
def test_the_other_engines_hold_too(name: str, engine: str) -> None:
    for ranking, ends in (("", 0.0), ("0123456789", -40.0), ("\n \t", -40.0), ("", 60.0)):
        runtime = favouring(ranking, ends, grammar_backend=engine)
        for seed, budget in enumerate([1, 4, 30]):
            try:
                result = generate(runtime, CONSTRAINTS[name], seed, max_tokens=budget, temperature=float(seed % 2))
            except ConstraintError as error:
                assert budget < 30 and "the shortest one" in str(error)
            else:
                assert result.receipt["engine"] == engine
                holds(name, result.text)


@pytest.mark.parametrize(
    ("source", "engine", "good", "bad"),
    [
        ('root ::= "a" ("," "a")*', "llguidance", ["a", "a,a"], ["", "a,", "b"]),
        (
            'root ::= expr\nexpr ::= expr "+" term | term\nterm ::= [0-9]+ | "(" expr ")"',
            "llguidance",
            ["1", "1+23", "(1+2)+3"],
            ["", "+1", "1+", "(1"],
        ),
        ('root ::= "<" [^>é]* ">"', "llguidance", ["<>", "<日本 a>"], ["<é>", "<>>", "<"]),
    ],
)
def test_ebnf(source: str, engine: str, good: list[str], bad: list[str]) -> None:
    runtime = favouring("")
    assert generate(runtime, sgl.ebnf(source), max_tokens=30).receipt["engine"] == engine
    assert all(runtime.accepts(sgl.ebnf(source), text) for text in good)
    assert not any(runtime.accepts(sgl.ebnf(source), text) for text in bad)


def test_an_engine_that_was_asked_for_is_not_asked_too_much() -> None:
    for engine, constraint in [
        ("outlines", CONSTRAINTS["tree"]),
        ("xgrammar", sgl.json_schema({"type": "object", "minProperties": 2, "properties": {"a": {}}})),
        ("xgrammar", CONSTRAINTS["lark"]),
        ("outlines", sgl.ebnf('root ::= "a"')),
        ("xgrammar", sgl.ebnf('root ::= [^a-yé] "b"* | root root "z" | "(" root ")"')),
    ]:
        with pytest.raises(ConstraintError):
            generate(favouring("", grammar_backend=engine), constraint)
    with pytest.raises(OptionError, match="grammar_backend"):
        Runtime.toy(grammar_backend="outline")


def test_ignore_eos_under_a_constraint() -> None:
    runtime = favouring("", ends=60.0)
    assert len(generate(runtime, sgl.regex("[a-z]{1,9}"), ignore_eos=True, max_tokens=50).text) == 9
    assert generate(runtime, sgl.json_schema({"type": "integer"}), ignore_eos=True, max_tokens=90).text


@pytest.mark.parametrize(
    "constraint",
    [
        sgl.regex(r"(.|\n)*END"),
        sgl.regex(r"(?s)```.*?```"),
        sgl.regex(".{20,}zq"),
        sgl.regex(r"A: \w+; B"),
        "A: " + sgl.regex(r"\w+ \w+") + "; " + sgl.json_schema({"type": "array", "items": {"type": "string"}}),
        sgl.json_schema({"type": "string", "pattern": "a.c"}),
        sgl.json_schema({"type": "string", "pattern": "^iglu:[a-z.]+/[a-z_]+/jsonschema/[0-9]-[0-9]-[0-9]$"}),
    ],
    ids=str,
)
def test_an_end_that_wants_certain_characters_is_found(constraint: Constraint) -> None:
    """A pattern's end is no habit: a search for brackets and quotes would write words for ever."""
    for ranking in ("", "th", '"'):
        runtime = favouring(ranking, ends=-40.0)
        for seed, budget in enumerate([60, 90, 130]):
            text = generate(runtime, constraint, seed, max_tokens=budget, temperature=float(seed % 2)).text
            assert runtime.accepts(constraint, text)


def test_a_large_value_begun_late_still_ends() -> None:
    """The way to close grows by leaps: an item of twelve required strings is a hundred tokens at once."""
    item = {f"property_{i}": {"type": "string"} for i in range(12)}
    schema = {
        "type": "array",
        "items": {"type": "object", "properties": item, "required": list(item), "additionalProperties": False},
    }
    for seed in range(4):
        runtime = favouring("th", ends=-40.0)
        json.loads(generate(runtime, sgl.json_schema(schema), seed, max_tokens=300).text)


def test_keys_of_a_pattern_differ() -> None:
    digits = favouring('0123456789",:', ends=-40.0)
    for seed in range(6):
        result = generate(digits, sgl.schema(dict[int, bool]), seed, max_tokens=120)
        pairs = json.loads(result.text, object_pairs_hook=list)
        assert len(dict(pairs)) == len(pairs)
