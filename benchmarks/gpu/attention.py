"""Attention of whole steps on one GPU: `TreeAttention` by itself, against FlashInfer and against what the card allows.

    python benchmarks/gpu/attention.py [--heads 32,8,128] [--dtype bfloat16] [--only NAME ...] [--flat] [--tune]

A line a step: microseconds a layer (a CUDA graph of `LAYERS` layers, each with its own KV; the median of replays), the
same for FlashInfer (`--flat`: page size 1, no prefix shared; it may have to compile first), the limit, the share of it
that is reached, the host's time for a plan, and the largest difference of some rows from a float32 reference. The limit
is the longer of: bytes that must move once (distinct keys, queries, outputs) at the card's bandwidth, and the FLOPs of
all visible (row, key) pairs at its peak. The expansion of runs, once a step, is not in it.

`--tune` tries block sizes, stages, warps and pieces of work for the steps that each is for, and prints the best ones.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from sgl.backend.runtime.attention import tree_plan
from sgl.backend.runtime.attention.tree_attention import Tiling, TreeAttention
from sgl.backend.runtime.attention.tree_plan import FEW_ROWS
from sgl.backend.runtime.step.packed import Batch, Run, SpanLayout

LAYERS = 8
REPLAYS = 20
BANDWIDTH = 4.8e12  # H200: bytes a second
PEAK = 989e12  # H200: dense bf16 FLOPs a second
SLOTS = 160_000
TUNE_SECONDS = 18.0  # a sweep
CHECKED_ROWS = 24


class Case(NamedTuple):
    name: str
    spans: list[SpanLayout]
    slots: np.ndarray[Any, np.dtype[np.int64]]
    captured: int | None = None  # bucket of rows that it is replayed in; None: its own capacities

    @property
    def batch(self) -> Batch:
        zeros = np.zeros(len(self.slots), dtype=np.int64)
        return Batch(zeros, zeros, self.slots, self.spans, zeros[:0])


def case(name: str, contexts: list[tuple[Run, ...]], rows: int, captured: int | None = None) -> Case:
    """Spans of `rows` rows each; their own slots follow the last slot that any context has."""
    spans = [SpanLayout(i * rows, rows, c, sum(n for _, n in c)) for i, c in enumerate(contexts)]
    first = max([1, *(sum(run) for context in contexts for run in context)])
    return Case(name, spans, first + np.arange(len(contexts) * rows), captured)


def alone(spans: int, length: int) -> list[tuple[Run, ...]]:
    return [((1 + i * length, length),) for i in range(spans)]


def beneath(spans: int, shared: int, length: int) -> list[tuple[Run, ...]]:
    return [((1, shared), *own) for own in ([(shared + 1 + i * length, length)] for i in range(spans))]


def tree(spans: int, width: int) -> list[tuple[Run, ...]]:
    """Three levels: one root, a node for each `width` spans, and what each has of its own."""
    return [((1, 700), (800 + 200 * (i // width), 200), (20_000 + 100 * i, 100)) for i in range(spans)]


def cases() -> list[Case]:
    return [
        case("1 row x 512", alone(1, 512), 1, 1),
        case("1 row x 4096", alone(1, 4096), 1, 1),
        case("1 row x 32768", alone(1, 32768), 1, 1),
        case("4 rows x 1000", alone(4, 1000), 1, 4),
        case("64 rows x 1000", alone(64, 1000), 1, 64),
        case("64 rows, 900 shared + 100", beneath(64, 900, 100), 1, 64),
        case("64 rows, tree of 3 levels", tree(64, 8), 1, 64),
        case("48 rows in the bucket of 64", alone(48, 1000), 1, 64),
        case("256 rows x 400", alone(256, 400), 1, 256),
        case("256 rows, 1500 shared + 100", beneath(256, 1500, 100), 1, 256),
        case("prompt of 8192", [()], 8192),
        case("8 prompts of 1024", [()] * 8, 1024),
        case("117 x 70 rows, 1500 shared", [((1, 1500),)] * 117, 70),
    ]


class Bench:
    """KV tensors of `LAYERS` layers, queries and outputs for the largest step."""

    def __init__(self, heads: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.query, self.kv, self.dim = heads
        self.dtype = dtype
        torch.manual_seed(0)
        make = lambda *shape: torch.randn(*shape, device="cuda", dtype=dtype)  # noqa: E731
        self.layers = [(make(SLOTS, self.kv, self.dim), make(SLOTS, self.kv, self.dim)) for _ in range(LAYERS)]
        self.q = make(8192, self.query, self.dim)
        self.out = torch.empty_like(self.q)

    def attention(self) -> TreeAttention:
        return TreeAttention(self.query, self.kv, self.dim, torch.device("cuda"), self.dtype)

    def tree(self, attention: TreeAttention, step: Case) -> Callable[[], None]:
        """What runs one step's attention in all layers, after `start`."""
        plan = attention.plan(step.batch)
        caps = plan.needs if step.captured is None else attention.caps(step.captured, 40_000)
        started = attention.start(torch.from_numpy(plan.pack(caps)).cuda(), caps)
        rows = caps.rows

        def run() -> None:
            for k, v in self.layers:
                started.attend(self.q[:rows], k, v, self.out[:rows])

        return run

    def limit(self, step: Case) -> float:
        """Seconds a layer that the card needs at least."""
        slots: set[Run] = {run for span in step.spans for run in span.context}
        keys = sum(n for _, n in slots) + len(step.slots)
        size = self.dtype.itemsize
        moved = (2 * keys * self.kv + 2 * len(step.slots) * self.query) * self.dim * size
        pairs = sum(span.rows * span.context_length + span.rows * (span.rows + 1) // 2 for span in step.spans)
        return max(moved / BANDWIDTH, 4 * pairs * self.query * self.dim / PEAK)

    def error(self, step: Case) -> float:
        """Largest difference of some rows' outputs (of the last layer) from float32's."""
        k, v = self.layers[-1]
        worst = 0.0
        rows = np.unique(np.linspace(0, len(step.slots) - 1, CHECKED_ROWS).astype(np.int64))
        for row in rows.tolist():
            span = next(span for span in step.spans if span.first_row <= row < span.first_row + span.rows)
            context = [np.arange(a, a + n) for a, n in span.context]
            seen = torch.from_numpy(np.concatenate([*context, step.slots[span.first_row : row + 1]])).cuda()
            keys, values = (x[seen].float().repeat_interleave(self.query // self.kv, 1) for x in (k, v))
            weight = (torch.einsum("qd,lqd->ql", self.q[row].float(), keys) * self.dim**-0.5).softmax(-1)
            expected = torch.einsum("ql,lqd->qd", weight, values)
            worst = max(worst, float((self.out[row].float() - expected).abs().max()))
        return worst

    def flat(self, step: Case) -> Callable[[], None]:
        """FlashInfer over the same pages (of one slot), each span by itself."""
        import flashinfer

        workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        length = [span.context_length + span.rows for span in step.spans]
        pages = [np.arange(a, a + n) for span in step.spans for a, n in _all_runs(span, step)]
        on = lambda x: torch.from_numpy(np.asarray(x, dtype=np.int32)).cuda()  # noqa: E731
        indptr, indices = on([0, *itertools.accumulate(length)]), on(np.concatenate(pages))
        last = on([1] * len(length))
        shape = (self.query, self.kv, self.dim, 1)
        decoding = all(span.rows == 1 for span in step.spans)
        if decoding:
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
            wrapper.plan(indptr, indices, last, *shape, q_data_type=self.dtype, kv_data_type=self.dtype)
        else:
            wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
            rows = on([0, *itertools.accumulate(span.rows for span in step.spans)])
            wrapper.plan(rows, indptr, indices, last, *shape, causal=True, q_data_type=self.dtype)
        q, out = self.q[: len(step.slots)], self.out[: len(step.slots)]
        layers = [(k[:, None], v[:, None]) for k, v in self.layers]

        def run() -> None:
            for layer in layers:
                wrapper.run(q, layer, out=out)

        return run


def _all_runs(span: SpanLayout, step: Case) -> Iterator[Run]:
    yield from span.context
    yield int(step.slots[span.first_row]), span.rows


def timed(run: Callable[[], None]) -> float:
    """Seconds a layer, in a graph of all layers."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / LAYERS)
    return statistics.median(times)


def table(bench: Bench, steps: list[Case], flat: bool) -> None:
    attention = bench.attention()
    print(f"{'step':<30} {'us a layer':>10} {'flashinfer':>10} {'limit':>8} {'share':>6} {'plan':>6} {'error':>8}")
    for step in steps:
        seconds = timed(bench.tree(attention, step))
        error = bench.error(step)
        other = "-"
        if flat:
            try:
                other = f"{timed(bench.flat(step)) * 1e6:.1f}"
            except Exception as found:  # FlashInfer's own limits are no failure of this benchmark
                other = type(found).__name__[:10]
        begin = time.perf_counter()
        for _ in range(10):
            attention.plan(step.batch)
        planned = (time.perf_counter() - begin) / 10
        limit = bench.limit(step)
        print(
            f"{step.name:<30} {seconds * 1e6:>10.1f} {other:>10} {limit * 1e6:>8.1f} {limit / seconds:>6.0%} "
            f"{planned * 1e6:>6.0f} {error:>8.4f}",
            flush=True,
        )
        if not error < 0.05:
            raise SystemExit(f"{step.name}: outputs differ from the reference by {error}")


def sweep(bench: Bench, steps: list[Case], name: str, options: list[dict[str, Any]]) -> None:
    """Try settings of `name` (a field of `Tilings`, or `chunk`) in turn; print the best few by the geometric mean."""
    found: list[tuple[float, dict[str, Any], list[float]]] = []
    begin, least = time.perf_counter(), tree_plan.LEAST_CHUNK_KEYS
    for option in options:
        if time.perf_counter() - begin > TUNE_SECONDS:
            print(f"  {name}: out of time after {len(found)} of {len(options)}")
            break
        attention = bench.attention()
        values = dict(option)
        tree_plan.LEAST_CHUNK_KEYS = values.pop("least", least)
        if values:
            attention.tilings = attention.tilings._replace(**values)
        try:
            seconds = [timed(bench.tree(attention, step)) for step in steps]
        except Exception as refused:  # too much shared memory, most often
            print(f"  {name} {option}: {type(refused).__name__}")
            continue
        found.append((float(np.exp(np.mean(np.log(seconds)))), option, seconds))
    tree_plan.LEAST_CHUNK_KEYS = least
    print(f"{name}: {', '.join(step.name for step in steps)}")
    for _, option, seconds in sorted(found, key=lambda entry: entry[0])[:5]:
        print(f"  {' '.join(f'{s * 1e6:8.1f}' for s in seconds)}  {option}", flush=True)


def tune(bench: Bench) -> None:
    by_name = {step.name: step for step in cases()}
    pick = lambda *names: [by_name[name] for name in names]  # noqa: E731
    blocks = [Tiling(*t) for t in itertools.product((64, 32, 128), (3, 4, 2), (4, 2))]
    one = pick("1 row x 512", "1 row x 4096")
    sweep(bench, one, "small, few rows", [{"small": tiling} for tiling in blocks])
    mixed = pick("64 rows x 1000", "64 rows, 900 shared + 100")
    both = [{"small": s, "wide": w} for s in blocks[:8:2] + blocks[12::2] for w in (Tiling(64, 3, 4), Tiling(64, 2, 4))]
    sweep(bench, mixed, "small and wide together", [*both, {"wide": Tiling(32, 3, 4)}, {"wide": Tiling(64, 3, 8)}])
    prompts = pick("prompt of 8192", "117 x 70 rows, 1500 shared")
    shapes = [Tiling(*t) for t in itertools.product((64, 128, 32), (3, 2, 4), (8, 4))]
    sweep(bench, prompts, "prompt", [{"prompt": t, "prompt_m": m} for t in shapes for m in (128, 64)])
    pieces = [{"work": work, "least": least} for work in (4, 2, 8) for least in (128, 64, 256)]
    sweep(bench, one + mixed, "pieces of work", pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="32,8,128", help="query heads, KV heads, head dim")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--only", nargs="*", default=[], help="steps whose name contains one of these")
    parser.add_argument("--flat", action="store_true", help="also time FlashInfer")
    parser.add_argument("--tune", action="store_true", help="try other settings")
    arguments = parser.parse_args()
    query, kv, dim = (int(n) for n in arguments.heads.split(","))
    bench = Bench((query, kv, dim), getattr(torch, arguments.dtype))
    print(f"{torch.cuda.get_device_name()}, {query} query and {kv} KV heads of {dim}, {arguments.dtype}")
    if arguments.tune:
        tune(bench)
        return
    steps = [s for s in cases() if not arguments.only or any(part in s.name for part in arguments.only)]
    assert all(step.captured is None or step.captured <= FEW_ROWS for step in steps)
    table(bench, steps, arguments.flat)


if __name__ == "__main__":
    main()
