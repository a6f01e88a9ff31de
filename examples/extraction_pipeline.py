"""Documents to validated records, hundreds at once, with a journal.

Every document becomes a record of the type `Problem`, all side by side. Each finished row is noted in a journal at
once. Here the batch is stopped in the middle and started again: what the journal has does not run a second time.

Run: python examples/extraction_pipeline.py [--rows 200] [--journal FILE]

Expect of a model of 135M parameters: every record is of its type, always. Whether its content is right is another
matter, so that is measured: a number of a record must be in its document. Two in three are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Literal

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
    s += sgl.assistant(sgl.gen("record", schema=Problem, max_tokens=60, temperature=0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200, help="documents, at most 200; default: 200")
    parser.add_argument("--journal", type=Path, help="keep the journal in this file; default: a file that is deleted")
    args = parser.parse_args()
    documents = [json.loads(line)["question"] for line in DATA.read_text(encoding="utf-8").splitlines()[: args.rows]]
    rows = [{"document": document} for document in documents]

    with sgl.Runtime(random_seed=0) as runtime, tempfile.TemporaryDirectory() as folder:
        journal = args.journal or Path(folder) / "records.jsonl"
        for done, _ in enumerate(extract.run_batch(rows, backend=runtime, resume=journal, generator_style=True), 1):
            if done >= len(rows) // 2:
                break  # the batch is closed: the rows that are under way are cancelled, as at Ctrl-C
        print(f"stopped after {done} rows")

        began = time.perf_counter()
        states = extract.run_batch(rows, backend=runtime, resume=journal, on_error="keep")
        restored = sum(state.restored for state in states)
        print(f"started again: {restored} of {len(states)} rows come from the journal")
        print(f"the others took {time.perf_counter() - began:.1f} s; {len(states.errors)} rows failed")

    right = total = 0
    for document, state in zip(documents, states):
        if state.error() is None:
            record = sgl.schema(Problem).parse(state["record"])  # a Problem; a row of the journal is text
            total += len(record.numbers)
            right += sum(str(number) in document.replace(",", "") for number in record.numbers)
    print(f"the last one: {record!r}\n    of: {document:.90}...")
    print(f"{right} of {total} numbers are in their documents")
    print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
