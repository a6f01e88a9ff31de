"""What a fork shares: the tree of a real run's KV, and what each branch cost.

KV is what the model keeps of the text that it has read, so that the text need not be read again. A node of the tree is
text that all branches below it share, kept once; `live x3` counts those branches. `own` are the tokens of one branch.

Run: python examples/tree.py

Expect of a model of 135M parameters: three dishes that are much alike. The tree is what to look at.
"""

from __future__ import annotations

import sgl

DAYS = ("Monday", "Friday", "Sunday")


@sgl.function
def dinner(s: sgl.ProgramState, runtime: sgl.Runtime) -> None:
    s += sgl.system("You are a friendly cook who answers in one short sentence.")
    s += sgl.user("What should I cook this week? I like vegetables, and I have half an hour a day.")
    with s.assistant():
        forks = s.fork(len(DAYS))
        for day, branch in zip(DAYS, forks):
            branch += f"On {day}, cook" + sgl.gen("dish", max_tokens=12, stop=[".", ","], temperature=0)
            branch += ". Is that hard?" + sgl.select("hard", [" No", " Yes", " Yes, but it is worth it"])
        for branch in forks:
            branch.sync()  # wait for its calls, so that the drawing shows all of them
        print(runtime.draw(width=48))
        forks.join()  # the variables of the branches become lists: s["dish"] has three values


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:
        state = dinner.run(runtime=runtime, backend=runtime)
        for day, dish, hard in zip(DAYS, state["dish"], state["hard"]):
            print(f"{day}: cook{dish}. Is that hard?{hard}.")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
