"""SGLang's programs on this runtime: seconds, beside SGLang's, the target and the card's limit.

    python benchmarks/gpu/programs.py [--shape 8b] [--tokenizer tokenizer.json] [--only NAME ...] [--in-flight 64]
    python benchmarks/gpu/programs.py --profile agent

Each program runs through `run_batch`, twice, each time on a cold cache (`flush_cache`), with at most `--in-flight`
programs unfinished at a time (SGLang's: its threads). A body that reads values holds a thread while it waits, so those
get as many threads, and wait for their end too; of bodies that only say what they want `run_batch` has four in flight
a thread, so those get a quarter. `--in-flight auto` is `run_batch`'s own choice.

*Limit* is of `limits.py`, at the same number in flight; its rows count every label and message as new, while the
runtime computes what programs or forks happen to begin with alike once. *Rows* went through the model, *generated* are
tokens of gens (forced ones included). `--profile` shows where the host's time goes within the steps of one program.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import gc
import pstats
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import report
from cases import FULL, NAMES, SMALL, Builder, Case, constrained_work
from limits import Limit, Shape, limit
from models import SHAPES, add_options, options_of, start
from texts import TOLERANCE, Texts

import sgl
from sgl.interpreter.batch.plan import IN_FLIGHT, MAX_THREADS

PROFILE_LINES = 25


@dataclass
class Measured:
    """One program: seconds of each run; the rest is of the best one."""

    name: str
    programs: int
    seconds: list[float]
    steps: int
    rows: int
    generated: int
    forced: int
    longest: int  # most tokens sampled by a program, forced ones left out
    failed: int

    @property
    def best(self) -> float:
        return min(self.seconds)


def held(program: Any) -> Any:
    """The program, its body waiting for all it said: then threads in use are programs in flight."""

    @functools.wraps(program.func)
    def body(s: Any, *args: Any, **kwargs: Any) -> None:
        program.func(s, *args, **kwargs)
        s.sync()

    return sgl.function(body)


def run_in(case: Case, together: int | str) -> tuple[int | str, Any]:
    """`num_threads=` with which just so many programs are in flight, and the program to run."""
    if together == "auto":
        return "auto", case.program
    assert isinstance(together, int)
    if case.waits or together < MAX_THREADS:
        return together, held(case.program)
    return together // 4, case.program


def run_once(case: Case, runtime: sgl.Runtime, together: int | str) -> Measured:
    runtime.flush_cache()
    gc.collect()
    threads, program = run_in(case, together)
    before = runtime.get_server_info()
    began = time.perf_counter()
    states = program.run_batch(case.rows, num_threads=threads, backend=runtime, on_error="keep")
    for state in states:
        if state.error() is None:
            state.text()
    seconds = time.perf_counter() - began
    after = runtime.get_server_info()
    errors = [error for state in states if (error := state.error()) is not None]
    if errors:
        print(f"{case.name}: {len(errors)} of {len(states)} programs failed, the first with {errors[0]!r}")
    totals = [state.usage.total for state in states]
    found = Measured(
        case.name,
        len(states),
        [seconds],
        after["steps"] - before["steps"],
        after["computed_tokens"] - before["computed_tokens"],
        sum(usage.generated for usage in totals),
        sum(usage.forced for usage in totals),
        max(usage.generated - usage.forced for usage in totals),
        len(errors),
    )
    if case.generated is not None and not errors:
        _check_size(f"{case.name}: tokens generated", found.generated, case.generated)
    return found


def _check_size(what: str, found: int, expected: int) -> None:
    if abs(found - expected) > TOLERANCE * expected:
        raise AssertionError(f"{what}: {found}, expected {expected}")


def measure(case: Case, runtime: sgl.Runtime, together: int | str, times: int = 2) -> Measured:
    """The best of `times` runs, each cold."""
    runs = [run_once(case, runtime, together) for _ in range(times)]
    best = min(runs, key=lambda run: run.best)
    best.seconds = [seconds for run in runs for seconds in run.seconds]
    return best


def check_sizes(case: Case, texts: Texts) -> None:
    """Raise if what a program says before its first call is not as long as the table says."""
    if case.name == "chat":
        return  # its template's part is counted where it is made
    for row in case.rows:
        said = "".join(row[part] for part in ("shared", "prompt", "question", "essay", "task") if part in row)
        texts.check(said, case.opening)


def limit_of(case: Case, found: Measured, shape: str, together: int) -> Limit:
    work = case.work or constrained_work(case.rows, case.opening, found.longest)
    return limit(work, Shape.of(SHAPES[shape]), in_flight=together)


@contextmanager
def profiled(runtime: sgl.Runtime) -> Iterator[cProfile.Profile]:
    """The profile of the engine's steps, on whichever thread they are taken: one at a time takes them."""
    profile, engine = cProfile.Profile(), runtime.engine
    step: Callable[[], bool] = engine.step
    one_at_a_time = threading.Lock()

    def timed() -> bool:
        with one_at_a_time:
            profile.enable()
            try:
                return step()
            finally:
                profile.disable()

    engine.step = timed  # type: ignore[method-assign]
    try:
        yield profile
    finally:
        engine.step = step  # type: ignore[method-assign]


def show_profile(case: Case, runtime: sgl.Runtime, together: int | str) -> None:
    run_once(case, runtime, together)
    plain = run_once(case, runtime, together)
    with profiled(runtime) as profile:
        found = run_once(case, runtime, together)
    stats = pstats.Stats(profile)
    inside = sum(row[2] for row in stats.stats.values())  # type: ignore[attr-defined]
    print(
        f"{case.name}: {plain.best:.3f} s without the profile, {found.best:.3f} s with it, of which {inside:.3f} s "
        f"within {found.steps} steps ({inside / max(1, found.steps) * 1e3:.2f} ms each)"
    )
    stats.strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)


def show(found: list[tuple[Measured, Limit]], shape: str, title: str) -> None:
    head = (
        "program", "programs", "best s", "other s", "SGLang s", "times SGLang", "target s", "met", "limit s",
        "share of limit", "steps", "limit's steps", "rows", "limit's rows", "generated", "forced",
    )  # fmt: skip
    lines = []
    for m, least in found:
        theirs, target = report.SGLANG[m.name].get(shape), report.TARGETS[m.name].get(shape)
        others = ", ".join(f"{seconds:.3f}" for seconds in sorted(m.seconds)[1:])
        met = "" if target is None else "yes" if m.best <= target and not m.failed else "no"
        lines.append(
            [m.name, str(m.programs), f"{m.best:.3f}", others, report.cell(theirs, ".2f"), report.ratio(m.best, theirs),
             report.cell(target, ".2f"), met, f"{least.seconds:.3f}", f"{least.seconds / m.best:.0%}", str(m.steps),
             str(least.steps), f"{m.rows:,}", f"{least.rows:,}", f"{m.generated:,}", f"{m.forced:,}"]
        )  # fmt: skip
    report.table(title, head, lines)


def in_flight(text: str) -> int | str:
    return text if text == "auto" else int(text)


def build(runtime: sgl.Runtime, names: list[str] | None, small: bool) -> list[Case]:
    """The chosen cases, their sizes checked; `small` for a quick look that they run."""
    texts = Texts(runtime.tokenizer)
    made = Builder(texts, SMALL if small else FULL).all()
    cases = [made[name]() for name in made if not names or name in names]
    for case in cases:
        check_sizes(case, texts)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--only", nargs="*", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--in-flight", type=in_flight, default=64, help="programs at a time, or 'auto'")
    parser.add_argument("--times", type=int, default=2, help="runs of each program")
    parser.add_argument("--profile", choices=NAMES, metavar="NAME", help="where the host's time goes in one program")
    args = parser.parse_args()
    report.show_about()
    runtime, ready = start(args.shape, args.tokenizer, options_of(args.option))
    print(f"{args.shape}: {ready:.1f} s to the first token; {runtime!r}", flush=True)
    if args.profile:
        show_profile(build(runtime, [args.profile], args.small)[0], runtime, args.in_flight)
        return
    if Texts(runtime.tokenizer).count("word") > 1:
        print(
            "A token is a byte: records are longer than with a vocabulary, and chat's markup alone is more than a turn."
        )
    together = IN_FLIGHT if args.in_flight == "auto" else args.in_flight
    done: list[tuple[Measured, Limit]] = []
    for case in build(runtime, args.only, args.small):
        found = measure(case, runtime, args.in_flight, args.times)
        done.append((found, limit_of(case, found, args.shape, together)))
        print(f"{case.name}: {', '.join(f'{seconds:.3f}' for seconds in found.seconds)} s", flush=True)
    show(done, args.shape, f"Programs, {args.shape}, {together} in flight")
    report.save(args.json, [{**asdict(m), "limit": asdict(least)} for m, least in done])


if __name__ == "__main__":
    main()
