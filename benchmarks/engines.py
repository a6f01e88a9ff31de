"""What each grammar engine makes of real JSON Schemas, as it is: raw, without sgl's routing.

    python benchmarks/engines.py SCHEMAS.jsonl [--limit SECONDS] [--slow N] [--all N] [--engines NAME ...]

Each line of the file is {"id", "schema", "valid": [...], "invalid": [{"data", ...}]}. SmolLM2's vocabulary; every
engine compiles in a child process with a time limit; instances go through token by token, as `json.dumps` spells them.
`xgrammar (linted)` is what sgl lets it have. `--slow`: schemas for the engines that take seconds, spread over the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from sgl.backend.runtime.grammar.engines.outlines import index_artefact
from sgl.backend.runtime.grammar.engines.worker import GrammarWorker
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.vocabulary import TokenTable, Vocabulary
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.load.store import cache_folder
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.errors import ConstraintError, SglError

Admits = Callable[[list[int]], bool]


def load_vocabulary() -> Vocabulary:
    c = load_checkpoint(None, "auto", cache_folder())
    tokenizer = Tokenizer(c.tokenizer, bos_id=c.bos_id, eos_ids=c.eos_ids, add_bos=c.add_bos, vocab_size=None)
    return Vocabulary(tokenizer, tokenizer.vocab_size)


# -- in the child: an engine compiles a schema, and says which texts it admits


def measure(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    request = json.loads(source)
    vocabulary: Vocabulary = kept.setdefault("vocabulary", None) or load_vocabulary()
    kept["vocabulary"] = vocabulary
    engine, schema = request["engine"], request["schema"]
    if (engine, "ready") not in kept:  # what is made once is not the schema's time
        COMPILERS[engine](vocabulary, kept, {"type": "integer"})
        kept[(engine, "ready")] = True  # type: ignore[index]
    start = time.perf_counter()
    admits = COMPILERS[engine](vocabulary, kept, schema)
    spent = time.perf_counter() - start

    def texts(values: list[Any]) -> list[bool]:
        return [admits(vocabulary.encode(json.dumps(value, ensure_ascii=False))) for value in values]

    return json.dumps(
        {"ms": spent * 1e3, "valid": texts(request["valid"]), "invalid": texts(request["invalid"])}
    ).encode()


def llguidance_strict(vocabulary: Vocabulary, kept: dict[str, Any], schema: Any) -> Admits:
    from llguidance import LLMatcher

    from sgl.backend.runtime.grammar.engines.llguidance import LLGuidance

    if "llguidance" not in kept:
        kept["llguidance"] = LLGuidance(vocabulary)
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    matcher = LLMatcher(kept["llguidance"].tokenizer, grammar, log_level=0)
    if matcher.is_error():
        raise ConstraintError(matcher.get_error())

    def admits(tokens: list[int]) -> bool:
        at = matcher.deep_copy()
        return bool(at.validate_tokens(tokens) == len(tokens) and at.consume_tokens(tokens) and at.is_accepting())

    return admits


def xgrammar_with(vocabulary: Vocabulary, kept: dict[str, Any], schema: Any, strict: bool) -> Admits:
    import xgrammar

    if "raw" not in kept:
        info = XGrammar(vocabulary)._info
        kept["raw"] = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    try:
        compiled = kept["raw"].compile_json_schema(json.dumps(schema), strict_mode=strict)
    except RuntimeError as error:
        raise ConstraintError(str(error)) from error

    def admits(tokens: list[int]) -> bool:
        at = xgrammar.GrammarMatcher(compiled)
        return all(map(at.accept_token, tokens)) and at.is_completed()

    return admits


def xgrammar_linted(vocabulary: Vocabulary, kept: dict[str, Any], schema: Any) -> Admits:
    if "linted" not in kept:
        kept["linted"] = XGrammar(vocabulary)
    compiled = kept["linted"].compile_schema(schema)

    def admits(tokens: list[int]) -> bool:
        at = compiled.matcher()
        return all(map(at.accept, tokens)) and at.can_end()

    return admits


def outlines(vocabulary: Vocabulary, kept: dict[str, Any], schema: Any) -> Admits:
    import outlines_core

    try:
        regex = outlines_core.json_schema.build_regex_from_schema(json.dumps(schema))
    except Exception as error:
        raise ConstraintError(str(error)) from error
    index = outlines_core.Index.from_binary(index_artefact(vocabulary, kept, regex))
    sentinel = vocabulary.eos_ids[0]

    def admits(tokens: list[int]) -> bool:
        state: int | None = index.get_initial_state()
        for token in [*tokens, sentinel]:
            state = index.get_next_state(state, token)
            if state is None:
                return False
        return True

    return admits


COMPILERS: dict[str, Callable[[Vocabulary, dict[str, Any], Any], Admits]] = {
    "llguidance": llguidance_strict,
    "xgrammar (linted)": xgrammar_linted,
    "xgrammar strict": lambda v, k, s: xgrammar_with(v, k, s, True),
    "xgrammar": lambda v, k, s: xgrammar_with(v, k, s, False),
    "outlines-core": outlines,
}
SLOW = {"xgrammar", "outlines-core"}


# -- here: the schemas, the limit and the table


def run(engine: str, rows: list[dict[str, Any]], limit: float) -> list[str]:
    counts: Counter[str] = Counter()
    times: list[float] = []
    worker = GrammarWorker(TokenTable([], ()))
    for row in rows:
        invalid = [case["data"] for case in row["invalid"]]
        request = {"engine": engine, "schema": row["schema"], "valid": row["valid"], "invalid": invalid}
        if worker.pid is None:  # a fresh child makes its tables outside the limit
            worker.run(
                "engines:measure",
                json.dumps(request | {"schema": {"type": "integer"}, "valid": [], "invalid": []}),
                120,
            )
        try:
            reply = json.loads(worker.run("engines:measure", json.dumps(request), limit))
        except SglError as error:
            told = str(error)
            if "more than" in told and "takes" in told and not told.startswith("xgrammar would"):
                counts["timeouts"] += 1
            else:
                counts["crashed" if "crashed" in told else "refused"] += 1
            continue
        counts["compiled"] += 1
        times.append(reply["ms"])
        counts["valid"] += len(reply["valid"])
        counts["valid accepted"] += sum(reply["valid"])
        counts["invalid"] += len(reply["invalid"])
        counts["invalid admitted"] += sum(reply["invalid"])
        counts["schemas too strict"] += not all(reply["valid"])
        counts["schemas too weak"] += any(reply["invalid"])
    worker.close()
    p90 = statistics.quantiles(times, n=10)[-1] if len(times) > 1 else 0.0
    return [
        engine,
        *(str(counts[key]) for key in ("compiled", "refused", "timeouts", "crashed")),
        f"{counts['valid accepted']}/{counts['valid']}",
        f"{counts['invalid admitted']}/{counts['invalid']}",
        str(counts["schemas too strict"]),
        str(counts["schemas too weak"]),
        f"{statistics.median(times) if times else 0:.1f}",
        f"{p90:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Grammar engines over real JSON Schemas.")
    parser.add_argument("schemas")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds a schema")
    parser.add_argument("--slow", type=int, default=120, help="schemas for xgrammar (not strict) and outlines-core")
    parser.add_argument("--all", type=int, default=10**9, help="schemas for the others")
    parser.add_argument("--engines", nargs="*", choices=COMPILERS, default=list(COMPILERS))
    options = parser.parse_args()
    with open(options.schemas) as file:
        rows = [json.loads(line) for line in file]
    names = "llguidance", "xgrammar", "outlines-core"
    print(f"Python {sys.version.split()[0]}; " + ", ".join(f"{name} {version(name)}" for name in names))
    print("| engine | schemas | compiled | refused | over time | crashed | valid accepted | invalid admitted "
          "| schemas too strict | too weak | compile ms, median | p90 |")  # fmt: skip
    print("|---|" + "--:|" * 11, flush=True)
    for engine in options.engines:
        count = min(options.slow if engine in SLOW else options.all, len(rows))
        chosen = [rows[i * len(rows) // count] for i in range(count)]
        cells = run(engine, chosen, options.limit)
        print(f"| {cells[0]} | {count} | " + " | ".join(cells[1:]) + " |", flush=True)


if __name__ == "__main__":
    main()
