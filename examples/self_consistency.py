"""Many solutions, one vote: `python examples/self_consistency.py --rows 8 --samples 20`.

The model solves a problem several times at a temperature above 0, and the most frequent answer wins (Wang et al. 2023,
arXiv:2203.11171). `gen(n=...)` draws the samples side by side; the prompt is computed once.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from common import session

import sgl

SHOWN = """Problem: Tom has 3 pens and buys 5 more. How many pens does he have now?
Solution: 3 + 5 = 8. The answer is 8.
Problem: Eva has 9 cards and gives 4 away. How many cards are left?
Solution: 9 - 4 = 5. The answer is 5.
Problem: There are 4 boxes with 6 eggs in each box. How many eggs are there?
Solution: 4 * 6 = 24. The answer is 24.
"""
WORKED = r" [0-9]{1,3} [+*-] [0-9]{1,3} = [0-9]{1,3}\. The answer is [0-9]{1,3}\."  # a solution that ends with a number


def problems(rows: int) -> list[tuple[str, int]]:
    """Make problems with their answers."""
    draw, made = random.Random(1), []
    for i in range(rows):
        a, b = draw.randint(6, 20), draw.randint(2, 5)
        made.append(
            [
                (f"Ben has {a} coins and finds {b} more. How many coins does he have now?", a + b),
                (f"Lisa has {a} apples and eats {b} of them. How many apples are left?", a - b),
                (f"There are {b} bags with {a} nuts in each bag. How many nuts are there?", a * b),
            ][i % 3]
        )
    return made


@sgl.function
def solve(s: sgl.ProgramState, problem: str, samples: int) -> Counter[str]:
    s += SHOWN
    s += f"Problem: {problem}\nSolution:"
    s += sgl.gen("solutions", n=samples, regex=WORKED, max_tokens=40, temperature=0.7, seed=1)
    solutions = [s["solutions"]] if samples == 1 else s["solutions"]
    return Counter(re.findall(r"(\d+)\.$", solution)[0] for solution in solutions)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, rows=6, samples=6) as args:
        made = problems(args.rows)
        states = solve.run_batch([{"problem": problem, "samples": args.samples} for problem, _ in made])
        right = 0
        for (problem, truth), state in zip(made, states):
            [(voted, votes), *_] = state.ret_value.most_common()
            right += int(voted) == truth
            print(f"{problem}\n    {votes} votes for {voted}, right is {truth}; all votes: {dict(state.ret_value)}")
        single = sum(state.ret_value[str(truth)] for (_, truth), state in zip(made, states))
        print(f"right by vote: {right} of {len(made)}; single solutions: {single} of {len(made) * args.samples}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
