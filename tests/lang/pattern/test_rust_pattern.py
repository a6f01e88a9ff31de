"""A pydantic pattern's schema admits nothing that pydantic refuses."""

from __future__ import annotations

import json
import random
from typing import Annotated

import pytest
from pydantic import StringConstraints, TypeAdapter

from sgl.lang.constraint import from_type
from sgl.lang.pattern import ecma_search
from sgl.lang.types.conversion import checked_afterwards

LETTERS = "aZ_09 é\u0663\u00b2ⓐ\ufeff\u0085\u00a0\x1c\n\r-.\u2028\u200d漢ß\U0001f600\u0345Kſ"


@pytest.mark.parametrize(
    ("pattern", "exact"),
    [
        (r"^\W$", True), (r"^\D+$", True), (r"^\S+$", True), (r"^\s+$", True), (r"^[^\s@]+$", True),
        (r"^[^\w]+$", True),
        (r"^[^\d]$", True), (r"^[\s\S]+$", True), (r"^[\w\s-]+$", True), (r"^.$", True), (r"(?i)^[^k]$", False),
        (r"\bfoo\b", False), (r"^[\W\d]$", False),
    ],
)  # fmt: skip
def test_narrower_than_pydantic(pattern: str, exact: bool) -> None:
    tp = Annotated[str, StringConstraints(pattern=pattern)]
    adapter, search, rng = TypeAdapter(tp), ecma_search(from_type(tp).schema["pattern"]), random.Random(0)
    assert (checked_afterwards(tp) == ()) is exact
    for _ in range(1000):
        text = "".join(rng.choice(LETTERS) for _ in range(rng.choice([1, 1, 2, 4])))
        if exact and search.search(text):
            adapter.validate_json(json.dumps(text))


def test_no_leap_second() -> None:
    import datetime as dt

    from sgl.lang.checking.formats import check_format

    for tp, text in ((dt.datetime, "2016-12-31T23:59:60Z"), (dt.time, "23:59:60Z")):
        assert not check_format("date-time" if tp is dt.datetime else "time", text)
