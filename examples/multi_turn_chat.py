"""A chat of several turns, streamed, and what each turn costs.

The chat is one state that grows. A turn computes its own words and the reply, never the turns before it.

Run: python examples/multi_turn_chat.py           four turns that are written here
     python examples/multi_turn_chat.py --type    you write the turns; an empty line ends the chat

Expect of a model of 135M parameters: simple facts are mostly right, and what was said before is followed now and then.
Look at the numbers under each reply: nearly all tokens before it were there already.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import sgl

TURNS = [
    "What is the capital of France?",
    "What is the city famous for?",
    "How do I say hello in French?",
    "Thank you!",
]


def written() -> Iterator[str]:
    for turn in TURNS:
        print(f"you: {turn}")
        yield turn


def typed() -> Iterator[str]:
    while turn := input("you: ").strip():
        yield turn


@sgl.function
def chat(s: sgl.ProgramState, turns: Iterable[str]) -> None:
    for turn in turns:
        s += sgl.user(turn)
        s += sgl.assistant(sgl.gen("reply", max_tokens=60, stop="\n", temperature=0))
        print("model: ", end="")
        for piece in s.text_iter("reply"):  # the pieces of this reply, as they are written
            print(piece, end="", flush=True)
        meta = s.get_meta_info("reply")
        print(f"\n    [{meta['prompt_tokens']} tokens before it, {meta['cached_tokens']} of them computed already]")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--type", action="store_true", help="write the turns yourself")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = chat.run(typed() if args.type else written(), backend=runtime)
        print(f"\nthe chat has {len(state.messages())} messages\n\n{state.usage}")


if __name__ == "__main__":
    main()
