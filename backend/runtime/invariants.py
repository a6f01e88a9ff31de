"""The runtime's invariants, checked on the living engine.

Changes nothing. Tests run the checks after every step, and so does `Runtime.check()`. Numbers are those of
`docs/design.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kv.pool import SCRATCH, Run, size
from .kv.tree import Node
from .program.branch import Branch, Life

if TYPE_CHECKING:
    from .engine import Engine


def check(engine: Engine) -> None:
    """Raise AssertionError, saying what and where, if any invariant does not hold. Call under the engine's lock."""
    nodes = _all_nodes(engine)
    _check_nodes(nodes)
    for branch in engine.branches.attached:
        _check_branch(branch)
    _check_slots(engine, nodes)
    _check_counts(engine, nodes)
    cached = sum(node.computed for node in nodes if not node.live)
    assert engine.tree.cached == cached, f"cached counts {engine.tree.cached}, but {cached} tokens are"
    orders = [b.order for b in engine.branches.running]
    assert orders == sorted(orders), "running branches are not in order"
    assert all(b.job is not None and b.life is Life.RUNNING for b in engine.branches.running), (
        "a running branch without a job"
    )


def _all_nodes(engine: Engine) -> list[Node]:
    """Every node: those that can be matched, and (without reuse) those only branches hold."""
    nodes = {id(node): node for node in engine.tree.nodes()}
    for branch in engine.branches.attached:
        for node in branch.cursor.node.path():
            if node.parent is not None:
                nodes.setdefault(id(node), node)
    return list(nodes.values())


def _check_nodes(nodes: list[Node]) -> None:
    for node in nodes:
        parent = node.parent
        assert parent is not None and node.tokens, "an empty node, or one cut off from the root"
        assert node.start == parent.end, "5: a node's depth is not its parent's end"
        assert 0 <= node.computed <= len(node.tokens), "1: watermark outside the node"
        assert size(node.runs) == node.computed, "a node's slots are not its computed tokens"
        assert parent.full or not node.computed, "KV beneath a node that is not full"
        assert node.live or node.full, "a planned node that nobody waits for"
        for first, child in node.children.items():
            assert child.tokens[0] == first and child.parent is node, "a child filed under another token"


def _check_branch(branch: Branch) -> None:
    cursor = branch.cursor
    assert cursor.attached and branch.life is not Life.CLOSED
    assert cursor.base == cursor.node.end, "base is not the end of the path"
    assert 0 <= cursor.tail_computed <= len(cursor.tail), "1: watermark outside the tail"
    assert cursor.node.full or not cursor.tail_computed, "KV in the tail above a gap"
    assert size(cursor.runs) == cursor.tail_computed + cursor.reserve, "the tail's slots do not add up"
    assert 0 <= cursor.computed <= cursor.length, "1: watermark outside the branch"
    assert all(token >= 0 for token in cursor.tail[:-1]), "a stand-in that is not the last token"


def _check_slots(engine: Engine, nodes: list[Node]) -> None:
    pool = engine.tree.pool
    runs: list[Run] = [*pool.free_runs()]
    for node in nodes:
        runs += node.runs
    for branch in engine.branches.attached:
        runs += branch.cursor.runs
        for trie in branch.job.tries if branch.job else ():
            for chain in trie.chains:
                runs += chain.runs
    owned = sorted(runs)
    at = SCRATCH
    for start, length in owned:
        what = "lost" if start > at else "in two places"
        assert start == at, f"3: slots {min(start, at)}..{max(start, at) - 1} are {what}"
        at = start + length
    assert at == pool.capacity + SCRATCH, f"3: slots {at}.. are lost"
    assert size(pool.free_runs()) == pool.available, "3: the free count is wrong"


def _check_counts(engine: Engine, nodes: list[Node]) -> None:
    live: dict[int, int] = {}
    for branch in engine.branches.attached:
        for node in branch.cursor.node.path():
            live[id(node)] = live.get(id(node), 0) + 1
    for node in [*nodes, engine.tree.root]:
        branches = live.get(id(node), 0)
        assert node.live == branches, f"node at {node.start}: live={node.live}, but {branches} branches"


def idle_and_whole(engine: Engine) -> None:
    """The stronger check of an idle engine: nothing runs, and all KV is free or cache of complete nodes."""
    check(engine)
    assert not engine.branches.running and not engine.branches.admission.line and not engine.branches.inbox, (
        "the engine is not idle"
    )
    cached = sum(node.computed for node in engine.tree.nodes())
    held = sum(size(branch.cursor.runs) for branch in engine.branches.attached)
    assert engine.tree.pool.available + cached + held == engine.tree.pool.capacity, "free + cached + held != pool"
