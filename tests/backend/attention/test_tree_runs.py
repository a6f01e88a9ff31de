"""Which runs spans share, against a dictionary of runs: the arrays say what the definition says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.attention.tree_runs import Group, split_context
from sgl.backend.runtime.step.packed import Run, SpanLayout


def by_definition(
    contexts: list[list[Run]], worth: dict[Group, bool]
) -> tuple[list[list[Run]], dict[Group, set[Run]], dict[Group, int]]:
    """Each span's own runs, in order; the groups with their runs; what `worth` is to be asked."""
    users: dict[Run, Group] = {}
    for i, context in enumerate(contexts):
        for run in context:
            users[run] = (*users.get(run, ()), i)
    groups: dict[Group, set[Run]] = {}
    asked: dict[Group, int] = {}
    for run, group in users.items():
        if len(group) > 1:
            asked[group] = asked.get(group, 0) + run[1]
            if worth.get(group, True):
                groups.setdefault(group, set()).add(run)
    shared = set().union(*groups.values())
    return [[run for run in context if run not in shared] for context in contexts], groups, asked


runs = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), max_size=6, unique=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(runs, min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_any_contexts(contexts: list[list[Run]], refused: set[int]) -> None:
    worth = {
        group: False
        for first in refused
        for group in [tuple(i for i in range(len(contexts)) if i != first), tuple(range(len(contexts)))[first:]]
    }
    own, expected, to_ask = by_definition(contexts, worth)
    asked: dict[Group, int] = {}

    def judge(group: Group, keys: int) -> bool:
        assert group not in asked, "asked twice"
        asked[group] = keys
        return worth.get(group, True)

    spans = [SpanLayout(i, 1, tuple(context), sum(n for _, n in context)) for i, context in enumerate(contexts)]
    context, groups = split_context(spans, judge)
    assert asked == to_ask
    found: dict[int, list[Run]] = {}
    for owner, first, length in zip(*(column.tolist() for column in context)):
        found.setdefault(owner, []).append((first, length))
    assert [found.get(i, []) for i in range(len(spans))] == own
    assert {group: set(found[len(spans) + i]) for i, group in enumerate(groups)} == expected
    assert sum(map(len, found.values())) == sum(map(len, own)) + sum(map(len, expected.values()))


@pytest.mark.parametrize("slot", [1, 2**31 - 2])
def test_runs_of_one_slot_and_other_lengths_are_others(slot: int) -> None:
    spans = [SpanLayout(0, 1, ((slot, 1),), 1), SpanLayout(1, 1, ((slot, 2),), 2), SpanLayout(2, 1, (), 0)]
    context, groups = split_context(spans, lambda group, keys: True)
    assert not groups and context.owner.tolist() == [0, 1] and context.length.tolist() == [1, 2]
