"""Hostile grammars for every engine, in a child process: does one crash, hang, or say something else than another?

    python tests/fuzz_grammars.py [--seconds 180] [--seed 0] [--only ebnf|regex|schema|lark]

Not collected by pytest (`make fuzz`). A refusal (`ConstraintError`) is a good answer. A finding is: a crash; an error
of another type; a walk along the masks that takes long, whose tokens are not accepted, that ends nowhere, or whose text
the oracle (`re`, `jsonschema`, another engine) does not take; llguidance compiling for longer than the limit. Compiling
in xgrammar and outlines has a deadline in the runtime, so there a long one is only counted.

Prints each finding as it is met, with what reproduces it, and a summary. Exit status 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance
from sgl.backend.runtime.grammar.engines.outlines import Outlines
from sgl.backend.runtime.grammar.engines.worker import GrammarWorker
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.protocol import CompiledGrammar, mask_words
from sgl.backend.runtime.grammar.vocabulary import TokenTable, Vocabulary
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.lang.errors import BackendError, ConstraintError, SglError
from sgl.lang.pattern import PatternError, parse_regex, to_lark

LIMIT = 10.0
KINDS = "ebnf", "regex", "schema", "lark"


# -- in the child


class Disagreement(Exception):
    """What makes a finding."""


def compile_case(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Compile in the engines that the case is for; `kept["compiled"]` has them for `walk_case`."""
    case = json.loads(source)
    engines = kept.get("engines")
    if engines is None:
        tokenizer = toy_tokenizer()
        vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size + 3)
        made = LLGuidance(vocabulary), XGrammar(vocabulary), Outlines(vocabulary)
        engines = kept["engines"] = dict(zip(("llguidance", "xgrammar", "outlines"), made))
    kept["compiled"] = {}
    engine = engines[case["engine"]]
    kept["compiled"] = None
    kept["compiled"] = _compile(engine, case["kind"], case["source"])
    kept["vocabulary"] = engine.vocabulary
    return b""


def _compile(engine: Any, kind: str, source: Any) -> CompiledGrammar:
    if kind == "ebnf":
        return engine.compile_ebnf(source)
    if kind == "lark":
        return engine.compile_lark(source)
    if kind == "schema":
        if isinstance(engine, XGrammar):
            return engine.compile_schema(source)
        return engine.compile_lark(f"start: j\nj: %json {json.dumps(source)}", json=True)
    try:
        node = parse_regex(source)
        if isinstance(engine, LLGuidance):
            return engine.compile_lark(f"start: T\nT: {to_lark(node)}")
    except PatternError as error:
        raise ConstraintError(str(error)) from error
    return engine.compile_regex(node)


def walk_case(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Random walks along the masks; the texts that ended."""
    vocabulary, compiled, rng = kept["vocabulary"], kept["compiled"], random.Random(source)
    return json.dumps([_walk(compiled, vocabulary, rng) for _ in range(4)]).encode()


def _walk(compiled: CompiledGrammar, vocabulary: Vocabulary, rng: random.Random) -> str | None:
    matcher, data = compiled.matcher(), b""
    bounded = getattr(compiled, "json", False)  # digits: by the mask alone
    row = np.zeros(mask_words(vocabulary.size), dtype=np.int32)
    for step in range(40):
        matcher.fill(row)
        ids = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        if any(i >= vocabulary.size or not vocabulary.bytes[i] for i in ids):
            raise Disagreement(f"the mask allows a control token or a padded id after {data!r}")
        ends, forced = matcher.can_end(), matcher.forced()
        if not ids and not ends:
            raise Disagreement(f"nothing is allowed after {data!r}, which is no end")
        if forced and ids != [forced[0]]:
            raise Disagreement(f"{forced[0]} is forced after {data!r}, the mask allows {ids[:5]}")
        if not ids or (ends and step > 3 and rng.random() < 0.4):
            return data.decode("utf-8", "surrogateescape") if _is_text(data) else None
        for token in rng.sample(range(vocabulary.size), 8):
            if forced or bounded or compiled.engine == "llguidance":
                break
            if matcher.fork().accept(token) != (token in ids):
                raise Disagreement(f"mask and accept disagree about {token} after {data!r}")
        short = [i for i in ids if len(vocabulary.bytes[i]) == 1]
        token = rng.choice(short if short and rng.random() < 0.6 else ids)
        if not matcher.accept(token):
            raise Disagreement(f"the mask allows {token} after {data!r}, accept refuses it")
        data += vocabulary.bytes[token]
    return None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Disagreement(f"a finished text is not UTF-8: {data!r}") from None
    return True


def admits_case(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Which of the texts the engine takes, byte by byte."""
    vocabulary, compiled = kept["vocabulary"], kept["compiled"]

    def admitted(text: str) -> bool:
        matcher = compiled.matcher()
        return all(matcher.accept(vocabulary.bytes.index(bytes([b]))) for b in text.encode()) and matcher.can_end()

    return json.dumps([admitted(text) for text in json.loads(source)]).encode()


# -- hostile input


def ebnf_source(rng: random.Random) -> str:
    names = ["root", *(f"r{i}" for i in range(rng.randrange(5)))]

    def atom(depth: int) -> str:
        pick = rng.random()
        if pick < 0.35:
            return json.dumps("".join(rng.choice('ab cé日\\\n"') for _ in range(rng.randrange(4))), ensure_ascii=False)
        if pick < 0.5:
            return rng.choice(
                ["[a-c]", "[^a]", "[]", "[^\\x00-\\U0010FFFF]", '[^"\\\\]', "[é-日]", "[a\\-\\]]", "[\\x00]"]
            )
        if pick < 0.7 or depth > 3:
            return rng.choice([*names, "nowhere"] if rng.random() < 0.03 else names)
        return f"({body(depth + 1)})"

    def item(depth: int) -> str:
        counts = ["{2}", "{1,3}", "{0}", "{2,}", "{0,40}", "{300}", "{60,}"]
        return atom(depth) + rng.choice(["", "", "", "*", "+", "?", rng.choice(counts)])

    def body(depth: int) -> str:
        branches = (" ".join(item(depth) for _ in range(rng.randrange(4))) for _ in range(rng.randint(1, 3)))
        return " | ".join(branches)

    return "\n".join(f"{name} ::= {body(0)}" for name in names)


def regex_source(rng: random.Random, depth: int = 0) -> str:
    atoms = [
        "a",
        "b",
        "é",
        ".",
        r"\d",
        r"\w",
        r"\s",
        "[^a]",
        "[a-c]",
        r"[^\W\d]",
        "日",
        " ",
        r"\.",
        r"\x1e",
        r"\x00",
        '"',
    ]
    rare = [
        "^",
        "$",
        r"\b",
        "(?=a)",
        "(?!b)",
        "(?<=a)",
        "(?i:k)",
        r"\1",
        "(?s:.)",
        "[^\\x00-\\U0010ffff]",
        "{",
        "x{,3}",
    ]
    parts = []
    for _ in range(rng.randint(0 if depth else 1, 4)):
        pick = rng.random()
        atom = rng.choice(rare) if pick < 0.06 else rng.choice(atoms)
        if pick > 0.7 and depth < 4:
            inner = regex_source(rng, depth + 1)
            atom = rng.choice(["({})", "(?:{})", "(?:{}|)", "({0}|b{0})"]).format(inner)
        parts.append(atom + rng.choice(["", "", "", "*", "+", "?", "*?", "{2}", "{1,3}", "{0,20}"]))
    text = "".join(parts)
    return f"{text}|{regex_source(rng, depth + 1)}" if rng.random() < 0.25 and depth < 4 else text


def schema_source(rng: random.Random, depth: int = 0) -> Any:
    def scalar() -> Any:
        return rng.choice([0, 1, -3, 2.5, 10**20, "", "a", 'é"\n\x00', True, False, None, [], {}, "日", -1, 1e300])

    def sub() -> Any:
        return schema_source(rng, depth + 1) if depth < 3 else rng.choice([True, {}, {"type": "integer"}, False])

    if depth and rng.random() < 0.08:
        return rng.choice([True, False, 3, None, [], {"$ref": "#"}, {"$ref": "#/$defs/a"}, {"$ref": "#/nowhere"}])
    names = ["a", "b", 'q"', "é", "", "\\", "\n", "~/%"]
    makers: dict[str, Any] = {
        "type": lambda: rng.choice(
            ["object", "array", "string", "integer", "number", "null", ["string", "null"], "odd"]
        ),
        "properties": lambda: {rng.choice(names): sub() for _ in range(rng.randrange(4))},
        "required": lambda: rng.sample(names, rng.randrange(3)),
        "additionalProperties": lambda: rng.choice([False, False, False, True, sub()]),
        "items": sub,
        "minItems": lambda: rng.choice([0, 1, 2, 5, 200, -1, "x"]),
        "maxItems": lambda: rng.choice([0, 1, 3, 5000]),
        "enum": lambda: [scalar() for _ in range(rng.randrange(4))],
        "const": scalar,
        "minimum": lambda: rng.choice([0, -5, 3, 2.5, 10**30, True, "x"]),
        "maximum": lambda: rng.choice([0, 7, 100, 99999, -10, 1e308]),
        "pattern": lambda: rng.choice(["^[a-z]+$", "a", "^(a|b)$", "^a{3}$", "(", "^\\d{2}-\\w$", "^[$"]),
        "minLength": lambda: rng.choice([0, 1, 5]),
        "maxLength": lambda: rng.choice([0, 3, 20]),
        "format": lambda: rng.choice(["uuid", "date", "email", "odd"]),
        "anyOf": lambda: [sub() for _ in range(rng.randrange(3))],
        "oneOf": lambda: [sub() for _ in range(rng.randrange(3))],
        "allOf": lambda: [sub() for _ in range(rng.randrange(3))],
        "not": sub,
        "uniqueItems": lambda: True,
        "multipleOf": lambda: rng.choice([0, 1, 3, 0.1, -2, "x"]),
        "minProperties": lambda: rng.choice([0, 1, 3]),
        "patternProperties": lambda: {rng.choice(["^[a-z]$", "x", "("]): sub()},
    }
    by_type = {
        "object": ["properties", "required", "additionalProperties"],
        "array": ["items", "minItems", "maxItems"],
        "string": ["pattern"],
        "integer": ["minimum", "maximum"],
    }
    schema: dict[str, Any] = {}
    if rng.random() < 0.75:  # mostly plausible
        schema["type"] = name = rng.choice([*by_type, "object", "number", "null", "boolean"])
        for key in by_type.get(name, []):
            if rng.random() < 0.6:
                schema[key] = makers[key]()
        if name == "object":
            schema.setdefault("additionalProperties", False)
            schema["required"] = [key for key in schema.get("properties", {}) if rng.random() < 0.6]
    else:
        for key in rng.sample(list(makers), rng.randint(0, 3)):
            schema[key] = makers[key]()
    if not depth:
        schema["$defs"] = {"a": sub()}
    return schema


def lark_source(rng: random.Random) -> str:
    names = ["start", *(f"r{i}" for i in range(rng.randrange(4)))]

    def atom(depth: int) -> str:
        pick = rng.random()
        if pick < 0.3:
            return json.dumps("".join(rng.choice("ab cé日") for _ in range(rng.randrange(4))), ensure_ascii=False)
        if pick < 0.5:
            return rng.choice(
                ["/[a-c]+/", "/(a|b)*c/", "/.*/", "/[^a]/", "T", "/x{1,50}/", "/(/", "/a?/", "<|im_end|>"]
            )
        if pick < 0.85 or depth > 3:
            return rng.choice(names)
        return f"({body(depth + 1)})"

    def body(depth: int) -> str:
        branches = (
            " ".join(atom(depth) + rng.choice(["", "", "", "*", "+", "?", "{2,5}"]) for _ in range(rng.randrange(4)))
            for _ in range(rng.randint(1, 3))
        )
        return " | ".join(branches)

    terminal = rng.choice(['"t"', "/t+/ & ~/tt/", "/[ab]/ & /[bc]/", "/t/ & /u/", "~/a*/"])
    rules = [f"{name}: {body(0)}" for name in names] + [f"T: {terminal}"]
    if rng.random() < 0.2:
        rules.append(rng.choice(["%ignore /[ \\t]+/", "%ignore T", '%json {"type": "object"}', "%llguidance {}"]))
    return "\n".join(rules)


SOURCES = {"ebnf": ebnf_source, "regex": regex_source, "schema": schema_source, "lark": lark_source}
ENGINES = {
    "ebnf": ["xgrammar"],
    "regex": ["llguidance", "xgrammar", "outlines"],
    "schema": ["llguidance", "xgrammar"],
    "lark": ["llguidance"],
}


def mutated(text: str, rng: random.Random) -> str:
    """The text with a few characters lost, doubled or put in."""
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(text) + 1)
        odd = rng.choice([*'()[]{}|*+?"\\^-:=\n#.,0é', "::=", "\x1e", "\x00", "\ud800", "(?", "[^"])
        text = rng.choice(
            [text[:at] + odd + text[at:], text[:at] + text[at + 1 :], text[:at] + text[at:][:3] + text[at:]]
        )
    return text


# -- here


class Fuzz:
    """Cases through one worker, and what came of them."""

    def __init__(self) -> None:
        self.worker = GrammarWorker(TokenTable([], ()))
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []

    def find(self, label: str, what: str, source: Any) -> None:
        self.findings.append(label)
        print(f"FINDING {label}: {what[:300]}\n    {source!r:.1500}", flush=True)

    def case(self, kind: str, seed: str) -> None:
        rng = random.Random(seed)
        source: Any = SOURCES[kind](rng)
        if isinstance(source, str) and rng.random() < 0.4:
            source = mutated(source, rng)
        texts: list[str] = []
        for engine in ENGINES[kind]:
            found = self.walked(kind, engine, source, seed)
            if found is None:
                continue
            texts += [text for text in found if text is not None]
            self.check(kind, engine, source, texts)

    def walked(self, kind: str, engine: str, source: Any, seed: str) -> list[str | None] | None:
        label = f"{kind}/{engine}"
        try:
            self.ask("compile_case", json.dumps({"kind": kind, "engine": engine, "source": source}))
        except BackendError as error:
            self.find(label, f"compiling: {error}", source)
            return None
        except ConstraintError as error:
            late = "compiling it takes more than" in str(error)
            self.counts[f"{label} {'over time' if late else 'refused'}"] += 1
            if "crashed the compiler" in str(error) or (late and engine == "llguidance"):
                self.find(label, f"compiling: {error}", source)
            return None
        self.counts[f"{label} compiled"] += 1
        try:
            return json.loads(self.ask("walk_case", seed))
        except ConstraintError as error:
            if "met a limit" in str(error) or "cannot spell" in str(error):
                self.counts[f"{label} limit on the way"] += 1
            else:
                self.find(label, f"walking: {error}", source)
        except SglError as error:
            self.find(label, f"walking: {error}", source)
        return None

    def check(self, kind: str, engine: str, source: Any, texts: list[str]) -> None:
        """The texts that any engine made against the oracle, and against this engine."""
        if kind == "schema" and not self.valid(source, texts):
            self.find(f"{kind}/{engine}", f"not valid: {texts}", source)
        if kind != "regex" or not texts:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = [text for text in texts if not re.fullmatch(source, text)]
        if wrong:
            self.find(f"{kind}/{engine}", f"re.fullmatch refuses {wrong}", source)
        admitted = json.loads(self.ask("admits_case", json.dumps(texts)))
        lost = [
            text for text, taken in zip(texts, admitted) if not taken and not (engine == "outlines" and "\x1e" in text)
        ]
        if lost:
            self.find(f"{kind}/{engine}", f"refuses {lost}, which another engine made", source)

    def valid(self, schema: Any, texts: list[str]) -> bool:
        import jsonschema

        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError:
            return True  # the oracle has no opinion
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["uuid"]))
        return all(checker.is_valid(json.loads(text)) for text in texts)

    def ask(self, task: str, source: str) -> bytes:
        return self.worker.run(f"fuzz_grammars:{task}", source, LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile grammars for every engine.")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parent))
    fuzz, end, number = Fuzz(), time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        for kind in [options.only] if options.only else KINDS:
            fuzz.case(kind, f"{options.seed}/{number}/{kind}")
        number += 1
    fuzz.worker.close()
    print(f"{number} rounds from seed {options.seed}")
    for label, count in sorted(fuzz.counts.items()):
        print(f"{count:8} {label}")
    print(f"findings: {len(fuzz.findings)} {dict(Counter(fuzz.findings))}" if fuzz.findings else "no findings")
    return 1 if fuzz.findings else 0


if __name__ == "__main__":
    sys.exit(main())
