"""An agent's loop written by hand: think, call a tool, read its result, again: `python examples/react_agent.py`.

This is the pattern of the paper "ReAct" (Yao et al. 2023, arXiv:2210.03629). `sgl.agent` has a loop like this one
inside, with timeouts, budgets and events. Write your own when you want other rules. The population figures are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common import session

import sgl

CITIES = {"Tokyo": ("Japan", 37.0), "Delhi": ("India", 33.8), "Cairo": ("Egypt", 22.6), "Lima": ("Peru", 11.4)}


@sgl.tool
def population(city: Literal["Tokyo", "Delhi", "Cairo", "Lima"]) -> str:
    """Look up how many people live in a city."""
    return f"{CITIES[city][1]} million people live in {city}"


@sgl.tool
def country(city: Literal["Tokyo", "Delhi", "Cairo", "Lima"]) -> str:
    """Look up which country a city is in."""
    return f"{city} is in {CITIES[city][0]}"


TOOLS = [population, country]
ANSWER = r"[A-Z][a-z]{2,8} is in [A-Z][a-z]{2,8} and has [0-9]{1,2}\.[0-9] million people\."


@sgl.function
def react(s: sgl.ProgramState, question: str, most_steps: int) -> str:
    s += sgl.system("You look things up, step by step. Then you answer.", tools=TOOLS)
    s += sgl.user(question)
    thoughts = {"the country": "country", "the population": "population"}  # what is left to look up
    for _ in range(most_steps):
        if not thoughts:
            break
        # A small model is led: its thought is one of those that make sense now, and names the tool. A large one can
        # think freely, in sgl.gen("thought", stop="\n"), and take any tool or none: sgl.call("step", TOOLS).
        s += sgl.assistant_begin() + "Thought: I must look up " + sgl.select("thought", list(thoughts)) + ".\n"
        s += sgl.call("step", TOOLS, choice=thoughts.pop(s["thought"]), max_tokens=40) + sgl.assistant_end()
        print(f"  thought: I must look up {s['thought']}.")
        calls = s.value("step")
        for call, result in zip(calls, sgl.run_tools(calls, TOOLS)):
            print(f"  action: {call.name}({call.arguments})\n  observation: {result.text}")
            s.tool_result(call, result)
    s += sgl.assistant(sgl.gen("answer", regex=ANSWER))
    return str(s["answer"])


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, steps=4) as args:
        for question in ("Where is Cairo, and how large is it?", "Tell me about Tokyo."):
            print(question)
            state = react.run(question, args.steps, temperature=0)
            print(f"  answer: {state.ret_value}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
