"""Several judges of one text: `python examples/judge_panel.py`.

Each judge is a fork with a criterion of its own, so the text is computed once for all of them. Every judge gives a
mark, which is one of five choices, and a reason. The mark of the panel is the mean under the model's probabilities of
the marks, which says more than the one mark that each judge names.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from statistics import mean

from common import session

import sgl

CRITERIA = ["clear", "polite", "helpful"]
MARKS = ["1", "2", "3", "4", "5"]
LETTERS = [
    "Thank you for your order. It left our house today and will be with you on Friday. If anything is wrong with it, "
    "write to us and we will send you a new one.",
    "What do you want now? Your thing is somewhere. Do not write again, nobody reads this, stupid.",
]


def expected(meta: dict[str, list[float]]) -> float:
    weights = [exp(logprob) for logprob in meta["normalized_prompt_logprobs"]]
    return sum(int(mark) * weight for mark, weight in zip(MARKS, weights)) / sum(weights)


@sgl.function
def panel(s: sgl.ProgramState, letter: str) -> list[float]:
    s += sgl.system("You judge letters of a shop to its customers.")
    s += sgl.user(f"Read this letter.\n\n{letter}")
    s += sgl.assistant("I have read it.")
    judges = s.fork(len(CRITERIA))
    judges += [sgl.user(f"How {what} is it, from 1 (not at all) to 5 (very)?") for what in CRITERIA]
    judges += sgl.assistant(sgl.select("mark", MARKS) + ", because" + sgl.gen("why", max_tokens=20, stop=[".", "\n"]))
    marks = [expected(judge.get_meta_info("mark")) for judge in judges]
    judges.join()  # s["mark"] and s["why"] are lists now, one item a judge
    return marks


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        states = panel.run_batch([{"letter": letter} for letter in LETTERS], temperature=0)
        for letter, state in zip(LETTERS, states):
            print(f"{letter:.60}...")
            for what, named, value, why in zip(CRITERIA, state["mark"], state.ret_value, state["why"]):
                print(f"    {what}: {named} (expected {value:.2f}), because{why}")
            print(f"    the panel: {mean(state.ret_value):.2f}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
