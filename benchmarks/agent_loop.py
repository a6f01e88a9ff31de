"""What an agent's loop over tools computes: one transcript that grows, against a conversation sent again each step.

    python benchmarks/agent_loop.py [--steps 10]

Three ways to run the same loop on the embedded model, greedy: `sgl.call` and `s.tool_result` in a program; OpenAI's
client against `sgl serve`, which sends the whole conversation at every step; and the same against a server that reuses
nothing (`--disable-radix-cache`), as a loop that prefills its history again. *Computed* are the prompt tokens that were
not there, and those written. Needs the packages of `.[dev]`.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from typing import Any

import openai

import sgl
from sgl.backend.bench.serving.here import served

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Tunis", "Seoul", "Dakar")
SYSTEM = "You look things up with the tools, and then answer in one sentence."
TASK = "Which of these cities is the warmest today? Look up each of them: " + ", ".join(CITIES)


@sgl.tool
def temperature(city: str, day: int) -> str:
    """The temperature of a city on a day of this week.

    Args:
        city: The city.
        day: The day, 1 to 7.
    """
    degrees = sum(map(ord, city)) % 30
    wind = ("north", "south", "east", "west")[degrees % 4]
    return f"{city} has {degrees} degrees on day {day}, and the wind is from the {wind}."


@sgl.function
def program(s: Any, steps: int) -> None:
    s += sgl.system(SYSTEM, tools=[temperature]) + sgl.user(TASK)
    for step in range(steps):
        call = sgl.call(f"step{step}", [temperature], choice="required", calls=1, max_tokens=60, temperature=0)
        s += sgl.assistant(call)
        for made in s.value(f"step{step}"):
            s.tool_result(made, temperature(**made.arguments))
    s += sgl.assistant(sgl.gen("answer", max_tokens=24, temperature=0))


def in_a_program(steps: int) -> dict[str, Any]:
    with sgl.Runtime(random_seed=0) as runtime:
        program.run(1, backend=runtime)["answer"]  # kernels and constraints are warm
        runtime.flush_cache()
        began = time.perf_counter()
        state = program.run(steps, backend=runtime)
        state.sync()
        seconds = time.perf_counter() - began
        usage = state.usage.total
        computed = usage.prompt - usage.reused + usage.generated
        return {"asked": usage.prompt, "computed": computed, "written": usage.generated, "s": seconds}


def over_http(steps: int, **options: Any) -> dict[str, Any]:
    with served(sgl.Runtime(random_seed=0, **options)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        spec = temperature.spec.openai()

        def loop(count: int) -> tuple[int, int, int]:
            messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}]
            asked = cached = written = 0
            for step in range(count + 1):
                last = step == count
                answer = client.chat.completions.create(
                    model="default", messages=messages, tools=[spec], tool_choice="none" if last else "required",
                    parallel_tool_calls=False, temperature=0, max_tokens=24 if last else 60,
                )  # fmt: skip
                usage: Any = answer.usage
                asked += usage.prompt_tokens
                cached += usage.prompt_tokens_details.cached_tokens
                written += usage.completion_tokens
                messages.append(answer.choices[0].message.model_dump(exclude_none=True))
                for call in answer.choices[0].message.tool_calls or ():
                    result = temperature(**json.loads(call.function.arguments))
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            return asked, cached, written

        loop(1)
        urllib.request.urlopen(urllib.request.Request(f"{url}/flush_cache", method="POST")).close()
        began = time.perf_counter()
        asked, cached, written = loop(steps)
        seconds = time.perf_counter() - began
        return {"asked": asked, "computed": asked - cached + written, "written": written, "s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    ways = {
        "`sgl.call` in a program": lambda: in_a_program(steps),
        "a client of `sgl serve`": lambda: over_http(steps),
        "the same, nothing reused": lambda: over_http(steps, disable_radix_cache=True),
    }
    print("| way | prompt tokens of all calls | computed | written | seconds |\n|---|--:|--:|--:|--:|")
    for name, way in ways.items():
        told = way()
        counts = " | ".join(f"{told[key]:,}" for key in ("asked", "computed", "written"))
        print(f"| {name} | {counts} | {told['s']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
