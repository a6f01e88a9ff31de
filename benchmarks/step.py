"""What a step costs in Python: live branches generating on the toy model, its own forward left out.

    python benchmarks/step.py [branches ...]
    python benchmarks/step.py --count

Prints milliseconds a step (median of 200) for planning and packing, for sampling and collecting, and both together.
With `--count`: the Python calls that a decoded token of one branch passes through, and the files that they are in.
"""

from __future__ import annotations

import statistics
import sys
import time
from types import FrameType
from typing import Any

import sgl
from sgl.backend.base import GenRequest
from sgl.lang.expr import Sampling

STEPS = 200


def generating(branches: int) -> tuple[Any, list[Any]]:
    """A toy runtime's engine with so many branches that have begun to generate, and the branches, to be kept alive."""
    runtime = sgl.Runtime.toy(max_total_tokens=4_000_000, max_running_requests=4096, chunked_prefill_size=8192)
    alive = []
    for i in range(branches):
        branch = runtime.open(seed=i)
        branch.append(f"A beginning that all of them share, and then row {i}: ")
        branch.gen(
            GenRequest(Sampling(max_tokens=1000, temperature=0.0, ignore_eos=True, stop=("a stop that never comes",)))
        )
        alive.append(branch)
    for _ in range(5):
        runtime.engine.step()
    return runtime.engine, alive


def measure(branches: int) -> tuple[float, float]:
    engine, alive = generating(branches)
    forward, model_time = engine.model.forward, [0.0]

    def timed(batch: Any) -> Any:
        start = time.perf_counter()
        logits = forward(batch)
        model_time[0] = time.perf_counter() - start
        return logits

    engine.model.forward = timed
    launches, collects = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        step = engine.plan()
        assert engine.launch(step) and len(step.spans) == branches
        engine.ask(step)
        engine.flying = step
        middle = time.perf_counter()
        engine.collect()
        launches.append(middle - start - model_time[0])
        collects.append(time.perf_counter() - middle)
    assert len(alive) == branches
    return statistics.median(launches) * 1e3, statistics.median(collects) * 1e3


def count() -> tuple[float, float]:
    """Python calls of a token, and files of sgl that they are in: medians of 200 tokens. Other packages do not
    count."""
    engine, alive = generating(1)
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("sgl."):
            calls.append(frame.f_code.co_filename)

    counts, files = [], []
    for _ in range(STEPS):
        calls.clear()
        sys.setprofile(profile)
        engine.step()
        sys.setprofile(None)
        counts.append(len(calls))
        files.append(len(set(calls)))
    assert len(alive) == 1
    return statistics.median(counts), statistics.median(files)


def main() -> None:
    if "--count" in sys.argv:
        calls, files = count()
        print(f"a decoded token passes through {calls:.0f} calls in {files:.0f} files")
        return
    print("branches   launch   collect   together (ms a step)")
    for branches in [int(a) for a in sys.argv[1:]] or [1, 8, 64, 256]:
        launch, collect = measure(branches)
        print(f"{branches:8} {launch:8.3f} {collect:9.3f} {launch + collect:10.3f}")


if __name__ == "__main__":
    main()
