"""Bounds and multiples of numbers against decimals: random ones, exclusive, negative and fractional."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

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
