"""What a decode step of the default model costs besides its kernels: sampling, masks, text, plans, handles.

    python benchmarks/host.py [--branches N ...] [--only NAME ...]

Branches generate side by side, with weights in blocks (`quantization="auto"`). Prints, for each way of sampling,
milliseconds a step outside the kernels (from the end of one call of theirs to the beginning of the next), median and
mean of 60 steps, and the median of that call. Needs the default model (`make model`), and two minutes on two idle
cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import sgl
from sgl.backend.base import GenRequest
from sgl.lang.constraint import Constraint, json_schema, regex
from sgl.lang.expr import Sampling

STEPS, WARM = 60, 8
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Way:
    sampling: dict[str, Any]
    constraint: Constraint | None = None
    on_budget: str = "close"


SCHEMA = json_schema({"type": "array", "items": PERSON, "minItems": 20})
WORDS = regex(r"([A-Z][a-z]{2,9} [a-z]{3,9} [0-9]{2,4}[.] ){30,200}")
WAYS = {
    "greedy": Way({"temperature": 0.0}),
    "temperature": Way({"temperature": 0.7}),
    "top_p": Way({"temperature": 0.7, "top_p": 0.9}),
    "top_k": Way({"temperature": 0.7, "top_k": 40}),
    "top_p and top_k": Way({"temperature": 0.7, "top_p": 0.9, "top_k": 40}),
    "min_p": Way({"temperature": 0.7, "min_p": 0.05}),
    "repetition penalty": Way({"temperature": 0.7, "repetition_penalty": 1.1}),
    "log-probabilities": Way({"temperature": 0.7, "return_logprob": True, "top_logprobs_num": 5}),
    "JSON schema": Way({"temperature": 0.0}, SCHEMA),
    "JSON schema: temperature": Way({"temperature": 0.7}, SCHEMA),
    "JSON schema: top_p": Way({"temperature": 0.7, "top_p": 0.9}, SCHEMA),
    "JSON schema: may be cut": Way({"temperature": 0.7}, SCHEMA, "partial"),
    "regex: temperature": Way({"temperature": 0.7}, WORDS),
}


def measure(runtime: sgl.Runtime, way: Way, branches: int) -> tuple[list[float], list[float]]:
    """Milliseconds of steps outside the kernels, and in them."""
    engine: Any = runtime.engine
    constraint = way.constraint
    if constraint is not None:
        runtime.prepare(constraint, "benchmark")
    stop = ("a stop that never comes",)
    sampling = Sampling(max_tokens=1500, ignore_eos=constraint is None, stop=stop, **way.sampling)
    alive = []
    for i in range(branches):
        branch = runtime.open(seed=i)
        branch.append(f"A list of people, written down one after the other by clerk number {i}:")
        branch.gen(GenRequest(sampling, constraint=constraint, on_budget=way.on_budget))
        branch.rest()
        alive.append(branch)
    model = engine.executor.model
    library, marks = model._library, []

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        failed = library.sgl_forward(*args)
        marks.append((began, time.perf_counter()))
        return failed

    model._library = SimpleNamespace(sgl_forward=timed)
    try:
        for _ in range(WARM + STEPS):
            engine.step()
            assert len(engine.branches.running) == branches
    finally:
        model._library = library
        for branch in alive:
            branch.cancel()
    marks = marks[-STEPS - 1 :]
    outside = [(after[0] - before[1]) * 1e3 for before, after in pairwise(marks)]
    return outside, [(end - began) * 1e3 for began, end in marks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--branches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    runtime = sgl.Runtime(quantization="auto", random_seed=0)
    print(f"{'outside the kernels, ms a step':30} {'branches':>8} {'median':>8} {'mean':>8} {'kernels':>8}")
    for name in args.only:
        for branches in args.branches:
            outside, kernels = measure(runtime, WAYS[name], branches)
            middle = statistics.median(outside), statistics.mean(outside), statistics.median(kernels)
            print(f"{name:30} {branches:8} {middle[0]:8.3f} {middle[1]:8.3f} {middle[2]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
