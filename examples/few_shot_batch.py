"""One prompt with examples in it, many rows.

The examples of the prompt are the same text in every row, so they are computed once for the whole batch. The rows ask
for the plural of a word. A rule of a few lines says which answers are right.

Run: python examples/few_shot_batch.py [--rows 25]

Expect of a model of 135M parameters: nine in ten are right, and nine in ten tokens of the prompts are reused.
"""

from __future__ import annotations

import argparse

import sgl

SHOWN = """Write the plural.
dog -> dogs
box -> boxes
city -> cities
car -> cars
wish -> wishes
lady -> ladies
"""
WORDS = ["book", "cup", "fox", "berry", "tree", "dish", "house", "party", "lamp", "bush", "story", "hand", "church"]
WORDS += ["baby", "king", "table", "brush", "penny", "apple", "glass", "puppy", "river", "bench", "cherry", "ship"]


def plural(word: str) -> str:
    if word.endswith("y"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("x", "sh", "ch", "ss")) else "s")


@sgl.function
def ask(s: sgl.ProgramState, word: str) -> None:
    s += SHOWN
    s += f"{word} ->" + sgl.gen("plural", max_tokens=8, stop="\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=len(WORDS), help=f"default: {len(WORDS)}; more repeat the words")
    args = parser.parse_args()
    words = [WORDS[i % len(WORDS)] for i in range(args.rows)]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = ask.run_batch([{"word": word} for word in words], backend=runtime, temperature=0, progress_bar=True)
        right = 0
        for word, state in zip(words, states):
            right += state["plural"].strip() == plural(word)
            print(f"{word} ->{state['plural']}")
        usage = states.usage.total
        print(f"{right} of {len(words)} are right; {usage.reused} of {usage.prompt} tokens of prompt were reused")
        print(f"\n{usage}")


if __name__ == "__main__":
    main()
