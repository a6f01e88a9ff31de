"""Several tools at once, and the events of an agent's loop.

The model writes two calls in one turn. A tool starts as soon as its own arguments are closed, while the model writes
the next call. So two tools that wait half a second each take little more than half a second together.

Run: python examples/parallel_tools.py

Expect of a model of 135M parameters: two valid calls, of the two cities that were asked for, since `min_tool_calls=2`
and the grammar lead it. Its answer then names only one of them.
"""

from __future__ import annotations

import asyncio
import time
from math import asin, cos, radians, sin, sqrt
from typing import Literal

import sgl

ROME = (41.9, 12.5)  # degrees north and east
CITIES = {"Oslo": (59.9, 10.8), "Lima": (-12.0, -77.0), "Cairo": (30.0, 31.2)}


@sgl.tool(timeout=10)
async def distance(city: Literal["Oslo", "Lima", "Cairo"]) -> str:
    """Tell how far a city is from Rome."""
    await asyncio.sleep(0.5)  # as long as a web service would take
    (a, b), (c, d) = (map(radians, place) for place in (ROME, CITIES[city]))
    half = sin((c - a) / 2) ** 2 + cos(a) * cos(c) * sin((d - b) / 2) ** 2
    return f"{2 * 6371 * asin(sqrt(half)):,.0f} km from Rome to {city}"


@sgl.function
def ask(s: sgl.ProgramState, question: str) -> None:
    began = time.perf_counter()
    s += sgl.system("Use the tools.", tools=[distance])
    s += sgl.user(question)
    loop = sgl.agent(
        s,
        [distance],
        min_tool_calls=2,
        parallel=2,  # at most two calls in a turn
        max_tool_calls=2,  # then the model has to answer
        answer=sgl.regex("The distance to (Oslo|Lima|Cairo) is [0-9]{1,2},[0-9]{3} km[.]"),
        stream=True,  # the events of the loop as they happen
        max_tokens=100,
    )
    for event in loop:
        at = f"{time.perf_counter() - began:5.2f} s "
        match event:
            case sgl.StepBegan():
                print(at, f"turn {event.number} begins")
            case sgl.CallClosed():
                print(at, f"started:  {event.call.name}({event.call.arguments})")
            case sgl.ToolFinished():
                print(at, f"finished: {event.result.text} ({event.result.seconds:.2f} s)")
            case sgl.AgentResult():
                print(at, f"answer:   {event.answer} ({len(event.results)} calls in {event.steps} turns)")


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = ask.run("How far is it from Rome to Oslo, and to Lima?", backend=runtime, temperature=0)
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
