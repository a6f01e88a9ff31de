"""Multi-call programs through the tree, and as a naive loop over `transformers`: seconds, ratio, tokens.

    python benchmarks/programs.py [--only NAME ...] [--json FILE]

Each program runs twice with the same model, float32, greedy, on this machine, one after the other: on `sgl.Runtime`
through `run_batch`, and on `naive_backend.NaiveBackend`, which re-sends the whole text with every call to
`transformers`. Both start with a cold cache. *Asked* are the tokens of every call's whole text plus those generated;
*computed* those that went through the model. The texts are compared too: where they differ, it is said.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import sgl
from sgl.backend.base import GenRequest
from sgl.lang.expr import Sampling

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = [
    json.loads(line)["question"] for line in (ROOT / "examples/data/gsm8k-200.jsonl").read_text().splitlines()[:32]
]
SHOTS = "".join(
    f"Problem: {q}\nSolution: {a}\n\n"
    for q, a in [
        (
            "Tom has 3 boxes with 4 pens in each box. He gives 5 pens away. How many pens does he have left?",
            "Tom has 3 * 4 = 12 pens. After giving 5 away he has 12 - 5 = 7 pens. The answer is 7.",
        ),
        (
            "A shirt costs $20 and a hat costs $8 less than the shirt. What do they cost together?",
            "The hat costs 20 - 8 = 12 dollars. Together they cost 20 + 12 = 32 dollars. The answer is 32.",
        ),
        (
            "A train travels 60 miles an hour for 2 hours and then 40 miles an hour for 3 hours. How far does it go?",
            "First it travels 60 * 2 = 120 miles, then 40 * 3 = 120 miles, so 240 miles in all. The answer is 240.",
        ),
        (
            "Ann reads 12 pages a day. Her book has 180 pages and she has read 60. How many days does she still need?",
            "She has 180 - 60 = 120 pages left. That takes 120 / 12 = 10 days. The answer is 10.",
        ),
    ]
)
ESSAY = (
    "Public libraries are more than rooms full of books. They lend tools, teach people to read, give children a quiet "
    "place after school and let anyone use a computer for free. When a city closes a library to save money, it saves "
    "little and loses a place where strangers meet. Some say that the internet has made libraries needless. But the "
    "internet does not help a person who cannot afford a connection, and it does not have a librarian who knows which "
    "of ten sources to trust. A city should count what a library prevents: loneliness, ignorance and boredom. Seen "
    "that way, libraries are among the cheapest things a city can buy. "
)


@sgl.function
def few_shot(s: Any, question: str) -> None:
    s += SHOTS + f"Problem: {question}\nSolution:" + sgl.gen("a", max_tokens=32, stop="\n", temperature=0)


@sgl.function
def multiple_choice(s: Any, question: str) -> None:
    s += SHOTS + f"Problem: {question}\nIs this problem about"
    s += sgl.select("topic", [" money", " animals", " time", " food", " travel and distance", " school"])


@sgl.function
def tree_of_thought(s: Any, question: str) -> None:
    s += SHOTS + f"Problem: {question}\nLet us think of a plan."
    plans = s.fork(3)
    for i, plan in enumerate(plans):
        plan += f" Plan {i + 1}:" + sgl.gen("plan", max_tokens=16, stop="\n", temperature=0)
        steps = plan.fork(3)
        for j, step in enumerate(steps):
            step += f" Idea {j + 1}:" + sgl.gen("step", max_tokens=16, stop="\n", temperature=0)
            step += " How good is it?" + sgl.select("score", [" bad", " fair", " good", " excellent"])
        steps.join()
    plans.join()


@sgl.function
def expand(s: Any, topic: str, tip: str) -> None:
    s += SHOTS[:600] + f"Topic: {topic}. Tip: {tip}\nIn detail:" + sgl.gen("detail", max_tokens=32, temperature=0)


@sgl.function
def skeleton(s: Any, topic: str) -> None:
    s += f"Here are three tips about {topic}, in a few words each.\n"
    for i in range(3):
        s += f"{i + 1}." + sgl.gen(f"tip{i}", max_tokens=12, stop="\n", temperature=0) + "\n"
    forks = s.fork(3)
    for i, branch in enumerate(forks):
        branch += f"More about tip {i + 1}:" + sgl.gen("detail", max_tokens=32, temperature=0)
    forks.join("concate_and_append")
    s += "\nIn short:" + sgl.gen("summary", max_tokens=16, temperature=0)


@sgl.function
def judge(s: Any, essay: str) -> None:
    s += "Please read this essay.\n" + essay * 2 + "\n"
    aspects = ["clarity", "originality", "evidence", "structure", "tone"]
    forks = s.fork(len(aspects))
    for aspect, branch in zip(aspects, forks):
        branch += f"Its {aspect}, in a sentence:" + sgl.gen("view", max_tokens=24, stop="\n", temperature=0)
        branch += f"\nOverall, its {aspect} is" + sgl.select("grade", [" poor", " fair", " good", " excellent"])
    forks.join()
    s += "".join(f"{a}: {v} ({g})\n" for a, v, g in zip(aspects, s["view"], s["grade"]))
    s += "In summary, the essay" + sgl.gen("verdict", max_tokens=32, temperature=0)


@sgl.function
def chat(s: Any, topic: str) -> None:
    s += sgl.system("You are a helpful assistant who answers briefly.")
    for i, ask in enumerate(["What is", "Why do people like", "What is hard about", "How does one begin with"]):
        s += sgl.user(f"{ask} {topic}? Please answer in one or two plain sentences that anybody can understand.")
        s += sgl.assistant(sgl.gen(f"turn{i}", max_tokens=32, temperature=0))


TOOLS = SHOTS + "".join(
    f"Tool {name}: {what}\n"
    for name, what in [
        ("search", "finds pages about a subject"),
        ("calculate", "computes an expression"),
        ("finish", "ends the task"),
    ]
)


@sgl.function
def agent(s: Any, task: str) -> None:
    s += TOOLS + f"Task: {task}\n"
    for _ in range(4):
        s += "Thought:" + sgl.gen("thought", max_tokens=16, stop="\n", temperature=0) + "\nAction:"
        s += sgl.select("action", [" search", " calculate", " finish"])
        s += "\nInput:" + sgl.gen("input", max_tokens=8, stop="\n", temperature=0)
        s += f"\nObservation: the tool {s['action']} returned nothing of interest, so please think again about it.\n"


TOPICS = ["chess", "gardening", "running", "cooking", "music", "astronomy", "sailing", "painting"]


@dataclass(frozen=True)
class Case:
    name: str
    program: Any
    rows: list[dict[str, Any]]
    shared_prefix: bool = True


CASES = [
    Case("few-shot batch", few_shot, [{"question": q} for q in PROBLEMS[:8]]),
    Case("select", multiple_choice, [{"question": q} for q in PROBLEMS[:4]]),
    Case("tree of thought", tree_of_thought, [{"question": q} for q in PROBLEMS[:1]]),
    Case("skeleton", skeleton, [{"topic": t} for t in TOPICS[:3]]),
    Case("judge", judge, [{"essay": ESSAY}]),
    Case("chat", chat, [{"topic": t} for t in TOPICS[:4]]),
    Case("agent loop", agent, [{"task": f"find out what {t} costs in a year"} for t in TOPICS[:2]]),
]


@dataclass
class Measured:
    name: str
    rows: int
    seconds: float
    naive_seconds: float
    asked: int
    computed: int
    naive_computed: int
    same_text: int

    @property
    def ratio(self) -> float:
        return self.naive_seconds / self.seconds


def timed(run: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    start = time.perf_counter()
    states = run()
    texts = [state.text() for state in states]
    return time.perf_counter() - start, texts


def measure(case: Case, runtime: sgl.Runtime, naive: Any) -> Measured:
    runtime.flush_cache()
    before = runtime.get_server_info()["computed_tokens"]
    states: list[Any] = []

    def fast() -> list[Any]:
        states.extend(case.program.run_batch(case.rows, backend=runtime))
        return states

    seconds, texts = timed(fast)
    total = sum((s.usage.total for s in states), sgl.Usage())
    computed = runtime.get_server_info()["computed_tokens"] - before
    naive.tokens = 0
    naive_seconds, naive_texts = timed(lambda: case.program.run_batch(case.rows, backend=naive, num_threads=1))
    return Measured(
        case.name,
        len(case.rows),
        seconds,
        naive_seconds,
        total.prompt + total.generated,
        computed,
        naive.tokens,
        sum(a == b for a, b in zip(texts, naive_texts)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", help="names of programs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    # First: it says how torch's threads wait, for both. In float32, as the other.
    runtime = sgl.Runtime(random_seed=0, quantization=None)
    import torch
    import transformers
    from naive_backend import NaiveBackend

    from sgl.backend.runtime.model.load.loader import load_checkpoint
    from sgl.backend.runtime.model.load.store import cache_folder

    naive = NaiveBackend(load_checkpoint(None, "auto", cache_folder()), runtime.tokenizer, runtime.chat_template)
    runtime.generate("warm up", {"max_new_tokens": 4})
    warm = naive.open()
    warm.append("warm up")
    warm.gen(GenRequest(Sampling(max_tokens=4)))
    done = [measure(case, runtime, naive) for case in CASES if not args.only or case.name in args.only]
    console = Console()
    table = Table(title=f"{runtime.model_name}, float32, {torch.get_num_threads()} threads")
    for column in ("program", "rows", "sgl s", "naive s", "ratio", "asked", "computed", "naive computed", "same text"):
        table.add_column(column, justify="left" if column == "program" else "right")
    for m in done:
        table.add_row(
            m.name,
            str(m.rows),
            f"{m.seconds:.2f}",
            f"{m.naive_seconds:.2f}",
            f"{m.ratio:.1f}",
            f"{m.asked:,}",
            f"{m.computed:,}",
            f"{m.naive_computed:,}",
            f"{m.same_text}/{m.rows}",
        )
    console.print(table)
    if args.json:
        about = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.processor() or platform.machine(),
        }
        args.json.write_text(
            json.dumps({"about": about, "programs": [{**asdict(m), "ratio": m.ratio} for m in done]}, indent=1)
        )


if __name__ == "__main__":
    main()
