"""A search over partial texts: `python examples/tree_of_thought.py --width 3 --depth 4`.

A plan is written step by step. Each plan is forked into several next steps, a judge marks every one, and the best plans
are kept (the breadth-first form of Yao et al. 2023, arXiv:2305.10601). A fork shares its parent's KV, so a whole tree
costs only its own new words. The mark is the mean under the model's probabilities of "1" to "5".
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from common import session

import sgl

MARKS = ["1", "2", "3", "4", "5"]


def mark(branch: sgl.ProgramState) -> float:
    """Ask on a copy of the branch how good its plan is, so that the branch itself goes on without the question."""
    [judge] = branch.fork(1)
    judge += sgl.assistant_end() + sgl.user("How useful is this plan, from 1 (useless) to 5 (very useful)?")
    judge += sgl.assistant("I give it a " + sgl.select("mark", MARKS))
    weights = [exp(logprob) for logprob in judge.get_meta_info("mark")["normalized_prompt_logprobs"]]
    return sum(int(m) * weight for m, weight in zip(MARKS, weights)) / sum(weights)


@sgl.function
def plan(s: sgl.ProgramState, goal: str, width: int, depth: int, keep: int) -> list[str]:
    s += sgl.user(f"Make a plan in {depth} short steps: {goal}")
    s += sgl.assistant_begin() + "The plan:"
    frontier = [(0.0, "", s)]
    for step in range(1, depth + 1):
        children = []
        for _, text, parent in frontier:
            forks = parent.fork(width)
            for child in forks:  # all of them are enqueued before any is read: they are written side by side
                child += f"\n{step}." + sgl.gen("step", max_tokens=16, stop=["\n", "."], temperature=0.9)
            children += [(f"{text}\n  {step}.{child['step']}", child) for child in forks]
        frontier = sorted(((mark(child), text, child) for text, child in children), key=lambda c: c[0], reverse=True)
        print(f"step {step}: {len(frontier)} plans, marks {', '.join(f'{m:.2f}' for m, *_ in frontier)}")
        frontier = frontier[:keep]
    return [f"{best:.2f}:{text}" for best, text, _ in frontier]


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, width=3, depth=3, keep=2) as args:
        state = plan.run("learn to cook", args.width, args.depth, args.keep, seed=2)
        print("\n".join(state.ret_value))
        print(f"\n{state.usage.total}")


if __name__ == "__main__":
    main()
