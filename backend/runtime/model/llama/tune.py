"""Measuring which kernel is fastest for each product of few rows, on the device at hand.

Owns: the candidates, and how they are timed and checked. Knows nothing of models (it gets their weights) or of files
(`tuned.Table` keeps what wins).

1. A candidate that fails, or whose result is not the library's, is never chosen.
2. Measuring takes no more time than was given, and keeps what it found until then.
3. A timed CUDA graph of launches goes round the weights of all layers. So the L2 cache serves none of them, as in a
   model's step.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .matmul import Launch, Norm, Operands, compute, rows_launch, tiles_launch
from .tuned import BUCKETS, LIBRARY, KernelChoice, Product, Table

_log = logging.getLogger("sgl")

ProductWeights = Sequence[torch.Tensor]
"""The matrices of one product in all layers: same shape, type and device."""
_LAUNCHES = 16, 48
"""Fewest and most launches in a timed graph."""
_TIMED_SECONDS = 0.002
"""How long a candidate is timed."""
_COMPILER_THREADS = 16
_LIBRARY_SHARE = 0.99
"""A kernel must take less than this share of the library's time to be preferred."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}


class Shapes(NamedTuple):
    """The shapes of kernels that are tried."""

    rows: tuple[tuple[int, int, int], ...]
    """(columns of y, block of K, warps); with SiLU a program has two rows of W for each of half as many columns."""
    tiles: dict[int, tuple[tuple[int, int, int, int], ...]]
    """By rows of x: (columns of y, block of K, warps, stages); with SiLU half as many columns, at least 16."""


SHAPES = Shapes(
    rows=((4, 1024, 4), (2, 1024, 4), (4, 512, 2), (2, 2048, 8)),
    tiles={
        16: ((16, 256, 1, 4), (32, 256, 2, 4), (64, 128, 4, 5)),
        32: ((32, 256, 2, 4), (64, 128, 4, 4), (128, 64, 4, 5)),
        64: ((64, 128, 4, 3), (64, 64, 4, 5), (128, 64, 4, 4)),
    },
)


@dataclass(frozen=True)
class Timing:
    """A candidate's mean time for one launch."""

    product: Product
    bucket: int
    choice: KernelChoice
    seconds: float

    @property
    def weight_rate(self) -> float:
        """Bytes of W read a second."""
        size = torch.finfo(getattr(torch, self.product.dtype)).bits // 8
        return self.product.weight_rows * self.product.K * size / self.seconds


def tune(
    table: Table,
    cases: Mapping[Product, ProductWeights],
    *,
    buckets: Iterable[int] = BUCKETS,
    seconds: float = 25.0,
    overlap: bool = True,
    shapes: Shapes = SHAPES,
) -> list[Timing]:
    """Measure what `table` does not have yet (few rows first), put the winners there and save it.

    Returns the timings of all candidates. `overlap`: let launches overlap where the device can. Weights must lie on one
    CUDA device. Call it before graphs are captured; for a while it needs some hundred MB of device memory.
    """
    wanted = [(product, bucket) for bucket in buckets for product in cases if not table.has(product, bucket)]
    if not wanted:
        return []
    deadline = time.monotonic() + seconds
    device = next(iter(cases.values()))[0].device
    properties = torch.cuda.get_device_properties(device)
    overlap = overlap and properties.major >= 9
    torch.cuda.synchronize(device)
    with torch.cuda.device(device), torch.inference_mode():
        trials = {
            (product, bucket): candidates(product, bucket, properties.multi_processor_count, overlap, shapes)
            for product, bucket in wanted
        }
        compile_all(cases, trials, deadline)
        timings: list[Timing] = []
        for product, bucket in wanted:
            if time.monotonic() > deadline:
                _log.warning("measuring kernels took longer than %.0f s: the rest is done at another start", seconds)
                break
            timed = measure(product, bucket, cases[product], trials[product, bucket])
            table.put(product, bucket, _best(timed))
            timings += timed
            torch.cuda.empty_cache()  # each graph had memory of its own
    table.save()
    return timings


def candidates(
    product: Product, rows: int, multiprocessors: int, overlap: bool = False, shapes: Shapes = SHAPES
) -> list[KernelChoice]:
    """The kernels that are tried besides the library."""
    found = []
    if rows <= 4:
        for columns, block_k, warps in shapes.rows:
            block_n = columns // 2 if product.silu else columns
            if block_n and block_k < 2 * product.K and block_n * rows * block_k // warps <= 4096:
                found.append(KernelChoice("rows", block_n, block_k, warps, overlap=overlap))
    if product.dtype == "float32":  # exact float32 has no tensor cores
        return found
    for columns, block_k, warps, stages in shapes.tiles[16 if rows <= 16 else 32 if rows <= 32 else 64]:
        block_n = max(16, columns // 2) if product.silu else columns
        if block_k < 2 * product.K:
            parts = 1 if product.wide else _parts(product, block_n, block_k, multiprocessors)
            found.append(KernelChoice("tiles", block_n, block_k, warps, stages, parts, overlap))
    return found


def _parts(product: Product, block_n: int, block_k: int, multiprocessors: int) -> int:
    """In how many parts K is summed: as few as keep all multiprocessors equally busy."""
    tiles = -(-product.N // block_n)

    def busy(parts: int) -> float:
        programs = tiles * parts
        return programs / (-(-programs // multiprocessors) * multiprocessors) * 0.97 ** (parts - 1)

    most = max(1, min(16, product.K // (2 * block_k)))
    return max(range(1, most + 1), key=busy)


def _best(timed: list[Timing]) -> KernelChoice:
    library = next(timing.seconds for timing in timed if timing.choice == LIBRARY)
    best = min(timed, key=lambda timing: timing.seconds)
    return best.choice if best.seconds < _LIBRARY_SHARE * library else LIBRARY


class _Bench:
    """One product with its tensors, at one number of rows."""

    def __init__(self, product: Product, rows: int, weights: ProductWeights) -> None:
        first = weights[0]
        self.product = product
        self.weights = weights
        self.x_MK = torch.randn(rows, product.K, device=first.device).to(first.dtype)
        self.out_MN = first.new_zeros(rows, product.N, dtype=torch.float32 if product.wide else first.dtype)
        self.norm: Norm | None = (torch.ones_like(self.x_MK[0]), 1e-6) if product.norm else None
        self.arrived = torch.zeros(-(-product.N // 16), dtype=torch.int32, device=first.device)

    def operands(self, weight_NK: torch.Tensor, out_MN: torch.Tensor) -> Operands:
        return Operands(self.x_MK, weight_NK, out_MN, None, self.norm, self.arrived)

    def launch(self, choice: KernelChoice) -> Launch:
        make = rows_launch if choice.kernel == "rows" else tiles_launch
        return make(choice, self.product, self.operands(self.weights[0], self.out_MN))

    def result(self, choice: KernelChoice) -> torch.Tensor:
        """Compute the product by a choice; one that adds, adds to zeros."""
        out_MN = torch.zeros_like(self.out_MN)
        compute(choice, self.product, self.operands(self.weights[0], out_MN))
        return out_MN.float()

    def seconds(self, choice: KernelChoice) -> float:
        """Mean time of a launch; the kernels must be compiled."""
        launches = min(max(len(self.weights), _LAUNCHES[0]), _LAUNCHES[1])
        rounds = itertools.islice(itertools.cycle(self.weights), launches)
        operands = [self.operands(weight, self.out_MN) for weight in rounds]

        def all_launches() -> None:
            for of in operands:
                compute(choice, self.product, of)

        return _graph_seconds(all_launches) / launches


def _graph_seconds(launch: Callable[[], None]) -> float:
    """Mean time of a graph of `launch`. (`torch.cuda.graph` would collect garbage each time.)"""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launch()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
        once = timed(graph, 1)
        seconds = min(timed(graph, max(1, min(100, int(_TIMED_SECONDS / 2 / once)))) for _ in range(2))
    torch.cuda.current_stream().wait_stream(stream)
    return seconds


def timed(graph: torch.cuda.CUDAGraph, turns: int) -> float:
    """Mean seconds of so many replays in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(turns):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / turns


def measure(product: Product, bucket: int, weights: ProductWeights, choices: Sequence[KernelChoice]) -> list[Timing]:
    """The library's timing at `bucket` rows, and those of the choices that work."""
    bench = _Bench(product, bucket, weights)
    wanted_MN = bench.result(LIBRARY)
    allowed = _TOLERANCE[weights[0].dtype] * float(wanted_MN.abs().max())
    timings = [Timing(product, bucket, LIBRARY, bench.seconds(LIBRARY))]
    for choice in choices:
        try:
            error = float((bench.result(choice) - wanted_MN).abs().max())
            if not error <= allowed:  # so written that NaN fails
                _log.warning("%s gives wrong results for %s at %d rows (error %g)", choice, product, bucket, error)
                continue
            timings.append(Timing(product, bucket, choice, bench.seconds(choice)))
        except Exception as error:  # too little shared memory, a compiler's refusal: no candidate on this device
            _log.debug("%s cannot run for %s: %s", choice, product, error)
    return timings


def compile_all(
    cases: Mapping[Product, ProductWeights], trials: Mapping[tuple[Product, int], list[KernelChoice]], deadline: float
) -> None:
    """Compile what the trials need, each kernel once, in threads (compilers run without the interpreter's lock)."""
    launches: dict[object, Launch] = {}
    for (product, bucket), choices in trials.items():
        bench = _Bench(product, bucket, cases[product])
        for choice in choices:
            launch = bench.launch(choice)
            sizes = product.dtype, product.wide, product.N % 16 == 0, product.K % 16 == 0
            launches.setdefault((launch.kernel, tuple(sorted(launch.options.items())), sizes), launch)
    device = torch.cuda.current_device()
    with ThreadPoolExecutor(_COMPILER_THREADS, initializer=torch.cuda.set_device, initargs=(device,)) as threads:
        pending = [threads.submit(launch.compile) for launch in launches.values()]
        wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        threads.shutdown(cancel_futures=True)  # a failure shows again, and counts, when the candidate is measured
