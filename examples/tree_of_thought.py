"""A search over unfinished texts.

A plan is written step by step. Each plan is forked into several next steps, a judge marks every one, and the best plans
are kept: the breadth-first search of "Tree of Thoughts" (Yao et al. 2023, arXiv:2305.10601). A fork shares the KV of
its parent, so a whole tree costs only its new words. A mark is the mean of "1" to "5" under the model's probabilities.

Run: python examples/tree_of_thought.py [--width 3] [--depth 3] [--keep 2]

Expect of a model of 135M parameters: plans that read like plans, and marks that differ little. It is a poor judge.
"""

from __future__ import annotations

import argparse
from math import exp

import sgl

MARKS = ["1", "2", "3", "4", "5"]


def judge_of(child: sgl.ProgramState) -> sgl.ProgramState:
    """Ask how good a plan is, on a fork of it. So the plan itself goes on without the question."""
    [judge] = child.fork(1)
    judge += sgl.assistant_end() + sgl.user("How useful is this plan, from 1 (useless) to 5 (very useful)?")
    judge += sgl.assistant("I give it a " + sgl.select("mark", MARKS))
    return judge


def mean_mark(judge: sgl.ProgramState) -> float:
    weights = [exp(logprob) for logprob in judge.get_meta_info("mark")["normalized_prompt_logprobs"]]
    return sum(int(mark) * weight for mark, weight in zip(MARKS, weights)) / sum(weights)


@sgl.function
def plan(s: sgl.ProgramState, goal: str, width: int, depth: int, keep: int) -> list[tuple[float, str]]:
    s += sgl.user(f"Make a plan in {depth} short steps: {goal}")
    s += sgl.assistant_begin() + "The plan:"
    best = [(0.0, "", s)]
    for step in range(1, depth + 1):
        children = []
        for _, text, parent in best:
            for child in parent.fork(width):
                child += f"\n{step}." + sgl.gen("step", max_tokens=16, stop=["\n", "."], temperature=0.7)
                children.append((text, child, judge_of(child)))
        # Everything is said before anything is read, so all steps of a level are written side by side.
        marked = [(mean_mark(judge), f"{text}\n  {step}.{child['step']}", child) for text, child, judge in children]
        marked.sort(key=lambda one: one[0], reverse=True)
        print(f"level {step}: {len(marked)} plans, marks {', '.join(f'{mark:.2f}' for mark, *_ in marked)}")
        best = marked[:keep]
    return [(mark, text) for mark, text, _ in best]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=3, help="next steps of each plan; default: 3")
    parser.add_argument("--depth", type=int, default=3, help="steps of a plan; default: 3")
    parser.add_argument("--keep", type=int, default=2, help="plans that go on; default: 2")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = plan.run("learn to bake bread", args.width, args.depth, args.keep, backend=runtime, seed=2)
        for mark, text in state.ret_value:
            print(f"a plan of mark {mark:.2f}:{text}")
        print(f"\n{state.usage.total}")


if __name__ == "__main__":
    main()
