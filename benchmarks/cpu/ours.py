"""`sgl` as a peer: a plan becomes an ordinary program, and a line of the table a `run_batch`."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from child import serve

import sgl
from sgl.backend.runtime.step.packed import Batch, SpanLayout


def say(s: Any, plan: list[list[Any]]) -> None:
    for kind, *rest in plan:
        if kind == "text":
            s += rest[0]
        elif kind == "fill":
            s += rest[0].format_map(s)
        elif kind == "gen":
            s += sgl.gen(rest[0], max_tokens=rest[1], temperature=0, ignore_eos=True)
        elif kind == "select":
            s += sgl.select(rest[0], rest[1])
        elif kind == "json":
            s += sgl.gen(rest[0], json_schema=json.dumps(rest[1]), max_tokens=rest[2], temperature=0)
        elif kind == "fork":
            children = s.fork(len(rest[0]))
            for child, steps in zip(children, rest[0]):
                say(child, steps)
            children.join()


@sgl.function
def carried_out(s: Any, plan: list[list[Any]]) -> None:
    say(s, plan)


class Ours:
    """A runtime for each number of threads."""

    def open(self) -> dict[str, Any]:
        sgl.Runtime(quantization="auto", max_total_tokens=16).shutdown()  # says how threads wait, before torch is there
        import torch

        most = torch.get_num_threads()
        self.runtimes = {}
        for threads in sorted({1, most}):
            torch.set_num_threads(threads)
            # Nothing is drafted: each round has the texts of the round before, so drafts would know them.
            self.runtimes[threads] = sgl.Runtime(
                quantization="auto", max_total_tokens=8192, random_seed=0, speculative_num_draft_tokens=0
            )
        return {"sgl": sgl.__version__, "torch": torch.__version__}

    def settings(self) -> list[dict[str, Any]]:
        return [{"threads": threads} for threads in self.runtimes]

    def run(self, plans: list[list[list[Any]]], setting: dict[str, Any]) -> dict[str, Any]:
        runtime = self.runtimes[setting["threads"]]
        runtime.flush_cache()
        before, start = runtime.get_server_info(), time.perf_counter()
        states = list(carried_out.run_batch([(plan,) for plan in plans], backend=runtime))
        texts = [state.text() for state in states]
        seconds = time.perf_counter() - start
        after = runtime.get_server_info()
        return {
            "seconds": seconds,
            "generated": sum(state.usage.total.generated for state in states),
            "texts": texts,
            "computed": after["computed_tokens"] - before["computed_tokens"],
            "steps": after["steps"] - before["steps"],
        }

    def inside(self, plans: list[list[list[Any]]], setting: dict[str, Any]) -> dict[str, Any]:
        """A run, and the seconds of it within the model's forward: kernels and their call, not the host's Python."""
        model, within = self.runtimes[setting["threads"]].engine.executor.model, [0.0]
        forward = model.forward

        def timed(batch: Any) -> Any:
            start = time.perf_counter()
            logits = forward(batch)
            within[0] += time.perf_counter() - start
            return logits

        model.forward = timed
        try:
            return {**self.run(plans, setting), "forward": within[0]}
        finally:
            del model.forward  # the method of the class again

    def token(self, threads: int, context: int = 500, repeats: int = 40) -> dict[str, float]:
        """Milliseconds of one decoded token and of its parts, and the bytes that it reads; medians."""
        runtime = self.runtimes[threads]
        model = runtime.engine.executor.model
        steps = {(before, head): one_row(before, head) for before in (0, context) for head in (False, True)}
        took: dict[Any, list[float]] = {which: [] for which in steps}
        for _ in range(repeats):
            for which, step in steps.items():  # in turns
                took[which].append(milliseconds(model.forward, step))
        of = {which: statistics.median(times) for which, times in took.items()}
        prompt, whole = list(range(1000, 1000 + context)), []
        options = {"temperature": 0, "ignore_eos": True}
        for tokens in (1, 33, 1, 33, 1, 33):
            runtime.flush_cache()
            given = {"max_new_tokens": tokens, **options}
            whole.append(milliseconds(runtime.generate, None, given, input_ids=prompt))
        weights = model._weights
        read = {name: array.nbytes for name, array in weights.arrays.items() if not name.startswith("embedding")}
        return {
            "token": (statistics.median(whole[1::2]) - statistics.median(whole[::2])) / 32,
            "forward": of[context, True],
            "attention": of[context, False] - of[0, False],
            "head": of[context, True] - of[context, False],
            "weights_bytes": sum(read.values()),
            "kv_bytes": context * model.kv_bytes_per_token,
        }

    def encode(self, text: str) -> list[int]:
        return list(map(int, next(iter(self.runtimes.values())).tokenizer.encode(text)))

    def decode(self, ids: list[int]) -> str:
        return str(next(iter(self.runtimes.values())).tokenizer.decode(ids))


def one_row(context: int, head: bool) -> Batch:
    """A step of one row after so many tokens, with logits (the head) or without."""
    at, runs = np.array([context]), ((0, context),) if context else ()
    return Batch(np.array([1000]), at, at, [SpanLayout(0, 1, runs, context)], np.arange(int(head)))


def milliseconds(call: Callable[..., Any], *args: Any, **options: Any) -> float:
    start = time.perf_counter()
    call(*args, **options)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    serve(Ours())
