"""A chat of several turns, and what each turn costs: `python examples/multi_turn_chat.py`.

The chat is one state that grows. A turn computes its own words and the reply, never the turns before it. With
`--interactive 1` you write the turns yourself; an empty line ends the chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from common import session

import sgl

TURNS = [
    "What is the capital of France?",
    "And the capital of Italy?",
    "What can I eat there?",
    "Thank you! How do I say goodbye in Italian?",
]


def typed() -> Iterator[str]:
    while text := input("you: ").strip():
        yield text


@sgl.function
def chat(s: sgl.ProgramState, turns: Iterable[str], echo: bool) -> None:
    s += sgl.system("You are a friendly assistant. You answer in one short sentence.")
    for turn in turns:
        s += sgl.user(turn)
        s += sgl.assistant(sgl.gen("reply", max_tokens=40, stop=[".", "\n"], temperature=0))
        if echo:
            print(f"you: {turn}")
        print("model: ", end="")
        for piece in s.text_iter("reply"):  # pieces of this reply, as they are written
            print(piece, end="", flush=True)
        meta = s.get_meta_info("reply")
        print(f"\n    [{meta['prompt_tokens']} tokens before, {meta['cached_tokens']} of them were in the KV]")


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, interactive=0) as args:
        state = chat.run(typed() if args.interactive else TURNS, not args.interactive)
        print(f"\nthe chat has {len(state.messages())} messages")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
