"""Memory of a process that runs one batch after another: RSS after each, and what the runtime says it holds.

    python benchmarks/memory.py [--batches 50] [--rows 1000]

Each batch has rows with a free text, a choice that is scored, a fork, and a constrained text, of constraints a quarter
of which no batch before it had; and a journal. The KV pool and the cache of constraints are full after the third batch.
What grows from there on and is not counted is a leak. `trimmed` is RSS after glibc has given back what is free
(`malloc_trim`); `counted` is the sum of what `get_server_info()["memory"]` says is held.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import sgl


def resident_bytes() -> int:
    """The memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Let glibc give back what is free, so that RSS is what is held, not what was held at most."""
    if sys.platform.startswith("linux"):
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


@sgl.function
def row(s: Any, number: int, batch: int) -> None:
    """A program with a bit of everything."""
    s += f"Row {number} of batch {batch}: "
    s += sgl.gen("free", max_tokens=8)
    s += sgl.select("pick", ["yes", "no", "maybe"])
    for i, branch in enumerate(s.fork(2)):
        branch += sgl.gen("branch", max_tokens=3 + i)
    which = number % 4
    if which == 0:
        s += sgl.gen("text", regex=f"[a-c]{{1,6}}{batch}-{number}", max_tokens=24)
    elif which == 1:
        schema = {
            "type": "object",
            "properties": {f"k{batch}_{number % 20}": {"type": "integer", "minimum": 0, "maximum": 99}},
            "additionalProperties": False,
        }
        s += sgl.gen("text", json_schema=schema, max_tokens=60)
    elif which == 2:
        s += sgl.gen("text", choices=[f"a{batch}", f"b{number % 10}", "c"], choices_method=sgl.greedy_token_selection)
    else:
        s += sgl.gen("text", regex="[0-9]{1,5}", max_tokens=8)


def measure(batches: int, rows: int, runtime: Any = None) -> list[tuple[int, int]]:
    """After each batch: RSS in bytes, trimmed; and the bytes of it that the runtime counts."""
    made = sgl.Runtime.toy(max_total_tokens=40_000) if runtime is None else runtime
    found = []
    for batch in range(batches):
        with tempfile.TemporaryDirectory() as folder:
            states = row.run_batch(
                [{"number": i, "batch": batch} for i in range(rows)],
                backend=made,
                resume=os.path.join(folder, "rows.jsonl"),
                on_error="keep",
            )
            assert len(states) == rows
            del states
        gc.collect()
        untrimmed = resident_bytes()
        trim()
        memory = made.get_server_info().get("memory", {})
        found.append((resident_bytes(), sum(entry["bytes"] for entry in memory.values())))
        held = ", ".join(f"{name} {entry['bytes'] >> 10:,}" for name, entry in memory.items())
        resident, counted = (size / 2**20 for size in found[-1])
        sizes = f"{untrimmed / 2**20:6.1f} MiB resident, trimmed {resident:6.1f}, counted {counted:5.1f}"
        print(f"batch {batch + 1:3}: {sizes}; KiB held: {held}", flush=True)
    if runtime is None:
        made.shutdown()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args()
    measure(options.batches, options.rows)
