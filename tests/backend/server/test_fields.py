"""The page on the server tells what each API does with each field, as the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgl.backend.server import fields
from sgl.backend.server.errors import RequestError
from sgl.backend.server.fields import FieldTable

TABLES = {name: table for name, table in vars(fields).items() if isinstance(table, FieldTable)}
PAGE = Path(__file__).parents[3] / "docs" / "server.md"


@pytest.mark.parametrize("name", [name for name in TABLES if name != "OLLAMA_MESSAGE"])
def test_the_page_has_the_table(name: str) -> None:
    assert TABLES[name].describe() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_a_field_has_one_meaning(name: str) -> None:
    table = TABLES[name]
    assert not table.obeyed & table.inert
    assert not (table.obeyed | table.inert) & table.refused.keys()
    table.check({field: object() for field in table.obeyed | table.inert})
    for field, (fix, harmless) in table.refused.items():
        table.check({field: None})
        for value in harmless:
            table.check({field: value})
        with pytest.raises(RequestError, match=field) as caught:
            table.check({field: object()})
        assert fix in str(caught.value) and caught.value.param == field
    if not table.tolerant:
        with pytest.raises(RequestError, match="unknown field"):
            table.check({"nobody_knows_this": 1})
