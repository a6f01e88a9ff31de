"""Real schemas with their valid and invalid instances, through the masks (bytes) and the check.

`tests/data/schemas.jsonl`: 59 rows of MaskBench (guidance-ai/jsonschemabench; card: MIT; parts from
json-schema-corpus and iglu-central: Apache-2.0). `benchmarks/schema_coverage.py` does the same with a real vocabulary
over all of them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sgl.lang.checking.check import Mismatch, check

from .schema_masks import Masks

FILE = Path(__file__).parents[2] / "data" / "schemas.jsonl"
ENTRIES: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text().splitlines()]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["id"] for entry in ENTRIES])
def test_instances(entry: dict[str, Any]) -> None:
    masks = Masks(entry["schema"])
    for value in entry["valid"]:
        assert masks.passes(value) and masks.admits(value), value
    for wrong in entry["invalid"]:
        assert not masks.passes(wrong["data"])
        if masks.lowered.fully_enforced:
            assert not masks.admits(wrong["data"]), wrong["data"]
    for seed in range(2):
        text = masks.draw(random.Random(seed))
        if text is not None and masks.lowered.fully_enforced:
            _check(masks, text)


def _check(masks: Masks, text: str) -> None:
    """A mask cannot tell keys that repeat, nor 1e999 (which the runtime's number guard keeps out); the check does."""
    try:
        check(masks.constraint, text)
    except Mismatch as mismatch:
        assert "twice" in mismatch.reason or "range" in mismatch.reason, text


def test_most_are_fully_enforced() -> None:
    enforced = sum(Masks(entry["schema"]).lowered.fully_enforced for entry in ENTRIES)
    assert enforced >= 0.85 * len(ENTRIES)
