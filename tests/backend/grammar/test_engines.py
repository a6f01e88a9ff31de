"""xgrammar and outlines-core as engines, on the toy's and SmolLM2's vocabulary.

Oracles: Python's `re` for regular languages, llguidance as a third opinion, and the engines against themselves: a mask
against what `accept` takes, token by token over the whole vocabulary.
"""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest

from sgl.backend.runtime.grammar.closing.ways import KnownWays
from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance
from sgl.backend.runtime.grammar.engines.outlines import Outlines, estimate
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.engines.xgrammar_schemas import lint
from sgl.backend.runtime.grammar.protocol import mask_words
from sgl.backend.runtime.grammar.raw import raw_source
from sgl.backend.runtime.grammar.rules.nodes import RuleSet
from sgl.backend.runtime.grammar.vocabulary import Vocabulary
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.load.store import DEFAULT_MODEL, cache_folder, is_pulled
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.constraint import Grammar
from sgl.lang.errors import ConstraintError
from sgl.lang.pattern import parse_regex, to_lark

from ...lang.pattern.samples import samples

PADDED = 5

PATTERNS = [
    "a|ab|abc",  # outlines-core as it is never gives "ab" (leftmost first)
    r"[0-9]+(\.[0-9]+)?",  # ... nor goes through the lone token "." (a token lost at an accepting state)
    "[a-z]+(-[a-z]+)*",
    ".+",  # ... nor through a lone lead byte
    ".*",
    '[^"\\n]*"',
    "(the|then|there)?stop",
    "a{2,5}b?",
    "x{3}y{0,2}z{1,}",
    "日本(語|人)?",
    "[à-ü]+é",
    "(ab?c*|d)+e",
    r"\d{4}-\d{2}-\d{2}",
    "(yes|no|yes and no)",
    'Answer: (yes|no), "the end"',
    "",
    "(a?){4}",
    r"[^\x00-\x1f]{1,3}",
    "\\u001f?[\\x1d-\\x1f]",
    "[\\^ab]{2}",  # \\x5ea is one character to xgrammar
    "[a-z]?[٠-٩] +",  # xgrammar's mask allows "th" at the beginning
    "[^\\W\\d_]?x",
    "[é-ü]*[^é]",
]

TOO_WIDE = {"xgrammar": {"[^\\W\\d_]?x", "[é-ü]*[^é]"}}
"""Classes with many, but not all, of the characters beyond ASCII."""


@pytest.fixture(scope="session")
def toy() -> Vocabulary:
    tokenizer = toy_tokenizer()
    return Vocabulary(tokenizer, tokenizer.vocab_size + PADDED)


@pytest.fixture(scope="session")
def smol() -> Vocabulary:
    if not is_pulled(DEFAULT_MODEL, cache_folder()):
        pytest.skip(f"run `sgl models pull {DEFAULT_MODEL}` first")
    c = load_checkpoint(None, "auto", cache_folder())
    tokenizer = Tokenizer(c.tokenizer, bos_id=c.bos_id, eos_ids=c.eos_ids, add_bos=c.add_bos, vocab_size=None)
    return Vocabulary(tokenizer, tokenizer.vocab_size + PADDED)


@pytest.fixture(scope="session")
def engines(toy):
    return {"xgrammar": XGrammar(toy), "outlines": Outlines(toy)}


def compiled_by(name: str, engines, pattern: str):
    if name == "llguidance":
        from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance

        vocabulary = engines["xgrammar"].vocabulary
        return LLGuidance(vocabulary).compile_lark(f"start: T\nT: {to_lark(parse_regex(pattern))}")
    if pattern in TOO_WIDE.get(name, ()):
        with pytest.raises(ConstraintError, match="beyond ASCII"):
            engines[name].compile_regex(parse_regex(pattern))
        pytest.skip("refused")
    return engines[name].compile_regex(parse_regex(pattern))


def by_bytes(vocabulary: Vocabulary, data: bytes, rng: random.Random) -> list[int]:
    """A random way to spell the bytes in tokens."""
    ids: dict[bytes, int] = {}
    for i, token in enumerate(vocabulary.bytes):
        if token and len(token) < 9:
            ids.setdefault(token, i)
    tokens, at = [], 0
    while at < len(data):
        fits = [data[at : at + n] for n in range(1, 9) if data[at : at + n] in ids and at + n <= len(data)]
        tokens.append(ids[piece := rng.choice(fits)])
        at += len(piece)
    return tokens


def admits(compiled, vocabulary: Vocabulary, text: str, rng: random.Random) -> bool:
    matcher = compiled.matcher()
    return all(map(matcher.accept, by_bytes(vocabulary, text.encode(), rng))) and matcher.can_end()


def allowed(matcher, vocabulary: Vocabulary) -> set[int]:
    """The ids of the mask; nothing beyond the vocabulary may be set, whatever the row held before."""
    row = np.full(mask_words(vocabulary.size), 0x5A5A5A5A, dtype=np.int32)
    matcher.fill(row)
    ids = set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
    assert all(i < vocabulary.size and vocabulary.bytes[i] for i in ids)
    return ids


def check_state(matcher, vocabulary: Vocabulary) -> set[int]:
    """The mask is what `accept` takes, or the forced token alone; neither changes the state."""
    ids, ends, forced = allowed(matcher, vocabulary), matcher.can_end(), matcher.forced()
    taken, after = set(), matcher.fork()
    for token in range(vocabulary.size):
        if after.accept(token):
            taken.add(token)
            after = matcher.fork()
    if forced:
        assert ids == {forced[0]} <= taken and not ends
    else:
        assert ids == taken
    assert (allowed(matcher, vocabulary), matcher.can_end(), matcher.forced()) == (ids, ends, forced)
    assert matcher.is_done() == (ends and not taken)
    assert ids or ends
    return ids


def walk(compiled, vocabulary: Vocabulary, rng: random.Random, steps: int, check_all: bool) -> bytes | None:
    """A random walk along the masks, everything checked on the way; the text if it ended."""
    matcher, data, queue = compiled.matcher(), b"", []
    for _ in range(steps):
        ids = check_state(matcher, vocabulary) if check_all else allowed(matcher, vocabulary)
        if queue:
            assert ids == {queue[0]}  # what `forced` promised
        if matcher.is_done() or (matcher.can_end() and not queue and rng.random() < 0.3):
            return data
        queue = queue or matcher.forced()
        token = queue.pop(0) if queue else rng.choice(sorted(ids))
        assert matcher.accept(token)
        data += vocabulary.bytes[token]
    return None


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_mask_and_accept_agree_over_the_whole_vocabulary(name, pattern, engines, toy):
    compiled, rng = compiled_by(name, engines, pattern), random.Random(pattern)
    for _ in range(4):
        data = walk(compiled, toy, rng, 12, check_all=True)
        if data is not None:
            assert re.fullmatch(pattern, data.decode())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["xgrammar", "outlines", "llguidance"])
def test_language_is_pythons(name, pattern, engines, toy):
    compiled, rng = compiled_by(name, engines, pattern), random.Random(1)
    texts = samples(parse_regex(pattern), rng, 30, 12)
    alphabet = "".join(texts) + 'ab.é日"\n0-\x1d'
    for text in list(texts):
        at = rng.randrange(len(text) + 1)
        texts += [text[:at] + rng.choice(alphabet) + text[at:], text[:at] + text[at + 1 :], text[:at], text + text]
    for text in texts:
        if name == "outlines" and "\x1e" in text:  # outlines leaves it to other engines
            continue
        assert admits(compiled, toy, text, rng) == bool(re.fullmatch(pattern, text)), text


@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_large_vocabulary(name, smol):
    engine = XGrammar(smol) if name == "xgrammar" else Outlines(smol)
    for pattern in ("[0-9]+(\\.[0-9]+)?", 'Answer: (yes|no), "the end"', '[^"\\n]*"', ".+"):
        compiled, rng = engine.compile_regex(parse_regex(pattern)), random.Random(3)
        for _ in range(3):
            data = walk(compiled, smol, rng, 6, check_all=True)
            assert data is None or re.fullmatch(pattern, data.decode())


@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_forks_are_independent_and_rollback_is_exact(name, engines, toy):
    compiled, rng = compiled_by(name, engines, '(the end|stop[a-f]*|"[^"]*")+'), random.Random(5)
    for _ in range(20):
        matcher, states = compiled.matcher(), []
        for _ in range(10):
            states.append((allowed(matcher, toy), matcher.can_end(), matcher.forced()))
            assert matcher.accept(rng.choice(sorted(states[-1][0])))
        fork = matcher.fork()
        ahead = allowed(fork, toy), fork.can_end(), fork.forced()
        for count in (1, 3, 6):
            matcher.rollback(count)
            del states[len(states) - count + 1 :]
            assert (allowed(matcher, toy), matcher.can_end(), matcher.forced()) == states.pop()
        assert (allowed(fork, toy), fork.can_end(), fork.forced()) == ahead
        fork.rollback(10)
        assert allowed(fork, toy) == allowed(compiled.matcher(), toy)


@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_control_and_end_tokens_are_no_text(name, engines, toy):
    """The trap: `TokenizerInfo.from_huggingface` allows `<|im_start|>` within free text."""
    matcher = compiled_by(name, engines, ".*").matcher()
    control = [i for i in range(toy.size) if not toy.bytes[i]]
    assert len(control) == 3 + PADDED and not allowed(matcher, toy) & set(control)
    for token in [*control, toy.size, toy.size + 40, -1]:
        assert matcher.can_end() and not matcher.accept(token)
    assert all(map(matcher.accept, toy.encode("still here")))


@pytest.mark.filterwarnings("ignore:When constructing TokenizerInfo")
def test_control_tokens_are_allowed_by_from_huggingface(smol):
    """Why the vocabulary goes in as raw bytes: if this fails, xgrammar has changed."""
    import xgrammar
    from transformers import PreTrainedTokenizerFast

    checkpoint = load_checkpoint(None, "auto", cache_folder())
    info = xgrammar.TokenizerInfo.from_huggingface(PreTrainedTokenizerFast(tokenizer_object=checkpoint.tokenizer))
    compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar('root ::= [^"]*')
    row = np.zeros((1, mask_words(info.vocab_size)), dtype=np.int32)
    xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    start = checkpoint.tokenizer.token_to_id("<|im_start|>")
    assert bits[start] and not smol.bytes[start]


def test_outlines_core_alone_is_wrong():
    """Why there is a sentinel: if this fails, outlines-core has changed."""
    import outlines_core

    vocabulary = outlines_core.Vocabulary(99, {b"a": [1], b"b": [2], b"ab": [3], b".": [4], b"1": [5]})
    index = outlines_core.Index("a|ab", vocabulary)
    assert index.get_next_state(index.get_initial_state(), 3) is None
    index = outlines_core.Index(r"1+(\.1+)?", vocabulary)
    state = index.get_next_state(index.get_initial_state(), 5)
    assert index.get_next_state(state, 4) is None


def test_llguidance_limit_is_an_error_not_an_end(toy, monkeypatch):
    """The third trap: a limit that llguidance meets while decoding turns its mask into "end of text only"."""
    from sgl.backend.runtime.grammar.engines import llguidance as module

    monkeypatch.setattr(module, "MAX_ITEMS_IN_ROW", 40)
    engine = module.LLGuidance(toy)
    with pytest.raises(ConstraintError):
        matcher = engine.compile_lark("start: " + " | ".join(f'"a{i}"' for i in range(300))).matcher()
        allowed(matcher, toy)
        for token in toy.encode("a1"):
            matcher.accept(token)
            allowed(matcher, toy)


@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_forced_text_is_one_canonical_token_at_a_time(name, engines, toy):
    text = 'Answer: the "日本" stop, and then'
    matcher = compiled_by(name, engines, text + "[x-z]{1,3}").matcher()
    spelled = []
    while (forced := matcher.forced()) or not matcher.can_end():
        ids = allowed(matcher, toy)
        assert ids == {forced[0]} if forced else len(ids) >= 1
        token = forced[0] if forced else min(ids, key=lambda i: toy.bytes[i])
        assert matcher.accept(token)
        spelled.append(token)
    canonical = toy.encode(text)
    assert spelled[: len(canonical) - 3] == canonical[:-3] and len(matcher.fork().forced()) == 0


def test_forced_text_in_the_middle_of_a_character(engines, toy):
    for name in ("xgrammar", "outlines"):
        matcher = compiled_by(name, engines, "日本(語|人)").matcher()
        assert matcher.accept(toy.bytes.index("日".encode()[:1]))
        assert matcher.forced() == [] and allowed(matcher, toy) == {toy.bytes.index("日".encode()[1:2])}


def test_shortest_way_to_an_end(engines, toy):
    def way_to_an_end(pattern, matcher, start=""):
        ways = KnownWays(RuleSet({"": parse_regex(pattern)}, ""), toy)
        place = ways.start()
        assert ways.follow(place, toy.encode(start))
        path = ways.path(place, matcher, 100)
        assert path is not None
        return path

    cases = [("[a-z]{5}", "", None), ("(the|stop)+!", "the", 1), ("(stop|x{9})?", "", 0), ("ab|a(bcd){2}", "", 1)]
    for pattern, start, length in cases:
        compiled = compiled_by("outlines", engines, pattern)
        matcher = compiled.matcher()
        assert all(map(matcher.accept, toy.encode(start)))
        path = way_to_an_end(pattern, matcher, start)
        assert all(map(matcher.fork().accept, path[:1]))
        assert length is None or len(path) == length
        assert all(map(matcher.accept, path)) and matcher.can_end()
    assert len(way_to_an_end("[a-z]{5}", compiled_by("outlines", engines, "[a-z]{5}").matcher())) <= 5


def test_large_patterns_are_refused_before_they_are_compiled(engines):
    for pattern in (r"[^\n]{1,400}", "(.{1,30}x){1,30}", "[a-z]{4000}"):
        assert estimate(parse_regex(pattern)) > 4000
        with pytest.raises(ConstraintError, match="too large"):
            compiled_by("outlines", engines, pattern)
    assert estimate(parse_regex("[a-z]{1,20}")) < 1000


@pytest.mark.parametrize("name", ["xgrammar", "outlines"])
def test_a_pattern_that_matches_nothing(name, engines):
    with pytest.raises(ConstraintError, match="no text"):
        compiled_by(name, engines, "a[^\\x00-\\U0010ffff]")


# -- EBNF

GRAMMARS = {
    "right recursion": ('root ::= n ("+" root)?\nn ::= [0-9]+', ["1", "1+22+3"], ["", "+1", "1+"]),
    "palindromes": ('root ::= "a" root "a" | "b" root "b" | ""', ["", "abba", "aa"], ["ab", "a"]),
    "empty alternatives": ('root ::= | "a" ( | "b") ("c" | )', ["", "a", "ab", "abc", "ac"], ["b", "c"]),
    "json-like": (
        'root ::= ws v\nv ::= "{" ws (p ("," ws p)*)? "}" ws | [0-9]+ ws\np ::= "\\"" [a-z]+ "\\":" ws v\n'
        'ws ::= | " " ws',
        ['{"ab": 1, "c":{}}', "12"],
        ["{", '{"a"}'],
    ),
    "comments": ('# one\nroot ::= # two\n  "a" # "b"\n | [#]', ["a", "#"], ["b", "ab"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F600\n\t\"\\" [\]\-\\^]', ['Aé😀\n\t"\\^', 'Aé😀\n\t"\\-'], ["A"]),
    "counts": ('root ::= "a"{2} "b"{1,} ("cd"){0,2}', ["aab", "aabbcd", "aabcdcd"], ["ab", "aabcdcdcd"]),
    "nullable repeats": ('root ::= ("a"? "b"?)* "c"', ["c", "abbac"], ["ab"]),
    "empty": ('root ::= ""', [""], ["a"]),
    "hexadecimal digits after an escape": (r'root ::= "\x41b" [\x5ea] "\u{1F600}f"', ["Ab^😀f", "Aba😀f"], ["Лת😀f"]),
    "some characters beyond ASCII": ('root ::= [a-z]? [٠-٩a] " "+ [^"]', ["b٣ ٣", "aa b", "٣  x"], ["ab x", "th x"]),
}


@pytest.mark.parametrize("case", GRAMMARS)
def test_ebnf(case, engines, toy):
    source, yes, no = GRAMMARS[case]
    compiled, rng = engines["xgrammar"].compile_ebnf(source), random.Random(2)
    for text in yes + no:
        assert admits(compiled, toy, text, rng) == (text in yes), text
    for _ in range(3):
        data = walk(compiled, toy, rng, 8, check_all=True)
        assert data is None or admits(compiled, toy, data.decode(), rng)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= e a "x" | "y" "(" root ")"\ne ::= "" | "z"\na ::= e root "b" | root a | "c"', "begin with itself"),
        ("root ::= [^é]", "a class has"),
        ("root ::= [一-龥]", "characters beyond ASCII"),
        ('root ::= "a"{600,}', "with an open end"),
        ('root ::= (("a"{100}){100}){100}', "1000000 characters"),
        ('root ::= "' + "a" * 5000 + '"', "5000 characters"),
    ],
)
def test_what_xgrammar_would_weaken_is_refused(source, message, engines):
    with pytest.raises(ConstraintError, match=message) as caught:
        engines["xgrammar"].compile_ebnf(source)
    assert "grammar_backend" in str(caught.value)


def test_texts_are_utf8(engines, toy):
    """xgrammar's `[^a]` holds surrogates, outlines' and llguidance's do not."""
    for name in ("xgrammar", "outlines", "llguidance"):
        matcher = compiled_by(name, engines, "[^a]+").matcher()
        for data, taken in ((b"\xed", True), (b"\xa0", False), (b"\x9f", True), (b"\xbf", True), (b"\xed", True)):
            before = matcher.fork()
            assert matcher.accept(toy.bytes.index(data)) == taken, (name, data)
        assert {toy.bytes[i][:1] for i in check_state(matcher, toy)} == {bytes([b]) for b in range(0x80, 0xA0)}
        assert before.can_end() and len(allowed(before, toy)) > 150


@pytest.mark.parametrize("name", ["xgrammar", "llguidance"])
def test_a_character_without_a_token_is_an_error(name, smol):
    missing = next(b for b in range(256) if bytes([b]) not in set(smol.bytes))
    if missing >= 0x80:
        pytest.skip("the vocabulary has every ASCII character")
    source = rf'root ::= "a" "\x{missing:02x}"'
    if name == "xgrammar":
        matcher = XGrammar(smol).compile_ebnf(source).matcher()
    else:
        matcher = LLGuidance(smol).compile_lark(raw_source(Grammar(source, "ebnf"))).matcher()
    with pytest.raises(ConstraintError, match="cannot spell"):
        for _ in range(3):
            assert matcher.accept(min(allowed(matcher, smol)))


# -- JSON Schema on xgrammar

EXACT = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    | {"additionalProperties": False},
    {"type": "array", "items": {"enum": ["x", "y", 1, None]}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "string", "pattern": "^[a-z]{2,4}@\\d+$"}, {"type": "integer", "minimum": -3, "maximum": 12}]},
    {"type": "object", "additionalProperties": {"type": "boolean"}},
    {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"v": {"type": "null"}}}}}
    | {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "additionalProperties": False}}},
    {"oneOf": [{"type": "string", "format": "uuid"}, {"type": "number"}]},
    {"type": ["string", "null"]},
    True,
    {},
]


@pytest.mark.parametrize("schema", EXACT, ids=str)
def test_exact_schemas_make_valid_json(schema, engines, toy):
    jsonschema = pytest.importorskip("jsonschema")
    assert not lint(schema)
    compiled = engines["xgrammar"].compile_schema(schema)
    for seed in range(6):
        matcher, rng, data = compiled.matcher(), random.Random(seed), b""
        for _ in range(150):
            ids = allowed(matcher, toy)
            if not ids or matcher.is_done() or (matcher.can_end() and rng.random() < 0.5):
                break
            closing = [i for i in ids if toy.bytes[i] in b'"}]0'] if rng.random() < 0.6 else []
            token = rng.choice(sorted(closing or ids))
            assert matcher.accept(token)
            data += toy.bytes[token]
        if matcher.can_end():
            value = json.loads(data.decode("utf-8", "replace"))
            jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("schema", "pointer", "reason"),
    [
        ({"not": {"type": "string"}}, "", "not is ignored"),
        ({"type": "array", "uniqueItems": True}, "", "uniqueItems"),
        (
            {"type": "object", "properties": {"a": {"minimum": 3}}, "additionalProperties": False},
            "/properties/a",
            "type",
        ),
        ({"type": "object", "properties": {"a": {}}}, "", "another spelling"),
        ({"type": "object", "required": ["a"]}, "", "required"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "", "no finite value"),
        (
            {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"], "additionalProperties": False},
            "",
            "no finite",
        ),
        ({"$ref": "https://x/y"}, "", "accepts any value"),
        ({"$ref": "#/$defs/a"}, "", "missing"),
        ({"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {"type": "integer"}}}, "", "beside $ref"),
        ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, "", "allOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "", "oneOf"),
        ({"enum": [1, 2], "type": "string"}, "", "beside enum"),
        ({"enum": [{"a": 1}]}, "", "spelling"),
        ({"const": 1.5}, "", "spelling"),
        ({"type": "string", "maxLength": 5}, "", "escape"),
        ({"type": "string", "pattern": "a"}, "", "pattern"),
        ({"type": "string", "pattern": "^a|b$"}, "", "pattern"),
        ({"type": "string", "pattern": "^.*$"}, "", "pattern"),
        ({"type": "string", "pattern": '^[^"]*$'}, "", "pattern"),
        ({"type": "string", "pattern": "^(a{1,99}){1,99}$"}, "", "pattern"),
        ({"type": "string", "format": "date"}, "", "format"),
        ({"type": "string", "format": "uuid", "pattern": "^a$"}, "", "only format"),
        ({"type": "number", "multipleOf": 0.1}, "", "multipleOf"),
        ({"type": "number", "minimum": 0}, "", "exponent"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "", "no integer"),
        ({"type": "integer", "exclusiveMinimum": True}, "", "no number"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "", "more than"),
        ({"type": "array", "prefixItems": [{}]}, "", "prefixItems"),
        ({"type": "wrong"}, "", "unknown type"),
        ({"type": "array", "items": False}, "/items", "nothing"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "", "patternProperties"),
        ({"x-unknown": 1, "$dynamicRef": "#"}, "", "$dynamicRef"),
        ({"type": "array", "items": {"$id": "https://x/y", "type": "null"}}, "/items", "$ref"),
        (3, "", "not a schema"),
    ],
    ids=str,
)
def test_lint_reports(schema, pointer, reason, engines):
    found = lint(schema)
    assert any(at == pointer and reason in why for at, why in found), found
    with pytest.raises(ConstraintError, match="exactly"):
        engines["xgrammar"].compile_schema(schema)


def test_cost_guard(engines):
    deep: dict = {}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    for schema in ({"type": "array", "minItems": 500}, {"type": "array", "maxItems": 10**6}, deep):
        with pytest.raises(ConstraintError):
            engines["xgrammar"].compile_schema(schema)


# -- forced bytes


def test_settled_is_a_function_of_the_rest(toy):
    text = 'the "Answer: yes" stop and 日本 the end###'.encode()
    tokens = toy.settled(text)
    assert tokens and b"".join(toy.bytes[t] for t in tokens) == text[: sum(len(toy.bytes[t]) for t in tokens)]
    while tokens:
        text = text[len(toy.bytes[tokens.pop(0)]) :]
        assert toy.settled(text) == tokens


def test_settled_leaves_open_what_may_go_on(toy):
    assert toy.settled(b"") == [] and toy.settled(b"st") == []  # "stop" may follow
    assert toy.settled(b"stop!") == [*toy.encode("stop"), *toy.encode("!")]
    assert toy.settled(b"\x97\xa5") == [] and toy.settled("日本".encode()[:4]) == []


def test_settled_of_long_and_of_cut_bytes(toy):
    data = b"x" * 500
    assert toy.settled(data, most=7) == toy.encode("x") * 7
    assert len(toy.settled(data, most=1000)) == 500
    assert len(toy.settled(data, cut=True, most=1000)) == 500 - 95
