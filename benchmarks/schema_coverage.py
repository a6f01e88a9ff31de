"""How much of real JSON Schemas is enforced, and whether what is claimed holds.

    python benchmarks/schema_coverage.py /path/to/schemas.jsonl [--limit N] [--out FILE.md]

Each line of the file is `{"id", "schema", "valid": [...], "invalid": [{"data": ...}]}`. Each schema is lowered and
compiled by llguidance over SmolLM2's vocabulary; each instance is written as JSON text and walked token by token
through the masks (mask bit, then accept, then whether the text may end). An instance whose keys stand in another
order than the schema's is written again in the schema's order, and counted. Then texts are drawn at random from the
masks and checked.

Exits with 1 if an invalid instance is admitted where the mask is said to enforce everything, or passes mask and check.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import random
import re
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sgl.backend.runtime.grammar.schema.engine import lark_source
from sgl.backend.runtime.grammar.schema.lower import Lowered, lower
from sgl.backend.runtime.grammar.schema.nodes import (
    AnySchema,
    ArraySchema,
    LoweredSchema,
    ObjectSchema,
    ReferenceSchema,
    SchemaNode,
    SchemaVisitor,
    StringSchema,
    UnionSchema,
    spelled_schema,
)
from sgl.lang.checking.check import Mismatch, check
from sgl.lang.checking.dialect import validator_for
from sgl.lang.constraint import JsonSchema
from sgl.lang.errors import ConstraintError

Json = Any


class Masks:
    """llguidance over the vocabulary of the embedded model."""

    def __init__(self) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        from sgl.backend.runtime.model.load.build import build

        model, self.tokenizer, _, _ = build(None, device="cpu", dtype="auto", load_format="auto")
        tokenizer = self.tokenizer

        class Adapter:
            eos_token_id = tokenizer.eos_ids[0]
            bos_token_id = None
            special_token_ids: ClassVar = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)]
            tokens: ClassVar = [data or b"\xff<%d>" % i for i, data in enumerate(tokenizer.token_bytes)]

            def __call__(self, text: Any) -> list[int]:
                return tokenizer.encode([(text.decode() if isinstance(text, bytes) else text, False)], first=False)

        self.size = model.vocab_size
        self.bound = LLTokenizer(TokenizerWrapper(Adapter()), n_vocab=self.size, eos_token=list(tokenizer.eos_ids))
        self.eos = list(tokenizer.eos_ids)

    def start(self, mask: Json) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_items_in_row=20_000, step_max_items=200_000)
        matcher = LLMatcher(self.bound, LLMatcher.grammar_from_lark(lark_source(mask)), log_level=0, limits=limits)
        if matcher.is_error():
            raise RuntimeError(matcher.get_error()[:300])
        return matcher

    def row(self, matcher: Any) -> Any:
        words = np.zeros((self.size + 31) // 32, dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        return np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)

    def walk(self, start: Any, text: str) -> str | None:
        """Why the masks refuse a text, or None."""
        matcher = start.deep_copy()
        for at, token in enumerate(self.tokenizer.encode([(text, False)], first=False)):
            # A mask may leave only the canonical token of forced text; the parser is asked then.
            if not self.row(matcher)[token] and matcher.validate_tokens([token]) != 1:
                return f"token {at} {self.tokenizer.token_bytes[token]!r}"
            if not matcher.consume_token(token) or matcher.is_error():
                return f"error {matcher.get_error()[:100]}"
        return None if matcher.is_accepting() else "not complete"

    def draw(self, start: Any, rng: random.Random, most: int = 300) -> str | None:
        """A random text of the masks, or None if it has not ended after `most` tokens."""
        matcher, out = start.deep_copy(), b""
        for _ in range(most):
            bits = self.row(matcher)
            if matcher.is_error():
                return None
            bits[self.eos] = False
            allowed = np.flatnonzero(bits)
            if matcher.is_accepting() and (len(allowed) == 0 or rng.random() < 0.3):
                return out.decode()
            closing = [t for t in self._closing() if bits[t]]
            token = rng.choice(closing) if closing and rng.random() < 0.5 else int(rng.choice(allowed))
            matcher.consume_token(token)
            out += self.tokenizer.token_bytes[token]
        return None

    def _closing(self) -> list[int]:
        if not hasattr(self, "_ends"):
            self._ends = [
                i for i, data in enumerate(self.tokenizer.token_bytes) if data in (b'"', b"}", b"]", b"0", b"1")
            ]
        return self._ends


def spelled(value: Json) -> str:
    """JSON text as the masks spell it: numbers without exponents, whole numbers without a fraction."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(spelled(v) for v in value) + "]"
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) else np.format_float_positional(value, trim="-")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class Ordering(SchemaVisitor[[Json], Json]):
    """The value with its keys in the order of the lowered schema; `LookupError` if the schema has no place for it."""

    def visit_union(self, node: UnionSchema, value: Json) -> Json:
        for branch in node.branches:
            with contextlib.suppress(LookupError):
                return self.visit(branch, value)
        raise LookupError

    def visit_reference(self, node: ReferenceSchema, value: Json) -> Json:
        return self.visit(self.schema.definitions[node.name], value)

    def visit_object(self, node: ObjectSchema, value: Json) -> Json:
        if not isinstance(value, dict) or not set(node.required) <= set(value) or not _counts(node, value):
            raise LookupError
        out = {}
        for name in [*(n for n in node.properties if n in value), *(n for n in value if n not in node.properties)]:
            part = node.properties.get(name)
            if part is None:
                found = (p for text, p in node.patterns.items() if _finder(text)(name))
                part = next(found, node.others)
            out[name] = self.visit(part, value[name])
        return out

    def visit_array(self, node: ArraySchema, value: Json) -> Json:
        if not isinstance(value, list) or not _counts(node, value):
            raise LookupError
        parts = [*node.prefix, *[node.rest] * len(value)]
        return [self.visit(part, item) for part, item in zip(parts, value)]

    def visit_any(self, node: AnySchema, value: Json) -> Json:
        return value

    def otherwise(self, node: SchemaNode, value: Json) -> Json:
        patterns = node.patterns if isinstance(node, StringSchema) else ()
        if isinstance(node, StringSchema):
            node = StringSchema(node.least, node.most)
        plain = spelled_schema(LoweredSchema(node))
        if not validator_for(plain).is_valid(value) or not all(_finder(text)(value) for text in patterns):
            raise LookupError
        return value

    def again(self, node: SchemaNode) -> Json:
        raise LookupError


def _counts(node: ArraySchema | ObjectSchema, value: Json) -> bool:
    return node.least <= len(value) <= (len(value) if node.most is None else node.most)


@functools.cache
def _finder(text: str) -> Any:
    """A search for a pattern of a mask, which is in Rust's syntax, near enough for keys."""
    import regex

    return regex.compile(re.sub(r"\\x\{([0-9a-fA-F]+)\}", lambda m: re.escape(chr(int(m[1], 16))), text)).search


@dataclass
class Result:
    id: str
    status: str  # "enforced", "checked" or "refused"
    note: str = ""
    keywords: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def examine(entry: dict[str, Any], masks: Masks, rng: random.Random) -> Result:
    """Everything about one schema."""
    started = time.perf_counter()
    try:
        lowered = lower(entry["schema"])
    except ConstraintError as error:
        return Result(entry["id"], "refused", str(error), seconds=time.perf_counter() - started)
    took = time.perf_counter() - started
    status = "enforced" if lowered.fully_enforced else "checked"
    out = Result(
        entry["id"], status, keywords=[f"{r.keyword}: {r.note}" for r in lowered.rows if r.status == "checked"]
    )
    out.seconds = took
    try:
        start = masks.start(lowered.engine_schema)
    except RuntimeError as error:
        out.faults.append(f"does not compile: {error}")
        return out
    constraint = JsonSchema(json.dumps(entry["schema"]))
    for value in entry["valid"]:
        _valid(out, lowered, masks, start, constraint, value)
    for wrong in entry["invalid"]:
        _invalid(out, lowered, masks, start, constraint, wrong["data"])
    for _ in range(2):
        _drawn(out, masks, start, constraint, rng)
    return out


def _valid(out: Result, lowered: Lowered, masks: Masks, start: Any, constraint: JsonSchema, value: Json) -> None:
    out.counts["valid"] += 1
    if not _passes(constraint, json.dumps(value)):
        out.counts["valid that the check refuses"] += 1
        out.faults.append(f"check refuses valid: {json.dumps(value)[:100]}")
    why = masks.walk(start, spelled(value))
    if why is None:
        out.counts["valid accepted"] += 1
        return
    try:
        again = masks.walk(start, spelled(Ordering(lowered.document).visit(lowered.document.root, value)))
    except LookupError:
        again = why
    if again is None:
        out.counts["valid accepted in the schema's key order"] += 1
        return
    out.counts["valid refused"] += 1
    out.faults.append(f"valid refused: {again}: {json.dumps(value)[:200]}")


def _invalid(out: Result, lowered: Lowered, masks: Masks, start: Any, constraint: JsonSchema, value: Json) -> None:
    out.counts["invalid"] += 1
    texts = {spelled(value)}
    with contextlib.suppress(LookupError):
        texts.add(spelled(Ordering(lowered.document).visit(lowered.document.root, value)))
    admitted = [text for text in texts if masks.walk(start, text) is None]
    if not admitted:
        out.counts["invalid refused by the mask"] += 1
        return
    if lowered.fully_enforced:
        out.counts["invalid admitted though fully enforced"] += 1
        out.faults.append(f"INVALID ADMITTED: {admitted[0][:200]}")
    if any(_passes(constraint, text) for text in admitted):
        out.counts["invalid that passes mask and check"] += 1
        out.faults.append(f"INVALID PASSES: {admitted[0][:200]}")
    else:
        out.counts["invalid refused by the check"] += 1


def _drawn(out: Result, masks: Masks, start: Any, constraint: JsonSchema, rng: random.Random) -> None:
    text = masks.draw(start, rng)
    if text is None:
        out.counts["drawn, not ended"] += 1
        return
    out.counts["drawn"] += 1
    try:
        check(constraint, text)
    except Mismatch as mismatch:
        if "out of the range" in mismatch.reason:
            out.counts["drawn with a number beyond a double (the runtime bounds digits and exponents)"] += 1
            return
        if "there twice" in mismatch.reason:
            out.counts["drawn with a repeated key"] += 1
            text = json.dumps(json.loads(text))
            if _passes(constraint, text):
                return
        out.counts[f"drawn that the check refuses ({out.status})"] += 1
        if out.status == "enforced":
            out.faults.append(f"DRAWN REFUSED: {mismatch.reason[:200]}: {text[:200]}")


def _passes(constraint: JsonSchema, text: str) -> bool:
    try:
        check(constraint, text)
    except Mismatch:
        return False
    return True


def report(results: list[Result], arguments: argparse.Namespace) -> str:
    """The markdown page."""
    total = len(results)
    by_status = Counter(result.status for result in results)
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
    seconds = sorted(result.seconds for result in results)
    enforced, checked = by_status["enforced"], by_status["checked"]
    lines = [
        "# Coverage of JSON Schema",
        "",
        f"`python benchmarks/schema_coverage.py {Path(arguments.file).name}`, 2026-11-21, "
        f"Python {platform.python_version()}, llguidance {version('llguidance')}, "
        f"jsonschema {version('jsonschema')}, SmolLM2's vocabulary.",
        "",
        f"| of {total} schemas | | |",
        "|---|--:|--:|",
        f"| fully enforced by mask | {enforced} | {enforced / total:.1%} |",
        f"| enforced, rest checked | {checked} | {checked / total:.1%} |",
        f"| enforced or checked | {enforced + checked} | {(enforced + checked) / total:.1%} |",
        f"| refused | {by_status['refused']} | {by_status['refused'] / total:.1%} |",
        f"| time to lower, median / p99 / most | {seconds[total // 2] * 1e3:.1f} ms | "
        f"{seconds[int(total * 0.99)] * 1e3:.0f} / {seconds[-1] * 1e3:.0f} ms |",
        "",
        "| instances | |",
        "|---|--:|",
    ]
    zeros = ("valid refused", "invalid admitted though fully enforced", "invalid that passes mask and check")
    zeros += ("drawn that the check refuses (enforced)",)
    lines += [f"| {name} | {counts[name]} |" for name in sorted({*counts, *zeros})]
    lines += ["", "## What is only checked", "", "| keyword: why | schemas |", "|---|--:|"]
    why = Counter(note for result in results for note in set(result.keywords))
    lines += [f"| {note.replace('|', '&#124;')} | {count} |" for note, count in why.most_common(40)]
    lines += ["", "## Refused", "", "| schema | why |", "|---|---|"]
    lines += [f"| {r.id} | {r.note[:200].replace('|', '&#124;')} |" for r in results if r.status == "refused"]
    lines += ["", "## Valid instances that a mask refuses, and other findings", "", "| schema | finding |", "|---|---|"]
    lines += [f"| {r.id} | `{f[:220].replace('|', '&#124;').replace('`', '')}` |" for r in results for f in r.faults]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--out", default=None)
    parser.add_argument("--only", default=None, help="ids that contain this")
    arguments = parser.parse_args()
    entries = [json.loads(line) for line in Path(arguments.file).read_text().splitlines()]
    entries = [e for e in entries if arguments.only is None or arguments.only in e["id"]][: arguments.limit]
    masks, rng = Masks(), random.Random(0)
    results = []
    for entry in entries:
        try:
            results.append(examine(entry, masks, rng))
        except Exception:
            print(f"crash in {entry['id']}", file=sys.stderr)
            traceback.print_exc()
            results.append(Result(entry["id"], "crash", faults=["INVALID: crash"]))
        if results[-1].seconds > 2:
            print(f"slow: {results[-1].id}: {results[-1].seconds:.1f} s", file=sys.stderr)
    page = report(results, arguments)
    if arguments.out:
        Path(arguments.out).write_text(page)
    print(page)
    faults = ("INVALID", "DRAWN", "does not compile")
    return int(any(fault.startswith(faults) for result in results for fault in result.faults))


if __name__ == "__main__":
    sys.exit(main())
