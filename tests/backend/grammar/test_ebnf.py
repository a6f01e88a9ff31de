"""EBNF: what is read, what is refused, and that masks admit exactly the grammar's texts.

Oracle: the recogniser of the rules as they were read, which shares nothing with the engines. Texts are short and all of
them are tried. Grammars of llama.cpp's kinds are written anew here.
"""

from __future__ import annotations

import random

import pytest

import sgl
from sgl.backend.runtime.grammar.accepts import AcceptanceWalk, accepts
from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.grammar.coverage import explain
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.raw import raw_source, rule_set
from sgl.backend.runtime.grammar.rules.ebnf import read_ebnf
from sgl.backend.runtime.grammar.rules.measure import recursive
from sgl.backend.runtime.grammar.rules.normal import normalised, regular_node
from sgl.backend.runtime.grammar.rules.recogniser import is_text
from sgl.backend.runtime.grammar.rules.write_ebnf import to_xgrammar
from sgl.backend.runtime.grammar.vocabulary import Vocabulary
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.lang.constraint import ebnf
from sgl.lang.errors import ConstraintError

from .texts import texts


@pytest.fixture(scope="module")
def runtime():
    return sgl.Runtime.toy()


@pytest.fixture(scope="module")
def xgrammar():
    tokenizer = toy_tokenizer()
    return XGrammar(Vocabulary(tokenizer, tokenizer.vocab_size))


EXACT = {
    "operators of other dialects in a class": ('root ::= x\nx ::= x [^a&&b] | "z"', "zab&", 3),
    "other operators in a class": (r"root ::= root [a~~c&&\--] | [[:alpha:\]]", "a-b~c:[", 2),
    "repeats of what may be empty": ('root ::= ("a"?)* "b"', "ab", 4),
    "a repeat of an empty alternative": ('root ::= ("a" | "")+ "b"', "ab", 4),
    "nested empty rounds": ('root ::= (("a"? "b"*)* | "c"?){2,} x*\nx ::= "" | x x | "d"', "abcd", 3),
    "rules that may be empty in repeats": ('root ::= (a a)* "x"\na ::= "" | "y" a "z" | a a', "xyz", 4),
    "words of large classes that touch": ("root ::= w w\nw ::= [一-鿿]+", "日本a", 3),
    "lists before a letter of theirs": ('root ::= e "b"\ne ::= e "," w | w\nw ::= [a-c]+', "abc,", 4),
    "left recursion with escapes": (r'root ::= root "\-" | "a"', "a-b", 3),
    "escapes of code points": (
        r'root ::= root "\u00e9" | [\u0041-\u0043] | "\u{1f600}" | "\U0001f601\x7e"',
        "éAB😀😁~",
        2,
    ),
    "a rule named start": ('root ::= start root | "."\nstart ::= "a" | "b"', "ab.", 3),
    "binary operators": ('root ::= root "+" root | "-" root | root "!" | "(" root ")" | "n"', "n+-!()", 4),
    "indirect left recursion": ('root ::= b "x" | "y"\nb ::= root "z" | "(" root ")" | b "b"', "xyzb()", 4),
    "hidden left recursion": ('root ::= e root "x" | "y"\ne ::= "" | "z"', "xyz", 4),
    "recursion in the middle": ('root ::= "a" root "b" | ""', "ab", 5),
    "palindromes": ('root ::= "a" root "a" | "b" root "b" | "a"? | "b"', "ab", 5),
    "mutual recursion at the end": ('root ::= i r?\nr ::= "," root\ni ::= "1" | "(" root ")"', "1,()", 4),
    "any character": (r'root ::= . "a" .. | a.a' + '\na ::= "b"', "ab\né", 3),
    "dotted names": ('root ::= a.b? a_b-c.1? a.z\na.b ::= "x"\na_b-c.1 ::= "y"\nz ::= "z"\na ::= "w"', "xyzw", 4),
    "counts": ('root ::= "a"{,2} "b"{2} ("c" | "d"){1,} "e"{0, 1} x{2}\nx ::= "" | "(" x ")"', "abcd", 5),
    "negated and astral": (r"root ::= [^\x00-\uFFFF] | [^b-\U0010FFFF]{2}", "a😀b\n", 3),
    "a literal line end": ('root ::= "a\n" root | "\\t" ', "a\n\t", 4),
    "empty alternatives": ('root ::= | "a" ( | "b") ("c" | ) ()', "abc", 3),
    "comments": ('# one\nroot # two\n ::= # three ::= x\n  "a" # "b"\n | [#"] b\r\nb ::= "\\#"', 'a#"b', 3),
    "no blanks": ('root::=f("x"|f)f*\nf::="y"', "xy", 4),
    "the empty text": ('root ::= "" ("")*', "a", 1),
}


@pytest.mark.parametrize("case", EXACT)
def test_masks_admit_exactly_the_texts(case, runtime):
    source, alphabet, most = EXACT[case]
    rules = read_ebnf(source)
    normal = normalised(rules)
    chosen = texts(alphabet, most)
    if len(chosen) > 400:
        chosen = chosen[:60] + random.Random(case).sample(chosen, 340)
    taken = [text for text in chosen if is_text(rules, text)]
    assert taken and taken == [text for text in chosen if is_text(normal, text)]
    assert taken == [text for text in chosen if runtime.accepts(ebnf(source), text)]
    assert explain(ebnf(source)).fully_enforced


@pytest.mark.parametrize("case", sorted(set(EXACT) - {"hidden left recursion", "words of large classes that touch"}))
def test_xgrammar_admits_the_same_or_refuses(case, xgrammar):
    source, alphabet, most = EXACT[case]
    try:
        to_xgrammar(read_ebnf(source))
    except ConstraintError as error:
        assert "left recursion" in str(error) or "beyond ASCII" in str(error)
        return
    compiled = xgrammar.compile_ebnf(source)
    for text in random.Random(case).sample(every := texts(alphabet, most), min(len(every), 60)):
        walk = AcceptanceWalk(xgrammar.vocabulary, text.encode(), {})
        assert walk.run(compiled.matcher()) == is_text(read_ebnf(source), text), text


LLAMA = {
    "c": (
        r"""
root ::= (declaration)*
declaration ::= type name "(" parameter? ")" "{" statement* "}"
type ::= "int" ws | "char" ws
name ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= type name
statement ::=
    ( name ws "=" ws expression ";" ) |
    ( "return" ws expression ";" ) |
    ( lineComment ) |
    ( blockComment )
expression ::= term(("+" | "-") term)*
term ::= factor(("*" | "/") factor)*
factor ::= name | number | "-" factor | name "(" (expression (", " expression)*)? ")"
number ::= [0-9]+
lineComment ::= "//" [^\n]* "\n"
blockComment ::= "/*" ( [^*] | ("*" [^/]) )* "*/"
ws ::= ([ \t\n]+)
""",
        ["int f(){return 1+x*-2;}", "int f(char c){/* a */x = f(1, y);// b\n}", ""],
        ["int f()", "f(){}", "int f(){return 1+;}", "int f(){/* a}"],
    ),
    "chess": (
        r"""root ::= (
    # moves
    "1. " move " " move "\n"

    # more
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move ::= (pawn | piece | castle) [+#]?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
""",
        ["1. e4 e5\n2. Nf3 O-O-O+\n", "1. exd5 Qa1xb2\n10. e8=Q# Ke7\n"],
        ["1. e4 e5\n", "1. e9 e5\n2. e4 e5\n"],
    ),
    "json": (
        r"""root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | [\\] (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
# Optional space
ws ::= | " " | "\n" [ \t]{0,20}
""",
        ['{"a": [1, -2.5e+3, "\\u00e9日"], "b":{}}', "{}\n  "],
        ["[]", '{"a"}', '{"a": 01}', '{"a": "\\x"}'],
    ),
    "lists": (
        'root ::= item+\n\n# no line ends\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"\n',
        ["- a\n- 日本 b\n"],
        ["- \n", "- a", "- a\u2028\n"],
    ),
    "arithmetic": (
        'root  ::= (expr "=" ws term "\\n")+\nexpr  ::= term ([-+*/] term)*\n'
        'term  ::= ident | num | "(" ws expr ")" ws\n'
        "ident ::= [a-z] [a-z0-9_]* ws\nnum   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*\n",
        ["1 +(x -2 )= y\n", "a=1\nb=2\n"],
        ["1+=2\n", "a=1"],
    ),
    "Japanese": (
        "root ::= jp-char+ ([ \\t\\n] jp-char+)*\njp-char ::= hiragana | katakana | punctuation | cjk\n"
        "hiragana ::= [ぁ-ゟ]\nkatakana ::= [ァ-ヿ]\npunctuation ::= [、-〾]\ncjk ::= [一-鿿]\n",
        ["日本 ひら、カタ"],
        [" 日", "日a", ""],
    ),
    "English": (
        "root ::= en-char+ ([ \\t\\n] en-char+)*\nen-char ::= letter | digit | punctuation\nletter ::= [a-zA-Z]\n"
        "digit ::= [0-9]\npunctuation ::= [!\"#$%&'()*+,-./:;<=>?@[\\\\\\]^_`{|}~]\n",
        ["Hello, World: [it's] 100% \\fine_"],
        ["é", " a", "a  b"],
    ),
}


@pytest.mark.parametrize("case", LLAMA)
def test_grammars_of_llama_cpp(case, runtime):
    source, yes, no = LLAMA[case]
    for text in yes + no:
        assert bool(runtime.accepts(ebnf(source), text)) == (text in yes), text
        assert is_text(read_ebnf(source), text) == (text in yes), text
    assert runtime.accepts(ebnf(source), yes[0]).ok


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= "a" root', "line 1, column 1: no finite text matches the rule root"),
        ("root ::= root", "no finite text"),
        ("root ::= a\na ::= b\nb ::= a", "no finite text"),
        ('root ::= "x" | "a" loop\nloop ::= "b" loop', "line 2, column 1: no finite text matches the rule loop"),
        ('root ::= "x" | []', "no text matches this alternative"),
        (r"root ::= [^\x00-\U0010FFFF]", "no finite text"),
        ("root ::= a", "line 1, column 10: there is no rule named a"),
        ('root ::= value\nvalues ::= "a"', "did you mean 'values'"),
        ('root ::= "a"\nunused ::= nowhere', "line 2, column 12: there is no rule named nowhere"),
        ('root ::= a.c\na ::= "x"', "there is no rule named a.c"),
        ('foo ::= "a"', "no rule named root"),
        ("", "no rule named root"),
        ("root ::= ", "expected text"),
        ('root ::= "a\n', "no closing quote"),
        ("root ::= [a-", "never closed"),
        ("root ::= [a\n]", "line 1, column 10: this class is never closed"),
        ('root ::= ("a"', "never closed"),
        ('root ::= "a")', "unexpected"),
        ('root ::= "a" "b"\nroot ::= "c"', "line 2, column 1: the rule root is defined twice"),
        ("root ::= [z-a]", "upside down"),
        ('root ::= "a"{3,1}', "upside down"),
        ('root ::= "a"{x}', "expected a count"),
        ('root ::= "a"{}', "expected a count"),
        ('root ::= "a"{,}', "expected a count"),
        ('root ::= "a"{1000000000}', "counts end at"),
        ("root ::= * ", "nothing to repeat"),
        ("root ::= Token(5)", "cannot name tokens"),
        ("root ::= TagDispatch(5)", "not supported"),
        ("root ::= <think> x </think>", "write the token's text as a string"),
        ("root ::= !<[1001]>*", "cannot name tokens"),
        ('root ::= (= "a") "b"', "lookahead"),
        ('root ::= a\na[max_tokens=5] ::= "x"', "line 2, column 1: attributes"),
        ("root ::= 'a'", "double quotes"),
        ("root ::= /a+/", "regular expressions"),
        ('root ::= "\0"', "NUL"),
        ('root ::= "\ud800"', "surrogate"),
        (r'root ::= "\ud83d\ude00"', r"\U0001F600"),
        (r'root ::= "\U00110000"', "not a character"),
        (r'root ::= "\u12"', "escape is not complete"),
        (r'root ::= "\q"', r"no escape \q"),
        (r"root ::= [\d]", "as in [0-9]"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested"),
        ('Root ::= "a"', "no rule named root"),
        ('root = "a"', "expected a rule"),
    ],
)
def test_bad_ebnf_is_refused(source, message):
    with pytest.raises(ConstraintError) as caught:
        read_ebnf(source)
    assert message in str(caught.value)
    assert [row.status for row in explain(sgl.lang.constraint.Grammar(source, "ebnf")).rows] == ["refused"]


@pytest.mark.parametrize("part", ['"a"{5000}', '"x" | "b" ("a"{100}){100} "c"', '"x" | "y" r\nr ::= [a-z]{4001,}'])
def test_a_part_that_demands_very_much_is_refused(part):
    with pytest.raises(ConstraintError, match="characters at least"):
        raw_source(ebnf(f"root ::= {part}"))
    assert raw_source(ebnf('root ::= "a"{4000} | "b"{0,100000}'))


def test_recursion_at_an_end_is_a_repeat():
    for source in (
        'ws ::= ([ \\t] ws)?\nroot ::= ws "x"',
        'root ::= root "," w | w\nw ::= [a-z] w | [a-z]',
        'root ::= a | "x"\na ::= "y" b\nb ::= "z" root | "w" a | ""',
        'root ::= root "+" root | "-" root | "n"',
    ):
        rules = normalised(read_ebnf(source))
        assert not recursive(rules) and regular_node(rules, 1000) is not None
        assert raw_source(ebnf(source)).startswith("start: T\n")
    lists = normalised(read_ebnf('root ::= list\nlist ::= item ("," list)?\nitem ::= "x" | "(" list ")"'))
    assert not any(line.rstrip().endswith("r0)?") for line in raw_source(ebnf('root ::= "x" root | ""')).split("\n"))
    assert recursive(lists)


def test_long_lists_stay_cheap(runtime):
    """Right recursion is rewritten, so the state of the engine does not grow with the text."""
    grammar = ebnf('root ::= item root | "."\nitem ::= "(" item ")" | "a"')
    text = "a(a)" * 400 + "."
    assert runtime.accepts(grammar, text) and not runtime.accepts(grammar, text[:-1])


def test_thousands_of_alternatives_share_their_beginnings(runtime):
    ways = " | ".join(f'"k{i}" root "e"' for i in range(1_500))
    grammar = ebnf(f'root ::= "x" | {ways} | "{"y" * 1_000}a" root "b" | "{"y" * 1_000}c"')
    for text, right in (("k1499xe", True), ("k14k3xee", True), ("k1500xe", False), ("y" * 1_000 + "c", True)):
        assert bool(runtime.accepts(grammar, text)) == right


def test_thousands_of_rules_are_read_in_time():
    rules = "".join(f'r{i} ::= "a" | "c" r{i + 1} "b"\n' for i in range(4_000))
    assert raw_source(ebnf(f'root ::= r0\n{rules}r4000 ::= "z"'))


def test_a_finished_text_is_read_a_second_time(monkeypatch):
    """A mask that lies is found out: the text is refused, not handed over."""
    grammar = ebnf('root ::= "a" root "b" | "ab"')
    assert rule_set(grammar) is not None
    own = Grammars(toy_tokenizer(), toy_tokenizer().vocab_size)
    lie = own.llguidance.compile_lark("start: /[ab]+/")
    monkeypatch.setattr(own.llguidance, "compile_lark", lambda source: lie)
    runtime = sgl.Runtime.toy()
    prepared = own.prepare(grammar)
    assert accepts(prepared, "aabb").ok
    verdict = accepts(prepared, "abab")
    assert not verdict.ok and "the finished text fails its check" in verdict.why
    assert runtime.accepts(grammar, "aabb") and not runtime.accepts(grammar, "abab")
