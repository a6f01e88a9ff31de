"""The default model on a CPU: weights in blocks (`quantization="auto"`) against float32 in torch, step by step.

    python benchmarks/cpu/steps.py
    python benchmarks/cpu/steps.py --one-thread

Prints milliseconds of one forward, medians of five, both models in turns; and the largest difference between their
logits. `--one-thread` takes one thread and prints the least CPU time of its forwards, with weights in blocks at each
level of instructions: that can be compared on a busy machine too. Needs the default model (`make model`), and some 30
seconds on two idle cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import sgl
from sgl.backend.runtime.model.cpu import native
from sgl.backend.runtime.step.packed import Batch, SpanLayout

CONTEXT, PROMPT, CHUNK, REPEATS = 500, 1000, 256, 5
IDS = np.arange(1000, 1000 + PROMPT, dtype=np.int64)


def chunk(first: int, last: int, want: list[int]) -> Batch:
    """Rows `first` to `last` of the prompt, over what was computed before."""
    at = np.arange(first, last)
    context = ((0, first),) if first else ()
    return Batch(IDS[first:last], at, at, [SpanLayout(0, last - first, context, first)], np.array(want, dtype=np.int64))


def prompt(model: Any) -> None:
    for first in range(0, PROMPT, CHUNK):
        last = min(PROMPT, first + CHUNK)
        model.forward(chunk(first, last, [last - first - 1] if last == PROMPT else []))


def branches(count: int) -> Callable[[Any], None]:
    """A token of each of some branches of one prefix."""
    spans = [SpanLayout(i, 1, ((0, CONTEXT),), CONTEXT) for i in range(count)]
    at, slots = np.full(count, CONTEXT), np.arange(2 * PROMPT, 2 * PROMPT + count)
    batch = Batch(IDS[:count], at, slots, spans, np.arange(count))
    return lambda model: model.forward(batch)


STEPS: dict[str, Callable[[Any], None]] = {
    f"one stream after {CONTEXT} tokens": branches(1),
    f"8 branches of {CONTEXT} tokens": branches(8),
    f"32 branches of {CONTEXT} tokens": branches(32),
    f"a prompt of {PROMPT} tokens": prompt,
}


def milliseconds(step: Callable[[Any], None], model: Any) -> float:
    start = time.perf_counter()
    step(model)
    return (time.perf_counter() - start) * 1e3


def one_thread() -> None:
    """Each level of instructions that is fast."""
    import torch

    torch.set_num_threads(1)
    for number, level in enumerate(native.LEVELS):
        if level == "portable" or not native.library().sgl_has_level(number):
            continue
        os.environ[native.LEVEL_VARIABLE] = level
        runtime = sgl.Runtime(quantization="auto", max_total_tokens=4 * PROMPT)
        model = runtime.engine.executor.model  # type: ignore[attr-defined]
        prompt(model)
        for name, step in STEPS.items():
            took = []
            for _ in range(REPEATS):
                start = time.thread_time()
                step(model)
                took.append((time.thread_time() - start) * 1e3)
            print(f"{level:8} {name:28} {min(took):8.1f} ms of one thread")


def main() -> None:
    runtimes = {name: sgl.Runtime(quantization=name, max_total_tokens=4 * PROMPT) for name in ("auto", None)}
    models = {name: runtime.engine.executor.model for name, runtime in runtimes.items()}  # type: ignore[attr-defined]
    for model in models.values():
        prompt(model)
    for name, step in STEPS.items():
        took: dict[str | None, list[float]] = {which: [] for which in models}
        for _ in range(REPEATS):
            for which, model in models.items():
                step(model)  # warm: the other model's weights were in the caches
                took[which].append(milliseconds(step, model))
        auto, floats = (statistics.median(took[which]) for which in ("auto", None))
        print(f"{name:28} blocks {auto:8.1f} ms, float32 {floats:8.1f} ms, {floats / auto:.2f} times")
    rows = chunk(0, CHUNK, [*range(CHUNK)])
    blocks, floats = (models[which].forward(rows) for which in ("auto", None))
    print(
        f"largest difference of logits {np.abs(blocks - floats).max():.4f}, of a range of {np.ptp(floats, 1).max():.0f}"
    )
    print(f"favourite tokens that are equal {(blocks.argmax(1) == floats.argmax(1)).mean():.1%}")


if __name__ == "__main__":
    one_thread() if "--one-thread" in sys.argv else main()
