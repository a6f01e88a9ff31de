"""Many programs in flight on the toy model: rows a second, and what the host does for each call.

    python benchmarks/batch.py [--rows 1 64 1000 10000] [--calls 8] [--real]

A program makes eight calls of one greedy token each, with text between them. *Model* is the time within the toy
model's forward; the rest is ours: language, interpreter, scheduling, tokenising, sampling, and the waiting threads or
coroutines. Three kinds of program: an async one that awaits every value, an async one that awaits the last, and a
plain one on the pool of threads. Then a fork of 8 with its join, and a batch several times larger than the pool,
`generate` over thousands of prompts, programs that wait outside in a small pool, the slots that a batch of small rows
touches, and long chats.
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


def offline() -> None:
    """`generate` over thousands of prompts of 90 tokens, 20 tokens each; beside it the same as a batch of programs.
    Times are the CPU's, of all threads."""

    @sgl.function
    def row(s: Any, text: str) -> None:
        s += text + sgl.gen("a", max_tokens=20, ignore_eos=True)

    texts = [f"{i:06} " + "0123456789 " * 7 + "012345" for i in range(10_000)]
    print("\n| generate, prompts | pool, tokens | CPU s | us a prompt | steps | as run_batch, us a row | its steps |")
    print("|---|---|---|---|---|---|---|")
    for prompts, pool in ((1024, 600_000), (4096, 600_000), (10_000, 600_000), (4096, 60_000)):
        runtime, other = sgl.Runtime.toy(max_total_tokens=pool), sgl.Runtime.toy(max_total_tokens=pool)
        ids = [runtime.tokenizer.encode([(text, False)], first=True) for text in texts[:prompts]]
        assert len(ids[0]) == 90
        start = time.process_time()
        runtime.generate(input_ids=ids, sampling_params={"max_new_tokens": 20, "ignore_eos": True})
        middle = time.process_time()
        row.run_batch([(text,) for text in texts[:prompts]], backend=other)
        seconds, batch = middle - start, time.process_time() - middle
        print(
            f"| {prompts:,} | {pool:,} | {seconds:.1f} | {seconds / prompts * 1e6:.0f} | {runtime.engine.steps:,} | "
            f"{batch / prompts * 1e6:.0f} | {other.engine.steps:,} |"
        )


def outside(rows: int = 400) -> None:
    """Programs that wait a second for a tool between two gens; the small pool has a tenth of what they hold."""

    @sgl.function
    async def asks_a_tool(s: Any, i: int) -> None:
        s += f"program {i}: " + "x" * 80 + sgl.gen("a", max_tokens=20, ignore_eos=True)
        await s["a"]
        await asyncio.sleep(1.0)
        s += " the tool says 42. " + sgl.gen("b", max_tokens=20, ignore_eos=True)
        await s["b"]

    print(
        "\n| programs that wait a second outside | pool, tokens | s | steps | computed twice |\n|---|---|---|---|---|"
    )
    for pool in (60_000, 6_000):
        runtime = sgl.Runtime.toy(max_total_tokens=pool)
        start = time.perf_counter()
        total = asks_a_tool.run_batch([(i,) for i in range(rows)], num_threads=rows, backend=runtime).usage.total
        seconds = time.perf_counter() - start
        twice = total.recomputed / total.computed
        print(f"| {rows} | {pool:,} | {seconds:.1f} | {runtime.engine.steps:,} | {twice:.0%} |")


def touched() -> None:
    """Slots that a batch of small rows uses at least once: so many take memory."""

    @sgl.function
    def small(s: Any, i: int) -> None:
        s += f"row {i}: " + sgl.gen("a", max_tokens=8)

    runtime, seen = sgl.Runtime.toy(max_total_tokens=1_000_000), [0]
    forward = runtime.engine.model.forward

    def noted(batch: Any) -> Any:
        seen[0] = max(seen[0], int(batch.slots.max()))
        return forward(batch)

    runtime.engine.model.forward = noted  # type: ignore[method-assign]
    small.run_batch([(i,) for i in range(5000)], backend=runtime)
    cached = runtime.get_server_info()["cached_tokens"]
    print(f"\n5,000 rows of some 10 tokens: {cached:,} tokens cached, slots 1 to {seen[0]:,} used")


def chats() -> None:
    """Host time (of the CPU) of a chat of many turns, a question and one generated token each."""
    from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
    from sgl.lang.chat import CHATML, ChatTemplate

    @sgl.function
    def chat(s: Any, turns: int) -> None:
        for k in range(turns):
            s += sgl.user("q") + sgl.assistant(sgl.gen(f"a{k}", max_tokens=1, ignore_eos=True))
            s[f"a{k}"]

    print("\n| turns of a chat | host time, s | ms a turn |\n|---|---|---|")
    tokenizer = toy_tokenizer()
    for turns in (100, 200, 400, 800):
        model, inside = ToyModel(tokenizer.vocab_size + 5, context_length=100_000), [0.0]
        runtime = sgl.Runtime.of(model, tokenizer, chat_template=ChatTemplate(CHATML), max_total_tokens=100_000)
        forward = model.forward

        def timed(batch: Any, forward: Any = forward, inside: list[float] = inside) -> Any:
            start = time.process_time()
            logits = forward(batch)
            inside[0] += time.process_time() - start
            return logits

        model.forward = timed  # type: ignore[method-assign]
        start = time.process_time()
        chat.run(turns, backend=runtime).sync()
        seconds = time.process_time() - start - inside[0]
        print(f"| {turns} | {seconds:.2f} | {seconds / turns * 1e3:.2f} |")


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
    offline()
    outside()
    touched()
    chats()
    memory()
    if options.real:
        real()


if __name__ == "__main__":
    main()
