"""Agents that work side by side, and a report of what they found.

A sub-agent is a fork. It begins where its parent is, so the system prompt and the descriptions of the tools are
computed once, however many agents there are. The agents are coroutines of one program: `asyncio.gather` waits for all.

Run: python examples/sub_agents.py

Expect of a model of 135M parameters: right calls, and answers whose form is held by a grammar. The report, which is
free text, is clumsy. In the usage, the branches 1 and 2 reuse nearly all of their prompts.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import sgl

FOLDER = Path(__file__).resolve().parent


@sgl.tool
def count_lines(file: str) -> str:
    """Count the lines of a file.

    Args:
        file: The name of the file, such as notes.py.
    """
    path = FOLDER / Path(file).name
    if not path.is_file():
        raise sgl.ToolError(f"there is no file {path.name}")  # the model reads this
    return f"{path.name} has {len(path.read_text(encoding='utf-8').splitlines())} lines."


TOOLS = [count_lines]


async def look_at(branch: Any, file: str) -> sgl.AgentResult:
    branch += sgl.user(f"How many lines has the file {file}?")
    # A small model is led: one call, then an answer in this form.
    answer = sgl.regex(rf"The file {re.escape(file)} has [0-9]{{1,4}} lines\.")
    result: sgl.AgentResult = await sgl.agent(
        branch, TOOLS, min_tool_calls=1, parallel=1, max_steps=2, answer=answer, max_tokens=60, name="finding"
    )
    return result


@sgl.function
async def survey(s: Any, files: list[str]) -> list[sgl.AgentResult]:
    s += sgl.system("You look after the files of a project. Use the tools.", tools=TOOLS)
    agents = s.fork(len(files))
    results = await asyncio.gather(*(look_at(agent, file) for agent, file in zip(agents, files)))
    s += sgl.user("\n".join(result.answer for result in results) + "\nSum this up in one sentence.")
    s += sgl.assistant(sgl.gen("report", max_tokens=40, stop="\n"))
    await s["report"]  # in a coroutine, a read is awaited
    return list(results)


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = survey.run(["tour.py", "tree.py", "trace.py"], backend=runtime, temperature=0)
        for result in state.ret_value:
            for called in result.results:
                print(f"{called.call.name}({called.call.arguments}) -> {called.text}")
            print(f"    the agent: {result.answer}")
        print(f"report: {state['report']}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
