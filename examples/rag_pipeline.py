"""Questions about documents: search in a full-text index, an exact quotation, an answer.

The documents are the pages of `docs/`. SQLite's FTS5 indexes their sentences, and finds the best few for a question by
BM25. The model reads them and answers. Then it picks the sentence that says so, by `select`: the quotation is exact,
and its page is known. All questions run as one batch. The index is a part of Python; there is nothing to install.

Run: python examples/rag_pipeline.py [QUESTION ...]

Expect of a model of 135M parameters: mostly a sentence that answers, when the question has words of the documents. The
model's own words are often wrong, which is why the sentence stands above them.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path

import sgl

DOCS = Path(__file__).resolve().parents[1] / "docs"
MOST_FOUND = 3  # sentences for each question
QUESTIONS = [
    "What does resume= do in a batch?",
    "How can a select be sampled?",
    "What happens to a tool that raises?",
    "What happens to a failed row of a batch?",
    "How can I test a program without a model?",
]
COMMON = {"a", "an", "be", "can", "do", "does", "how", "i", "in", "is", "of", "that", "the", "to", "what", "which"}

Found = tuple[str, str, str]  # page, title of the section, sentence


def sentences(text: str) -> list[str]:
    """Split a section into its sentences, without code, tables and marks."""
    plain = re.sub(r"```.*?```|^\|.*?$|<!--.*?-->|`+|\*+", "", text, flags=re.S | re.M)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain)  # the text of a link
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\n|^- ", plain, flags=re.M)
    whole = (" ".join(part.split()) for part in parts)
    return [sentence for sentence in whole if 20 < len(sentence) < 250 and sentence[-1] in ".!?"]


def index() -> sqlite3.Connection:
    """Put every sentence of every page into an index."""
    store = sqlite3.connect(":memory:")  # a path keeps it
    store.execute("create virtual table sentence using fts5(page, title, text, tokenize='porter unicode61')")
    for page in sorted(DOCS.glob("*.md")):
        for section in re.split(r"^(?=#{1,3} )", page.read_text(encoding="utf-8"), flags=re.M):
            title, _, text = section.partition("\n")
            rows = [(page.name, title.strip("# "), sentence) for sentence in sentences(text)]
            store.executemany("insert into sentence values (?, ?, ?)", rows)
    return store


def search(store: sqlite3.Connection, question: str) -> list[Found]:
    words = [word for word in re.findall(r"\w+", question.lower()) if word not in COMMON]
    if not words:
        return []
    query = " OR ".join(f'"{word}"' for word in words)
    best = "select page, title, text from sentence where sentence match ? order by bm25(sentence, 0, 1, 1) limit ?"
    return store.execute(best, (query, MOST_FOUND)).fetchall()


@sgl.function
def answer(s: sgl.ProgramState, question: str, found: list[Found]) -> Found:
    known = [sentence for _, _, sentence in found]
    s += sgl.system("You answer from the given text.")
    s += sgl.user("\n".join(known) + f"\n\nQuestion: {question}")
    s += sgl.assistant(sgl.gen("answer", max_tokens=40, stop=["\n", ". "]))
    s += sgl.user("Which sentence of the text says that?") + sgl.assistant(sgl.select("quote", known))
    return found[known.index(s["quote"])]


def main() -> None:
    questions = sys.argv[1:] or QUESTIONS
    store = index()
    rows = [{"question": question, "found": search(store, question)} for question in questions]
    print(f"{store.execute('select count(*) from sentence').fetchone()[0]} sentences are indexed")
    for question in [row["question"] for row in rows if not row["found"]]:
        print(f"{question}\n    nothing was found")
    rows = [row for row in rows if row["found"]]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = answer.run_batch(rows, backend=runtime, temperature=0)
        for row, state in zip(rows, states):
            page, title, quote = state.ret_value
            print(f'\n{row["question"]}\n    "{quote}" ({page}, {title})\n    the model: {state["answer"].strip()}')
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
