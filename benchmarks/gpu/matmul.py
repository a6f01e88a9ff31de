"""Linear layers of few rows: how fast weights are read, by cuBLAS and by the kernels of `sgl`.

    python benchmarks/gpu/matmul.py [--model 8B] [--rows 1 16] [--all] [--more] [--no-overlap] [--save FILE]

For the products of an 8B and a 0.6B model (Qwen3), bfloat16: microseconds a launch, TB/s of weights, and that as a
share of the rate at which the device copies (bytes read plus bytes written). `--all` prints every candidate, `--more`
tries a wider set, `--save` writes the table of winners (shipped as `backend/runtime/model/llama/tuned_h200.json`).
Whole by default in about a minute, most of it compilation at the first run.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
import triton

from sgl.backend.runtime.model.llama.tune import SHAPES, ProductWeights, Shapes, Timing, measure, tune
from sgl.backend.runtime.model.llama.tuned import BUCKETS, LIBRARY, KernelChoice, Product, Table

SPREAD = 256 << 20
"""Bytes of weights of one product that the launches go round: several times the L2 cache."""
DTYPE = "bfloat16"
LIBRARY_ONLY = 128, 256
"""Rows at which only cuBLAS is timed."""
MORE_SHAPES = Shapes(
    rows=(*SHAPES.rows, (1, 1024, 4), (4, 256, 1), (8, 512, 2), (4, 2048, 8), (8, 256, 1), (1, 2048, 8)),
    tiles={
        16: (*SHAPES.tiles[16], (16, 128, 1, 6), (32, 128, 2, 6), (64, 256, 4, 3), (64, 64, 4, 6), (128, 128, 4, 4)),
        32: (*SHAPES.tiles[32], (16, 256, 1, 4), (32, 128, 2, 5), (64, 64, 4, 6), (128, 128, 8, 3)),
        64: (*SHAPES.tiles[64], (32, 128, 2, 5), (128, 128, 8, 3), (128, 64, 8, 4), (256, 64, 8, 3)),
    },
)


def products(hidden: int, heads: int, mixed: int, wide: int, vocabulary: int) -> dict[str, Product]:
    """Columns of q|k|v and of the heads' output, intermediate size, vocabulary."""
    return {
        "qkv": Product(heads, hidden, DTYPE, norm=True),
        "o": Product(hidden, mixed, DTYPE, add=True),
        "gate_up": Product(wide, hidden, DTYPE, norm=True, silu=True),
        "down": Product(hidden, wide, DTYPE, add=True),
        "head": Product(vocabulary, hidden, DTYPE, wide=True),
    }


MODELS = {"8B": products(4096, 6144, 4096, 12288, 151936), "0.6B": products(1024, 4096, 2048, 3072, 151936)}


def weights_of(product: Product) -> ProductWeights:
    shape = product.weight_rows, product.K
    copies = max(1, min(32, SPREAD // (2 * shape[0] * shape[1])))
    both = torch.empty(copies, *shape, dtype=torch.bfloat16, device="cuda").normal_(0.0, 0.02)
    return list(both)


def copy_rate() -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    target.copy_(source)
    start.record()
    for _ in range(20):
        target.copy_(source)
    end.record()
    end.synchronize()
    return 20 * 2 * source.numel() / (start.elapsed_time(end) / 1000)


def described(choice: KernelChoice) -> str:
    if choice == LIBRARY:
        return "cuBLAS"
    parts = f"/{choice.parts}" if choice.parts > 1 else ""
    overlap = " overlap" if choice.overlap else ""
    overlap += f" early{choice.early}" if choice.early else ""
    return f"{choice.kernel} {choice.block_n}x{choice.block_k}{parts} w{choice.warps} s{choice.stages}{overlap}"


def report(names: dict[Product, str], timings: list[Timing], rate: float, everything: bool) -> None:
    groups: dict[tuple[Product, int], list[Timing]] = defaultdict(list)
    for timing in timings:
        groups[timing.product, timing.bucket].append(timing)
    print(f"{'product':>14} {'rows':>5} {'cuBLAS us':>10} {'best us':>8} {'TB/s':>6} {'share':>6}  best")
    order = list(names)
    for product, bucket in sorted(groups, key=lambda key: (order.index(key[0]), key[1])):
        group = sorted(groups[product, bucket], key=lambda timing: timing.seconds)
        library = next(timing for timing in group if timing.choice == LIBRARY)
        best = group[0]
        print(
            f"{names[product]:>14} {bucket:5} {library.seconds * 1e6:10.2f} {best.seconds * 1e6:8.2f} "
            f"{best.weight_rate / 1e12:6.2f} {best.weight_rate / rate:6.1%}  {described(best.choice)}"
        )
        for timing in group if everything else ():
            spent, reads = timing.seconds * 1e6, timing.weight_rate / 1e12
            print(f"{'':>31} {spent:8.2f} {reads:6.2f} {'':>6}  {described(timing.choice)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(MODELS), action="append")
    parser.add_argument("--rows", type=int, nargs="+", choices=BUCKETS, default=list(BUCKETS))
    parser.add_argument("--all", action="store_true", help="print every candidate")
    parser.add_argument("--more", action="store_true", help="try a wider set of candidates")
    parser.add_argument("--no-overlap", action="store_true", help="no launch begins before the one before has ended")
    parser.add_argument("--seconds", type=float, default=80.0, help="stop measuring after that")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the table of winners there")
    args = parser.parse_args()

    device = torch.cuda.get_device_name()
    rate = copy_rate()
    print(f"{device}, triton {triton.__version__}, torch {torch.__version__}; copies at {rate / 1e12:.2f} TB/s")
    names = {product: f"{model} {part}" for model in args.model or MODELS for part, product in MODELS[model].items()}
    table = Table(device, triton.__version__, None)
    start = time.monotonic()
    cases = {product: weights_of(product) for product in names}
    timings = tune(
        table,
        cases,
        buckets=args.rows,
        seconds=args.seconds,
        overlap=not args.no_overlap,
        shapes=MORE_SHAPES if args.more else SHAPES,
    )
    if args.save:
        table.save(args.save)
    for product, weights in cases.items():
        for rows in LIBRARY_ONLY:
            timings += measure(product, rows, weights, [])
    report(names, timings, rate, args.all)
    print(f"measured in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
