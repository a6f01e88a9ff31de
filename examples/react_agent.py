"""An agent's loop written by hand: think, call a tool, read its result, again: `python examples/react_agent.py`.

This is the pattern of the paper "ReAct" (Yao et al. 2023, arXiv:2210.03629). `sgl.agent` has a loop like this one
inside, with timeouts, budgets and events. Write your own when you want other rules. The population figures are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common import session

import sgl

MILLIONS = {"Tokyo": 37.0, "Delhi": 33.8, "Cairo": 22.6, "Paris": 11.3, "Lima": 11.4, "Oslo": 1.1}


@sgl.tool
def population(city: Literal["Tokyo", "Delhi", "Cairo", "Paris", "Lima", "Oslo"]) -> str:
    """Look up how many million people live in a city."""
    return f"{MILLIONS[city]} million people live in {city}."


TOOLS = [population]


@sgl.function
def react(s: sgl.ProgramState, question: str, most_steps: int) -> str:
    s += sgl.system("You look up what you need to know, then you answer.", tools=TOOLS)
    s += sgl.user(question)
    cities = [city for city in MILLIONS if city in question]
    unknown = list(cities)
    for _ in range(most_steps):
        if not unknown:
            break
        # The thought picks what to look up next. A large model can think freely: sgl.gen("thought", stop="\n").
        s += sgl.assistant_begin() + "Thought: I need the population of " + sgl.select("next", unknown) + ".\n"
        s += sgl.call("step", TOOLS, choice="population", max_tokens=40) + sgl.assistant_end()
        print(f"  thought: I need the population of {s['next']}.")
        calls = s.value("step")
        for call, result in zip(calls, sgl.run_tools(calls, TOOLS)):
            print(f"  action: {call.name}({call.arguments['city']})\n  observation: {result.text}")
            s.tool_result(call, result)
        unknown.remove(s["next"])
    s += sgl.assistant("Thought: I know enough. The larger city is " + sgl.select("answer", cities) + ".")
    return str(s["answer"])


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, steps=4) as args:
        for question in ("Which city is larger, Cairo or Oslo?", "Which city is larger, Lima or Tokyo?"):
            print(question)
            state = react.run(question, args.steps, temperature=0)
            print(f"  answer: {state.ret_value}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
