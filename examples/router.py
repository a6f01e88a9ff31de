"""A request goes to one of several programs: `python examples/router.py`.

A `select` decides which one. The programs go on with the same state, so nothing of the request is computed again. What
each of them needs (a tool, a record, plain text) is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common import session
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
    s += sgl.user("Say hello.") + sgl.assistant("Hello!" + sgl.gen("reply", max_tokens=30, stop=["\n", ".", "?"]))
    return f"Hello!{s['reply']}"


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
    return str(ROUTES[s["route"]](s))  # a program runs on the state of another


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        states = handle.run_batch([{"request": request} for request in REQUESTS], temperature=0)
        for request, state in zip(REQUESTS, states):
            print(f"{request}\n    {state['route']}: {state.ret_value}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
