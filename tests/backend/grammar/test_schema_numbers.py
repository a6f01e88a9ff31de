"""Bounds and multiples of numbers against decimals: random ones, exclusive, negative and fractional."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from sgl.lang.errors import ConstraintError

from .schema_masks import Masks


def _decimal(rng: random.Random) -> Decimal:
    places = rng.choice([0, 0, 1, 2, 3])
    return Decimal(rng.randint(-3000, 3000)).scaleb(-places)


def _plain(value: Decimal) -> str:
    text = format(value + 0, "f")  # no -0
    return text.rstrip("0").rstrip(".") if "." in text else text


@pytest.mark.parametrize("seed", range(60))
def test_bounds(seed: int) -> None:
    rng = random.Random(seed)
    low, high = sorted((_decimal(rng), _decimal(rng)))
    if low == high:
        high += 1
    lower, upper = rng.choice(["minimum", "exclusiveMinimum"]), rng.choice(["maximum", "exclusiveMaximum"])
    schema: dict[str, Any] = {"type": rng.choice(["number", "integer"])}
    if rng.random() < 0.8:
        schema[lower] = float(low)
    if rng.random() < 0.8:
        schema[upper] = float(high)
    if schema["type"] == "integer" and high - low < 2:
        schema["type"] = "number"
    masks = Masks(schema)
    assert masks.lowered.fully_enforced
    near = [bound + Decimal(step).scaleb(-p) for bound in (low, high) for p in range(4) for step in (-2, -1, 0, 1, 2)]
    short = [bound.quantize(Decimal(1).scaleb(-p)) for bound in (low, high) for p in range(3)]
    for value in [*near, *short, *(_decimal(rng) for _ in range(20)), Decimal(0), Decimal(10**6)]:
        fits = _fits(schema, value)
        assert masks.admits_text(_plain(value)) is fits, (schema, value, masks.lowered.engine_schema)


def _fits(schema: dict[str, Any], value: Decimal) -> bool:
    if schema["type"] == "integer" and value != int(value):
        return False
    bounds = {key: Decimal(repr(schema[key])) for key in schema if key != "type"}
    return (
        value >= bounds.get("minimum", value)
        and value <= bounds.get("maximum", value)
        and ("exclusiveMinimum" not in bounds or value > bounds["exclusiveMinimum"])
        and ("exclusiveMaximum" not in bounds or value < bounds["exclusiveMaximum"])
    )


@pytest.mark.parametrize("step", [2, 3, 7, 12, 100, 0.5, 0.25, 0.1, 0.01, 0.05, 2.5])
def test_multiples(step: float) -> None:
    masks = Masks({"type": "number", "multipleOf": step})
    assert masks.lowered.fully_enforced
    for count in range(60):
        for off in (Decimal(0), Decimal("0.03"), Decimal("0.5")):
            value = Decimal(repr(step)) * count + off
            fits = value % Decimal(repr(step)) == 0
            assert masks.admits_text(_plain(value)) is fits, (step, value)


@pytest.mark.parametrize(
    ("schema", "exact"),
    [
        ({"type": "integer", "multipleOf": 123456789}, False),
        ({"type": "integer", "multipleOf": 1000003}, False),
        ({"type": "integer", "multipleOf": 86400}, False),
        ({"type": "integer", "multipleOf": 2**31}, False),
        ({"type": "integer", "allOf": [{"multipleOf": 1009}, {"multipleOf": 1013}]}, False),
        ({"multipleOf": 10**200}, False),
        ({"type": "number", "multipleOf": 1e-300}, False),
        ({"type": "number", "multipleOf": 0.333333333333}, False),
        ({"type": "integer", "not": {"multipleOf": 123456789}}, False),
        ({"type": "integer", "multipleOf": 10**9}, False),
        ({"type": "integer", "multipleOf": 9973}, True),
        ({"type": "integer", "multipleOf": 10**8}, True),
        ({"type": "number", "multipleOf": 1e-9}, True),
        ({"type": "number", "multipleOf": 0.1, "minimum": 0.05, "maximum": 0.95}, True),
        ({"type": "integer", "allOf": [{"multipleOf": 6}, {"multipleOf": 15}, {"multipleOf": 0.7}]}, True),
        ({"type": "integer", "multipleOf": 123456789, "minimum": 0, "maximum": 10**9}, True),
        ({"type": "number", "multipleOf": 0.123456789, "minimum": 0, "maximum": 1}, True),
    ],
)
def test_steps_that_the_engine_cannot_count_are_checked_or_listed(schema: dict[str, Any], exact: bool) -> None:
    """None of these may reach the engine as such: it would take gigabytes. A mask still admits what is valid."""
    masks = Masks(schema)
    assert masks.lowered.fully_enforced is exact
    step = schema.get("multipleOf", 1)
    values = (
        [Decimal(repr(step)) * count for count in range(9)] if isinstance(step, float) else [step * n for n in range(9)]
    )
    for text in ("0", "1", "0.5", "210", "7", *(_plain(Decimal(value)) for value in values)):
        if len(text) < 40 and _checked(masks, text):
            assert masks.admits_text(text), text
        elif exact:
            assert not masks.admits_text(text), text


def test_a_step_out_of_reach_is_widened_to_a_part_of_it() -> None:
    """Days in seconds: the mask counts in 17280 s, so that one text in five passes the check."""
    masks = Masks({"type": "integer", "multipleOf": 86400})
    assert masks.lowered.checked == ("/multipleOf",)
    assert masks.admits_text("86400") and masks.admits_text("17280") and not masks.admits_text("17281")


def _checked(masks: Masks, text: str) -> bool:
    try:
        masks.constraint.parse(text)
    except ConstraintError:
        return False
    return True
