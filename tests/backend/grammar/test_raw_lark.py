"""Raw Lark: what is refused, what is lowered, and that the rules that were read have every text that the mask allows.

Oracle for what was read: llguidance itself, on all short texts.
"""

from __future__ import annotations

import random

import pytest

import sgl
from sgl.backend.runtime.grammar.accepts import AcceptanceWalk
from sgl.backend.runtime.grammar.coverage import explain
from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance
from sgl.backend.runtime.grammar.raw import checked_text, raw_source, rule_set
from sgl.backend.runtime.grammar.rules.lark import read_lark
from sgl.backend.runtime.grammar.rules.recogniser import is_text
from sgl.backend.runtime.grammar.vocabulary import Vocabulary
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.lang.checking.check import Mismatch
from sgl.lang.constraint import lark
from sgl.lang.errors import ConstraintError
from sgl.lang.pattern import PatternError, accepts
from sgl.lang.pattern.rust_syntax import RustReader

from .texts import texts


@pytest.fixture(scope="module")
def runtime():
    return sgl.Runtime.toy()


@pytest.fixture(scope="module")
def engine():
    tokenizer = toy_tokenizer()
    return LLGuidance(Vocabulary(tokenizer, tokenizer.vocab_size))


def admits(engine, source: str, text: str) -> bool:
    return AcceptanceWalk(engine.vocabulary, text.encode(), {}).run(engine.compile_lark(source).matcher())


READ = {
    "rules and terminals": ('start: a "b"\na: A | a "," A\nA: /[xy]/ "z"?', "xyzb,", 4),
    "alternatives on lines": ('?start: "a"\n | "b" -> named\n\n\n%ignore / /', "ab ", 2),
    "options": ('start: ["a" "b"] "c"', "abc", 3),
    "counts": ('start: A~1..2 B{2} C{,1} D{1,}\nA: "a"\nB: "b"\nC: "c"\nD: "d"', "abcd", 5),
    "exact counts": ('start: A~ 2\nA: "a"', "a", 4),
    "ignoring case": ('start: "aB"i "c".."d" /e/i', "abBcdE", 4),
    "escapes": (r'start: "\u00e9\n" /\x{41}\// | "\x42\"\\"', 'éAB"\\\n/', 4),
    "operators of terminals": ("start: T\nT: /[a-c]*/ & ~/(?s:.*)ab(?s:.*)/", "abc", 4),
    "a complement": ('start: T\nT: ~"a" & /[ab]?/', "ab", 2),
    "lazy": ('start: x "b"\nx[lazy]: /a+b?/', "ab", 4),
    "suffix": ('start: x "b"\nx[suffix="c"]: /[ac]*/', "abc", 4),
    "imports": (
        '%import common.INT\n%import common (WS, WORD)\n%import common.CNAME -> N\nstart: INT WS "-" N | WORD',
        "1 a_-",
        4,
    ),
    "comments": ('start: "a" # "b"\n // "c"\n', "abc", 1),
    "empty alternatives": ('start: "a" |', "a", 2),
    "substrings": ('start: "<" %regex {"substring_chunks": ["ab", "c", "ab"]} ">"', "abc<>", 5),
    "any case of sets": ("start: /(?i)[a-b&&b-c]+|[[:digit:]--3]/", "abBC13", 2),
    "left recursion": ('start: start "a" | "b"', "ab", 4),
}


@pytest.mark.parametrize("case", READ)
def test_what_was_read_is_what_the_engine_takes(case, engine):
    source, alphabet, most = READ[case]
    read = read_lark(source)
    assert read.rules is not None, read.unread
    chosen = texts(alphabet, most)
    chosen = chosen if len(chosen) < 400 else chosen[:50] + random.Random(case).sample(chosen, 350)
    taken = {text for text in chosen if admits(engine, source, text)}
    rules = {text for text in chosen if is_text(read.rules, text)}
    assert taken <= rules
    if read.exact:
        assert taken == rules
        rewritten = raw_source(lark(source))
        assert {text for text in chosen if admits(engine, rewritten, text)} == rules
    assert explain(lark(source)).fully_enforced


def test_any_split_into_lexemes_counts(runtime):
    for source, text in (
        ("start: W W\nW: /[a-z]+/", "ab"),
        ('start: /(.|\\n)*/ "END"', "the END"),
        ('start: start "," W | W "."\nW: /[a-z.]+/', "a..,b"),
    ):
        assert runtime.accepts(lark(source), text) and rule_set(lark(source)) is not None


def test_lexemes_of_a_grammar_given_as_it_is_are_greedy(runtime):
    grammar = lark("start: W W\nW: /[a-z]+/\n%ignore / /")
    assert rule_set(grammar) is None
    assert runtime.accepts(grammar, "a b") and not runtime.accepts(grammar, "ab")


def test_parameters_make_the_rules_wider(runtime):
    grammar = lark(
        'start: p::0x0\np::_ : "" %if is_ones([0:2])\n | "a" p::set_bit(0) %if bit_clear(0)\n'
        ' | "b" p::set_bit(1) %if bit_clear(1)'
    )
    assert rule_set(grammar) is None
    assert [bool(runtime.accepts(grammar, text)) for text in ("ab", "ba", "aa", "a")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("start: <|im_end|>", "line 1, column 8: the token <|im_end|>"),
        ('start: "a" <[7]>', "cannot name tokens"),
        ("start: <[0-300]>", "cannot name tokens"),
        ("start: <[^7]> | <[*]>", "cannot name tokens"),
        ('start: "a"\nunused: <|endoftext|> "b"', "line 2, column 9"),
        ('start: a\na[temperature=0.3]: "x"', "line 2, column 3: the attribute temperature"),
        ('start: a\na[lazy, max_tokens=3]: "x"', "the attribute max_tokens"),
        ('start: a\na[stop="y"]: /x*/', "write `suffix=`"),
        ('start: a\na[stop=""]: /x*/', "the attribute stop"),
        ('start: a\na[capture]: "x"', "the attribute capture"),
        ('start: a\na[capture="n", suffix="y"]: "x"', "the attribute capture"),
        ('start: a\n# not read: (a\n "b")\na[temperature=1]: "x"', "the attribute temperature"),
        ("start: @other", "@other: there is no other grammar"),
        ('%llguidance {"no_forcing": true}\nstart: "a"', "options of %llguidance"),
        ('start: a\na: "x" a', "no finite text"),
        ("start: start", "no finite text"),
        ('start: a b\na: "x"\nb: a b | b', "no finite text"),
        ("start: T\nT: /a/ & /b/", "no finite text"),
        ("start: 'a'", "double quotes"),
        ('start: %json {"type": }', "not JSON"),
        ("start: missing", "missing"),
        ('start: "a" /[/', "refused"),
        ('begin: "a"', "start"),
    ],
)
def test_what_a_mask_cannot_do_is_refused(source, message, runtime):
    rows = explain(lark(source)).rows
    assert [row.status for row in rows] == ["refused"] and message in rows[0].note
    with pytest.raises(ConstraintError) as caught:
        runtime.accepts(lark(source), "a")
    assert message in str(caught.value)


def test_control_tokens_in_text_are_text(runtime):
    grammar = lark('start: "<|im_end|>" /<[^>]*>/  // <|im_start|>')
    assert runtime.accepts(grammar, "<|im_end|><a>") and explain(grammar).fully_enforced


CLOSED = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)


def test_json_within_lark_is_as_strict_as_a_schema(runtime):
    grammar = lark(
        f'start: "<" %json {CLOSED} ">" | "[" j "]"\nj: %json {{"minimum": -3, "maximum": 12, "type": "integer"}}'
    )
    assert explain(grammar).fully_enforced
    for text in ('<{"a": 1}>', '<{"a":1}>', "[-3]", "[12]"):
        assert runtime.accepts(grammar, text), text
    for text in (
        '<{"a": 1, "a": 2}>',
        '<{"a":  1}>',
        '<{ "a": 1}>',
        '<{"a": 1.5}>',
        '<{"a": 1, "b": 2}>',
        "[13]",
        "[-4]",
        "[03]",
    ):
        assert not runtime.accepts(grammar, text), text
    assert "x-guidance" in raw_source(grammar) and rule_set(grammar) is None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"type": "integer", "minimum": 9007199254740993}', "no check follows"),
        ('{"type": "object"}', "keys could be repeated"),
        ("{}", "keys could be repeated"),
        ('{"type": "array", "items": {"type": "object", "properties": {"a": {}}}}', "keys could be repeated"),
        ('{"type": "array", "uniqueItems": true, "items": {"type": "integer"}}', "no check follows"),
        ('{"type": "string", "format": "email"}', "no check follows"),
        ('{"type": "integer", "minimum": 3, "maximum": 1}', ""),
        ('{"typo": 1, "type": 7}', ""),
    ],
)
def test_json_that_a_mask_leaves_open_is_refused(schema, message, runtime):
    grammar = lark(f'start: "a" %json {schema}')
    found = explain(grammar)
    if message == "no check follows" and all(row.status != "refused" for row in found.rows):
        assert found.fully_enforced  # the mask does all of it
        return
    assert any(row.status == "refused" and message in row.note for row in found.rows)
    with pytest.raises(ConstraintError):
        runtime.accepts(grammar, "a1")


def test_dates_are_dates(runtime):
    grammar = lark('start: %json {"type": "string", "format": "date"} "!"')
    if explain(grammar).ok:
        assert runtime.accepts(grammar, '"2024-02-29"!') and not runtime.accepts(grammar, '"2023-13-41"!')


def test_the_second_look():
    grammar = lark('start: "a" start "b" | "c"')
    assert checked_text(grammar, "aacbb") == "aacbb"
    for text in ("aacb", "", "acbb", "x"):
        with pytest.raises(Mismatch):
            checked_text(grammar, text)


PATTERNS = [
    *(r"[a&&b]|c", r"[a-d--b]+", r"[a-c~~b-d]", r"[[:alpha:]]x?", r"a++b", r"\w\d\s", r"(?i)ab(?-i:c)", r"[^\W\d]"),
    *(r"\x{e9}|\u00e9a", "(?x) a b # c", r"a{2}{2}", "[]a]", "[a-]b", "[-a]", "a*?b", "(?s).", ".", "(?:a|(?i)b)c"),
    *(
        r"[\d--[3-5]]",
        r"[^\n\x{41}-C]",
        r"\p{Greek}|\pL",
        "(?P<x>a)(?<y>b)",
        "[[:^digit:]]",
        "(?i)[k-l]",
        r"[\w&&[^_]]",
    ),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rusts_dialect(pattern, engine):
    alphabet, rng = "abcdABC 1_λé\n-]xK4k", random.Random(pattern)
    node = RustReader(pattern).read()
    tried = texts(alphabet, 2) + ["".join(rng.choice(alphabet) for _ in range(3)) for _ in range(100)]
    source = f"start: T\nT: /{pattern}/"
    compiled = engine.compile_lark(source)
    for text in rng.sample(tried, 200):
        walk = AcceptanceWalk(engine.vocabulary, text.encode(), {})
        assert walk.run(compiled.matcher()) == accepts(node, text), text


@pytest.mark.parametrize(
    "pattern", [r"\ba", "^a", "a$", r"\z", "(?=a)", r"\1", "(?P=x)", r"\q", "[a", "(?<=a)b", r"\x{110000}"]
)
def test_what_rust_does_not_read_whole(pattern):
    with pytest.raises(PatternError):
        RustReader(pattern).read()


@pytest.mark.parametrize(
    "source", ['start: "a"\nstart: "b"', 'start: X\nX: "a"\nX: "b"', '%import common.INT\nstart: INT\nINT: "x"']
)
def test_a_name_that_is_defined_twice_is_refused(source, runtime):
    assert not explain(lark(source)).ok
    with pytest.raises(ConstraintError):
        runtime.accepts(lark(source), "a")
