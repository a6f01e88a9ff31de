"""A request goes to one of several programs.

A `select` decides which one. The program that it names goes on with the same state, so nothing of the request is
computed again. What each needs (a tool, a typed record, plain text) is its own affair.

Run: python examples/router.py

Expect of a model of 135M parameters: right routes, since six examples are shown, and valid calls and tickets.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

import sgl


@sgl.tool
def calculate(a: int, operation: Literal["plus", "minus", "times"], b: int) -> int:
    """Calculate with two whole numbers."""
    return {"plus": a + b, "minus": a - b, "times": a * b}[operation]


class Ticket(BaseModel):
    title: str = Field(max_length=40)
    urgency: Literal["low", "normal", "high"]


@sgl.function
def arithmetic(s: sgl.ProgramState) -> str:
    s += sgl.user("Write the calculation as a call of a tool.")
    s += sgl.assistant(sgl.call("sum", [calculate], choice="required", calls=1, max_tokens=60))
    [result] = sgl.run_tools(s.value("sum"), [calculate])
    return f"{result.call.arguments} = {result.text}"


@sgl.function
def complaint(s: sgl.ProgramState) -> str:
    s += sgl.user("Make a ticket of it, as JSON.")
    s += sgl.assistant(sgl.gen("ticket", schema=Ticket, max_tokens=50))
    return repr(s.value("ticket"))


@sgl.function
def small_talk(s: sgl.ProgramState) -> str:
    s += sgl.user("Write a friendly greeting.")
    s += sgl.assistant(sgl.gen("reply", regex=r"(Hello|Good|Welcome|How)[^\n.!?]{5,60}[.!?]", max_tokens=30))
    return str(s["reply"])


ROUTES = {"calculation": arithmetic, "complaint": complaint, "greeting": small_talk}
SHOWN = [
    ("How much is 5 plus 6?", "calculation"),
    ("My lamp is broken!", "complaint"),
    ("Hi there!", "greeting"),
    ("What is 3 times 8?", "calculation"),
    ("The door does not close.", "complaint"),
    ("Hello, how are you?", "greeting"),
]
REQUESTS = ["What is 31 times 12?", "The app crashes when I open it.", "Good morning!", "How much is 90 minus 18?"]


@sgl.function
def handle(s: sgl.ProgramState, request: str) -> str:
    s += sgl.system("You sort requests into calculation, complaint and greeting.")
    for shown, route in SHOWN:
        s += sgl.user(f"Request: {shown}") + sgl.assistant(f"Kind: {route}")
    s += sgl.user(f"Request: {request}") + sgl.assistant("Kind: " + sgl.select("route", list(ROUTES)))
    chosen = ROUTES[s["route"]]
    return str(chosen(s))  # it runs on this state


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = handle.run_batch([{"request": request} for request in REQUESTS], backend=runtime, temperature=0)
        for request, state in zip(REQUESTS, states):
            print(f"{request}\n    {state['route']}: {state.ret_value}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
