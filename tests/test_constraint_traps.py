"""The traps of constrained decoding that people met in other tools, one test each.

Numbered as in the list this project was given; each name says what used to go wrong.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

import sgl
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.errors import ConstraintError

from .watchdog import within

TOY = Runtime.toy()


def write(constraint: Any, runtime: Runtime | None = None, seed: int = 0, **options: Any) -> sgl.ProgramState:
    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "Write: " + sgl.gen("x", constraint=constraint, **options)

    return program.run(backend=runtime or TOY, seed=seed)


def loving(characters: str, ends: float = -40.0) -> Runtime:
    table = TOY.tokenizer.token_bytes
    favour = {i: 40.0 for i, data in enumerate(table) if data and data[:1].decode("latin-1") in characters}
    return Runtime.toy(favour={**favour, **dict.fromkeys(TOY.tokenizer.eos_ids, ends)})


def ok(schema: Any, value: Any, **dumps: Any) -> bool:
    constraint = schema if isinstance(schema, sgl.Constraint) else sgl.json_schema(schema)
    return TOY.accepts(constraint, json.dumps(value, ensure_ascii=False, **dumps)).ok


def obj(properties: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "object", **({"properties": properties} if properties is not None else {}), **more}


def test_trap_01_properties_keep_their_order() -> None:
    class Fruit(BaseModel):
        zebra: int
        apple: int
        mango: int

    assert list(json.loads(write(Fruit)["x"])) == ["zebra", "apple", "mango"]
    raw = obj({"zebra": {}, "apple": {}, "mango": {}}, required=["apple", "mango", "zebra"], additionalProperties=False)
    assert list(json.loads(write(sgl.json_schema(raw), max_tokens=300)["x"])) == ["zebra", "apple", "mango"]


def test_trap_02_no_key_twice() -> None:
    two = loving('"a{,:')
    for seed in range(6):
        text = write(sgl.json_schema(obj(minProperties=3)), two, seed, max_tokens=200)["x"]
        pairs = json.loads(text, object_pairs_hook=list)
        assert len(dict(pairs)) == len(pairs) >= 3
    assert not TOY.accepts(sgl.json_schema(obj()), '{"a":1,"a":2}')


def test_trap_03_classes_are_closed_raw_schemas_are_what_they_say() -> None:
    class One(BaseModel):
        a: int

    assert ok(sgl.schema(One), {"a": 1}) and not ok(sgl.schema(One), {"a": 1, "b": 2})
    assert ok(obj({"a": {"type": "integer"}}), {"a": 1, "b": 2})


def test_trap_04_required_without_properties() -> None:
    assert not ok(obj(required=["a"]), {}) and ok(obj(required=["a"]), {"a": None})


def test_trap_05_whitespace_ends() -> None:
    for seed in range(4):
        text = write(sgl.json_schema({}), loving(" \n\t"), seed, max_tokens=60)["x"]
        assert not re.search(r"\s\s", re.sub(r'"(\\.|[^"\\])*"', '""', text))


def test_trap_06_both_common_ways_to_write_json() -> None:
    value = {"a": [1, {"b": "c"}], "d": None}
    assert ok({}, value) and ok({}, value, separators=(",", ":"))
    assert not TOY.accepts(sgl.json_schema({}), '{"a":1, "b":2}'), "one text, one way"


def test_trap_07_strings_are_what_json_allows() -> None:
    string = sgl.json_schema({"type": "string"})
    for text in ('"a\nb"', '"\\x41"', '"\\u12"', '"\\ud800"', '"\x07"', '"a'):
        assert not TOY.accepts(string, text), text
    for text in ('"\\n"', '"\\""', '"\\\\"', '"é日本"'):
        assert TOY.accepts(string, text), text
    for seed in range(5):
        json.loads(write(string, loving('\\u"'), seed, max_tokens=40)["x"])


def test_trap_08_unicode_over_several_tokens() -> None:
    words = ["日本語", "👩‍👩‍👧", "é", "naïve"]
    assert all(ok({"enum": words}, w) for w in words) and not ok({"enum": words}, "日本")
    assert {write(sgl.json_schema({"enum": words}), seed=s).value("x") for s in range(12)} <= set(words)
    not_ascii = sgl.regex(r"[^\x00-\x7f]{2,4}")
    for seed in range(5):
        assert re.fullmatch(not_ascii.pattern, write(not_ascii, seed=seed)["x"])  # type: ignore[attr-defined]


def test_trap_09_endless_strings_are_closed() -> None:
    text = write(sgl.json_schema({"type": "string"}), loving("abthen"), max_tokens=25)["x"]
    assert len(json.loads(text)) > 10


def test_trap_10_a_budget_gives_a_valid_text_or_is_refused() -> None:
    class Call(BaseModel):
        name: Literal["search"]
        query: str

    for budget in range(1, 60):
        try:
            Call.model_validate_json(write(Call, loving("ab"), max_tokens=budget)["x"])
        except ConstraintError as error:
            assert budget < 40 and f"leave {budget};" in str(error)


def test_trap_11_digits_end() -> None:
    for schema in ({"type": "integer"}, {"type": "number"}, {"type": "number", "minimum": 3}):
        text = write(sgl.json_schema(schema), loving("0123456789"), max_tokens=400)["x"]
        assert max(map(len, re.findall(r"\d+", text))) <= 40


def test_trap_12_numeric_ranges() -> None:
    rng = random.Random(12)
    for _ in range(60):
        low, high = sorted(round(rng.uniform(-20, 20), rng.choice([0, 1, 2])) for _ in range(2))
        open_low, open_high = rng.random() < 0.5, rng.random() < 0.5
        if low == high and (open_low or open_high):
            continue
        schema = {
            "type": "number",
            "exclusiveMinimum" if open_low else "minimum": low,
            "exclusiveMaximum" if open_high else "maximum": high,
        }
        constraint = sgl.json_schema(schema)
        for text in {repr(low), repr(high), *(f"{rng.uniform(-22, 22):.2f}" for _ in range(6))}:
            number = Decimal(text)
            lower = number > Decimal(str(low)) if open_low else number >= Decimal(str(low))
            upper = number < Decimal(str(high)) if open_high else number <= Decimal(str(high))
            if text not in ("-0.0", "-0.00"):
                assert TOY.accepts(constraint, text).ok == (lower and upper), (schema, text)
    assert ok({"type": "number", "exclusiveMinimum": 0}, 0.1) and not ok(
        {"type": "array", "items": {"type": "integer"}}, [1, 5.7]
    )


def test_trap_13_large_bounds_cost_nothing() -> None:
    with within(20):
        long = sgl.json_schema({"type": "string", "minLength": 3, "maxLength": 100_000})
        assert ok(long, "abc") and not ok(long, "ab")
        many = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4000}
        assert ok(many, [1] * 100) and not ok(many, [1])


def test_trap_14_recursion() -> None:
    tree = {
        "$ref": "#/$defs/n",
        "$defs": {
            "n": obj(
                {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
                required=["v"],
                additionalProperties=False,
            )
        },
    }
    assert ok(tree, {"v": 1, "kids": [{"v": 2, "kids": [{"v": 3}] * 3}]}) and not ok(tree, {"v": 1, "kids": [{}]})
    for endless in (
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        obj({"next": {"$ref": "#"}}, required=["next"]),
    ):
        with pytest.raises(ConstraintError):
            TOY.accepts(sgl.json_schema(endless), "{}")

    class Chain(BaseModel):
        next: Chain

    with pytest.raises(ConstraintError, match="never ends"):
        sgl.gen("x", schema=Chain)


def test_trap_15_combinators_mean_what_they_say() -> None:
    both = {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}
    assert [ok(both, n) for n in (2, 3, 5, 6)] == [False, True, True, False]
    one = {"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3}]}
    assert [ok(one, n) for n in (2, 4, 6)] == [True, False, True]
    neither = {"type": "string", "not": {"enum": ["a", "b"]}}
    assert [ok(neither, s) for s in ("a", "b", "c", "ab")] == [False, False, True, True]
    either = obj(
        {"kind": {"enum": ["x", "y"]}, "n": {"type": "integer"}},
        required=["kind"],
        additionalProperties=False,
        **{"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["n"]}},
    )
    assert [ok(either, v) for v in ({"kind": "x"}, {"kind": "x", "n": 1}, {"kind": "y"})] == [False, True, True]


def test_trap_16_pattern_properties_and_property_names() -> None:
    schema = obj(patternProperties={"^n_": {"type": "integer"}}, additionalProperties=False)
    assert [ok(schema, v) for v in ({"n_a": 1}, {"n_a": "x"}, {"a": 1})] == [True, False, False]
    names = obj(propertyNames={"pattern": "^[a-c]+$"})
    assert ok(names, {"abc": 1}) and not ok(names, {"abd": 1})


def test_trap_17_a_pattern_is_a_search() -> None:
    schema = {"type": "string", "pattern": "b+"}
    assert [ok(schema, s) for s in ("abba", "b", "aca", "")] == [True, True, False, False]


def test_trap_18_one_dialect() -> None:
    assert ok({"type": "string", "pattern": r"^\d+$"}, "12") and not ok({"type": "string", "pattern": r"^\d+$"}, "١٢")
    assert TOY.accepts(sgl.regex(r"\d+"), "١٢"), "Python's meaning: any Unicode digit"
    assert TOY.accepts(sgl.regex(r"(?a)\d+"), "12") and not TOY.accepts(sgl.regex(r"(?a)\d+"), "١٢")
    assert TOY.accepts(sgl.regex(r"[\w.-]+"), "a-b.c") and TOY.accepts(sgl.regex(r"(?i)straße"), "STRAßE")
    assert TOY.accepts(sgl.regex(r"\w+\s\S"), "né x")


def test_trap_19_lookaround_and_back_references() -> None:
    strong = sgl.regex(r"(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,}")
    assert TOY.accepts(strong, "abC1") and not TOY.accepts(strong, "abc1")
    assert not TOY.accepts(sgl.regex(r"(?!no)[a-z]+"), "nope")
    with pytest.raises(ConstraintError, match="position 4"):
        sgl.regex(r"(\w)\1")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-02-29T12:00:00Z", "2024-02-29 12:00"),
        ("time", "23:59:59Z", "24:00:00Z"),
        ("email", "a.b@example.org", "a.b"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        ("ipv4", "192.168.0.1", "256.1.1.1"),
        ("hostname", "example.org", "-x-"),
    ],
)
def test_trap_20_formats(name: str, good: str, bad: str) -> None:
    schema = {"type": "string", "format": name}
    assert ok(schema, good) and not ok(schema, bad)
    assert ok({"type": "string", "format": "no-such-format"}, bad)


def test_trap_21_control_tokens_are_no_text() -> None:
    control = [i for i in range(TOY.tokenizer.vocab_size) if TOY.tokenizer.is_special(i)]
    runtime = Runtime.toy(favour=dict.fromkeys(control, 90.0))
    state = write(sgl.regex(r"(?s).{5,30}"), runtime)
    assert not set(state.get_meta_info("x")["token_ids"]) & set(control)
    assert TOY.accepts(sgl.regex(r"(?s).*"), "a <|im_end|> b"), "as text it may be written, in ordinary tokens"


def test_trap_22_the_end_is_legal_exactly_where_the_text_is_complete() -> None:
    eager = Runtime.toy(favour=dict.fromkeys(TOY.tokenizer.eos_ids, 90.0))
    assert write(sgl.regex("[a-z]{5,}"), eager, temperature=0.0)["x"].isalpha()
    for end in TOY.tokenizer.eos_ids:
        state = write(sgl.regex("[a-z]{2,}"), Runtime.toy(favour={end: 90.0}), temperature=0.0)
        assert state.get_meta_info("x")["finish_reason"]["matched"] == end


def test_trap_23_nothing_trails_a_finished_text() -> None:
    for seed in range(5):
        text = write(sgl.json_schema(obj()), loving("\n }x"), seed, max_tokens=60)["x"]
        assert text.endswith("}") and json.loads(text) is not None


def test_trap_24_forced_text_has_its_canonical_tokens() -> None:
    ids = write(sgl.regex("Answer: yes and no[ab]")).get_meta_info("x")["token_ids"]
    canonical = TOY.tokenizer.encode([("Answer: yes and no", False)], first=False)
    assert ids[: len(canonical) - 1] == canonical[:-1]


def test_trap_25_a_select_scores_the_tokens_of_the_whole_text() -> None:
    head, rests = TOY.tokenizer.encode_choices([("The answer", False)], [" yes", " no"], first=True)
    for choice, rest in zip([" yes", " no"], rests):
        assert head + rest == TOY.tokenizer.encode([("The answer" + choice, False)], first=True)


def test_trap_26_a_tokenizer_that_normalises() -> None:
    import tokenizers

    from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
    from sgl.backend.runtime.text.tokenizer import Tokenizer

    plain = toy_tokenizer()
    rust = tokenizers.Tokenizer.from_str(plain._at_start.to_str())
    rust.normalizer = tokenizers.normalizers.NFC()
    tokenizer = Tokenizer(rust, bos_id=plain.bos_id, eos_ids=plain.eos_ids, add_bos=False, vocab_size=None)
    runtime = Runtime.of(ToyModel(tokenizer.vocab_size), tokenizer)
    decomposed = "cafe\u0301 au lait"
    assert write(sgl.choice([decomposed]), runtime)["x"] == decomposed
    assert runtime.accepts(sgl.choice([decomposed]), decomposed)
    assert not runtime.accepts(sgl.choice([decomposed]), "café au lait")


def test_trap_27_padded_and_missing_ids_are_never_sampled() -> None:
    size = TOY.tokenizer.vocab_size
    runtime = Runtime.toy(favour=dict.fromkeys(range(size, size + 5), 99.0))
    assert max(write(sgl.regex("(?s).{3,9}"), runtime).get_meta_info("x")["token_ids"]) < size


def test_trap_28_reasoning_is_outside_the_grammar() -> None:
    class Answer(BaseModel):
        yes: bool

    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "Is it? " + sgl.gen("x", schema=Answer, think=12)

    state = program.run(backend=TOY, seed=2)
    assert isinstance(state.value("x"), Answer) and len(state["x_reasoning_content"]) > 0
    with pytest.raises(ValueError):
        Answer.model_validate_json(state["x_reasoning_content"])


def test_trap_29_forced_tokens_change_no_text() -> None:
    class Record(BaseModel):
        first: str = Field(max_length=5)
        second: Literal["alpha", "beta"]

    for seed in range(6):
        fast, slow = write(Record, seed=seed), write(Record, seed=seed, return_logprob=True)
        assert fast["x"] == slow["x"]
        assert fast.get_meta_info("x")["forced"] > 0 == slow.get_meta_info("x")["forced"]


def test_trap_30_samples_and_forks_have_matchers_of_their_own() -> None:
    number = sgl.regex(r"[0-9]{3}-[a-z]{3}")

    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "Write " + sgl.gen("all", constraint=number, n=6)
        group = s.fork(4)
        group += sgl.gen("one", constraint=number)
        group.join()

    state = program.run(backend=TOY, seed=1)
    texts = [*state["all"], *state["one"]]
    assert len(set(texts)) > 5 and all(re.fullmatch(number.pattern, t) for t in texts)  # type: ignore[attr-defined]


def test_trap_31_concurrent_grammars_do_not_mix() -> None:
    patterns = [rf"{i}[a-z]{{4}}{i}" for i in range(12)]
    runtime = Runtime.toy()
    alone = [write(sgl.regex(p), Runtime.toy(), seed=3)["x"] for p in patterns]
    found: dict[int, str] = {}

    def one(i: int) -> None:
        found[i] = write(sgl.regex(patterns[i]), runtime, seed=3)["x"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(patterns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(patterns))] == alone


def test_trap_32_log_probabilities_are_the_models_own() -> None:
    state = write(sgl.regex("[ab]{8}"), return_logprob=True, top_logprobs_num=3)
    meta = state.get_meta_info("x")
    assert all(row[0] < -0.5 for row in meta["output_token_logprobs"][:8]), "the mask would have made them certain"
    assert 0 < meta["constraint"]["mask_loss"] <= 1


def test_trap_33_penalties_and_min_tokens_do_not_fight_the_grammar() -> None:
    same = sgl.regex("(ab){20}c")
    state = write(same, frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=5.0)
    assert state["x"] == "ab" * 20 + "c"
    assert write(sgl.regex("no"), min_tokens=5)["x"] == "no"


def test_trap_34_many_choices_and_tools_stay_cheap() -> None:
    values = [f"value number {i}" for i in range(2000)]
    tools = {
        "anyOf": [
            obj(
                {
                    "name": {"const": f"tool_{i}"},
                    "arguments": obj(
                        {f"p{i}": {"type": "string"}, "n": {"type": "integer"}},
                        required=[f"p{i}"],
                        additionalProperties=False,
                    ),
                },
                required=["name", "arguments"],
                additionalProperties=False,
            )
            for i in range(128)
        ]
    }
    with within(30):
        assert ok({"enum": values}, values[1234]) and not ok({"enum": values}, "value number 2000")
        assert TOY.accepts(sgl.choice(values[:1000]), values[999])
        assert ok(tools, {"name": "tool_77", "arguments": {"p77": "x"}})
        assert not ok(tools, {"name": "tool_77", "arguments": {"p78": "x"}})


def nested(depth: int) -> dict[str, Any]:
    if not depth:
        return {"type": "string"}
    return {
        "oneOf": [
            obj({f"{side}{depth}": nested(depth - 1)}, required=[f"{side}{depth}"], additionalProperties=False)
            for side in "ab"
        ]
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: sgl.json_schema(nested(8)),
        lambda: sgl.regex("(a{1,1000}){1,1000}"),
        lambda: sgl.regex("(" * 150 + "a" + ")*" * 150),
        lambda: sgl.regex("(.*a){30}b"),
        lambda: sgl.regex("|".join(f"{i:x}+" for i in range(3000))),
        lambda: sgl.json_schema({"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}),
        lambda: sgl.json_schema(json.loads('{"items":' * 400 + "{}" + "}" * 400)),
        lambda: sgl.lark("start: a\na: a a | a"),
        lambda: sgl.lark("start: " + "(" * 2000 + '"a"' + ")" * 2000),
        lambda: sgl.ebnf("root ::= root root | root"),
        lambda: sgl.ebnf("root ::= " + "(" * 2000 + '"a"' + ")" * 2000),
    ],
)
def test_trap_35_hostile_constraints_are_bounded(make: Any) -> None:
    """Each is enforced or refused, in seconds; a walk of it ends."""
    with within(40):
        try:
            text = write(make(), max_tokens=20, on_budget="partial")["x"]
            assert isinstance(text, str)
        except ConstraintError as error:
            assert str(error)


def test_trap_36_a_mask_that_fights_the_model_is_seen() -> None:
    willing, unwilling = loving("abc", ends=0.0), loving("XYZ", ends=0.0)
    losses = [
        write(sgl.regex("[a-z]{6}"), runtime, return_logprob=True).get_meta_info("x")["constraint"]["mask_loss"]
        for runtime in (willing, unwilling)
    ]
    assert losses[0] < 0.2 < 0.9 < losses[1]


def test_annotated_bounds_reach_the_mask() -> None:
    small = Annotated[int, Field(ge=3, le=5)]
    assert [TOY.accepts(small, str(n)).ok for n in (2, 3, 5, 6)] == [False, True, True, False]
    name = Annotated[str, Field(pattern="^[A-Z][a-z]+$", max_length=4)]
    assert [TOY.accepts(name, json.dumps(s)).ok for s in ("Ab", "ab", "Abcde")] == [True, False, False]


def test_async_programs_take_constraints() -> None:
    @sgl.function
    async def program(s: sgl.ProgramState) -> Any:
        s += "Write " + sgl.gen("x", schema=list[bool])
        return await s.aget("x")

    state = asyncio.run(program.arun(backend=TOY))
    assert json.loads(state["x"]) == state.value("x")
