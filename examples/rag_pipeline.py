"""Questions about documents, with a full-text index: `python examples/rag_pipeline.py`.

The documents are the pages of `docs/`. SQLite's FTS5 indexes their sections and finds the best ones for a question (by
BM25). The model answers from those, and the page that the answer comes from is known. All questions run as one batch;
what their prompts share is computed once.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from common import session

import sgl

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECTION_CHARACTERS = 900  # of each section that the model is shown
QUESTIONS = [
    "What does resume= do in a batch?",
    "How can a select be sampled?",
    "What happens to a tool that raises?",
    "Which dialect does a regex have?",
]
COMMON = {"a", "an", "be", "can", "do", "does", "how", "in", "is", "of", "the", "to", "what", "which"}


def index() -> sqlite3.Connection:
    """Put every section of every page into an index."""
    store = sqlite3.connect(":memory:")
    store.execute("create virtual table section using fts5(page, title, text, tokenize='porter unicode61')")
    for page in sorted(DOCS.glob("*.md")):
        for part in re.split(r"^(?=#{1,3} )", page.read_text(), flags=re.M):
            title, _, text = part.partition("\n")
            store.execute("insert into section values (?, ?, ?)", (page.name, title.strip("# "), text.strip()))
    return store


def search(store: sqlite3.Connection, question: str, most: int) -> list[tuple[str, str, str]]:
    words = [word for word in re.findall(r"\w+", question.lower()) if word not in COMMON]
    query = " OR ".join(f'"{word}"' for word in words)
    found = "select page, title, text from section where section match ? order by bm25(section, 0, 3, 1) limit ?"
    return store.execute(found, (query, most)).fetchall()


@sgl.function
def answer(s: sgl.ProgramState, question: str, found: list[tuple[str, str, str]]) -> None:
    s += sgl.system("You answer from the given text, in one short sentence.")
    text = "\n\n".join(f"## {title}\n{body[:SECTION_CHARACTERS]}" for _, title, body in found)
    s += sgl.user(f"{text}\n\nQuestion: {question}")
    s += sgl.assistant(sgl.gen("answer", max_tokens=48, stop="\n"))


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, sections=1) as args:
        store = index()
        rows = [{"question": q, "found": search(store, q, args.sections)} for q in QUESTIONS]
        print(f"{store.execute('select count(*) from section').fetchone()[0]} sections are indexed\n")
        states = answer.run_batch(rows, temperature=0)
        for row, state in zip(rows, states):
            sources = ", ".join(f"{page}: {title}" for page, title, _ in row["found"])
            print(f"{row['question']}\n    {state['answer'].strip()}\n    [{sources}]")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
