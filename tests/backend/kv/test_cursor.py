"""Cursors over one tree, without an engine: random orders of everything a cursor can do, against a plain list of
tokens.

The oracle of a cursor is its token list and nothing else. After each operation the tree's slots add up, no slot is in
two places, and each slot under a watermark holds just the token and the position that the cursor's tokens say.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.kv.cursor import Cursor
from sgl.backend.runtime.kv.pool import SCRATCH, SlotPool, size
from sgl.backend.runtime.kv.tree import Node, Tree

CAPACITY = 400


class World:
    """Some cursors in a tree, their tokens as plain lists, and what was written to each slot."""

    def __init__(self, reuse: bool = True) -> None:
        self.tree = Tree(SlotPool(CAPACITY), reuse)
        self.cursors: list[Cursor] = [Cursor(self.tree)]
        self.tokens: list[list[int]] = [[]]
        self.written: dict[int, tuple[int, int]] = {}  # slot: (token, position)
        self.step = 0

    def raise_by(self, cursor: Cursor, rows: int) -> None:
        """Compute `rows` more rows, as a step does."""
        if cursor.slots_for(rows) > self.tree.pool.available:
            self.tree.evict(cursor.slots_for(rows) - self.tree.pool.available)
        if cursor.slots_for(rows) > self.tree.pool.available:
            return
        self.step += 1
        at = cursor.computed
        for tokens, runs in cursor.raise_by(rows, 8, self.step):
            for token, slot in zip(tokens, [s for start, n in runs for s in range(start, start + n)], strict=True):
                self.written[slot] = token, at
                at += 1
        cursor.high = max(cursor.high, at)

    def check(self) -> None:
        nodes = self.nodes()
        runs = [*self.tree.pool.free_runs(), *(run for node in nodes for run in node.runs)]
        runs += [run for cursor in self.cursors for run in cursor.runs]
        slots = sorted(slot for start, n in runs for slot in range(start, start + n))
        assert slots == list(range(SCRATCH, CAPACITY + SCRATCH)), "a slot is lost, or in two places"
        for cursor, tokens in zip(self.cursors, self.tokens):
            assert cursor.path_tokens() == tokens and cursor.length == len(tokens)
            assert all(cursor.path_tokens(depth) == tokens[depth:] for depth in range(0, len(tokens) + 1, 7))
            assert 0 <= cursor.computed <= cursor.length and cursor.base == cursor.node.end
            assert size(cursor.runs) == cursor.tail_computed + cursor.reserve
            for depth in {cursor.computed, cursor.computed // 2}:
                held = [self.written[s] for start, n in cursor.context(depth) for s in range(start, start + n)]
                assert held == [(token, i) for i, token in enumerate(tokens[:depth])]

    def nodes(self) -> list[Node]:
        found = {id(node): node for node in self.tree.nodes()}
        for cursor in self.cursors:
            found.update({id(node): node for node in cursor.node.path() if node.parent is not None})
        return list(found.values())


OPS = st.tuples(
    st.sampled_from(["extend", "raise", "settle", "park", "truncate", "lower", "fork", "close", "commit", "ahead"]),
    st.integers(0, 5),
    st.lists(st.integers(0, 2), min_size=1, max_size=20),
    st.integers(0, 30),
)


def do(world: World, op: str, which: int, tokens: list[int], n: int) -> None:
    i = which % len(world.cursors)
    cursor, said = world.cursors[i], world.tokens[i]
    if op == "extend":
        cursor.extend(tokens)
        said += tokens
    elif op == "raise" and cursor.computed < cursor.length:
        if not cursor.attached:
            cursor.settle()
        rows = min(1 + n, cursor.length - cursor.computed)
        if rows > 0:
            world.raise_by(cursor, rows)
    elif op == "settle":
        cursor.settle(keep=min(1, len(said)))
    elif op == "park":
        cursor.park()
    elif op == "truncate" and said:
        keep = max(0, len(said) - 1 - n % 4)
        cursor.truncate(keep)
        del said[keep:]
    elif op == "lower" and cursor.attached:
        own = cursor.node.live == 1 and not cursor.node.children and cursor.node.parent is not None
        cursor.lower(max(cursor.node.start if own else cursor.base, cursor.computed - n))
    elif op == "fork" and said and len(world.cursors) < 6:
        cursor.settle()
        if len(cursor.tail) == 1:
            child = Cursor(world.tree)
            child.follow(cursor)
            world.cursors.append(child)
            world.tokens.append(list(said))
    elif op == "close" and len(world.cursors) > 1:
        cursor.park()
        del world.cursors[i], world.tokens[i]
    elif op == "commit":
        cursor.commit(tokens[0])
        said.append(tokens[0])
    elif op == "ahead":
        cursor.commit(-1)  # a stand-in ...
        assert cursor.runs_ahead
        if n % 2:
            cursor.commit(tokens[0])  # ... which its token replaces
            said.append(tokens[0])
        else:
            cursor.fall_back()  # ... or which the end of the text drops
        assert not cursor.runs_ahead


@pytest.mark.parametrize("reuse", [True, False])
@settings(max_examples=150, deadline=None)
@given(st.lists(OPS, max_size=40))
def test_whatever_cursors_do_their_tokens_and_their_kv_agree(reuse: bool, ops: list) -> None:  # type: ignore[type-arg]
    world = World(reuse)
    for op, which, tokens, n in ops:
        do(world, op, which, tokens, n)
        world.check()
    for cursor in world.cursors:
        cursor.park()
    world.tree.evict(CAPACITY)
    assert world.tree.pool.available == CAPACITY


def grown(tokens: int, computed: int) -> tuple[World, Cursor]:
    world = World()
    (cursor,) = world.cursors
    cursor.extend(list(range(tokens)))
    world.tokens[0] += list(range(tokens))
    cursor.settle()
    world.raise_by(cursor, computed)
    return world, cursor


def test_one_row_is_raised_as_many_are() -> None:
    (fast, quick), (slow, plain) = grown(9, 9), grown(9, 9)
    for token in range(20):
        for world, cursor in ((fast, quick), (slow, plain)):
            cursor.commit(token)
            world.tokens[0].append(token)
        before = quick.context(quick.computed)
        row = quick.raise_by_one()
        slow.raise_by(plain, 1)
        if row is None:  # the reserve is used up
            fast.raise_by(quick, 1)
        else:
            depth, slot, context = row
            assert depth == quick.length - 1 and size(list(context)) == depth
            assert [s for a, n in context for s in range(a, a + n)] == [s for a, n in before for s in range(a, a + n)]
            fast.written[slot] = token, depth
        fast.check(), slow.check()
        assert quick.computed == plain.computed and quick.runs == plain.runs and quick.reserve == plain.reserve


def test_a_second_cursor_finds_what_the_first_has_planned_and_computed() -> None:
    world, first = grown(50, 30)
    second = Cursor(world.tree)
    second.extend(list(range(50)))
    second.settle()
    assert second.computed == first.computed == 30 and second.node is first.node


def test_wanting_logits_keeps_the_last_row_to_be_computed() -> None:
    world, cursor = grown(10, 10)
    assert cursor.computed == 10
    cursor.want_logits()
    assert cursor.computed == 9 and cursor.slots_for(1) == 0, "its slot stays in reserve"
    world.check()


def test_parking_keeps_kv_as_cache_and_drops_a_stand_in() -> None:
    world, cursor = grown(10, 10)
    cursor.commit(-1)
    cursor.park()
    assert cursor.length == 10 and cursor.computed == 0 and not cursor.attached and world.tree.cached == 10
    cursor.settle()
    assert cursor.computed >= 9, "it finds its KV again"


@pytest.mark.parametrize("turns", [10, 40])
def test_a_turn_of_a_long_chat_looks_at_the_nodes_that_are_new(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn freezes a node. A path of any length costs a turn the same."""
    looked_at = 0
    walk = Node.path

    def counted(node: Node) -> Iterator[Node]:
        nonlocal looked_at
        for each in walk(node):
            looked_at += 1
            yield each

    monkeypatch.setattr(Node, "path", counted)
    world = World()
    (cursor,) = world.cursors
    for turn in range(turns):
        cursor.extend([turn, 1, 2, 3])
        world.tokens[0] += [turn, 1, 2, 3]
        cursor.settle()
        world.raise_by(cursor, 3)
        assert size(list(cursor.context(cursor.computed))) == cursor.computed
        cursor.want_logits()
        world.raise_by(cursor, 1)
    assert looked_at <= 16 * turns
    world.check()


def test_a_fork_sees_the_context_of_its_parent_and_then_its_own() -> None:
    world, cursor = grown(30, 30)
    cursor.settle()
    cursor.context(cursor.base)
    children = [Cursor(world.tree) for _ in range(3)]
    for i, child in enumerate(children):
        child.follow(cursor)
        world.cursors.append(child)
        world.tokens.append(list(world.tokens[0]))
        for _ in range(2):
            child.extend([i, 7, 8])
            world.tokens[-1] += [i, 7, 8]
            child.settle()
            world.raise_by(child, child.length - child.computed)
            world.check()
    children[1].park()
    children[1].settle()
    world.check()
