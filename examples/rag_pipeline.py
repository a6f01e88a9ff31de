"""Questions about documents, with a full-text index: `python examples/rag_pipeline.py`.

The documents are the pages of `docs/`. SQLite's FTS5 indexes their sections and finds the best ones for a question (by
BM25). The model picks a sentence of them by `select`, so the quotation is exact and its page is known. Then it says the
same in short. All questions run as one batch.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from common import session

import sgl

DOCS = Path(__file__).resolve().parents[1] / "docs"
MOST_SENTENCES = 12  # of each section, for the model to read
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


def sentences(text: str) -> list[str]:
    plain = re.sub(r"```.*?```|`+|\*+", "", text.split("\n\n|")[0], flags=re.S)
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\n|^- ", plain, flags=re.M)
    return list(dict.fromkeys(" ".join(part.split()) for part in parts if 20 < len(part) < 250))[:MOST_SENTENCES]


@sgl.function
def answer(s: sgl.ProgramState, question: str, found: list[tuple[str, str, str]]) -> None:
    s += sgl.system("You answer from the given text.")
    known = [sentence for _, _, text in found for sentence in sentences(text)]
    s += sgl.user("\n".join(known) + f"\n\nQuestion: {question}")
    with s.assistant():
        s += "The text says: " + sgl.select("quote", known)  # a sentence of the text, word by word
        s += "\nIn short:" + sgl.gen("answer", regex=r" [A-Za-z][^.\n]{10,90}\.", max_tokens=32)


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, sections=1) as args:
        store = index()
        rows = [{"question": q, "found": search(store, q, args.sections)} for q in QUESTIONS]
        print(f"{store.execute('select count(*) from section').fetchone()[0]} sections are indexed\n")
        states = answer.run_batch(rows, temperature=0)
        for row, state in zip(rows, states):
            sources = ", ".join(f"{page}: {title}" for page, title, _ in row["found"])
            print(f"{row['question']}\n    {state['quote']}\n    In short:{state['answer']}\n    [{sources}]")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
