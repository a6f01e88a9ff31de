"""What a constraint costs, and what its forced tokens give: the default model, two threads.

    python benchmarks/constrained.py                      speed: constrained against free, time to first token
    python benchmarks/constrained.py masks [tokenizer.json]   mask time at this vocabulary, and at another's
    python benchmarks/constrained.py prepare ROWS.jsonl ...   CPU time of preparing each row's schema or pattern
    python benchmarks/constrained.py records [count]      records of a nested Pydantic type from real text

Free and constrained runs generate from the same prompts in one process, alternating, and are compared by tokens a
second of decoding (the best of six). "not forced" is the same run with forced tokens sent through the model one by
one, which gives the same text.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

import sgl
from sgl.backend.base import GenRequest
from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.grammar.protocol import mask_words
from sgl.backend.runtime.job.constrained_gen import ConstrainedGenJob
from sgl.backend.runtime.job.rule import Rule
from sgl.lang.constraint import Constraint
from sgl.lang.expr import Sampling

PROBLEMS = [
    json.loads(line)["question"]
    for line in (Path(__file__).parents[1] / "examples" / "data" / "gsm8k-200.jsonl").read_text().splitlines()
]
TOKENS = 64
REPEATS = 6


class Quantity(BaseModel):
    what: str = Field(max_length=25)
    number: float


class Record(BaseModel):
    topic: Literal["money", "time", "distance", "counting", "other"]
    people: list[Annotated[str, Field(max_length=15)]] = Field(max_length=4)
    quantities: list[Quantity] = Field(min_length=1, max_length=4)
    asked_for: str = Field(max_length=60)


# Mostly free text inside a constraint: what a mask costs, with little that is forced.
ESSAY = sgl.json_schema({"type": "array", "items": {"type": "string", "minLength": 40}, "minItems": 20})
WORDS = sgl.regex(r"(?s).{2000,}")


def prompt(i: int) -> str:
    return f"Problem: {PROBLEMS[i % len(PROBLEMS)]}\nAs JSON: "


class Run:
    """One batch of gens from prepared prompts: seconds of decoding and what came out."""

    def __init__(self, runtime: sgl.Runtime, batch: int, constraint: Constraint | None, tokens: int) -> None:
        self.branches, handles = [], []
        for i in range(batch):
            branch = runtime.open(seed=i)
            branch.append(prompt(i))
            self.branches.append(branch)
            warm = branch.warm()
            handles.append(warm)
        for handle in handles:
            runtime.wait(handle)
        sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        steps, start = runtime.engine.steps, time.perf_counter()
        handles = [b.gen(GenRequest(sampling, 1, "gen", constraint, "partial")) for b in self.branches]
        for handle in handles:
            runtime.wait(handle)
        self.seconds = time.perf_counter() - start
        self.steps = runtime.engine.steps - steps
        self.results = [handle.value()[0] for handle in handles]
        self.tokens = sum(len(r.token_ids) for r in self.results)
        self.forced = sum(r.usage.forced for r in self.results)
        for branch in self.branches:
            branch.close()

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def unforced(make: Callable[[], Run]) -> Run:
    """The same with forced tokens sent through the model."""
    kept = ConstrainedGenJob._extend_forced
    ConstrainedGenJob._extend_forced = lambda self: None  # type: ignore[method-assign]
    try:
        return make()
    finally:
        ConstrainedGenJob._extend_forced = kept  # type: ignore[method-assign]


def speed(runtime: sgl.Runtime) -> None:
    print("| batch | free tok/s | regex of free text | ratio | JSON strings | ratio |")
    print("|---|---|---|---|---|---|")
    for batch in (1, 8, 64):
        tokens = TOKENS if batch < 64 else TOKENS // 4
        best: dict[str, float] = {}
        kinds = [("free", None), ("regex", WORDS), ("json", ESSAY)]
        for turn in range(REPEATS):  # a virtual machine's speed drifts: each is first, second and last in turn
            for name, constraint in kinds[turn % 3 :] + kinds[: turn % 3]:
                run = Run(runtime, batch, constraint, tokens)
                best[name] = max(best.get(name, 0.0), run.rate)
        free = best["free"]
        print(
            f"| {batch} | {free:.1f} | {best['regex']:.1f} | {best['regex'] / free:.2f} | {best['json']:.1f} "
            f"| {best['json'] / free:.2f} |",
            flush=True,
        )
    print()
    print(
        "| records of a nested Pydantic type, batch | tokens | forced | steps | seconds | not forced: steps | seconds |"
    )
    print("|---|---|---|---|---|---|---|")
    record = sgl.schema(Record)
    for batch in (1, 8, 32):
        with_forced = min((Run(runtime, batch, record, 200) for _ in range(3)), key=lambda r: r.seconds)
        without = min(
            (unforced(lambda b=batch: Run(runtime, b, record, 200)) for _ in range(2)), key=lambda r: r.seconds
        )  # type: ignore[misc]
        same = [r.token_ids for r in with_forced.results] == [r.token_ids for r in without.results]
        assert same, "forced tokens changed a text"
        print(
            f"| {batch} | {with_forced.tokens} | {with_forced.forced} ({with_forced.forced / with_forced.tokens:.0%}) "
            f"| {with_forced.steps} | {with_forced.seconds:.2f} | {without.steps} | {without.seconds:.2f} |",
            flush=True,
        )


def first_token(runtime: sgl.Runtime) -> None:
    """Milliseconds from saying the gen to its first sampled token, after a computed prompt."""

    def once(constraint: Constraint | None) -> float:
        branch = runtime.open(seed=0)
        branch.append(prompt(0))
        warm = branch.warm()
        runtime.wait(warm)
        start = time.perf_counter()
        if constraint is not None:
            runtime.prepare(constraint, "gen")
        handle = branch.gen(
            GenRequest(Sampling(max_tokens=1, temperature=0.0, return_logprob=True), 1, "gen", constraint, "partial")
        )
        runtime.wait(handle)
        seconds = time.perf_counter() - start
        branch.close()
        return seconds * 1e3

    def schema(i: int) -> Constraint:
        return sgl.json_schema(
            {
                "type": "object",
                "properties": {f"field{i}_{k}": {"type": "string", "maxLength": 50} for k in range(20)},
                "required": [f"field{i}_0"],
                "additionalProperties": False,
            }
        )

    print(f"\nTime to first token, ms (prompt computed): free {statistics.median(once(None) for _ in range(5)):.1f}")
    print(f"- first constraint of the process (the engine's tables are built): {once(schema(-1)):.1f}")
    cold = [once(schema(i)) for i in range(10)]
    warm = [once(schema(0)) for _ in range(10)]
    print(f"- a schema of 20 properties, cold: {statistics.median(cold):.1f}; warm: {statistics.median(warm):.1f}")
    cold = [once(sgl.regex(rf"[A-Z][a-z]{{1,30}} {i}, \d{{4}}-\d\d")) for i in range(10)]
    print(f"- a regular expression, cold: {statistics.median(cold):.1f}")


def masks(tokenizer: Any, size: int, name: str) -> None:
    """Fill times along real texts."""
    grammars = Grammars(tokenizer, size)
    cases = {
        "record (nested type)": (sgl.schema(Record), json.dumps(_example())),
        "any JSON": (
            sgl.json_schema({}),
            json.dumps({"a": [1, 2.5, "text of a value", None], "b": {"c": "more text"}}),
        ),
        "free text regex": (sgl.regex(r"(?s).{20,}"), PROBLEMS[0]),
        "date": (sgl.regex(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"), "2026-11-21"),
        "1,000 choices": (sgl.choice([f"{w} {i}" for i, w in enumerate(PROBLEMS[0].split() * 60)][:1000]), None),
    }
    print(
        f"\nMask time, us, vocabulary {name} ({size:,}): engine's fill and end-of-text bits, first walk | second walk"
    )
    print("| constraint | tokens | p50 | p99 | worst | p50 | p99 | worst |")
    print("|---|---|---|---|---|---|---|---|")
    for what, (constraint, text) in cases.items():
        prepared = grammars.prepare(constraint)
        walks = []
        for _ in range(2):
            rule = Rule(prepared, tokenizer.eos_ids, None, (), False)
            times = []
            for token in _tokens(prepared, text or prepared.constraint.choices[17]):  # type: ignore[attr-defined]
                start = time.perf_counter()
                rule.fill(True)
                times.append((time.perf_counter() - start) * 1e6)
                rule.accept(token)
            walks.append(times)
        shown = " | ".join(f"{np.percentile(t, 50):.0f} | {np.percentile(t, 99):.0f} | {max(t):.0f}" for t in walks)
        print(f"| {what} | {len(walks[0])} | {shown} |", flush=True)


def _tokens(prepared: Any, text: str) -> list[int]:
    """Tokens that the masks allow for this text, the longest first."""
    matcher, data, out = prepared.compiled.matcher(), text.encode(), []
    row = np.zeros(mask_words(prepared.vocabulary.size), dtype=np.int32)
    names = prepared.vocabulary.by_bytes
    while data:
        matcher.fill(row)
        token = next(
            t
            for length in range(min(len(data), prepared.vocabulary.longest), 0, -1)
            for t in names.get(data[:length], ())
            if row[t >> 5] >> (t & 31) & 1
        )
        assert matcher.accept(token)
        out.append(token)
        data = data[len(prepared.vocabulary.bytes[token]) :]
    return out


def _example() -> dict[str, Any]:
    return {
        "topic": "money",
        "people": ["Natalia", "Weng"],
        "quantities": [{"what": "clips sold in April", "number": 48}, {"what": "clips sold in May", "number": 24}],
        "asked_for": "how many clips were sold altogether",
    }


def prepare(runtime: sgl.Runtime, path: str) -> None:
    """CPU time of preparing each constraint of a file of rows with a `schema` or a `pattern`."""
    grammars = runtime.engine.grammars
    grammars.prepare(sgl.json_schema({"type": "integer"}))  # the engine's tables are built
    times, refused = [], 0
    for row in map(json.loads, Path(path).read_text().splitlines()):
        start = time.process_time()
        try:
            grammars.prepare(sgl.json_schema(row["schema"]) if "schema" in row else sgl.regex(row["pattern"]))
        except sgl.ConstraintError:
            refused += 1
        times.append((time.process_time() - start) * 1e3)
    print(
        f"{Path(path).name}: {len(times)} constraints, {refused} of them refused; CPU ms: median "
        f"{statistics.median(times):.0f}, 95 % {np.percentile(times, 95):.0f}, most {max(times):.0f}"
    )


@sgl.function
def extract(s: sgl.ProgramState, problem: str) -> None:
    s += sgl.user(
        f"Describe this problem as JSON with its topic, people, quantities and what is asked for.\n\n{problem}"
    )
    s += sgl.assistant(sgl.gen("record", schema=Record, max_tokens=160, temperature=0))


def records(runtime: sgl.Runtime, count: int) -> None:
    start = time.perf_counter()
    states = extract.run_batch([{"problem": p} for p in PROBLEMS[:count]], backend=runtime, on_error="keep")
    found = [s.value("record") for s in states]
    seconds = time.perf_counter() - start
    assert all(isinstance(r, Record) for r in found)
    infos = [s.get_meta_info("record") for s in states]
    tokens, forced = sum(i["completion_tokens"] for i in infos), sum(i["forced"] for i in infos)
    steered = sum(i["constraint"]["steered"] > 0 for i in infos)
    print(
        f"\n{len(found)} of {count} records are valid instances; {tokens} tokens, {forced} of them forced "
        f"({forced / tokens:.0%}), {steered} texts steered to close in 160 tokens; "
        f"{seconds:.0f} s, {tokens / seconds:.0f} tok/s"
    )
    print("for example:", found[0].model_dump_json())


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else "speed"
    runtime = sgl.Runtime()
    if what == "speed":
        first_token(runtime)
        speed(runtime)
    elif what == "masks":
        masks(runtime.tokenizer, runtime.engine.model.vocab_size, runtime.model_name)
        for path in sys.argv[2:]:
            from tokenizers import Tokenizer as Rust

            from sgl.backend.runtime.text.tokenizer import Tokenizer

            rust = Rust.from_file(path)
            ends = tuple(i for t, i in rust.get_vocab().items() if t in ("<|endoftext|>", "<|im_end|>"))
            masks(Tokenizer(rust, bos_id=None, eos_ids=ends, add_bos=False, vocab_size=None), 151_936, Path(path).name)
    elif what == "prepare":
        for path in sys.argv[2:]:
            prepare(runtime, path)
    else:
        records(runtime, int(sys.argv[2]) if len(sys.argv) > 2 else 200)


if __name__ == "__main__":
    main()
