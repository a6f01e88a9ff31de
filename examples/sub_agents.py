"""Agents that work side by side: `python examples/sub_agents.py`.

A sub-agent is a fork. It begins where its parent is, so the system prompt and the descriptions of the tools are
computed once, however many agents there are. Their findings come back to the parent, which writes a report of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import session

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
        raise sgl.ToolError(f"there is no file {path.name}")
    return f"{path.name} has {len(path.read_text().splitlines())} lines."


TOOLS = [count_lines]


async def look_at(branch: Any, file: str) -> sgl.AgentResult:
    branch += sgl.user(f"How many lines has the file {file}?")
    sentence = sgl.regex(r"The file [a-z_]{3,20}\.py has [0-9]{1,4} lines\.")
    result: sgl.AgentResult = await sgl.agent(
        branch, TOOLS, min_tool_calls=1, parallel=1, max_steps=2, answer=sentence, max_tokens=60, name="finding"
    )
    return result


@sgl.function
async def survey(s: Any, files: list[str]) -> list[sgl.AgentResult]:
    s += sgl.system("You look after the files of a project. Use the tools.", tools=TOOLS)
    agents = s.fork(len(files))
    results = await asyncio.gather(*(look_at(branch, file) for branch, file in zip(agents, files)))
    findings = "\n".join(result.answer for result in results)
    s += sgl.user(f"These are the findings.\n{findings}\nSum them up in one sentence.")
    s += sgl.assistant(sgl.gen("report", max_tokens=40, stop="\n"))
    await s["report"]
    return list(results)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        state = survey.run(["tour.py", "tree.py", "trace.py"], temperature=0)
        for result in state.ret_value:
            print(f"{result.reason} after {len(result.results)} call: {result.results[0].text}")
            print(f"    the agent says: {result.answer}")
        print(f"report: {state['report'].strip()}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
