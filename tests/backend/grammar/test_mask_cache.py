"""The mask cache says what the engine says: masks bit by bit, forced tokens, ends.

The oracle is the engine's own matcher, walked along the same tokens with nothing shared. Many texts of one constraint
are walked, so that they meet in states that others have been in.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.grammar.engines.llguidance import LLGuidanceMatcher
from sgl.backend.runtime.grammar.protocol import has, mask_words
from sgl.backend.runtime.grammar.sharing.json_state_keys import MOST_OPEN_CONTAINERS
from sgl.backend.runtime.grammar.sharing.mask_cache import CacheBudget, CachedGrammar, CachedMatcher, masks
from sgl.backend.runtime.grammar.sharing.state_keys import LONGEST_TEXT_BYTES, MOST_NODES, PatternKeys, TextKey
from sgl.backend.runtime.job.rule import Rule, fill_all
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.constraint import Constraint, json_schema, lark, regex
from sgl.lang.errors import ConstraintError
from sgl.lang.pattern import parse_regex

from .test_schema_random import schemas

PADDED = 5
WORD = "[A-Za-z]{3,12}"
PATTERNS = [
    rf'\{{"name": "{WORD} {WORD}", "age": [1-9][0-9]{{0,2}}, "house": "(oak|birch)", "awake": (true|false)\}}',
    "(the|then|there)?stop",
    "[à-ü]+é|日本(語|人)?",
    "the( the)*\\.",
    "([ab]{1,4}c){2,3}",
    r"\d{4}-\d{2}-\d{2}(T\d\d)?",
    "(yes|no|yes and no)",
    r"(?!.*aa)[ab]{2,8}",
    ".{2,5}",
    "(a|ab)(c|bcd)(d*)",
]
SCHEMAS: list[Any] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": f"^{WORD} {WORD}$"},
            "age": {"type": "integer", "minimum": 1, "maximum": 999},
            "nick": {"type": "string", "minLength": 2, "maxLength": 5},
            "note": {"type": "string"},
            "house": {"enum": ["oak", "birch", 3, None]},
            "height": {"type": "number", "minimum": 1, "maximum": 3, "multipleOf": 0.25},
            "skills": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "house", "skills"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}, "prefixItems": [{"type": "null"}]},
    {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 2},
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "at": {"type": "integer"},
                    "below": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["at"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    {"type": "object", "properties": {"a": {"type": "string", "pattern": '^["\\\\/a\\n]{1,4}$'}}, "required": ["a"]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "array", "prefixItems": [{"enum": [[1, 2], {"a": [3, 4]}]}, {"type": "array"}]},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "array", "items": {"const": "ab"}}]},
]

NESTED: Any = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}, "$ref": "#/$defs/list"}


@cache
def grammars() -> Grammars:
    tokenizer = toy_tokenizer()
    return Grammars(tokenizer, tokenizer.vocab_size + PADDED)


def cached_grammar(constraint: Constraint, among: Grammars | None = None) -> CachedGrammar:
    compiled = (among or grammars()).prepare(constraint).compiled
    assert isinstance(compiled, CachedGrammar)
    return compiled


def fed(compiled: CachedGrammar, tokens: list[int]) -> LLGuidanceMatcher:
    """The engine's own matcher behind these tokens."""
    engine = compiled.inner.matcher()
    assert all(map(engine.accept, tokens))
    return engine


def mask_of(matcher: LLGuidanceMatcher) -> Any:
    row = np.empty(mask_words(matcher.compiled.vocabulary.size), dtype=np.int32)
    matcher.fill(row)
    return row


def walk(compiled: CachedGrammar, rng: random.Random, most: int = 60) -> None:
    """One random text, asked of both at every token."""
    mine, engine = compiled.matcher(), compiled.inner.matcher()
    text = compiled.inner.vocabulary.bytes
    for _ in range(most):
        told = b"".join([text[token] for token in mine.tokens])
        assert (mine.can_end(), mine.is_done()) == (engine.can_end(), engine.is_done()), told
        if engine.is_done():
            return
        forced = engine.forced()
        assert mine.forced() == forced, told
        row = mask_of(engine)
        assert mine.mask().tobytes() == row.tobytes(), told
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        if not allowed:
            return
        likely = [token for token in allowed if text[token][:1] in b'"\\]},:'] if rng.random() < 0.3 else []
        token = rng.choice(likely or allowed)
        if forced and rng.random() < 0.2:  # another spelling of what is forced
            token = next(t for t, data in enumerate(text) if data == text[token][:1])
        if rng.random() < 0.1:
            mine = mine.fork()
        taken = engine.accept(token)
        assert mine.accept(token) == taken, (told, text[token])
        if taken and rng.random() < 0.05:
            mine.rollback(rng.randint(1, min(3, len(mine.tokens))))
            engine = fed(compiled, mine.tokens)


def walk_some(constraint: Constraint, seed: int, count: int = 25) -> CachedGrammar:
    compiled = cached_grammar(constraint)
    rng = random.Random(seed)
    for _ in range(count):
        walk(compiled, rng)
    return compiled


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    walk_some(regex(pattern), 1)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_schemas(schema: Any) -> None:
    walk_some(json_schema(schema), 2)


pieces = st.recursive(
    st.sampled_from(["a", "b", "the", " ", "[ab]", "[a-z]", ".", "é", "[à-ü]", "[^a]", "\\d", '"', "\\n", "stop"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda ways: f"(?:{'|'.join(ways)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces, st.integers(0, 1 << 30))
def test_random_patterns(pattern: str, seed: int) -> None:
    try:
        walk_some(regex(pattern), seed, 12)
    except ConstraintError:
        return


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas, st.integers(0, 1 << 30))
def test_random_schemas(schema: Any, seed: int) -> None:
    try:
        walk_some(json_schema(schema), seed, 12)
    except ConstraintError:
        return


LIST = json_schema(SCHEMAS[2])


def follow(compiled: CachedGrammar, text: str) -> CachedMatcher:
    """A matcher behind `text`, byte by byte."""
    matcher = compiled.matcher()
    for byte in text.encode():
        matcher.forced()
        matcher.mask()
        assert matcher.accept(compiled.inner.vocabulary.by_bytes[bytes((byte,))][0]), text
    return matcher


def fresh(constraint: Constraint, limit: int = 1 << 20) -> CachedGrammar:
    kept = cached_grammar(constraint)
    return CachedGrammar(kept.inner, kept._keys, CacheBudget(limit))


@pytest.mark.parametrize(
    "constraint, one, other, same",
    [
        (LIST, '["abc", "abcde', '["éé", "zzz', True),
        (LIST, '["abc", "abcde', '["éé", "z', False),  # one character short of what is wanted
        (LIST, '["abc", "abcde', '["éé","zzz', False),  # another style
        (LIST, '["abc", "ab", "', '["abc", "ab", "ab", "', True),  # as many as are wanted
        (LIST, '["abc", "', '["abc", "ab", "', False),
        (LIST, '["a\\n', '["ab', True),
        (LIST, '["a\\u000', '["a\\u001', False),
        (json_schema(SCHEMAS[1]), "[null, [true], [", "[null, [false, true], [", True),
        (json_schema(SCHEMAS[1]), "[null, [true", "[null, [false", False),
        (json_schema(SCHEMAS[3]), '{"at": 1, "below": [{"at": 2', '{"at": 3, "below": [{"at": 5}, {"at": 2', False),
        (json_schema(SCHEMAS[3]), '{"at": 1, "below": [{', '{"at": 30, "below": [{', True),
        (json_schema({"type": "array"}), "[[1,2]", "[[1, 2]", False),  # decided within what is not looked into
        (json_schema(SCHEMAS[-1]), '["ab", "a', '["ab", "ab", "a', False),  # alternatives are not looked into
        (regex("[a-z]{3,12}x?"), "abc", "xyz", True),
        (regex("[a-z]{3,12}x?"), "abc", "abcd", False),
        (regex("(a|é)ü"), "é", "a", True),
        (regex(r"(?!.*aa)[ab]{2,8}"), "bab", "aba", False),
    ],
)
def test_which_texts_share_a_state(constraint: Constraint, one: str, other: str, same: bool) -> None:
    compiled = fresh(constraint)
    assert (follow(compiled, one).trail[-1] is follow(compiled, other).trail[-1]) == same


def test_what_is_known_asks_no_engine() -> None:
    compiled = fresh(LIST)
    follow(compiled, '["abc", "abcd"]').is_done()
    assert follow(compiled, '["xyz", "wxyz"]').inner is None
    assert follow(compiled, '["xyz", "wxyz", ').inner is not None
    again = follow(compiled, '["')
    again.can_end()
    assert again.is_known()


def test_rules_in_one_state_get_one_row() -> None:
    prepared = grammars().prepare(regex("[a-z]{1,3}"))
    rules = [Rule(prepared, prepared.vocabulary.eos_ids, None, (), steer=True) for _ in range(6)]
    letters = prepared.vocabulary.by_bytes
    for rule, letter in zip(rules[1:], (b"a", b"b", b"c", b"d")):
        rule.accept(letters[letter][0])
    fill_all([(rule, i != 2) for i, rule in enumerate(rules)])
    found = [rule.mask(may_end=i != 2) for i, rule in enumerate(rules)]
    assert found[0] is found[5] and not found[0].flags.writeable
    ends = [any(rule.is_end(end) for end in prepared.vocabulary.eos_ids) for rule in rules]
    assert ends == [False, True, False, True, True, False]
    assert (found[1] == found[3]).all() and (found[2] & ~found[1]).any() == 0 and (found[1] != found[2]).any()


def test_a_mask_is_kept_without_those_computed_along_with_it() -> None:
    compiled = fresh(LIST)
    found = masks([compiled.matcher(), follow(compiled, '["')])
    assert all(not isinstance(row, Exception) and row.base is None for row in found)


def test_a_full_memory_forgets_and_nothing_changes() -> None:
    compiled, rng = fresh(json_schema(SCHEMAS[0]), limit=20_000), random.Random(4)
    kept = []
    waiting = follow(compiled, '{"name": "abc')
    for _ in range(20):
        walk(compiled, rng)
        kept.append(len(compiled._states))
    assert not any(state.known.row is not None for state in waiting.trail)
    assert not any(state.next for state in waiting.trail)
    assert max(kept) < 40 and any(after < before for before, after in pairwise(kept))


def test_a_long_text_keeps_no_masks() -> None:
    matcher = follow(fresh(regex(r"(?!.*bbb)[ab]{2,}")), "ab" * (LONGEST_TEXT_BYTES // 2 + 5))
    assert [state.key is None for state in matcher.trail].count(True) == 10
    assert [state.known.row is not None for state in matcher.trail].count(True) == LONGEST_TEXT_BYTES + 1
    assert matcher.mask() is matcher.mask() and matcher.fork().mask() is matcher.mask()


def test_nothing_is_kept_of_deep_nesting_and_of_long_constants() -> None:
    """Their keys would be as long as what is open, or as what is to come."""
    deep = follow(fresh(json_schema(NESTED)), "[" * (MOST_OPEN_CONTAINERS + 5))
    assert [state.key is None for state in deep.trail].index(True) == MOST_OPEN_CONTAINERS + 1
    constant = "".join(random.Random(1).choices("abcdef", k=2 * MOST_NODES))
    walked = PatternKeys(parse_regex(f"[a-z]{constant}"))
    key = walked.start
    for letter in f"x{constant}"[: LONGEST_TEXT_BYTES // 2]:
        key = walked.after(key, letter.encode())
        assert isinstance(key, TextKey) and key.base == walked.start


def test_a_deep_stack_changes_no_mask() -> None:
    compiled = fresh(regex("((((((((((((a|b)?c)?d)?e)?f)?g)?h)?i)?j)?k)?l)?m)?[a-m]{2,}"))
    text = [compiled.inner.vocabulary.by_bytes[byte][0] for byte in (b"a", b"c", b"d", b"c")]

    def at(depth: int) -> Any:
        if depth:
            return at(depth - 1)
        matcher = compiled.matcher()
        assert all(map(matcher.accept, text))
        return matcher.mask()

    depth = sys.getrecursionlimit() - len(inspect.stack(0)) - 40
    assert at(depth).tobytes() == mask_of(fed(compiled, text)).tobytes()


def test_an_engine_that_fails_fails_those_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = fresh(LIST)
    known, new, other = follow(compiled, '["'), follow(compiled, '["ab'), follow(compiled, '["ac')
    error = ConstraintError("a limit")
    monkeypatch.setattr(
        "sgl.backend.runtime.grammar.sharing.mask_cache.fill_many", lambda inner, rows: [error] * len(inner)
    )
    known.mask()
    found = masks([known, new, other])
    assert not isinstance(found[0], Exception) and found[1] is error and found[2] is error
    monkeypatch.undo()
    assert masks([new])[0] is masks([other])[0]


def test_taking_back_what_the_engine_has_taken() -> None:
    compiled = fresh(LIST)
    mine, engine = follow(compiled, '["abc'), compiled.inner.matcher()
    mine.engine()
    mine.rollback(2)
    for token in [*mine.tokens, engine.compiled.vocabulary.by_bytes[b"\\"][0]]:
        assert engine.accept(token)
    assert mine.accept(engine.compiled.vocabulary.by_bytes[b"\\"][0])
    assert mine.mask().tobytes() == mask_of(engine).tobytes() and mine.inner is not None


def test_the_way_back_behind_a_number_in_another_style() -> None:
    """Taken back by llguidance itself, ", " would be missing from the mask."""
    compiled = fresh(json_schema({"type": "object", "additionalProperties": {"type": "integer"}}))
    words = compiled.inner.vocabulary.by_bytes
    mine = follow(compiled, '{"a":14')
    mine.engine()
    mine.rollback(3)
    for data in (b": ", b"3"):
        assert mine.accept(words[data][0])
    assert mine.mask().tobytes() == mask_of(fed(compiled, mine.tokens)).tobytes()
    assert has(mine.mask(), words[b", "][0])


def test_constants_that_look_like_tokens_are_text() -> None:
    compiled = cached_grammar(lark('start: "<|think|>" /[^<]*/ "max_tokens"  // a "comment\n'))
    assert follow(compiled, "<|think|>ab").trail[-1] is follow(compiled, "<|think|>ab").trail[-1]


def test_an_end_token_is_no_empty_text() -> None:
    compiled = fresh(regex("ab?"))
    mine = follow(compiled, "a")
    assert mine.can_end() and not mine.is_done()
    assert mine.accept(compiled.inner.vocabulary.eos_ids[0]) and mine.is_done()


def test_what_is_forced_is_allowed_there_alone() -> None:
    matcher = fresh(regex("thesis")).matcher()
    words = matcher.compiled.inner.vocabulary.by_bytes
    forced = matcher.forced()
    assert forced == words[b"the"][:1] + forced[1:]
    assert matcher.accept(words[b"t"][0]) and not matcher.accept(forced[0]) and matcher.accept(words[b"h"][0])


def test_forced_tokens_depend_on_the_token_before() -> None:
    """A contraction is a word of its own, but not behind another apostrophe."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate([*alphabet, "'s", "<end>"])}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("'", "s")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    end = (vocabulary["<end>"],)
    own = Grammars(Tokenizer(inner, bos_id=None, eos_ids=end, add_bos=False, vocab_size=None), len(vocabulary))
    compiled = cached_grammar(regex("[a']'s!x?"), own)
    told = []
    for first in "a'":
        mine, engine = compiled.matcher(), compiled.inner.matcher()
        assert mine.accept(vocabulary[first]) and engine.accept(vocabulary[first])
        told.append(mine.forced())
        assert told[-1] == engine.forced() and mine.mask().tobytes() == mask_of(engine).tobytes()
    assert told[0][0] == vocabulary["'s"] and told[1][:2] == [vocabulary["'"], vocabulary["s"]]
