"""What tracing costs: tokens a second with `sgl.trace()` off and on, in turns, and microseconds a call on the toy.

    python benchmarks/tracing.py [--tokens N] [--rounds N] [--batches N ...] [--no-model]

The real model decodes greedily at each batch size, all rows at once, with a warm cache; a round is two runs without and
one with a trace (in alternating order), and the best of each are compared. "untouched" is how far the best of two
equal series without a trace are apart, so that a cost can be told from noise. The toy's calls cost no model, so there
the interpreter's own work is all there is.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any

import sgl
from sgl.interpreter.trace.recording import trace

STORY = "Once upon a time there was a lighthouse keeper who wrote down every ship that passed. Entry {}: "


@sgl.function
def story(s: Any, row: int, tokens: int) -> None:
    s += STORY.format(row) + sgl.gen("text", max_tokens=tokens, temperature=0, ignore_eos=True)


@sgl.function
def many_calls(s: Any, calls: int) -> None:
    for i in range(calls):
        s += " and" + sgl.gen(f"x{i}", max_tokens=1, temperature=0)


def seconds(runtime: Any, rows: int, tokens: int, on: bool) -> float:
    began = time.perf_counter()
    with trace() if on else nullcontext():
        states = [story.run(row, tokens, backend=runtime) for row in range(rows)]
        for state in states:
            state["text"]
    return time.perf_counter() - began


def compare(run: Any, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds without, again without, and with a trace."""
    kinds: tuple[list[float], list[float], list[float]] = ([], [], [])
    for i in range(rounds):
        order = [0, 1, 2] if i % 2 else [2, 1, 0]
        for kind in order:
            kinds[kind].append(run(kind == 2))
    return kinds


def real(batches: list[int], tokens: int, rounds: int) -> list[str]:
    lines = [
        f"| SmolLM2, {tokens} tokens a row | tokens/s off | tokens/s on | cost of tracing | untouched |",
        "|---|---|---|---|---|",
    ]
    with sgl.Runtime(random_seed=0) as runtime:
        for batch in batches:
            seconds(runtime, batch, 8, True)
            off, again, on = compare(lambda traced, rows=batch: seconds(runtime, rows, tokens, traced), rounds)
            best = [min(off), min(again), min(on)]
            cost, noise = best[2] / min(best[:2]) - 1, max(best[:2]) / min(best[:2]) - 1
            speed = [batch * tokens / t for t in (min(best[:2]), best[2])]
            lines.append(f"| batch {batch} | {speed[0]:.1f} | {speed[1]:.1f} | {cost:+.1%} | {noise:+.1%} |")
    return lines


def toy(calls: int, rounds: int) -> list[str]:
    def run(traced: bool) -> float:
        with sgl.Runtime.toy() as runtime:
            began = time.perf_counter()
            with trace() if traced else nullcontext():
                many_calls.run(calls, backend=runtime).sync()
            return time.perf_counter() - began

    run(True)
    off, again, on = compare(run, rounds)
    each = [min(t) / calls * 1e6 for t in (off, again, on)]
    return [
        f"| toy, {calls} calls of one token | µs a call |",
        "|---|---|",
        f"| off | {each[0]:.1f} |",
        f"| off again | {each[1]:.1f} |",
        f"| on | {each[2]:.1f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--no-model", action="store_true")
    asked = parser.parse_args()
    lines = toy(300, max(asked.rounds, 5))
    if not asked.no_model:
        lines = [*real(asked.batches, asked.tokens, asked.rounds), "", *lines]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
