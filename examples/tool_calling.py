"""One call of a tool, its result, an answer: `python examples/tool_calling.py`.

`sgl.call` is the turn in which the model calls a tool. The grammar holds the name and the arguments to the tool's own
types, so every call can be run. The result goes back with `s.tool_result`, and nothing before it is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Literal

from common import session

import sgl


@sgl.tool
def calculate(a: int, operation: Literal["plus", "minus", "times"], b: int) -> str:
    """Calculate with two whole numbers."""
    result = {"plus": a + b, "minus": a - b, "times": a * b}[operation]
    return f"{a} {operation} {b} is {result}"


@sgl.tool
def weekday(day: date) -> str:
    """Tell which day of the week a date is.

    Args:
        day: The date, as YYYY-MM-DD.
    """
    return f"{day} is a {day:%A}"


TOOLS = [calculate, weekday]
QUESTIONS = [
    "How much is 23 times 17?",
    "What day of the week was 1969-07-20?",
    "How much is 1200 minus 345?",
    "Which weekday is 2030-01-01?",
]


@sgl.function
def ask(s: sgl.ProgramState, question: str) -> list[sgl.ToolResult]:
    s += sgl.system("You answer questions. Use the tools.", tools=TOOLS)
    s += sgl.user(question)
    s += sgl.assistant(sgl.call("step", TOOLS, choice="required", calls=1, max_tokens=60))
    calls = s.value("step")  # a list of sgl.ToolCall; date and number are valid, whatever the model is
    results = sgl.run_tools(calls, TOOLS)
    for call, result in zip(calls, results):
        s.tool_result(call, result)
    s += sgl.assistant("The tool says that" + sgl.gen("answer", max_tokens=24, stop=["\n", "."]))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        states = ask.run_batch([{"question": question} for question in QUESTIONS], temperature=0)
        for question, state in zip(QUESTIONS, states):
            print(question)
            for result in state.ret_value:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    The tool says that{state['answer']}.")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
