"""Random small schemas against random values: where everything is said to be enforced, mask and validity are the same.

The values are written in every order of their keys, since a mask wants that of the schema; the oracle is plain
`jsonschema` over the original schema.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl.lang.checking.dialect import validator_for
from sgl.lang.errors import ConstraintError

from .schema_masks import Masks

NAMES = ["a", "b", "ab"]
TEXTS = ["", "a", "b", "ab", "ba", 'q"', "c\\"]
NUMBERS: list[Any] = [-2, -1, 0, 1, 2, 3, 4, 0.5, 1.25, 1.2]
SCALARS: list[Any] = [None, True, False, *NUMBERS, *TEXTS]
PATTERNS = ["^a", "b$", "^ab?$", "^[^b]*$", '^[^"]*$', "."]

scalars = st.sampled_from(SCALARS)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "c"]), inner, max_size=3),
    max_leaves=5,
)


def _with(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=parts)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=3)
    texts = _with(minLength=st.integers(0, 2), maxLength=st.integers(0, 3), pattern=st.sampled_from(PATTERNS)).map(
        lambda s: {"type": "string", **s}
    )
    numbers = _with(
        minimum=st.sampled_from(NUMBERS),
        exclusiveMaximum=st.sampled_from(NUMBERS),
        multipleOf=st.sampled_from([1, 2, 0.5]),
    )
    arrays = _with(
        items=inner, prefixItems=lists, minItems=st.integers(0, 2), maxItems=st.integers(0, 3),
        uniqueItems=st.booleans(), contains=inner,
    )  # fmt: skip
    objects = _with(
        properties=st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
        patternProperties=st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
        additionalProperties=inner,
        required=st.lists(st.sampled_from(NAMES), unique=True, max_size=2),
        minProperties=st.integers(0, 2),
        maxProperties=st.integers(0, 3),
        propertyNames=st.sampled_from([{"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 1}]),
        dependentRequired=st.sampled_from([{"a": ["b"]}, {"b": ["a", "ab"]}]),
    )
    combined = _with(allOf=lists, anyOf=lists, oneOf=lists, **{"not": inner, "if": inner, "then": inner, "else": inner})
    typed = arrays.map(lambda s: {"type": "array", **s}) | objects.map(lambda s: {"type": "object", **s})
    both = st.tuples(objects, combined).map(lambda pair: {"type": "object", **pair[0], **pair[1]})
    return st.one_of(
        texts, numbers, numbers.map(lambda s: {"type": "integer", **s}), arrays, objects, typed, combined, both
    )


leaves = st.one_of(
    st.sampled_from(
        [True, {}, {"type": "integer"}, {"type": "string"}, {"type": "null"}, {"type": ["boolean", "array"]}]
    ),
    st.lists(scalars, min_size=1, max_size=3).map(lambda picked: {"enum": picked}),
    scalars.map(lambda value: {"const": value}),
)
schemas = st.recursive(leaves, _schemas, max_leaves=6)


def orders(value: Any) -> list[Any]:
    """The value with its keys in every order."""
    if isinstance(value, dict):
        out = []
        for keys in itertools.permutations(value):
            for parts in itertools.product(*(orders(value[key]) for key in keys)):
                out.append(dict(zip(keys, parts)))
        return out[:40]
    if isinstance(value, list):
        return [list(parts) for parts in itertools.product(*(orders(item) for item in value))][:40]
    return [value]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas, st.lists(values, min_size=4, max_size=8))
def test_mask_is_validity(schema: Any, tried: list[Any]) -> None:
    oracle = validator_for(schema)
    try:
        masks = Masks(schema)
    except ConstraintError as error:  # crossed bounds are refused wherever they stand
        assert " is above " in str(error) or not any(oracle.is_valid(value) for value in tried), schema
        return
    exact = masks.lowered.fully_enforced
    for value in tried:
        valid = oracle.is_valid(value)
        admitted = any(masks.admits(order) for order in orders(value))
        assert masks.passes(value) is valid
        if valid:
            assert admitted, (schema, value, masks.lowered.engine_schema)
        elif exact:
            assert not admitted, (schema, value, masks.lowered.engine_schema)
    text = masks.draw(random.Random(0), 200) if exact else None
    if text is not None:
        assert oracle.is_valid(json.loads(text)), (schema, text, masks.lowered.engine_schema)
