"""Many programs in flight on the toy model: rows a second, and what the host does for each call.

    python benchmarks/batch.py [--rows 1 64 1000 10000] [--calls 8] [--real]

A program makes eight calls of one greedy token each, with text between them. *Model* is the time within the toy
model's forward; the rest is ours: language, interpreter, scheduling, tokenising, sampling, and the waiting threads or
coroutines. Three kinds of program: an async one that awaits every value, an async one that awaits the last, and a
plain one on the pool of threads. Then a fork of 8 with its join, and a batch several times larger than the pool.
`--real` adds a batch on the default model. Times are the best of several turns: the machine's speed drifts.

SGLang's figures in the table were measured on its own frontend with a backend that answers at once (version 0.5.23, a
thread a branch, two cores): 0.4-0.6 ms a program whose calls cost nothing, 12.8 ms a fork of 8 with its join.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import date
from typing import Any

import sgl

CALLS = 8


@sgl.function
async def awaits_each(s: Any, i: int) -> None:
    s += f"row {i}: "
    for k in range(CALLS):
        s += sgl.gen(f"a{k}", max_tokens=1, temperature=0, ignore_eos=True)
        await s[f"a{k}"]
        s += " then "


@sgl.function
async def awaits_last(s: Any, i: int) -> None:
    s += f"row {i}: "
    for k in range(CALLS):
        s += sgl.gen(f"a{k}", max_tokens=1, temperature=0, ignore_eos=True) + " then "
    await s[f"a{CALLS - 1}"]


@sgl.function
def plain(s: Any, i: int) -> None:
    s += f"row {i}: "
    for k in range(CALLS):
        s += sgl.gen(f"a{k}", max_tokens=1, temperature=0, ignore_eos=True) + " then "


@sgl.function
def forks(s: Any) -> None:
    s += "x y z "
    group = s.fork(8)
    group += "w"
    group.join()


@sgl.function
async def agent(s: Any, i: int, length: int) -> None:
    for k in range(CALLS):
        s += f"row {i}, turn {k}: " + sgl.gen(f"a{k}", max_tokens=length, ignore_eos=True) + "\n"
        await s[f"a{k}"]


class Timed:
    """A toy runtime that knows how long its forwards took."""

    def __init__(self, **options: Any) -> None:
        self.runtime = sgl.Runtime.toy(**options)
        self.seconds = 0.0
        forward = self.runtime.engine.model.forward

        def timed(batch: Any) -> Any:
            start = time.perf_counter()
            logits = forward(batch)
            self.seconds += time.perf_counter() - start
            return logits

        self.runtime.engine.model.forward = timed  # type: ignore[method-assign]


def many(program: Any, rows: int, in_flight: int | str, repeats: int) -> tuple[float, float]:
    """(seconds, of them in the model) of a batch; the best of `repeats`, each on a fresh runtime."""
    found = []
    for _ in range(repeats):
        timed = Timed(max_total_tokens=1_000_000)
        gc.collect()
        start = time.perf_counter()
        program.run_batch([(i,) for i in range(rows)], num_threads=in_flight, backend=timed.runtime)
        found.append((time.perf_counter() - start, timed.seconds))
    return min(found)


def table(sizes: list[int]) -> None:
    print("| program | in flight | rows/s | ms a program | us a call | of it the model | ours, us a call |")
    print("|---|---|---|---|---|---|---|")
    for program in (awaits_each, awaits_last, plain):
        for rows in sizes:
            in_flight = "auto" if program is plain else rows
            repeats = 200 if rows == 1 else 15 if rows <= 64 else 5 if rows <= 1000 else 2
            seconds, model = many(program, rows, in_flight, repeats)
            call = 1e6 / rows / CALLS
            shown = f"{rows:,}{' (256 at a time)' if program is plain and rows > 256 else ''}"
            print(
                f"| {program.__name__} | {shown} | {rows / seconds:,.0f} | {seconds / rows * 1e3:.2f} | "
                f"{seconds * call:.0f} | {model * call:.0f} | {(seconds - model) * call:.0f} |"
            )


def empty_programs() -> None:
    """What SGLang's figures are of: programs whose calls cost nothing, and forks that are joined."""

    @sgl.function
    def nothing(s: Any) -> None:
        s += "text"

    backend = sgl.Runtime.toy()

    def ms(run: Callable[[], Any], times: int) -> float:
        """The best of eight turns."""
        turns = []
        for _ in range(8):
            start = time.perf_counter()
            for _ in range(times):
                run()
            turns.append((time.perf_counter() - start) / times * 1e3)
        return min(turns)

    one = ms(lambda: nothing.run(backend=backend).sync(), 200)
    batch = ms(lambda: nothing.run_batch([()] * 500, backend=backend), 1) / 500
    fork = ms(lambda: forks.run(backend=backend).sync(), 50)
    print("\n| | ours | SGLang's frontend |\n|---|---|---|")
    print(f"| a program without calls, run and read | {one:.3f} ms | 0.41 ms |")
    print(f"| the same in a batch | {batch:.3f} ms | 0.4-0.6 ms |")
    print(f"| fork(8) and join | {fork:.3f} ms | 12.8 ms |")


def larger_than_the_pool() -> None:
    print("\n| pool, tokens | rows | tokens computed | times the pool | computed twice | rows/s |")
    print("|---|---|---|---|---|---|")
    for pool, rows in ((2_000, 64), (2_000, 500), (20_000, 500)):
        runtime = sgl.Runtime.toy(max_total_tokens=pool)
        start = time.perf_counter()
        states = agent.run_batch([(i, 10 + i * 7 % 16) for i in range(rows)], backend=runtime)
        seconds, total = time.perf_counter() - start, states.usage.total
        print(
            f"| {pool:,} | {rows} | {total.computed:,} | {total.computed / pool:.1f} | "
            f"{total.recomputed / total.computed:.2%} | {rows / seconds:.0f} |"
        )


def memory(n: int = 10_000) -> None:
    """Bytes of a program that waits for its first value (Python's, by tracemalloc)."""
    runtime = sgl.Runtime.toy(max_total_tokens=1_000_000)

    async def main(program: Any) -> float:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        with runtime.engine.drive.held():  # nothing gets on meanwhile
            tasks = [asyncio.create_task(program.arun(i, backend=runtime)) for i in range(n)]
            for _ in range(3):
                await asyncio.sleep(0)
            gc.collect()
            cost = (tracemalloc.get_traced_memory()[0] - before) / n
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cost

    tracemalloc.start()
    one, all_of_them = asyncio.run(main(awaits_each)), asyncio.run(main(awaits_last))
    print(f"\nA program that waits ({n:,} of them), with one call in its queue: {one / 1e3:.1f} kB")
    print(f"with {CALLS} calls in its queue: {all_of_them / 1e3:.1f} kB")
    tracemalloc.stop()


def real() -> None:
    runtime = sgl.Runtime()

    @sgl.function
    async def answer(s: Any, i: int) -> None:
        s += sgl.user(f"Write one sentence about the number {i}.")
        s += sgl.assistant(sgl.gen("a", max_tokens=24, temperature=0))
        await s["a"]
        s += sgl.user("And one about the next.")
        s += sgl.assistant(sgl.gen("b", max_tokens=24, temperature=0))

    print("\n| SmolLM2, in flight | rows/s | tokens/s | reused |\n|---|---|---|---|")
    for rows in (1, 8, 64):
        runtime.flush_cache()
        start = time.perf_counter()
        total = answer.run_batch([(i,) for i in range(rows)], num_threads=rows, backend=runtime).usage.total
        seconds = time.perf_counter() - start
        print(
            f"| {rows} | {rows / seconds:.2f} | {total.generated / seconds:.0f} | {total.reused / total.prompt:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1000, 10_000])
    parser.add_argument("--real", action="store_true")
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {sys.version.split()[0]}, {date.today()}\n")
    table(options.rows)
    empty_programs()
    larger_than_the_pool()
    memory()
    if options.real:
        real()


if __name__ == "__main__":
    main()
