"""Several drafts, and a scorer that takes one: `python examples/best_of_n.py --drafts 16`.

`gen(n=...)` writes drafts side by side. The scorer is ordinary Python: does the draft name what it must, is it of the
right length, does it repeat itself. The model's own log-probability decides between drafts that are equal to the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from common import session

import sgl


@sgl.function
def slogans(s: sgl.ProgramState, thing: str, drafts: int) -> None:
    s += sgl.user(f"Write a slogan for {thing}. One short sentence.")
    s += sgl.assistant(
        sgl.gen("slogan", n=drafts, max_tokens=24, stop=["\n", "."], temperature=0.9, return_logprob=True)
    )


def score(text: str, keyword: str) -> int:
    words = text.lower().strip('" ').split()
    rules = [keyword in text.lower(), 4 <= len(words) <= 10, len(set(words)) == len(words), "!" not in text]
    return sum(rules)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, drafts=6) as args:
        cost = sgl.Usage()
        for thing, keyword in (("a bakery that makes bread", "bread"), ("a shop for bicycles", "bicycle")):
            state = slogans.run(thing, max(args.drafts, 2), seed=5)
            metas = state.get_meta_info("slogan")  # one for each draft, as s["slogan"]
            likely = [mean(logprob for logprob, *_ in meta["output_token_logprobs"]) for meta in metas]
            ranked = sorted(zip(state["slogan"], likely), key=lambda d: (score(d[0], keyword), d[1]), reverse=True)
            print(thing)
            for text, logprob in ranked:
                print(f"    {score(text, keyword)} of 4 rules, {logprob:6.2f}: {text.strip()}")
            cost += state.usage.total
        print(f"\n{cost}")


if __name__ == "__main__":
    main()
