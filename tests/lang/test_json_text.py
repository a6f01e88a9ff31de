"""The incremental reader of JSON text: the same pieces however a text is cut; an error where it stops being JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl.lang.json_text import JsonReader, JsonState, NotJson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def pieces(text: str, reader: JsonReader) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text):
        piece, end = reader.read(text, at)
        found.append((str(piece), text[at:end]))
        at = end
    return found


def joined(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pieces that a cut has divided, as one."""
    whole: list[tuple[str, str]] = []
    for piece, data in found:
        divided = piece in ("characters", "blank", "word") or (piece == "escape" and whole[-1][1] == "\\")
        if whole and whole[-1][0] == piece and divided:
            whole[-1] = piece, whole[-1][1] + data
        else:
            whole.append((piece, data))
    return whole


@given(VALUES, st.sampled_from([None, 1]), st.booleans(), st.randoms(use_true_random=False))
def test_any_cut_gives_the_same_pieces(value: Any, indent: int | None, ascii: bool, rng: random.Random) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii) + " "
    whole, cut = JsonReader(), JsonReader()
    expected, found, at = pieces(text, whole), [], 0
    while at < len(text):
        end = at + rng.randint(1, 4)
        found += pieces(text[at:end], cut)
        cut, at = JsonReader(cut.state), end
    assert joined(found) == joined(expected)
    assert "".join(data for _, data in found) == text
    assert whole.state == cut.state == ("", "nothing", "")


@given(VALUES)
def test_values_are_read_back_from_the_pieces(value: Any) -> None:
    """Without blanks, the pieces of a list's items are those of the items alone."""
    alone = joined(pieces(json.dumps(value) + " ", JsonReader()))[:-1]
    within = joined(pieces(json.dumps([value]), JsonReader()))
    assert within == [("open", "["), *alone, ("close", "]")]


@pytest.mark.parametrize(
    "text, state",
    [
        ("", ("", "value", "")),
        ('{"a', ("{", "key or end", '"')),
        ('{"a\\', ("{", "key or end", "\\")),
        ('{"a"', ("{", "colon", "")),
        ('{"a": [', ("{[", "item or end", "")),
        ('{"a": [1', ("{[", "item or end", "1")),
        ('{"a": [1,', ("{[", "value", "")),
        ('{"a": [1, tr', ("{[", "value", "tr")),
        ('{"a": [1, true', ("{[", "comma or end", "")),
        ('{"a": [1, true], ', ("{", "key", "")),
        ("-1.5e", ("", "value", "-1.5e")),
        ("{}", ("", "nothing", "")),
    ],
)
def test_where_a_text_stands(text: str, state: JsonState) -> None:
    reader = JsonReader()
    pieces(text, reader)
    assert reader.state == state


@pytest.mark.parametrize(
    "text",
    ["}", "[}", "[,", "[1 2", '["a" "b"', "{1", '{"a" 1', '{"a",', '{"a": }', "[1,]", '{"a": 1,}', "tru ", "truex",
     "nul]", "1x", "NaN", "Infinity", "+1", "'a'", "1 1", "[]]", "]", ":", '{"a": 1 : 2'],
)  # fmt: skip
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(NotJson):
        pieces(text, JsonReader())
