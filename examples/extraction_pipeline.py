"""Documents to validated records, with a journal: `python examples/extraction_pipeline.py --rows 200`.

Every document becomes a record of the type `Problem`, all of them side by side. Each finished row is noted in a journal
at once. Here the batch is stopped in the middle and started again: the rows that are there do not run a second time.
The types always hold. Whether the *content* is right is another matter, so that is checked: numbers that a record names
must be in its document.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common import session
from pydantic import BaseModel, Field

import sgl

DATA = Path(__file__).resolve().parent / "data" / "gsm8k-200.jsonl"


class Problem(BaseModel):
    person: str = Field(max_length=16, pattern="^[A-Z][a-z]+$", description="who the problem is about")
    topic: Literal["money", "food", "animals", "school", "travel", "time", "other"]
    numbers: list[int] = Field(min_length=1, max_length=4, description="the numbers in the problem")


@sgl.function
def extract(s: sgl.ProgramState, document: str) -> None:
    s += sgl.system("You read a problem and write down its person, its topic and its numbers as JSON.")
    s += sgl.user("Anna has 3 hens. Each lays 12 eggs a week. How many eggs does she get?")
    s += sgl.assistant('{"person": "Anna", "topic": "animals", "numbers": [3, 12]}')
    s += sgl.user(document)
    s += sgl.assistant(sgl.gen("record", schema=Problem, max_tokens=60))


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, rows=24, journal="") as args, tempfile.TemporaryDirectory() as folder:
        journal = Path(args.journal or Path(folder) / "records.jsonl")
        documents = [json.loads(line)["question"] for line in DATA.read_text().splitlines()[: args.rows]]
        rows = [{"document": document} for document in documents]
        first = extract.run_batch(rows[: len(rows) // 2], resume=journal, on_error="keep", temperature=0)
        print(f"stopped after {len(first)} rows; {journal.name} has {len(journal.read_text().splitlines())} lines")
        states = extract.run_batch(rows, resume=journal, on_error="keep", temperature=0)
        print(f"started again: {sum(s.restored for s in states)} of {len(states)} rows come from the journal")
        right = total = 0
        for document, state in zip(documents, states):
            if state.error() is None:
                record = sgl.schema(Problem).parse(state["record"])  # a row of the journal is text
                total += len(record.numbers)
                right += sum(str(number) in document.replace(",", "") for number in record.numbers)
        print(f"last record: {record!r}\n  of: {document:.100}...")
        print(f"{len(states.errors)} rows failed; {right} of {total} numbers are in their documents")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
