"""`sgl` on a CPU beside its peers: the same machine, run, weights and work; in turns; medians.

    python benchmarks/cpu/main.py                       measures every line that is not measured yet, and writes cpu.md
    python benchmarks/cpu/main.py --only NAME ...       lines whose names contain one of these, measured again
    python benchmarks/cpu/main.py --peers NAME ...      these peers only, and sgl (others keep their figures and ratios)
    python benchmarks/cpu/main.py --threads N           only settings with so many threads, for lines that take long
    python benchmarks/cpu/main.py --again               everything again
    python benchmarks/cpu/main.py --report              writes cpu.md of the figures that there are

`make bench-cpu` makes the peers' environments first. Each peer runs in a process and an environment of its own. For
each line every peer tries its settings, twice each, the first time to warm up; then all peers take turns with their
best settings. A run beside which other processes worked is taken again, three times at most. Figures are kept line by
line in `.venv-peers/figures.json`, and the settings' too, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import machine
import page
from child import Child, PeerError
from plans import ROOT, Measure, measures

HERE, ENVIRONMENTS = Path(__file__).resolve().parent, ROOT / ".venv-peers"
FIGURES = ENVIRONMENTS / "figures.json"
PEERS = {
    "ours": ("", "ours.py"),
    "llama": ("llama", "llama.py"),
    "llama_amx": ("llama_amx", "llama.py"),
    "llama_server": ("llama", "llama_server.py"),
    "mistralrs": ("mistralrs", "mistralrs_.py"),
    "vllm": ("vllm", "vllm_.py"),
    "transformers": ("torch", "transformers_.py"),
    "guidance": ("llama", "guidance_.py"),
    "outlines": ("torch", "outlines_.py"),
}
"""The environment of each peer, and its file."""
BEHIND = 1.5
QUIET, ATTEMPTS, MOMENT, PATIENCE = 0.1, 3, 0.3, 3.0
"""Others may work so much beside a run (cores); so often it is taken; so long are a look and the wait before it (s)."""
ROUNDS, SECONDS = 5, 12.0
"""A peer takes its turn in at most so many rounds, and in no further round once its runs took so long together (s)."""


class Peers:
    """The children, each started when it is first wanted."""

    def __init__(self, kept: dict[str, Any], keep: Callable[[], None]) -> None:
        self.kept, self.keep, self.running = kept, keep, {}

    def get(self, name: str) -> Child:
        """The child of a peer. Raises `PeerError` if it does not start; it is told in the report."""
        if name not in self.running:
            environment, file = PEERS[name]
            python = ENVIRONMENTS / environment / "bin" / "python" if environment else Path(sys.executable)
            try:
                missing = ENVIRONMENTS / f"{environment}.failed"
                if environment and missing.exists():
                    raise PeerError(f"was not installed: {missing.read_text().strip()[:300]}")
                if not python.exists():
                    raise PeerError("its environment is not there (make .venv-peers/ready)")
                child = Child(python, HERE / file, ENVIRONMENTS / f"{name}.log")
                self.running[name] = child, child.call("open", limit=300)
                self.kept["versions"][name] = self.running[name][1]
                self.kept["failed"].pop(name, None)
            except PeerError as error:
                self.kept["failed"][name] = str(error)
                raise
        return self.running[name][0]

    def close(self, name: str) -> None:
        if name in self.running:
            self.running.pop(name)[0].close()


def others(child: Child) -> float:
    """Seconds that all have worked but the peer and this process."""
    return machine.busy() - machine.worked(child.process) - time.process_time()


def wait(child: Child) -> None:
    """Until the machine is ours for a moment, so long as that may come."""
    for _ in range(int(PATIENCE / MOMENT)):
        before = others(child)
        time.sleep(MOMENT)
        if others(child) - before < QUIET * MOMENT:
            break


def run(child: Child, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
    """A peer's run beside which others hardly worked: `others`, in cores. After some attempts, the least disturbed."""
    runs: list[dict[str, Any]] = []
    while len(runs) < ATTEMPTS and (not runs or runs[-1]["others"] > QUIET):
        if runs:
            wait(child)
        before, start = others(child), time.perf_counter()
        out = child.call("run", plans, setting)
        runs.append({**out, "others": (others(child) - before) / (time.perf_counter() - start)})
    return min(runs, key=lambda each: each["others"])


def best_setting(child: Child, plans: list[Any], threads: int | None) -> list[tuple[float, dict[str, Any]]]:
    """The settings and their faster run of two, the best first. One that is far behind runs once."""
    tried: list[tuple[float, dict[str, Any]]] = []
    settings = [each for each in child.call("settings") if threads in (None, each.get("threads", threads))]
    for setting in reversed(settings):  # the last are the fastest as a rule: slower ones run once
        took = run(child, plans, setting)["seconds"]
        if took < BEHIND * min([each[0] for each in tried] or [took]):
            took = min(took, run(child, plans, setting)["seconds"])
        tried.append((took, setting))
    return sorted(tried, key=lambda each: each[0])


def measured(
    measure: Measure, peers: Peers, names: list[str], threads: int | None, known: dict[str, Any]
) -> dict[str, Any]:
    """A line's figures: for each peer the setting, the seconds of its rounds, and what came out.

    `known`: the settings' seconds where they were tried before; new ones are added.
    """
    figures: dict[str, Any] = {}
    children: dict[str, Child] = {}
    for name in names:
        try:
            children[name] = peers.get(name)
            if name in known:
                children[name].call("run", measure.plans, known[name][0][1])  # to warm up
            else:
                known[name] = best_setting(children[name], measure.plans, threads)
                peers.keep()
            figures[name] = {"setting": known[name][0][1], "tried": known[name], "seconds": [], "others": []}
        except PeerError as error:
            children.pop(name, None)
            peers.close(name)
            figures[name] = {"error": str(error)}
    for _ in range(ROUNDS):
        for name, child in list(children.items()):
            mine = figures[name]
            if sum(mine["seconds"]) > SECONDS:
                continue
            try:
                out = run(child, measure.plans, mine["setting"])
            except PeerError as error:
                children.pop(name)
                peers.close(name)
                figures[name] = {"error": str(error)}
                continue
            mine["seconds"].append(out.pop("seconds"))
            mine["others"].append(round(out.pop("others"), 2))
            mine["out"] = out
    if "ours" in children:
        for name in figures.keys() - {"ours"}:
            figures[name]["beside"] = figures["ours"]["seconds"]
        figures["ours"]["inside"] = children["ours"].call("inside", measure.plans, figures["ours"]["setting"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="parts of names of lines")
    parser.add_argument("--peers", nargs="+", choices=[name for name in PEERS if name != "ours"])
    parser.add_argument("--threads", type=int, help="only settings with so many threads")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() and not args.again else {}
    for key in ("lines", "tried", "versions", "failed", "machine"):
        kept.setdefault(key, {})

    def keep() -> None:
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(kept, indent=1))

    if not args.report:
        kept["machine"] = kept["machine"] or machine.about()
        peers = Peers(kept, keep)
        ours = peers.get("ours")
        for measure in measures(lambda text: ours.call("encode", text), lambda ids: ours.call("decode", ids)):
            if args.only and not any(part in measure.name for part in args.only):
                continue
            if measure.name in kept["lines"] and not args.only:
                continue
            start = time.perf_counter()
            here = [name for name in measure.peers if name != "llama_amx" or "amx_int8" in kept["machine"]["flags"]]
            names = ["ours", *(name for name in here if not args.peers or name in args.peers)]
            figures = measured(measure, peers, names, args.threads, kept["tried"].setdefault(measure.name, {}))
            old = kept["lines"].get(measure.name, {}).get("figures", {}) if args.peers else {}
            kept["lines"][measure.name] = {"aim": measure.aim, "date": str(date.today()), "figures": {**old, **figures}}
            keep()
            show(measure, figures, time.perf_counter() - start)
        if "profile" not in kept or args.again:
            kept["bandwidth"] = machine.bandwidth()
            threads = sorted({1, kept["machine"]["threads"]})
            kept["profile"] = {str(each): ours.call("token", each) for each in threads}
            keep()
        for name in list(peers.running):
            peers.close(name)
    (ROOT / "benchmarks/results/cpu.md").write_text(page.page(kept))


def show(measure: Measure, figures: dict[str, Any], seconds: float) -> None:
    print(f"{measure.name} ({seconds:.0f} s)", flush=True)
    for name, mine in figures.items():
        if "error" in mine:
            print(f"  {name:13} {mine['error'][:150]}")
        else:
            took, tokens, rounds = statistics.median(mine["seconds"]), mine["out"]["generated"], len(mine["seconds"])
            print(f"  {name:13} {took:8.3f} s, {tokens} tokens, {rounds} rounds, {mine['setting']}", flush=True)


if __name__ == "__main__":
    main()
