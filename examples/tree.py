"""Draw the tree of KV of a forked program from a real run, and what each branch cost."""

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
            branch.sync()
        print(runtime.draw(width=48))
        forks.join()


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:
        state = dinner.run(runtime=runtime, backend=runtime)
        for day, dish, hard in zip(DAYS, state["dish"], state["hard"]):
            print(f"{day}:{dish} (hard?{hard})")
        print(state.usage)


if __name__ == "__main__":
    main()
