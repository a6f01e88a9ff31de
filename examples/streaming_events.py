"""What can be seen while the model writes: `python examples/streaming_events.py`.

Three streams: pieces of a text, typed values of an unfinished record, and the events of a call. Events come from the
position in the grammar, so nobody parses unfinished JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common import session
from pydantic import BaseModel, Field

import sgl


class Animal(BaseModel):
    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=8)
    home: Literal["land", "water", "air"]


@sgl.tool
def set_timer(minutes: int, label: Literal["tea", "eggs", "bread"]) -> str:
    """Set a timer."""
    return f"the timer for {label} rings in {minutes} minutes"


@sgl.function
def fact(s: sgl.ProgramState, animal: str) -> None:
    s += sgl.user(f"Tell me something about the {animal}.")
    s += sgl.assistant(sgl.gen("text", max_tokens=40, stop="."))


@sgl.function
def record(s: sgl.ProgramState, animal: str) -> None:
    s += sgl.user("Describe the cow as JSON.")
    s += sgl.assistant('{"name": "cow", "legs": 4, "home": "land"}')
    s += sgl.user(f"Describe the {animal} as JSON.")
    s += sgl.assistant(sgl.gen("animal", schema=Animal, max_tokens=60))


@sgl.function
def order(s: sgl.ProgramState, text: str) -> None:
    s += sgl.system("Use the tool.", tools=[set_timer]) + sgl.user(text)
    s += sgl.assistant(sgl.call("step", [set_timer], choice="required", calls=1, max_tokens=60))


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        print("pieces of a text:")
        one = fact.run("horse", stream=True, temperature=0)
        print("   ", "|".join(one.text_iter("text")))
        print("values of an unfinished record:")
        two = record.run("horse", stream=True, temperature=0)
        for value in two.value_iter("animal"):
            print("   ", value)
        print("events of a call:")
        three = order.run("Set a timer for tea, five minutes.", stream=True, temperature=0)
        for event in three.event_iter("step"):
            print("   ", event)
        [result] = sgl.run_tools(three.value("step"), [set_timer])
        print("   ", result.text)
        print(f"\n{one.usage.total + two.usage.total + three.usage.total}")


if __name__ == "__main__":
    main()
