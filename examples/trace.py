"""A recorded run, and its page: `run.json` and `run.html`.

Six mails are answered side by side. For each the model picks a kind, fills in a typed ticket, and writes two drafts of
a reply. The first draft to be finished wins. Open the page in a browser: it shows the programs on a time axis, the
steps that they shared, and every token with its probability and where it came from.

Run: python examples/trace.py [FOLDER]

Expect of a model of 135M parameters: valid tickets and mostly the right kind of mail; titles are odd.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

import sgl

MAILS = [
    "The export button does nothing since yesterday.",
    "I was charged twice in October, please refund one of them.",
    "Could you add a dark theme? My eyes hurt at night.",
    "Since the update the app closes when I open a picture.",
    "How do I change the address on my invoice?",
    "Thank you, the new search is wonderful!",
]


class Ticket(BaseModel):
    title: str = Field(max_length=40)
    urgency: Literal["low", "normal", "high"]


@sgl.function
async def answer(s: Any, mail: str) -> Ticket:
    s += sgl.system("You work in customer support. You are kind and brief.")
    s += sgl.user(f"A mail has come:\n\n{mail}\n\nWhat is it about?")
    s += sgl.assistant(sgl.select("kind", ["a bug", "billing", "a wish", "praise"]))
    s += sgl.user("Make a ticket of it, as JSON.")
    s += sgl.assistant(sgl.gen("ticket", schema=Ticket, max_tokens=60))
    s += sgl.user("Now write the reply, in one sentence.")
    drafts = s.fork(2)  # two branches that go on from here
    for draft, tone in zip(drafts, ("Dear", "Thank")):
        draft += sgl.assistant(tone + sgl.gen("reply", max_tokens=30, stop="\n"))
    best = await sgl.first(drafts)  # the other one is cancelled
    await best["reply"]  # in an `async def` program every read is awaited
    return await s.value("ticket")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    sgl.set_default_backend(sgl.Runtime())
    with sgl.trace(folder / "run.json") as traced:  # every program that starts in this block is recorded
        states = answer.run_batch([{"mail": mail} for mail in MAILS], seed=4, temperature=0.7)
    traced.html(folder / "run.html")
    for mail, state in zip(MAILS, states):
        print(f"{mail}\n    {state['kind']}: {state.ret_value!r}")
    usage = states.usage.total
    print(
        f"\n{usage.calls} calls had {usage.prompt:,} tokens of prompt, of which {usage.reused:,} were computed already."
    )
    print(f"Open {folder / 'run.html'} in a browser. {folder / 'run.json'} is the trace itself, for sgl.replay().")


if __name__ == "__main__":
    main()
