"""Random EBNF grammars and texts: do the masks admit what a recogniser of the rules takes, and nothing else?

    python tests/fuzz_ebnf.py [--seconds 120] [--seed 0] [--xgrammar]

Not collected by pytest (`make fuzz`). The grammars have recursion of all kinds, rules that may be empty, classes,
escapes and counts. The oracle is the recogniser on the rules as they were read; it is asked about the normal rules too.
With `--xgrammar`, grammars that xgrammar is given are compared there as well.

Prints each finding with its grammar, and a summary. Exit status 1 if there was one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections import Counter

from sgl.backend.runtime.grammar.accepts import AcceptanceWalk
from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.protocol import CompiledGrammar
from sgl.backend.runtime.grammar.raw import raw_source
from sgl.backend.runtime.grammar.rules.automata import RuleAutomata
from sgl.backend.runtime.grammar.rules.ebnf import read_ebnf
from sgl.backend.runtime.grammar.rules.normal import normalised
from sgl.backend.runtime.grammar.rules.recogniser import is_text
from sgl.backend.runtime.grammar.vocabulary import Vocabulary
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.lang.constraint import Grammar
from sgl.lang.errors import ConstraintError

ALPHABET = "abcé日&"
SHORT = ["".join(word) for length in range(3) for word in itertools.product(ALPHABET, repeat=length)]
SLOW_SECONDS = 1.0
CLASSES = ["[a-c]", "[^a]", "[a&&b]", "[é日]", "[^b日]", r"[\u00e9-\u65e5]", r"[\x61\-\]]", "."]
COUNTS = ["", "", "", "*", "+", "?", "{2}", "{0,2}", "{,3}", "{1,}"]


def ebnf_grammar(rng: random.Random) -> str:
    names = ["root", *(f"r.{i}" for i in range(rng.randrange(4)))]

    def text() -> str:
        letters = "".join(rng.choice("abcé&") for _ in range(rng.choice((0, 1, 1, 1, 2))))
        return json.dumps(letters, ensure_ascii=rng.random() < 0.5)

    def atom(depth: int) -> str:
        pick = rng.random()
        if pick < 0.35:
            return text()
        if pick < 0.5:
            return rng.choice(CLASSES)
        if pick < 0.75 or depth > 2:
            return rng.choice(names)
        return f"({body(depth + 1)})"

    def body(depth: int) -> str:
        ways = range(rng.randint(1, 3))
        return " | ".join(
            " ".join(atom(depth) + rng.choice(COUNTS) for _ in range(rng.randrange(0 if depth else 1, 4))) for _ in ways
        )

    return "\n".join(f"{name} ::= {body(0)}" for name in names)


class EbnfFuzz:
    """Cases, and what came of them."""

    def __init__(self, xgrammar: bool) -> None:
        tokenizer = toy_tokenizer()
        self.vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size + 3)
        self.llguidance = LLGuidance(self.vocabulary)
        self.xgrammar = XGrammar(self.vocabulary) if xgrammar else None
        self.counts: Counter[str] = Counter()

    def find(self, what: str, source: str) -> None:
        self.counts["findings"] += 1
        print(f"FINDING {what}\n{source}\n", flush=True)

    def admits(self, compiled: CompiledGrammar, text: str) -> bool:
        return AcceptanceWalk(self.vocabulary, text.encode(), {}).run(compiled.matcher())

    def case(self, rng: random.Random) -> None:
        source = ebnf_grammar(rng)
        try:
            rules = read_ebnf(source)
        except ConstraintError:
            self.counts["refused"] += 1
            return
        written = raw_source(Grammar(source, "ebnf"))
        self.counts["one lexeme" if written.startswith("start: T\n") else "lexemes of a character"] += 1
        engines: dict[str, CompiledGrammar] = {"llguidance": self.llguidance.compile_lark(written)}
        if self.xgrammar is not None:
            try:
                engines["xgrammar"] = self.xgrammar.compile_ebnf(source)
                self.counts["xgrammar compiled"] += 1
            except ConstraintError:
                self.counts["xgrammar refused"] += 1
        raw, normal = RuleAutomata(rules), RuleAutomata(normalised(rules))
        longer = ["".join(rng.choice(ALPHABET) for _ in range(rng.randint(3, 6))) for _ in range(14)]
        for text in rng.sample(SHORT, 14) + longer:
            right = is_text(raw, text)
            self.counts["texts taken" if right else "texts refused"] += 1
            if is_text(normal, text) != right:
                return self.find(f"the normal rules say {not right} of {text!r}", source)
            for name, compiled in engines.items():
                begin = time.monotonic()
                if self.admits(compiled, text) != right:
                    return self.find(f"{name} says {not right} of {text!r}", source)
                self.counts[f"{name} slow"] += time.monotonic() - begin > SLOW_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(description="Random EBNF grammars against a recogniser.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--xgrammar", action="store_true")
    options = parser.parse_args()
    fuzz, rng, end = EbnfFuzz(options.xgrammar), random.Random(options.seed), time.monotonic() + options.seconds
    while time.monotonic() < end:
        fuzz.case(rng)
    for label, count in sorted(fuzz.counts.items()):
        print(f"{count:8} {label}")
    return 1 if fuzz.counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
