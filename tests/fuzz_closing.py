"""Ways to close at random places of every constraint in files of rows: `make fuzz`, or with other files.

    python tests/fuzz_closing.py --places 200 schemas.jsonl regexes.jsonl

A row has a `schema` or a `pattern`. Prints each constraint with a place where no way is known, or where the engine's
matcher does not take it to an end, and how long preparing took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import sgl
from sgl.lang.constraint import Constraint
from sgl.lang.errors import ConstraintError

sys.path.insert(0, str(Path(__file__).parent / "backend" / "grammar"))
from closing_walks import without_a_way

FILES = [Path(__file__).parent / "data" / name for name in ("schemas.jsonl", "regexes.jsonl")]


def constraint_of(row: dict[str, Any]) -> Constraint:
    return sgl.json_schema(row["schema"]) if "schema" in row else sgl.regex(row["pattern"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--places", type=int, default=200, help="random places of each constraint")
    asked = parser.parse_args()
    grammars = sgl.Runtime.toy().engine.grammars
    failed, seconds = 0, []
    for file in asked.files:
        for number, line in enumerate(file.read_text().splitlines()):
            row = json.loads(line)
            begun = time.process_time()
            try:
                constraint: Constraint = (
                    sgl.json_schema(row["schema"]) if "schema" in row else sgl.regex(row["pattern"])
                )
                prepared = grammars.prepare(constraint)
                seconds.append(time.process_time() - begun)
                wrong = without_a_way(prepared, Random(number), asked.places)
            except ConstraintError as error:
                print(f"{file.name} {row['id']}: refused: {error!s:.100}")
                continue
            if wrong:
                failed += 1
                print(f"{file.name} {row['id']}: {len(wrong)} of {asked.places}: {wrong[0]:.300}", flush=True)
    print(
        f"{len(seconds)} constraints, {failed} without a way; preparing took {statistics.median(seconds):.3f} s in the"
    )
    print(f"median, {max(seconds):.3f} s at most")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
