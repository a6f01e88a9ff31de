"""What a step costs in Python: live branches generating on the toy model, its own forward left out.

    python benchmarks/step.py [branches ...]

Prints milliseconds a step (median of 200) for planning and packing, for sampling and collecting, and both together.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import sgl
from sgl.backend.base import GenRequest
from sgl.lang.expr import Sampling

STEPS = 200


def measure(branches: int) -> tuple[float, float]:
    runtime = sgl.Runtime.toy(max_total_tokens=4_000_000, max_running_requests=4096, chunked_prefill_size=8192)
    engine = runtime.engine
    alive = []
    for i in range(branches):
        branch = runtime.open(seed=i)
        branch.append(f"A beginning that all of them share, and then row {i}: ")
        branch.gen(
            GenRequest(Sampling(max_tokens=1000, temperature=0.0, ignore_eos=True, stop=("a stop that never comes",)))
        )
        alive.append(branch)
    forward, model_time = engine.model.forward, [0.0]

    def timed(batch: Any) -> Any:
        start = time.perf_counter()
        logits = forward(batch)
        model_time[0] = time.perf_counter() - start
        return logits

    engine.model.forward = timed  # type: ignore[method-assign]
    for _ in range(5):
        engine.step()
    launches, collects = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        step = engine.launch()
        middle = time.perf_counter()
        assert step is not None and len(step.spans) == branches
        engine.collect(step)
        launches.append(middle - start - model_time[0])
        collects.append(time.perf_counter() - middle)
    return statistics.median(launches) * 1e3, statistics.median(collects) * 1e3


def main() -> None:
    print("branches   launch   collect   together (ms a step)")
    for branches in [int(a) for a in sys.argv[1:]] or [1, 8, 64, 256]:
        launch, collect = measure(branches)
        print(f"{branches:8} {launch:8.3f} {collect:9.3f} {launch + collect:10.3f}")


if __name__ == "__main__":
    main()
