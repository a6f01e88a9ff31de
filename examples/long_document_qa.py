"""Many questions about one long document: `python examples/long_document_qa.py`.

The document is read once. Every question is a fork of the state behind it, so it costs its own words only, and the
questions are answered side by side. `--document` takes a file of your own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from common import session

import sgl

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUESTIONS = [
    "What is the document about?",
    "What is a tool?",
    "What happens when a server dies?",
    "Which options does a tool have?",
]


@sgl.function
def answer_all(s: sgl.ProgramState, document: str, questions: list[str]) -> None:
    s += sgl.system("You answer questions about a document, in one short sentence.")
    s += sgl.user(f"{document}\n\nRead this document.")
    s += sgl.assistant("I have read it.")
    forks = s.fork(len(questions))
    forks += [sgl.user(question) for question in questions]
    forks += sgl.assistant(sgl.gen("answer", max_tokens=32, stop=["\n", "."], temperature=0))
    forks.join()


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, document=str(DOCS / "tools.md"), characters=4000) as args:
        document = Path(args.document).read_text()[: args.characters]
        began = time.perf_counter()
        state = answer_all.run(document, QUESTIONS)
        for question, answer in zip(QUESTIONS, state["answer"]):
            print(f"{question}\n    {answer.strip()}")
        cost = state.usage.total
        print(f"\n{len(document):,} characters, {len(QUESTIONS)} questions, {time.perf_counter() - began:.1f} s")
        print(f"a server would have got {cost.prompt:,} tokens of prompt; {cost.computed:,} tokens were computed")
        print(f"\n{cost}")


if __name__ == "__main__":
    main()
