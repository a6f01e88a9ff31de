"""Many questions about one long document.

The document is read once. Every question is a fork of the state behind it, so it costs its own words only, and all
questions are answered side by side.

Run: python examples/long_document_qa.py [--document FILE] [--characters 4000]

Expect of a model of 135M parameters: good answers to questions that a sentence of the text answers, vague ones to
others. Its context has room for about 25,000 characters.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import sgl

TOOLS_PAGE = Path(__file__).resolve().parents[1] / "docs" / "tools.md"
QUESTIONS = [
    "What is the document about?",
    "What is a tool?",
    "What happens when a server dies?",
    "Which options does a tool have?",
]


@sgl.function
def answer_all(s: sgl.ProgramState, document: str) -> None:
    s += sgl.system("You answer questions about a document, in one short sentence.")
    s += sgl.user(f"{document}\n\nRead this document.")
    s += sgl.assistant("I have read it.")
    forks = s.fork(len(QUESTIONS))
    forks += [sgl.user(question) for question in QUESTIONS]  # one for each fork
    forks += sgl.assistant(sgl.gen("answer", max_tokens=40, stop=["\n", "."], temperature=0))  # the same for all
    forks.join()  # s["answer"] is a list now


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--document", type=Path, default=TOOLS_PAGE, help="a text file; default: docs/tools.md")
    parser.add_argument("--characters", type=int, default=4000, help="how much of it is read; default: 4000")
    args = parser.parse_args()
    document = args.document.read_text(encoding="utf-8")[: args.characters]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        began = time.perf_counter()
        state = answer_all.run(document, backend=runtime)
        for question, answer in zip(QUESTIONS, state["answer"]):
            print(f"{question}\n    {answer.strip()}")
        usage = state.usage.total
        print(f"\n{len(document):,} characters, {len(QUESTIONS)} questions, {time.perf_counter() - began:.1f} s")
        print(f"Sent one by one, the prompts have {usage.prompt:,} tokens; {usage.computed:,} tokens were computed.")
        print(f"\n{usage}")


if __name__ == "__main__":
    main()
