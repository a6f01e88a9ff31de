"""What each part of the GPU path is worth: some programs with everything on, and with one thing off at a time.

    python benchmarks/gpu/ablations.py [--shape 8b] [--tokenizer tokenizer.json] [--only NAME ...]
    python benchmarks/gpu/ablations.py --config "small steps" chunked_prefill_size=1024 --config ...

Each configuration has a runtime of its own; programs run as in `programs.py`, best of two, cold. The table gives the
seconds of everything on and, for the others, how many times longer. A configuration that cannot start or a program that
fails says so, and the rest goes on.
"""

from __future__ import annotations

import argparse
import gc
import traceback
from typing import Any

import programs
import report
import torch
from cases import NAMES
from models import add_options, options_of, start

import sgl

ALL_ON = "everything on"
CONFIGS: dict[str, dict[str, Any]] = {
    ALL_ON: {},
    "graphs off": {"disable_cuda_graph": True},
    "overlap off": {"disable_overlap_schedule": True},
    "graphs and overlap off": {"disable_cuda_graph": True, "disable_overlap_schedule": True},
    "prefix reuse off": {"disable_radix_cache": True},
    "attention: torch": {"attention_backend": "torch"},
    "attention: flashinfer": {"attention_backend": "flashinfer"},
    "attention: triton": {"attention_backend": "triton"},
}
CASES = ("few_shot", "tree_of_thought", "agent", "schema_record", "one_stream")


def measure(args: argparse.Namespace, options: dict[str, Any], names: list[str]) -> dict[str, float | None]:
    """Best seconds by program; None where it failed. `ready` are the seconds to the first token."""
    runtime, ready = start(args.shape, args.tokenizer, {**options_of(args.option), **options})
    found: dict[str, float | None] = {"ready": ready}
    try:
        for case in programs.build(runtime, names, args.small):
            try:
                measured = programs.measure(case, runtime, args.in_flight, times=args.times)
                found[case.name] = None if measured.failed else measured.best
            except Exception:
                traceback.print_exc()
                found[case.name] = None
    finally:
        runtime.shutdown()
    return found


def show(found: dict[str, dict[str, float | None]], names: list[str], shape: str) -> None:
    base = found.get(ALL_ON, {})
    lines = []
    for config, seconds in found.items():
        cells = [config, report.cell(seconds.get("ready"), ".1f")]
        for name in names:
            took, whole = seconds.get(name), base.get(name)
            if took is None:
                cells.append("failed")
            elif config == ALL_ON or whole is None:
                cells.append(f"{took:.3f} s")
            else:
                cells.append(f"{took:.3f} s ({took / whole:.2f}x)")
        lines.append(cells)
    report.table(f"Ablations, {shape}", ["", "s to first token", *names], lines)


def chosen(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The configurations to run: the named ones of ours, and those said on the command line."""
    ours = {name: options for name, options in CONFIGS.items() if not args.skip or name not in args.skip}
    if args.configs is not None:
        ours = {name: options for name, options in ours.items() if name in (ALL_ON, *args.configs)}
    return {**ours, **{name: options_of(pairs) for name, *pairs in args.config}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(CASES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--in-flight", type=programs.in_flight, default=64, help="programs at a time, or 'auto'")
    parser.add_argument("--times", type=int, default=2, help="runs of each program")
    parser.add_argument("--configs", nargs="*", choices=CONFIGS, metavar="CONFIG", help=f"only: {', '.join(CONFIGS)}")
    parser.add_argument("--skip", nargs="*", choices=CONFIGS, metavar="CONFIG", help="all but these")
    parser.add_argument(
        "--config", nargs="+", action="append", default=[], metavar=("NAME", "OPTION=VALUE"), help="one of your own"
    )
    args = parser.parse_args()
    report.show_about()
    found: dict[str, dict[str, float | None]] = {}
    for name, options in chosen(args).items():
        print(f"{name}: {options}", flush=True)
        try:
            found[name] = measure(args, options, args.only)
            print(f"{name}: {found[name]}", flush=True)
        except sgl.SglError as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            found[name] = {}
        except Exception:
            traceback.print_exc()
            found[name] = {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    show(found, args.only, args.shape)
    report.save(args.json, [{"config": name, "seconds": seconds} for name, seconds in found.items()])


if __name__ == "__main__":
    main()
