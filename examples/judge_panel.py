"""Several judges of one text.

Each judge is a fork with a question of its own, so the text is computed once for all of them. A judge picks one of two
words by `select`, and gives a reason. The probability of its word says more than the word: a small model may call every
letter polite, and still find one more polite than the other. So the panel compares means of probabilities.

Run: python examples/judge_panel.py

Expect of a model of 135M parameters: the right letter wins. Single words are often wrong, and reasons empty phrases.
"""

from __future__ import annotations

from math import exp
from statistics import mean
from typing import Any

import sgl

PAIRS = [("polite", "rude"), ("clear", "unclear"), ("helpful", "useless")]
LETTERS = [
    "What do you want now? Your thing is somewhere. Do not write again, nobody reads this, stupid.",
    "Thank you for your order. It left our house today and will be with you on Friday. If anything is wrong with it, "
    "write to us and we will send you a new one.",
]


def probability_of_first(meta: dict[str, Any]) -> float:
    """Give the probability of the first of two choices, from their tokens' log-probabilities."""
    first, second = (exp(sum(logprob for logprob, *_ in tokens)) for tokens in meta["input_token_logprobs"])
    return first / (first + second)


@sgl.function
def panel(s: sgl.ProgramState, letter: str) -> list[float]:
    s += sgl.system("You judge letters of a shop to its customers.")
    s += sgl.user(f"Read this letter.\n\n{letter}")
    s += sgl.assistant("I have read it.")
    judges = s.fork(len(PAIRS))
    for judge, (good, bad) in zip(judges, PAIRS):
        judge += sgl.user(f"Is the letter {good} or {bad}?")
        word = sgl.select("word", [good, bad], choices_method=sgl.sequence_likelihood)
        judge += sgl.assistant("The letter is " + word + ", because" + sgl.gen("why", max_tokens=20, stop=[".", "\n"]))
    probabilities = [probability_of_first(judge.get_meta_info("word")) for judge in judges]
    judges.join()  # s["word"] and s["why"] are lists now, one item for each judge
    return probabilities


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = panel.run_batch([{"letter": letter} for letter in LETTERS], backend=runtime, temperature=0)
        for i, (letter, state) in enumerate(zip(LETTERS, states), 1):
            print(f"letter {i}: {letter:.60}...")
            for (good, _), probability, word, why in zip(PAIRS, state.ret_value, state["word"], state["why"]):
                print(f"    {100 * probability:3.0f} % {good}. It is {word}, because{why}.")
            print(f"    the panel: {100 * mean(state.ret_value):.0f} %")
        best = max(range(len(LETTERS)), key=lambda i: mean(states[i].ret_value))
        print(f"the panel prefers letter {best + 1}\n\n{states.usage.total}")


if __name__ == "__main__":
    main()
