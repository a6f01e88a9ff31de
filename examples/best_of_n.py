"""Several drafts, and a scorer that takes one.

`gen(n=...)` writes drafts side by side. The scorer is ordinary Python: does the draft name what it must, is it of the
right length, does it repeat itself. Between drafts that are equal to the rules, the model's own mean log-probability
decides.

Run: python examples/best_of_n.py [--drafts 8]

Expect of a model of 135M parameters: one or two usable slogans among eight. That is what the scorer is for.
"""

from __future__ import annotations

import argparse
from statistics import mean

import sgl

THINGS = [("a bakery that makes bread", "bread"), ("a shop for bicycles", "bicycle")]


@sgl.function
def slogans(s: sgl.ProgramState, thing: str, drafts: int) -> None:
    s += sgl.user(f"Write a slogan for {thing}. One short sentence.")
    s += sgl.assistant(
        sgl.gen("slogan", n=drafts, max_tokens=24, stop=["\n", "."], temperature=0.7, return_logprob=True)
    )


def score(text: str, keyword: str) -> int:
    words = text.lower().strip('" ').split()
    rules = [keyword in text.lower(), 4 <= len(words) <= 10, len(set(words)) == len(words), "!" not in text]
    return sum(rules)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--drafts", type=int, default=8, help="for each thing, at least 2; default: 8")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        rows = [{"thing": thing, "drafts": args.drafts} for thing, _ in THINGS]
        states = slogans.run_batch(rows, backend=runtime, seed=5)
        for (thing, keyword), state in zip(THINGS, states):
            metas = state.get_meta_info("slogan")  # a list, one for each draft, as state["slogan"]
            likely = [mean(logprob for logprob, *_ in meta["output_token_logprobs"]) for meta in metas]
            drafts = [(score(text, keyword), logprob, text) for text, logprob in zip(state["slogan"], likely)]
            print(thing)
            for rules, logprob, text in sorted(drafts, reverse=True):
                print(f"    {rules} of 4 rules, {logprob:6.2f}: {text.strip()}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
