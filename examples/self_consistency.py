"""Many solutions, one vote: `python examples/self_consistency.py --rows 8 --samples 20`.

The model solves a problem several times at a temperature above 0, and the most frequent answer wins (Wang et al. 2023,
arXiv:2203.11171). `gen(n=...)` draws the samples side by side; the prompt is computed once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common import session

import sgl

DATA = Path(__file__).resolve().parent / "data" / "gsm8k-200.jsonl"
SHOWN = """Problem: Tom has 3 boxes with 4 pens in each box. He gives 5 pens away. How many pens are left?
Solution: Tom has 3 * 4 = 12 pens. After giving 5 away he has 12 - 5 = 7 pens. The answer is 7.

Problem: A shirt costs $20 and a hat costs $8 less than the shirt. What do they cost together?
Solution: The hat costs 20 - 8 = 12 dollars. Together they cost 20 + 12 = 32 dollars. The answer is 32.

"""
WORKED = r"[A-Z][^\n]{20,160}\. The answer is [0-9]{1,5}\."  # a solution that ends with a number


@sgl.function
def solve(s: sgl.ProgramState, problem: str, samples: int) -> Counter[str]:
    s += f"{SHOWN}Problem: {problem}\nSolution: "
    s += sgl.gen("solutions", n=samples, regex=WORKED, max_tokens=80, temperature=0.7, seed=1)
    solutions = [s["solutions"]] if samples == 1 else s["solutions"]
    return Counter(re.findall(r"(\d+)\.$", solution)[0] for solution in solutions)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, rows=4, samples=6) as args:
        problems = [json.loads(line) for line in DATA.read_text().splitlines()[: args.rows]]
        rows = [{"problem": problem["question"], "samples": args.samples} for problem in problems]
        states = solve.run_batch(rows)
        right = 0
        for problem, state in zip(problems, states):
            truth = problem["answer"].rpartition("#### ")[2].replace(",", "")
            [(voted, votes), *_] = state.ret_value.most_common()
            right += voted == truth
            print(f"{problem['question']:.70}...")
            print(f"    {votes} of {args.samples} votes for {voted}, right is {truth}; {dict(state.ret_value)}")
        print(f"{right} of {len(problems)} right; a model of 135 M parameters solves few of these, with any vote")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
