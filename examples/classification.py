"""Labels for a batch of texts, and how sure the model is.

A `select` scores every label as a continuation of the text, in one step. The scores are probabilities, so a program can
leave out what it is not sure of. The choice method says how the scores of long and short labels compare.

Run: python examples/classification.py [--percent 60]

Expect of a model of 135M parameters: eight right labels, of which one is not sure enough.
"""

from __future__ import annotations

import argparse
from math import exp

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
    percent: float = 100 * weights[meta["index"]] / sum(weights)
    return percent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--percent", type=int, default=60, help="how sure the model has to be; default: 60")
    args = parser.parse_args()
    total = sgl.Usage()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        for method in METHODS:
            states = classify.run_batch([{"text": text, "method": method} for text, _ in TEXTS], backend=runtime)
            right = sum(state["label"] == label for (_, label), state in zip(TEXTS, states))
            print(f"{method}: {right} of {len(TEXTS)} are right")
            total += states.usage.total
    for (text, _), state in zip(TEXTS, states):
        label = state["label"] if state.ret_value >= args.percent else f"not sure ({state['label']}?)"
        print(f"    {state.ret_value:3.0f} %  {label:21}  {text}")
    print(f"\n{total}")


if __name__ == "__main__":
    main()
