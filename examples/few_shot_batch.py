"""One prompt, many rows: `python examples/few_shot_batch.py --rows 100`.

The examples of a few-shot prompt are the same text in every row, so they are computed once for the whole batch. The
rows ask for the plural of a word, and a rule of a few lines says which answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import session

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


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, rows=16) as args:
        words = [WORDS[i % len(WORDS)] for i in range(args.rows)]
        states = ask.run_batch([{"word": word} for word in words], temperature=0)
        right = sum(state["plural"].strip() == plural(word) for word, state in zip(words, states))
        for word, state in list(zip(words, states))[:8]:
            print(f"{word} ->{state['plural']}")
        print(f"{right} of {len(words)} are right")
        cost = states.usage.total
        print(f"{cost.reused:,} of {cost.prompt:,} tokens of prompt were reused\n\n{cost}")


if __name__ == "__main__":
    main()
