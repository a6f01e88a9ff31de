"""At random places of real constraints' texts a way to close is known, and the engine's matcher takes it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

import sgl
from sgl.backend.runtime.grammar.compile import Grammars
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.constraint import Constraint

from .closing_walks import without_a_way

DATA = Path(__file__).parents[2] / "data"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


CONSTRAINTS: dict[str, Constraint] = {
    **{f"schema {row['id']}": sgl.json_schema(row["schema"]) for row in rows("schemas.jsonl")},
    **{
        f"regex {row['id']}": sgl.regex(row["pattern"])
        for row in rows("regexes.jsonl")
        if not row["id"].startswith("backref")
    },
    "any": sgl.json_schema({}),
    "joined": "Data: " + sgl.json_schema({"type": "object"}) + "\n" + sgl.regex("[a-z]+;"),
    "either": sgl.json_schema({"type": "array", "items": {"type": "number"}}) | sgl.choice(["none", "日本"]),
}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Runtime.toy().engine.grammars


@pytest.mark.parametrize("name", [*CONSTRAINTS][::3])
def test_a_way_is_known_at_random_places(grammars: Grammars, name: str) -> None:
    assert without_a_way(grammars.prepare(CONSTRAINTS[name]), Random(name), 12) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_way_is_known_at_two_hundred_places(grammars: Grammars, name: str) -> None:
    assert without_a_way(grammars.prepare(CONSTRAINTS[name]), Random(name), 200) == []
