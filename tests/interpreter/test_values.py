"""`value_iter`: typed partial values of a constrained gen while it is written."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from typing import Literal

import pytest

import sgl
from sgl import Runtime


@dataclasses.dataclass
class Part:
    name: str
    count: int


@dataclasses.dataclass
class Order:
    kind: Literal["new", "old"]
    parts: list[Part]


@sgl.function
def program(s, schema=Order, max_tokens=80):
    s += "Order: " + sgl.gen("order", schema=schema, max_tokens=max_tokens)


@sgl.function
async def native(s):
    s += "Order: " + sgl.gen("order", schema=Order, max_tokens=80)
    return [value async for value in s.value_async_iter("order")]


def test_values_grow_and_end_in_the_checked_one():
    runtime = Runtime.toy()
    for seed in range(8):
        state = program.run(seed=seed, stream=True, backend=runtime)
        seen = list(state.value_iter("order"))
        final = state.value("order")
        assert seen[-1] == final and isinstance(final, Order)
        assert isinstance(seen[0], Order) and seen[0].kind == final.kind and seen[0].parts is None
        for earlier, later in itertools.pairwise(seen):
            assert len(earlier.parts or ()) <= len(later.parts or ())
        late = list(state.value_iter("order"))
        assert late == seen, "a reader who comes late sees the same"
        assert native.run(seed=seed, backend=runtime).ret_value == seen, "and so does a coroutine"


def test_events_do_not_depend_on_how_many_tokens_a_step_commits():
    """With log-probabilities every token goes through the model, one a step; without, forced ones come together."""

    @sgl.function
    def slow(s):
        s += "Order: " + sgl.gen("order", schema=Order, max_tokens=80, return_logprob=True)

    runtime = Runtime.toy()
    for seed in range(5):
        fast = program.run(seed=seed, stream=True, backend=runtime)
        single = slow.run(seed=seed, stream=True, backend=runtime)
        assert list(fast.value_iter("order")) == list(single.value_iter("order"))
        assert fast.get_meta_info("order")["forced"] > 0 == single.get_meta_info("order")["forced"]


def test_other_gens_have_their_value_alone():
    @sgl.function
    def mixed(s):
        s += sgl.gen("n", regex=r"[0-9]{3}", max_tokens=8) + sgl.gen("free", max_tokens=4, ignore_eos=True)

    state = mixed.run(backend=Runtime.toy(), stream=True)
    assert list(state.value_iter("n")) == [state["n"]] and list(state.value_iter("free")) == [state["free"]]


def test_errors_come_at_the_end():
    runtime = Runtime.toy()
    state = program.run(max_tokens=3, stream=True, backend=runtime)
    with pytest.raises(sgl.ConstraintError):
        list(state.value_iter("order"))
    with pytest.raises(sgl.VariableError, match="no variable 'x'"):
        next(state.value_iter("x"))

    async def main():
        with pytest.raises(sgl.ConstraintError):
            async for _ in program.run(max_tokens=3, stream=True, backend=runtime).value_async_iter("order"):
                pass

    asyncio.run(main())


def test_a_text_can_be_parsed_by_its_constraint():
    constraint = sgl.schema(Order)
    assert constraint.parse('{"kind": "new", "parts": [{"name": "a", "count": 2}]}') == Order("new", [Part("a", 2)])
    with pytest.raises(sgl.ConstraintError, match="breaks its constraint"):
        constraint.parse('{"kind": "newer", "parts": []}')
    assert sgl.regex(r"a+").parse("aaa") == "aaa"
