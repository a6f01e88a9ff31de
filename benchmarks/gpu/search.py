"""Which kernels suit the products of a decoding step, tried where they are used: among the step's other launches.

    python benchmarks/gpu/search.py --shape 8b [--rows 1 16 64] [--save FILE]

`tune` (at a model's first start) times a product alone. Here a step of some layers is captured with each candidate in
turn, so what a launch does to its neighbours counts: weights loaded early, multiprocessors left free, cache evicted.
One product after the other is given its best candidate (`--rounds` times round). `--save` writes the table of winners
(shipped as `backend/runtime/model/llama/tuned_h200.json`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import layer
import models
import report
import torch
import triton
from matmul import MORE_SHAPES, described

from sgl.backend.runtime.model.llama import tune
from sgl.backend.runtime.model.llama.tuned import BUCKETS, LIBRARY, KernelChoice, Product, Table

LAYERS = 10
"""Of the model, in a timed step: several times the L2 cache."""
SHAPES = {
    16: ((16, 256, 1, 4), (32, 256, 2, 4), (32, 128, 4, 5), (64, 128, 4, 5), (64, 128, 4, 3), (64, 64, 4, 6),
         (128, 64, 4, 4)),
    32: ((32, 256, 2, 4), (32, 128, 4, 4), (64, 128, 4, 4), (64, 128, 4, 3), (64, 64, 4, 5), (128, 64, 4, 4),
         (128, 128, 8, 3)),
    64: ((32, 128, 4, 3), (64, 128, 4, 3), (64, 64, 4, 5), (64, 64, 4, 3), (128, 64, 4, 4), (128, 64, 4, 3),
         (128, 128, 8, 3)),
}  # fmt: skip
"""By rows of x: (rows of W a program takes, block of K, warps, stages)."""
PROGRAMS = 96, 700
"""Fewest and most programs of a candidate."""


def candidates(product: Product, bucket: int) -> list[KernelChoice]:
    """Tiles in any number of parts that makes a reasonable number of programs; rows where x has up to four."""
    found = [choice for choice in tune.candidates(product, bucket, 132, True, MORE_SHAPES) if choice.kernel == "rows"]
    for columns, block_k, warps, stages in SHAPES[16 if bucket <= 16 else 32 if bucket <= 32 else 64]:
        block_n = max(16, columns // 2) if product.silu else columns
        tiles = -(-product.N // block_n)
        for parts in (1, 2, 3, 4, 6, 8):
            if PROGRAMS[0] <= tiles * parts <= PROGRAMS[1] and product.K // (parts * block_k) >= 2:
                found += [
                    KernelChoice("tiles", block_n, block_k, warps, stages, parts, True, early) for early in (0, 1)
                ]
    return [LIBRARY, *found]


class Trial:
    """A step of some layers, captured anew for each choice."""

    def __init__(self, executor: Any, rows: int, shared: int, own: int) -> None:
        self.executor, self.model = executor, executor.model
        self.batch = layer.decoding(rows, shared, own)

    def seconds(self, product: Product, bucket: int, choice: KernelChoice) -> float:
        """Of one step; infinite for a choice that does not run."""
        self.model.table.put(product, bucket, choice)
        try:
            return layer.seconds_of(self.executor, layer.captured(self.executor, self.batch), self.batch, 0.012)
        except Exception as error:
            print(f"{described(choice)} does not run: {str(error)[:80]}")
            torch.cuda.synchronize()
            return float("inf")


def search(trial: Trial, names: dict[Product, str], cases: Any, bucket: int, rounds: int) -> None:
    table: Table = trial.model.table
    best = {product: table.choose(product, bucket) for product in names}
    for turn in range(rounds):
        for product, name in names.items():
            known = best[product]
            before = trial.seconds(product, bucket, known)
            timed = [(before, known)]
            tried = candidates(product, bucket) if turn == 0 else []
            timed += [(trial.seconds(product, bucket, choice), choice) for choice in tried]
            timed.sort(key=lambda pair: pair[0])
            for _, choice in timed[:3]:
                if choice.kernel == "tiles" and turn == 0:
                    more = replace(choice, early=2)
                    timed.append((trial.seconds(product, bucket, more), more))
            seconds, choice = min(timed, key=lambda pair: pair[0])
            if not right(product, bucket, choice, cases[product]):
                print(f"{described(choice)} gives wrong results for {name}")
                choice = known
            best[product] = choice if seconds < 0.998 * before else known
            table.put(product, bucket, best[product])
            each = 1e6 / LAYERS
            print(
                f"{name:>8} {bucket:>4} {before * each:8.1f} {seconds * each:8.1f} us a layer  {described(known)} -> "
                f"{described(choice)}", flush=True,
            )  # fmt: skip


def right(product: Product, bucket: int, choice: KernelChoice, weights: tune.ProductWeights) -> bool:
    return choice == LIBRARY or len(tune.measure(product, bucket, weights, [choice])) == 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    models.add_options(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=list(BUCKETS))
    parser.add_argument("--shared", type=int, default=900)
    parser.add_argument("--own", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    report.show_about()
    options = {"disable_cuda_graph": True, **models.options_of(args.option)}
    runtime, _ = models.start(args.shape, args.tokenizer, options)
    model = runtime.engine.executor.model
    model._layers = model._layers[:LAYERS]
    model.logits = lambda x_WE, out_WV=None: out_WV
    cases: dict[Product, list[torch.Tensor]] = {}
    for each in model._layers:
        for product, weight_NK in each.products():
            cases.setdefault(product, []).append(weight_NK)
    names = dict(zip(cases, ("qkv", "o", "gate_up", "down")))
    began = time.monotonic()
    tried = {(p, bucket): candidates(p, bucket)[1:] for p in cases for bucket in args.rows}
    with torch.inference_mode():
        tune.compile_all(cases, tried, began + 100)
        print(f"compiled in {time.monotonic() - began:.0f} s")
        for bucket in args.rows:
            search(Trial(runtime.engine.executor, bucket, args.shared, args.own), names, cases, bucket, args.rounds)
            print(f"after {time.monotonic() - began:.0f} s", flush=True)
            if args.save:
                table = Table(torch.cuda.get_device_name(), triton.__version__, args.save)
                table.update(model.table._choices)
                table.save()


if __name__ == "__main__":
    main()
