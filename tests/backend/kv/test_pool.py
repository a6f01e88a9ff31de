"""Slots: nothing lost, nothing twice, long runs where there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl.backend.runtime.kv.pool import SCRATCH, SlotPool, append_run, cut, part, size


def slots(runs: list[tuple[int, int]]) -> list[int]:
    return [s for start, length in runs for s in range(start, start + length)]


@given(
    st.lists(st.one_of(st.tuples(st.just("take"), st.integers(1, 9)), st.tuples(st.just("give"), st.integers(0, 9))))
)
def test_taken_and_free_slots_always_partition_the_pool(ops: list[tuple[str, int]]) -> None:
    pool = SlotPool(40)
    held: list[list[tuple[int, int]]] = []
    for op, n in ops:
        if op == "take" and n <= pool.available:
            after = held[-1][-1][0] + held[-1][-1][1] if held else None
            held.append(pool.take(n, after))
            assert size(held[-1]) == n
        elif op == "give" and held:
            pool.give(held.pop(n % len(held)))
        every = sorted(slots(pool.free_runs()) + [s for runs in held for s in slots(runs)])
        assert every == list(range(SCRATCH, 40 + SCRATCH))
        assert pool.available == size(pool.free_runs())
        ends = [start + length for start, length in pool.free_runs()]
        assert all(end < start for end, (start, _) in zip(ends, pool.free_runs()[1:])), "adjacent free runs"


def test_growth_continues_the_run_it_is_told_to() -> None:
    pool = SlotPool(100)
    a, _b = pool.take(10), pool.take(10)
    pool.give(a)
    more = pool.take(5, after=21)
    assert more == [(21, 5)]


def test_giving_back_twice_is_caught() -> None:
    pool = SlotPool(10)
    runs = pool.take(4)
    pool.give(runs)
    with pytest.raises(AssertionError, match="twice"):
        pool.give(runs)


@given(st.lists(st.integers(1, 5), max_size=5), st.data())
def test_cutting_runs(lengths: list[int], data: st.DataObject) -> None:
    runs: list[tuple[int, int]] = []
    at = 0
    for length in lengths:
        at += data.draw(st.integers(0, 2))
        append_run(runs, (at, length))
        at += length
    n = data.draw(st.integers(0, size(runs)))
    left, right = cut(runs, n)
    assert slots(left) + slots(right) == slots(runs) and size(left) == n
    m = data.draw(st.integers(n, size(runs)))
    assert slots(part(runs, n, m)) == slots(runs)[n:m]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(0, 9)), max_size=40))
def test_slots_in_use_before_are_taken_before_untouched_ones(ops: list[tuple[int, int, int]]) -> None:
    """Against its definition: an untouched slot is taken only where no free run of used ones is long enough."""
    pool = SlotPool(60)
    held: list[list[tuple[int, int]]] = []
    used: set[int] = set()
    for n, spare, which in ops:
        spare = min(spare, n - 1)
        while n > pool.available:
            pool.give(held.pop(which % len(held)))
        holes: list[tuple[int, int]] = []
        for slot in sorted(set(slots(pool.free_runs())) & used):
            append_run(holes, (slot, 1))
        holes = [run for run in holes if run in pool.free_runs()]
        taken = pool.take(n, spare=spare)
        new = set(slots(taken)) - used
        if any(length >= n - spare for _, length in holes):
            assert not new and len(taken) == 1
        assert n - spare <= size(taken) <= n
        used |= set(slots(taken))
        assert pool.touched == len(used) == max(used)
        held.append(taken)
        if which % 3 == 0:
            pool.give(held.pop(which % len(held)))
