"""Many ways to an answer, one vote.

The model reasons about a question several times at a high temperature, and the most frequent answer wins (Wang et al.
2023, arXiv:2203.11171). `gen(n=...)` draws the samples side by side; the prompt is computed once.

Run: python examples/self_consistency.py [--rows 6] [--samples 10]

Expect of a model of 135M parameters: single samples that are wrong now and then, and votes that are right. That holds
for what the model knows. Of two-digit sums it does not, and no vote helps there.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter

import sgl

SHOWN = """Question: On which continent is Peru?
Reasoning: Peru lies next to Brazil, and Brazil is in South America. The answer is South America.
Question: On which continent is Spain?
Reasoning: Spain lies next to France, and France is in Europe. The answer is Europe.
Question: On which continent is Laos?
Reasoning: Laos lies next to China, and China is in Asia. The answer is Asia.
Question: On which continent is Kenya?
Reasoning: Kenya lies next to Uganda, and Uganda is in Africa. The answer is Africa.
"""
CONTINENT = "(Africa|Asia|Europe|North America|South America)"
COUNTRY = "[A-Z][a-z]{2,11}( [A-Z][a-z]{2,9})?"
REASONING = f" {COUNTRY}, and {COUNTRY} is in {CONTINENT}[.] The answer is {CONTINENT}[.]"
TRUTH = {
    "Angola": "Africa",
    "Canada": "North America",
    "Nepal": "Asia",
    "Austria": "Europe",
    "Ghana": "Africa",
    "Bolivia": "South America",
    "Vietnam": "Asia",
    "Sweden": "Europe",
}


@sgl.function
def solve(s: sgl.ProgramState, country: str, samples: int) -> Counter[str]:
    s += SHOWN + f"Question: On which continent is {country}?\nReasoning: {country} lies next to"
    s += sgl.gen("reasoning", n=samples, regex=REASONING, max_tokens=60, temperature=1.0, seed=1)
    return Counter(re.findall(r"The answer is (.+)[.]$", text)[0] for text in s["reasoning"])  # a list, as n > 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=6, help=f"countries, at most {len(TRUTH)}; default: 6")
    parser.add_argument("--samples", type=int, default=10, help="for each country, at least 2; default: 10")
    args = parser.parse_args()
    countries = list(TRUTH)[: args.rows]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = solve.run_batch([{"country": c, "samples": args.samples} for c in countries], backend=runtime)
        voted = single = 0
        for country, state in zip(countries, states):
            votes: Counter[str] = state.ret_value
            [(winner, _)] = votes.most_common(1)
            voted += winner == TRUTH[country]
            single += votes[TRUTH[country]]
            print(f"{country}: {winner}   votes: {dict(votes)}")
            print(f"    for example: {country} lies next to{state['reasoning'][0]}")
        samples = args.samples * len(countries)
        print(f"right by vote: {voted} of {len(countries)}; single samples: {single} of {samples}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
