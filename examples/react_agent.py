"""An agent's loop written by hand: think, call a tool, read its result, again: `python examples/react_agent.py`.

This is the pattern of the paper "ReAct" (Yao et al. 2023, arXiv:2210.03629). `sgl.agent` has a loop like this one
inside, with timeouts, budgets and events. Write your own when you want other rules. The population figures are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import session

import sgl

MILLIONS = {"Tokyo": 37.0, "Delhi": 33.8, "Cairo": 22.6, "Paris": 11.3, "Lima": 11.4, "Oslo": 1.1}


@sgl.tool
def population(city: str) -> str:
    """Look up how many million people live in a city."""
    return f"{MILLIONS[city]} million people live in {city}"  # a KeyError becomes a result that names it


@sgl.tool
def add(a: float, b: float) -> str:
    """Add two numbers."""
    return f"{a} and {b} are {a + b:.1f} together"


TOOLS = [population, add]


@sgl.function
def react(s: sgl.ProgramState, question: str, most_steps: int) -> str:
    s += sgl.system("You look up numbers and add them, step by step.", tools=TOOLS)
    s += sgl.user(question)
    thoughts = {f"look up {city}": "population" for city in MILLIONS if city in question}
    thoughts["add the numbers"] = "add"
    for _ in range(most_steps):
        if not thoughts:
            break
        # A small model is led: its thought is one of those that make sense now. A large one can think freely, in
        # sgl.gen("thought", stop="\n"), and take any tool: sgl.call("step", TOOLS).
        possible = [thought for thought in thoughts if thought != "add the numbers"] or list(thoughts)
        s += sgl.assistant_begin() + "Thought: I must " + sgl.select("thought", possible) + ".\n"
        s += sgl.call("step", TOOLS, choice=thoughts.pop(s["thought"]), max_tokens=40) + sgl.assistant_end()
        print(f"  thought: I must {s['thought']}.")
        calls = s.value("step")
        for call, result in zip(calls, sgl.run_tools(calls, TOOLS)):
            print(f"  action: {call.name}({call.arguments})\n  observation: {result.text}")
            s.tool_result(call, result)
    s += sgl.assistant(
        "I know enough. Together they have " + sgl.gen("answer", regex="[0-9]{1,3}[.][0-9]") + " million."
    )
    return str(s["answer"])


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, steps=4) as args:
        for question in ("How many people have Cairo and Oslo?", "How many people have Lima and Tokyo?"):
            print(question)
            state = react.run(question, args.steps, temperature=0)
            print(f"  answer: {state.ret_value} million")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
