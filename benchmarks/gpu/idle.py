"""How long the device idles in each program, and in how long pieces: what the host's part of a program costs.

    python benchmarks/gpu/idle.py [--shape 8b] [--tokenizer tokenizer.json] [--only NAME ...]

Programs as in `programs.py`, each run once more under torch's profiler (device activity only, a few percent slower).
*busy* is the time in which some kernel or copy ran; gaps of under 20 us lie between the launches of a step, those of
milliseconds are the host's: programs that end and begin, masks, waking threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import models
import programs
import report
import torch
from cases import NAMES
from torch.profiler import ProfilerActivity, profile

GAPS = ((20e3, "<20 us"), (200e3, "<0.2 ms"), (2e6, "<2 ms"), (float("inf"), "more"))
"""Classes of gaps: their bounds in nanoseconds."""


def busy_and_gaps(events: Iterable[tuple[int, int]]) -> tuple[int, list[int]]:
    """Nanoseconds in which something ran, and the gaps in between, of (begin, end) that may overlap."""
    busy, until, gaps = 0, 0, []
    for begin, end in sorted(events):
        if until and begin > until:
            gaps.append(begin - until)
        busy += max(0, end - max(begin, until))
        until = max(until, end)
    return busy, gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    models.add_options(parser)
    parser.add_argument("--only", nargs="*", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--in-flight", type=programs.in_flight, default=64, help="programs at a time, or 'auto'")
    args = parser.parse_args()
    report.show_about()
    runtime, _ = models.start(args.shape, args.tokenizer, models.options_of(args.option))
    lines = []
    for case in programs.build(runtime, args.only, args.small):
        plain = programs.measure(case, runtime, args.in_flight)
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            programs.run_once(case, runtime, args.in_flight)
            torch.cuda.synchronize()
        found = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
        busy, gaps = busy_and_gaps((event.start_ns(), event.end_ns()) for event in found)
        least, cells = 0.0, []
        for most, _ in GAPS:
            cells.append(f"{sum(gap for gap in gaps if least <= gap < most) / 1e9:.3f}")
            least = most
        lines.append([case.name, f"{plain.best:.3f}", f"{busy / 1e9:.3f}", *cells, str(plain.steps)])
    head = ("program", "best s", "busy s", *(f"gaps {name}" for _, name in GAPS), "steps")
    report.table(f"Where the device idles, {args.shape}, seconds", head, lines)


if __name__ == "__main__":
    main()
