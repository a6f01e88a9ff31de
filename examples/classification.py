"""Labels for a batch of texts, and how sure the model is: `python examples/classification.py`.

A `select` scores every label as a continuation of the text, in one step. The scores are probabilities of the labels, so
a program can leave out what it is not sure of. The choice method says how the scores of long and short labels compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from common import session

import sgl

TEXTS = [
    ("I love this phone, it is wonderful.", "positive"),
    ("The soup was cold and the waiter was rude.", "negative"),
    ("What a great film! I laughed all evening.", "positive"),
    ("It broke after two days. Never again.", "negative"),
    ("The best coffee in town, and such kind people.", "positive"),
    ("A boring book. I want my money back.", "negative"),
    ("Fast, cheap and good. Thank you!", "positive"),
    ("The room was dirty and loud.", "negative"),
]
LABELS = ["positive", "negative"]
METHODS = {
    "token_length_normalized": sgl.token_length_normalized,
    "sequence_likelihood": sgl.sequence_likelihood,
    "unconditional_likelihood_normalized": sgl.unconditional_likelihood_normalized,
}


@sgl.function
def classify(s: sgl.ProgramState, text: str, method: str) -> float:
    s += "Review: We enjoyed every minute.\nSentiment: positive\n"
    s += "Review: A waste of time.\nSentiment: negative\n"
    s += f"Review: {text}\nSentiment: " + sgl.select("label", LABELS, choices_method=METHODS[method])
    meta = s.get_meta_info("label")
    weights = [exp(sum(logprob for logprob, *_ in tokens)) for tokens in meta["input_token_logprobs"]]
    return weights[meta["index"]] / sum(weights)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, percent=60) as args:
        cost = sgl.Usage()
        for method in METHODS:
            states = classify.run_batch([{"text": text, "method": method} for text, _ in TEXTS])
            right = sum(state["label"] == label for (_, label), state in zip(TEXTS, states))
            print(f"{method}: {right} of {len(TEXTS)} are right")
            cost += states.usage.total
        for (text, label), state in zip(TEXTS, states):
            sure = 100 * state.ret_value
            said = state["label"] if sure >= args.percent else f"not sure enough ({state['label']}?)"
            print(f"    {sure:3.0f} %  {said:28}  {label}: {text}")
        print(f"\n{cost}")


if __name__ == "__main__":
    main()
