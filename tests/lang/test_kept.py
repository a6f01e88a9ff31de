"""What functions return is kept within bounds of entries and of bytes."""

from __future__ import annotations

import gc
import threading

import pytest

from sgl.lang.kept import CacheBudget, by_text, kept, weight
from sgl.lang.pattern import parse_regex


def test_results_are_kept_the_last_used_ones_longest() -> None:
    calls = []
    budget = CacheBudget(1_000_000)

    @kept(2, budget=budget)
    def double(text: str) -> str:
        calls.append(text)
        return text * 2

    assert [double(text) for text in ("a", "b", "a", "c", "a", "b")] == ["aa", "bb", "aa", "cc", "aa", "bb"]
    assert calls == ["a", "b", "c", "b"]
    assert len(double) == 2 and 0 < (budget.held["bytes"] or 0) < 2_000  # type: ignore[arg-type]


def test_what_is_raised_is_not_kept() -> None:
    calls = []

    @kept(2, budget=CacheBudget(1_000_000))
    def fail(text: str) -> str:
        calls.append(text)
        raise ValueError(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="a"):
            fail("a")
    assert calls == ["a", "a"]


def test_all_is_forgotten_when_the_budget_is_full_and_what_is_too_large_is_not_kept() -> None:
    budget = CacheBudget(100_000)
    small = kept(1000, budget=budget)(lambda text: text + "!")
    other = kept(1000, by_text(1), budget)(lambda text: object())
    first = other("x")
    assert other("x") is first
    for number in range(100):
        assert small(f"{number}" + "x" * 1000)[-1] == "!"
        assert 0 <= (budget.held["bytes"] or 0) <= 100_000
    assert other("x") is not first, "forgotten with the rest"
    before = budget.held["bytes"]
    assert small("y" * 200_000)[-1] == "!" and budget.held["bytes"] == before


def test_caches_that_are_gone_hold_nothing() -> None:
    budget = CacheBudget(100_000)
    held = kept(10, budget=budget)(lambda text: text * 2)
    held("abc")
    assert budget.held["bytes"]
    del held
    gc.collect()
    assert budget.held["bytes"] == 0


def test_threads_that_fill_a_cache_leave_it_within_its_bounds() -> None:
    budget = CacheBudget(50_000)
    squares = kept(20, budget=budget)(lambda number: (number, str(number**2) * 10))

    def work(start: int) -> None:
        for number in range(start, start + 3000):
            assert squares(number % 97) == (number % 97, str((number % 97) ** 2) * 10)

    threads = [threading.Thread(target=work, args=(i * 31,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(squares) <= 20  # type: ignore[arg-type]


def test_weight_grows_with_the_data_and_counts_shared_parts_once() -> None:
    text = "x" * 10_000
    assert 10_000 < weight(text) < 10_200
    assert weight((text, text)) < 10_400 < weight((text, "y" * 10_000))
    assert weight(parse_regex("a|b{3}|" + "|".join(f"word{i}" for i in range(100)))) > 10_000
    assert weight(int) == weight(gc) == 0
