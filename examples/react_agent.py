"""An agent's loop written by hand: think, call a tool, read its result, again: `python examples/react_agent.py`.

This is the pattern of the paper "ReAct" (Yao et al. 2023, arXiv:2210.03629). `sgl.agent` has a loop like this one
inside, with timeouts, budgets and events. Write your own when you want other rules. The population figures are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common import session
from pydantic import BaseModel

import sgl

MILLIONS = {"Tokyo": 37.0, "Delhi": 33.8, "Cairo": 22.6, "Paris": 11.3, "Lima": 11.4, "Oslo": 1.1}


@sgl.tool
def population(city: Literal["Tokyo", "Delhi", "Cairo", "Paris", "Lima", "Oslo"]) -> str:
    """Look up how many million people live in a city."""
    return f"{MILLIONS[city]} million people live in {city}."


TOOLS = [population]


class Answer(BaseModel):
    larger_city: Literal["Tokyo", "Delhi", "Cairo", "Paris", "Lima", "Oslo"]


@sgl.function
def react(s: sgl.ProgramState, question: str, steps: int) -> Answer | None:
    s += sgl.system("Look up both cities, one after the other. Then answer.", tools=TOOLS)
    s += sgl.user(question)
    for step in range(steps):
        s += sgl.assistant_begin()
        s += "Thought: I" + sgl.gen("thought", max_tokens=24, stop=["\n", ".", "<"]) + ".\n"
        # Two look-ups are asked for; later the model may also answer, and in the last step it must.
        choice = "none" if step == steps - 1 else "required" if step < 2 else "auto"
        s += sgl.call("step", TOOLS, choice, calls=1, answer=Answer, max_tokens=60)
        s += sgl.assistant_end()
        print(f"  thought: I{s['thought']}.")
        found = s.value("step")  # a list of calls, or an Answer
        if isinstance(found, Answer):
            return found
        for call, result in zip(found, sgl.run_tools(found, TOOLS)):
            print(f"  {call.name}({call.arguments['city']}) -> {result.text}")
            s.tool_result(call, result)
    return None


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, steps=4) as args:
        for question in ("Which city is larger, Cairo or Oslo?", "Which city is larger, Lima or Tokyo?"):
            print(question)
            state = react.run(question, args.steps, temperature=0)
            print(f"  answer: {state.ret_value!r}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
