"""Several tools at once: `python examples/parallel_tools.py`.

The model writes two calls in one turn. Each tool starts as soon as its own arguments are closed, while the model
writes the next call. So two tools that wait half a second each take little more than half a second together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from math import asin, cos, radians, sin, sqrt
from typing import Literal

from common import session

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
def ask(s: sgl.ProgramState, question: str) -> list[str]:
    began = time.perf_counter()
    s += sgl.system("Use the tools.", tools=[distance])
    s += sgl.user(question)
    told = []
    answer = sgl.regex("The distance to (Oslo|Lima|Cairo) is [0-9]{1,2},[0-9]{3} km[.]")
    # `parallel=3`: at most two calls in a turn. `stream=True`: the events of the loop as they happen.
    loop = {"min_tool_calls": 2, "parallel": 2, "max_steps": 2, "max_tokens": 100, "answer": answer}
    for event in sgl.agent(s, [distance], stream=True, **loop):
        at = f"{time.perf_counter() - began:5.2f} s  "
        if isinstance(event, sgl.StepBegan):
            told.append(f"{at}turn {event.number} begins")
        elif isinstance(event, sgl.CallClosed):
            told.append(f"{at}started:  {event.call.name}({event.call.arguments})")
        elif isinstance(event, sgl.ToolFinished):
            told.append(f"{at}finished: {event.result.text}  ({event.result.seconds:.2f} s)")
        elif isinstance(event, sgl.AgentResult):
            told.append(f"{at}stopped: {event.reason}, after {len(event.results)} calls in {event.steps} turns")
            told.append(f"         {event.answer}")
    return told


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        state = ask.run("How far is it from Rome to Oslo, and to Lima?", temperature=0)
        print("\n".join(state.ret_value))
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
