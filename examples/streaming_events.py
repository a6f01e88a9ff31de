"""What can be seen while the model writes.

Three streams: the pieces of a text (`text_iter`), the typed values of an unfinished record (`value_iter`), and the
events of a call (`event_iter`). They follow from the place in the grammar, so nobody parses unfinished JSON.

Run: python examples/streaming_events.py

Expect of a model of 135M parameters: valid streams. A horse may get three legs.
"""

from __future__ import annotations

from typing import Literal

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


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        print("pieces of a text:")
        told = fact.run("horse", stream=True, backend=runtime, temperature=0)
        print("   ", "|".join(told.text_iter("text")))

        print("values of an unfinished record:")
        described = record.run("horse", stream=True, backend=runtime, temperature=0)
        for value in described.value_iter("animal"):
            print("   ", value)

        print("events of a call:")
        ordered = order.run("Set a timer for tea, five minutes.", stream=True, backend=runtime, temperature=0)
        for event in ordered.event_iter("step"):
            print("   ", event)
        [result] = sgl.run_tools(ordered.value("step"), [set_timer])
        print("   ", result.text)

        print(f"\n{told.usage.total + described.usage.total + ordered.usage.total}")


if __name__ == "__main__":
    main()
