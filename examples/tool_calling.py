"""One call of a tool, its result, an answer.

`sgl.call` is the turn in which the model calls a tool. The grammar holds the tool's name and its arguments to their
types, so every call can be run. The result goes back with `s.tool_result`. Nothing before it is computed again.

Run: python examples/tool_calling.py

Expect of a model of 135M parameters: calls that are valid, always, and here also right. It was never trained on tools,
so `choice="required"` makes it call one. A larger model can be asked with `choice="auto"`, and may answer directly.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

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
    calls = s.value("step")  # a list of sgl.ToolCall
    results = sgl.run_tools(calls, TOOLS)
    for call, result in zip(calls, results):
        s.tool_result(call, result)
    s += sgl.assistant("The tool says that" + sgl.gen("answer", max_tokens=24, stop=["\n", "."]))
    return results


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = ask.run_batch([{"question": question} for question in QUESTIONS], backend=runtime, temperature=0)
        for question, state in zip(QUESTIONS, states):
            print(question)
            for result in state.ret_value:
                print(f"    {result.call.name}({result.call.arguments}) -> {result.text}")
            print(f"    The tool says that{state['answer']}.")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
