"""Raw batches through `Runtime.generate(input_ids=...)`: tokens a second, beside SGLang's and the card's limit.

    python benchmarks/gpu/raw.py [--shape 8b] [--tokenizer tokenizer.json] [--batch 1 8 ...]

Random token ids, greedy, the end token ignored, each run on a cold cache, best of two. The rate counts output tokens;
of the batch whose time is its prompts (512 x 1024 + 128) all tokens.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import report
from limits import Limit, Shape, Stage, Work, limit
from models import SHAPES, add_options, options_of, start

import sgl

BATCHES = tuple(report.SGLANG_RAW)
SMALL_BATCHES = ((1, 12, 8), (4, 20, 8))


@dataclass
class Measured:
    batch: int
    prompt: int
    out: int
    seconds: list[float]
    steps: int
    rows: int

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def counted(self) -> int:
        """Tokens that the rate is of."""
        return self.batch * (self.out + (self.prompt if self.prompt > 4 * self.out else 0))


def run_once(runtime: sgl.Runtime, batch: int, prompt: int, out: int, seed: int) -> Measured:
    draw = random.Random(seed)
    ids = [[draw.randrange(runtime.tokenizer.vocab_size) for _ in range(prompt)] for _ in range(batch)]
    params: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_new_tokens": out}
    runtime.flush_cache()
    gc.collect()
    before = runtime.get_server_info()
    began = time.perf_counter()
    made = runtime.generate(input_ids=ids, sampling_params=params)
    seconds = time.perf_counter() - began
    after = runtime.get_server_info()
    lengths = {len(one["output_ids"]) for one in made}
    if lengths != {out}:
        raise AssertionError(f"{batch} x {prompt} + {out}: outputs of {sorted(lengths)} tokens")
    steps, rows = (after[key] - before[key] for key in ("steps", "computed_tokens"))
    return Measured(batch, prompt, out, [seconds], steps, rows)


def measure(runtime: sgl.Runtime, batch: int, prompt: int, out: int) -> Measured:
    runs = [run_once(runtime, batch, prompt, out, seed) for seed in range(2)]
    best = min(runs, key=lambda run: run.best)
    best.seconds = [run.best for run in runs]
    return best


def limit_of(m: Measured, shape: str) -> Limit:
    work = Work(m.batch, 0, (Stage(1, m.prompt, m.out),))
    return limit(work, Shape.of(SHAPES[shape]), in_flight=m.batch)


def show(found: list[tuple[Measured, Limit]], shape: str) -> None:
    head = (
        "batch x in + out", "tokens/s", "other run", "SGLang", "times SGLang", f"at least {report.RAW_TARGET}", "limit",
        "share of limit", "steps", "rows", "ms a step",
    )  # fmt: skip
    lines = []
    for m, least in found:
        rate, most = m.counted / m.best, m.counted / least.seconds
        theirs = report.SGLANG_RAW.get((m.batch, m.prompt, m.out), {}).get(shape)
        met = "" if theirs is None else "yes" if rate >= report.RAW_TARGET * theirs else "no"
        all_tokens = " (all tokens)" if m.counted > m.batch * m.out else ""
        lines.append(
            [f"{m.batch} x {m.prompt} + {m.out}{all_tokens}", f"{rate:,.0f}", f"{m.counted / max(m.seconds):,.0f}",
             report.cell(theirs, ",.0f"), "" if theirs is None else f"{rate / theirs:.2f}", met, f"{most:,.0f}",
             f"{rate / most:.0%}", str(m.steps), f"{m.rows:,}", f"{m.best / max(1, m.steps) * 1e3:.2f}"]
        )  # fmt: skip
    report.table(f"Raw batches, {shape}", head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--batch", nargs="*", type=int, help="only the lines of these batch sizes")
    args = parser.parse_args()
    report.show_about()
    runtime, ready = start(args.shape, args.tokenizer, options_of(args.option))
    print(f"{args.shape}: {ready:.1f} s to the first token; {runtime!r}", flush=True)
    done: list[tuple[Measured, Limit]] = []
    for batch, prompt, out in SMALL_BATCHES if args.small else BATCHES:
        if not args.batch or batch in args.batch:
            found = measure(runtime, batch, prompt, out)
            done.append((found, limit_of(found, args.shape)))
            print(f"{batch} x {prompt} + {out}: {found.best:.3f} s", flush=True)
    show(done, args.shape)
    report.save(args.json, [{**asdict(m), "limit": asdict(least)} for m, least in done])


if __name__ == "__main__":
    main()
