"""Programs with drafts and without: seconds, ratio, tokens a round.

    python benchmarks/speculation.py [--batch 1 8 64] [--only NAME ...] [--repeats 3] [--json FILE]
        [--algorithm EAGLE3]

Each program runs on two runtimes with the same model in one process, in turns: one drafts what was written before (the
default), the other nothing (`speculative_num_draft_tokens=0`). Before each run both forget all KV and all texts. A run
has `batch` programs at a time, each with a text of its own. Greedy, and the texts of both are compared. Medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import sgl

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = [json.loads(line)["question"] for line in (ROOT / "examples/data/gsm8k-200.jsonl").read_text().splitlines()]
SHOTS = (
    "Problem: Tom has 3 boxes with 4 pens in each box. He gives 5 pens away. How many pens does he have left?\n"
    "Solution: Tom has 3 * 4 = 12 pens. After giving 5 away he has 12 - 5 = 7 pens. The answer is 7.\n\n"
    "Problem: A shirt costs $20 and a hat costs $8 less than the shirt. What do they cost together?\n"
    "Solution: The hat costs 20 - 8 = 12 dollars. Together they cost 20 + 12 = 32 dollars. The answer is 32.\n\n"
    "Problem: Ann reads 12 pages a day. Her book has 180 pages and she has read 60. How many days does she need?\n"
    "Solution: She has 180 - 60 = 120 pages left. That takes 120 / 12 = 10 days. The answer is 10.\n\n"
)
NAMES = ["Anna Schmidt", "Bob Jones", "Carla Rossi", "Dan Brown", "Eve Li", "Finn Olsen", "Gita Rao", "Hugo Silva"]
TRADES = ["baker", "plumber", "nurse", "writer", "student", "fisher", "doctor", "chef", "pilot"]
CITIES = ["Bonn", "Leeds", "Milan", "Boston", "Beijing", "Bergen", "Pune"]
TOOLS = ["search", "open_page", "calculator", "finish"]


class Person(BaseModel):
    full_name: str
    age_in_years: int
    city_of_residence: str
    occupation: str
    speaks_english: bool


def person(i: int) -> str:
    age, city, trade = 20 + 7 * i % 50, CITIES[i % 7], TRADES[i % 9]
    return f"{NAMES[i % 8]}, {age} years old, works as a {trade} in {city} and speaks English."


def passage(i: int) -> str:
    return (
        f"{person(i)} On Monday the shop at {10 + i} Market Street opens at eight, and the first guests come for fresh "
        f"bread and coffee. At noon {NAMES[(i + 3) % 8]} brings {3 + i % 9} boxes of apples from the farm near "
        f"{CITIES[(i + 2) % 7]}, and in the evening both sweep the floor, count the money and lock the green door."
    )


@sgl.function
def extraction(s: Any, i: int) -> None:
    s += f"Read the text and write the person as JSON.\n\nText: {person(i)}\nJSON: "
    s += sgl.gen("out", schema=Person, max_tokens=120, temperature=0)


@sgl.function
def editing(s: Any, i: int) -> None:
    s += f"Text:\n{passage(i)}\n\nThe same text once more, with each mistake corrected:\n"
    s += sgl.gen("out", max_tokens=110, temperature=0)


@sgl.function
def agent(s: Any, i: int) -> None:
    """Ten steps: a thought, a tool, its arguments, its result."""
    s += f"Question: what is known about {NAMES[i % 8]} of {CITIES[i % 7]}? Use the tools and say each step.\n"
    for step in range(10):
        s += f"\nStep {step + 1}\nThought:"
        s += sgl.gen("thought", max_tokens=24, temperature=0, stop="\n")
        s += "\nTool:" + sgl.select("tool", [" " + tool for tool in TOOLS])
        s += "\nArguments: "
        s += sgl.gen("arguments", regex=r'\{"query": "[A-Za-z ]{3,40}", "limit": [0-9]{1,2}\}', temperature=0)
        s += f"\nResult: {person(i + step % 3)}\n"
    s += "\nAnswer:" + sgl.gen("out", max_tokens=40, temperature=0)


@sgl.function
def few_shot(s: Any, i: int) -> None:
    s += SHOTS + f"Problem: {PROBLEMS[i]}\nSolution:"
    s += sgl.gen("out", max_tokens=96, temperature=0, stop="\n\n")


@sgl.function
def free_text(s: Any, i: int) -> None:
    """Nothing repeats: what drafting costs where it cannot help."""
    s += f"A short story about {NAMES[i % 8]}, a {TRADES[i % 9]} from {CITIES[i % 7]}, and a lost key. It begins:"
    s += sgl.gen("out", max_tokens=64, temperature=1.0)


PROGRAMS = {"extraction": extraction, "editing": editing, "agent": agent, "few_shot": few_shot, "free_text": free_text}


@dataclass
class Line:
    """One program at one batch size; seconds of the medians."""

    program: str
    batch: int
    without: float
    with_drafts: float
    ratio: float
    accept_length: float
    accept_rate: float
    equal: str


def run(program: Any, runtime: sgl.Runtime, batch: int, first: int) -> tuple[float, list[str]]:
    """Seconds of `batch` programs at once, and their last texts."""
    runtime.flush_cache()
    rows = [{"i": first + i} for i in range(batch)]
    start = time.perf_counter()
    states = program.run_batch(rows, backend=runtime, num_threads=batch, seed=1)
    texts = [str(state["out"]) for state in states]
    return time.perf_counter() - start, texts


def counts(runtime: sgl.Runtime) -> tuple[int, int, int]:
    told = runtime.get_server_info()["speculation"].values()
    return tuple(sum(each[name] for each in told) for name in ("rounds", "drafted", "accepted"))  # type: ignore[return-value]


def measure(name: str, batch: int, repeats: int, plain: sgl.Runtime, drafting: sgl.Runtime) -> Line:
    program: Any = PROGRAMS[name]
    took: dict[str, list[float]] = {"plain": [], "drafting": []}
    before, equal, texts = counts(drafting), 0, 0
    for repeat in range(repeats + 1):
        first = repeat * batch if batch < 64 else 0
        order: list[tuple[str, sgl.Runtime]] = [("plain", plain), ("drafting", drafting)]
        found = {}
        for which, runtime in order if repeat % 2 else order[::-1]:
            seconds, found[which] = run(program, runtime, batch, first)
            if repeat:  # the first one warms up
                took[which].append(seconds)
        equal += sum(a == b for a, b in zip(found["plain"], found["drafting"]))
        texts += batch
    rounds, drafted, accepted = (after - was for after, was in zip(counts(drafting), before))
    without, with_drafts = (statistics.median(took[which]) for which in ("plain", "drafting"))
    return Line(
        name,
        batch,
        round(without, 3),
        round(with_drafts, 3),
        round(statistics.median(a / b for a, b in zip(took["plain"], took["drafting"])), 2),
        round(1 + accepted / max(1, rounds), 2),
        round(accepted / max(1, drafted), 2),
        f"{equal} of {texts}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="programs at a time")
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a checkpoint; default: the embedded model")
    parser.add_argument("--algorithm", choices=["NGRAM", "EAGLE3"], help="EAGLE3: drafts of a head too, on the CPU")
    parser.add_argument("--head", help="the head's folder; default: that of the embedded model")
    parser.add_argument("--json", type=Path, help="write the lines to this file")
    args = parser.parse_args()
    make = partial(sgl.Runtime, args.model, max_total_tokens=60_000)
    plain = make(speculative_num_draft_tokens=0)
    drafting = make(speculative_algorithm=args.algorithm, speculative_draft_model_path=args.head)
    columns = ("program", "batch", "without, s", "with, s", "ratio", "tokens a round", "accepted", "equal texts")
    print(f"sgl {sgl.__version__}, {plain.model_name}, {platform.processor() or platform.machine()}")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    lines = []
    for name in args.only:
        for batch in args.batch:
            line = measure(name, batch, args.repeats, plain, drafting)
            lines.append(line)
            print(f"| {' | '.join(map(str, asdict(line).values()))} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
