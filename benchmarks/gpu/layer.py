"""Where the time of a captured decoding step goes: microseconds a layer, whole and with a part left out.

    python benchmarks/gpu/layer.py [--shape 8b] [--rows 1 16 64] [--shared 900] [--own 100]

A step of so many branches, `--shared` keys that all of them see and `--own` keys of each one's own, is captured like
the runtime's and replayed. What a part costs is said by leaving it out (results are then wrong, times are not):
launches overlap, so the sum of kernels' times says little. *limit* is the weights' bytes (and the KV's) at the rate
of a copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import models
import numpy as np
import report
import torch
from matmul import copy_rate

from sgl.backend.runtime.attention import tree_kernels
from sgl.backend.runtime.cuda.fixed_step import FixedStep
from sgl.backend.runtime.model.llama import kernels, matmul
from sgl.backend.runtime.model.llama.tune import timed
from sgl.backend.runtime.step.packed import Batch, SpanLayout

SECONDS = 0.15
"""How long a step is timed."""
CONTEXT = 4096


class Nothing:
    """Stands for a kernel: launched, it does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *arguments, **options: None


LEFT_OUT: dict[str, tuple[tuple[Any, str], ...]] = {
    "norms": ((matmul, "rms_norm"),),
    "rope": ((kernels, "rope_and_store"),),
    "merge": ((tree_kernels, "merge"),),
    "attention": ((tree_kernels, "attend"), (tree_kernels, "merge")),
    "all but products": (
        (tree_kernels, "attend"), (tree_kernels, "merge"), (kernels, "rope_and_store"), (matmul, "rms_norm"),
    ),
}  # fmt: skip


@contextmanager
def without(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, attribute in LEFT_OUT.get(name, ()):
            old = getattr(owner, attribute)
            nothing: Any = Nothing() if hasattr(old, "warmup") else lambda *arguments, **options: None
            stack.enter_context(mock.patch.object(owner, attribute, nothing))
        yield


def decoding(rows: int, shared: int, own: int) -> Batch:
    """One step of `rows` branches with the keys of a shared run and of one each."""
    spans, slots = [], []
    for row in range(rows):
        first = 1 + shared + row * (own + 32)
        runs = ((1, shared),) if shared else ()
        spans.append(SpanLayout(row, 1, (*runs, (first, own)), shared + own))
        slots.append(first + own)
    positions = np.full(rows, shared + own)
    return Batch(np.arange(rows) + 100, positions, np.array(slots), spans, np.arange(rows))


def captured(executor: Any, batch: Batch) -> FixedStep:
    """The step of these sizes, as the runtime captures it."""
    rows = len(batch.tokens)
    logits_WV = torch.empty(rows, executor.model.vocab_size, dtype=torch.float32, device=executor.device)
    step = FixedStep(executor.model, executor.attention, rows, rows, CONTEXT, executor.sampled_S, logits_WV)
    step.warm_up()
    torch.cuda.synchronize()
    step.capture(torch.cuda.graph_pool_handle())
    return step


def seconds_of(executor: Any, step: FixedStep, batch: Batch, long: float = SECONDS) -> float:
    """Of one replay, the least of three rounds."""
    step.replay(batch, executor.attention.plan(batch), executor.staging)
    graph: Any = step._graph
    turns = max(2, int(long / 3 / timed(graph, 1)))
    return min(timed(graph, turns) for _ in range(3))


def least(model: Any, rows: int, shared: int, own: int, rate: float) -> tuple[float, float]:
    """(seconds of a layer's weights and KV, seconds of the head) at the rate of a copy."""
    layer = model._layers[0]
    weights = sum(2 * weight_NK.numel() for _, weight_NK in layer.products())
    kv = (shared + rows * own) * model.kv_bytes_per_token / len(model._layers)
    return (weights + kv) / rate, 2 * model.head_VE.numel() / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    models.add_options(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 16, 32, 64])
    parser.add_argument("--shared", type=int, default=900)
    parser.add_argument("--own", type=int, default=100)
    args = parser.parse_args()
    report.show_about()
    options = {"disable_cuda_graph": True, **models.options_of(args.option)}
    runtime, _ = models.start(args.shape, args.tokenizer, options)
    executor = runtime.engine.executor
    rate, layers = copy_rate(), len(executor.model._layers)
    names = list(LEFT_OUT)
    print(f"{args.shape}; copies at {rate / 1e12:.2f} TB/s; microseconds a layer ({layers} layers)")
    print(f"{'rows':>5} {'step ms':>8} {'layer':>7} {'limit':>7}  without: " + "  ".join(names))
    for rows in args.rows:
        batch = decoding(rows, args.shared, args.own)
        limit, head = least(executor.model, rows, args.shared, args.own, rate)
        times = {}
        with torch.inference_mode():
            for name in ("", *names):
                with without(name):
                    step = captured(executor, batch)
                times[name] = seconds_of(executor, step, batch)
                del step
        per = {name: (seconds - head) / layers * 1e6 for name, seconds in times.items()}
        cells = "  ".join(f"{per[name]:>{len(name)}.1f}" for name in names)
        print(f"{rows:>5} {times[''] * 1e3:>8.3f} {per['']:>7.1f} {limit * 1e6:>7.1f}           {cells}", flush=True)


if __name__ == "__main__":
    main()
