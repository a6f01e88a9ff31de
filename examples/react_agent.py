"""An agent's loop written by hand: think, call a tool, read its result, and so on until the answer.

This is the pattern of ReAct (Yao et al. 2023, arXiv:2210.03629). `sgl.agent` has such a loop inside, with timeouts,
budgets and events. Write your own when you want other rules, as here: each thought decides what may be called next.

Run: python examples/react_agent.py

Expect of a model of 135M parameters: it cannot plan, so it is led. Its thought is one of those that make sense now, and
names the tool; the grammar does the rest. So the loop always ends, and its answer has what the tools said.
"""

from __future__ import annotations

from typing import Literal

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


@sgl.function
def react(s: sgl.ProgramState, question: str) -> None:
    s += sgl.system("You look things up, step by step. Then you answer.", tools=TOOLS)
    s += sgl.user(question)
    thoughts = {"I must look up the country.": "country", "I must look up the population.": "population"}
    while thoughts:  # what is left to look up
        # A large model can think in free words and take any tool, or none:
        # sgl.gen("thought", stop="\n"), then sgl.call("action", TOOLS, choice="auto").
        s += sgl.assistant_begin() + "Thought: " + sgl.select("thought", list(thoughts)) + "\n"
        s += sgl.call("action", TOOLS, choice=thoughts.pop(s["thought"]), max_tokens=40) + sgl.assistant_end()
        print(f"  thought: {s['thought']}")
        for call, result in zip(s.value("action"), sgl.run_tools(s.value("action"), TOOLS)):
            print(f"  action: {call.name}({call.arguments})\n  observation: {result.text}")
            s.tool_result(call, result)
    s += sgl.assistant("I found that" + sgl.gen("answer", max_tokens=40, stop=[".\n", "\n"]))
    print(f"  answer: I found that{s['answer']}")


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        for question in ("Where is Cairo, and how large is it?", "Tell me about Tokyo."):
            print(question)
            state = react.run(question, backend=runtime, temperature=0)
            print(f"\n{state.usage}\n")


if __name__ == "__main__":
    main()
