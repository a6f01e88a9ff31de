"""What sampling costs on a GPU, and whether it samples what the host does.

    python benchmarks/gpu/sampler.py [--vocab 151936] [--rows 1 64 256] [--tile 2048] [--dtype float32]

First 64 rows of random logits under each kind of recipe are compared with the CPU sampler. Then, for each kind and
number of rows: microseconds of GPU time a launch (median), of the host's time in `launch`, and until the answers are
read. Beside it torch's own Gumbel argmax and FlashInfer's sampling, where it is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from sgl.backend.runtime.sample.ask import Lookup
from sgl.backend.runtime.sample.device import TILE_LOGITS, DeviceSampler, PendingAnswers
from sgl.backend.runtime.sample.sampler import Recipe, Request, sample
from sgl.lang.expr import Sampling

PROMPT = list(range(0, 2000, 2))
RECIPES: dict[str, Sampling] = {
    "greedy": Sampling(temperature=0.0),
    "temperature": Sampling(temperature=0.8),
    "greedy, mask": Sampling(temperature=0.0),
    "temperature, mask": Sampling(temperature=0.8),
    "top-k 20, top-p 0.8": Sampling(temperature=0.8, top_k=20, top_p=0.8),
    "top-k 50": Sampling(temperature=0.8, top_k=50),
    "top-k 1000": Sampling(temperature=0.8, top_k=1000),
    "top-p 0.95": Sampling(temperature=0.8, top_p=0.95),
    "top-p 0.5": Sampling(temperature=0.8, top_p=0.5),
    "min-p 0.05": Sampling(temperature=0.8, min_p=0.05),
    "penalties": Sampling(temperature=0.8, repetition_penalty=1.1, frequency_penalty=0.3),
    "logprobs, top 5": Sampling(temperature=0.8, return_logprob=True, top_logprobs_num=5),
}


def logits_of(rows: int, vocab: int, dtype: torch.dtype) -> torch.Tensor:
    """Gaussian, deviation 2.5: thousands of tokens matter, which is harder than what models say."""
    generator = torch.Generator(device="cuda").manual_seed(rows)
    return torch.randn(rows, vocab, device="cuda", generator=generator).mul_(2.5).to(dtype)


def asks_of(name: str, rows: int, vocab: int) -> list[Request]:
    rng = np.random.default_rng(0)
    asks = []
    for row in range(rows):
        mask = rng.integers(-(2**31), 2**31, (vocab + 31) // 32, dtype=np.int32) if "mask" in name else None
        recipe = Recipe.of(RECIPES[name], 0x9E3779B97F4A7C15 * (row + 1) % 2**64, PROMPT)
        recipe.counts = dict.fromkeys(range(row, row + 50), 2) if recipe.penalised else {}
        asks.append(Request(recipe, 100 + row, (), mask))
    return asks


def compare(sampler: DeviceSampler, dtype: torch.dtype, steps: int = 4) -> None:
    vocab, rows = sampler.vocab_size, 64
    logits_WV = logits_of(rows, vocab, dtype)
    host_WV = logits_WV.float().cpu().numpy()
    sampled_S = torch.zeros(rows, dtype=torch.int32, device="cuda")
    for name in RECIPES:
        wrong = []
        for step in range(steps):
            asks = [Request(ask.recipe, ask.position + 1000 * step, (), ask.mask) for ask in asks_of(name, rows, vocab)]
            got = sampler.launch(logits_WV, asks, sampled_S).answers()
            for row, (answer, want) in enumerate(zip(got, sample(host_WV, asks, vocab))):
                if isinstance(answer, Exception) or not same(answer, want):
                    wrong.append(f"  step {step} row {row}: {answer}, on the host {want}")
        print(f"{name}: {len(wrong)} of {rows * steps} differ", *wrong[:5], sep="\n")


def same(answer: Any, want: Any) -> bool:
    close = want.logprob is None or abs(answer.logprob - want.logprob) < 1e-5 * max(1.0, abs(want.logprob))
    return bool(answer.token == want.token and close and [t for _, t in answer.top] == [t for _, t in want.top])


def gpu_us(call: Callable[[], object], repeats: int = 30) -> float:
    """Median GPU time. The device is kept busy first, so that the host's launches are not what is measured."""
    for _ in range(3):
        call()
    found = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(5_000_000)
        begin.record()
        left = call()
        end.record()
        end.synchronize()
        if isinstance(left, PendingAnswers):
            left.answers()
        found.append(begin.elapsed_time(end) * 1000)
    return statistics.median(found)


def host_us(
    sampler: DeviceSampler, logits_WV: torch.Tensor, asks: Sequence[Any], repeats: int = 30
) -> tuple[float, float]:
    """Median microseconds in `launch`, and from its beginning until the answers are there, on an idle device."""
    sampled_S = torch.zeros(len(asks), dtype=torch.int32, device="cuda")
    launched, answered = [], []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        pending = sampler.launch(logits_WV, asks, sampled_S)
        launched.append((time.perf_counter() - began) * 1e6)
        pending.answers()
        answered.append((time.perf_counter() - began) * 1e6)
    return statistics.median(launched), statistics.median(answered)


def others(logits_WV: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What else samples rows of logits."""
    rows = len(logits_WV)

    def gumbel() -> torch.Tensor:
        noise = torch.empty_like(logits_WV, dtype=torch.float32).exponential_()
        return torch.argmax(torch.softmax(logits_WV.float() / 0.8, -1) / noise, -1)

    found: dict[str, Callable[[], object]] = {
        "torch.argmax": lambda: torch.argmax(logits_WV, -1),
        "torch, softmax / exponential": gumbel,
    }
    try:
        from flashinfer import sampling as theirs
    except ImportError:
        return found
    top_k = torch.full((rows,), 20, dtype=torch.int32, device="cuda")
    top_p = torch.full((rows,), 0.8, device="cuda")
    scaled = logits_WV.float() / 0.8
    found["FlashInfer, from logits"] = lambda: theirs.sampling_from_logits(scaled)
    found["FlashInfer, softmax, top-k 20, top-p 0.8"] = lambda: theirs.top_k_top_p_sampling_from_probs(
        torch.softmax(scaled, -1), top_k, top_p, filter_apply_order="joint"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--tile", type=int, default=TILE_LOGITS)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    most = max(64, *args.rows)
    sampler = DeviceSampler(args.vocab, args.vocab, torch.device("cuda"), most, tile=args.tile)
    compare(sampler, dtype)
    sampled_S = torch.zeros(most, dtype=torch.int32, device="cuda")
    print("\n| what | rows | GPU us | launch us | answered us |\n| --- | --- | --- | --- | --- |")
    for rows in args.rows:
        logits_WV = logits_of(rows, args.vocab, dtype)
        kinds: dict[str, Sequence[Any]] = {name: asks_of(name, rows, args.vocab) for name in RECIPES}
        kinds["lookups of 8 ids"] = [Lookup(tuple(range(row, row + 8))) for row in range(rows)]
        for name, asks in kinds.items():
            device = gpu_us(partial(sampler.launch, logits_WV, asks, sampled_S))
            launched, answered = host_us(sampler, logits_WV, asks)
            print(f"| {name} | {rows} | {device:.0f} | {launched:.0f} | {answered:.0f} |", flush=True)
        for name, call in others(logits_WV).items():
            try:
                print(f"| {name} | {rows} | {gpu_us(call):.0f} | | |", flush=True)
            except Exception as error:  # another package's trouble is not ours
                print(f"| {name} | {rows} | {type(error).__name__}: {str(error)[:60]} | | |", flush=True)


if __name__ == "__main__":
    main()
