"""The tree of KV: immutable runs of tokens, shared by every cursor beneath them.

Knows nothing of ops, jobs, or where logits go. A node is *planned* when its tokens are known and *full* when all of
them have KV. New text is matched against planned nodes too, so programs that start together compute a common prefix
once.

1. A node's tokens never change, except that a node without a cursor beneath it loses the tokens without KV.
2. `runs` hold the KV of exactly the first `computed` tokens.
3. Prefix-closed: a node with `computed > 0` lies beneath full nodes only.
4. `live` counts the cursors whose path goes through the node. Only nodes with `live == 0` are evicted, leaves first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from .pool import Run, SlotPool, append_run, cut

NODE_BYTES, RUN_BYTES, TOKEN_BYTES = 450, 150, 40
"""Of the process's memory: what a node takes by itself, a run of its slots, and a token."""


class Node:
    """An immutable run of tokens from depth `start` on, with the slots of those that are computed."""

    __slots__ = ("children", "computed", "last_use", "live", "parent", "raised", "runs", "start", "tokens")

    def __init__(self, parent: Node | None, start: int, tokens: list[int], runs: list[Run], computed: int) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.runs = runs
        self.computed = computed
        self.children: dict[int, Node] = {}
        self.live = 0
        self.last_use = 0
        self.raised = 0  # number of the last step whose plan raised `computed`

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def full(self) -> bool:
        return self.computed == len(self.tokens)

    def path(self) -> Iterator[Node]:
        """Yield this node and its ancestors, root last."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class Tree:
    """All nodes over one pool. With `reuse=False` nothing is matched, and no node outlives its cursors."""

    def __init__(self, pool: SlotPool, reuse: bool = True) -> None:
        self.pool = pool
        self.reuse = reuse
        self.root = Node(None, 0, [], [], 0)
        self.clock = 0
        self.undone = 0  # how often nodes lost slots that they may get others for; else a full node's stay
        self.cached = 0  # computed tokens of nodes without a live branch: evictable, all of them
        self._leaves: list[tuple[int, int, Node]] = []  # heap by last use; stale entries are skipped
        self._pushes = 0
        self._crowded = 1000  # entries in the heap from which stale ones are dropped

    # -- planting and matching
    def plant(self, node: Node, tokens: list[int], runs: list[Run], computed: int, step: int = 0) -> Node:
        """Lay `tokens` beneath `node`, on nodes that already spell them where there are any; the deepest node.

        Takes over `runs`, which hold exactly the first `computed` tokens. They become the nodes', or go back to the
        pool where the tree has that KV already. Nothing that is computed is lost: where the tree knows the tokens but
        has less of their KV than the caller, it takes the caller's. There is one exception, while step number `step` is
        being planned. At a node that this step raised, the caller's KV is given up. The slots of that node are about to
        be written, and if the step fails, nothing may hold KV beneath it.
        """
        at = 0
        while at < len(tokens):
            child = node.children.get(tokens[at]) if self.reuse else None
            if child is None:
                return self._add(node, tokens[at:], runs, computed)
            length = common_prefix(child.tokens, tokens, at)
            if length < len(child.tokens):
                child = self._split(child, length)
            have = min(computed, length)
            mine, runs = cut(runs, have)
            computed -= have
            if step and child.raised == step:
                self.pool.give(runs)
                runs, computed = [], 0
            elif have > child.computed:
                self.cached += 0 if child.live else have - child.computed
                mine, child.runs, child.computed = child.runs, mine, have
            self.pool.give(mine)
            at += length
            node = child
        return node

    def _add(self, parent: Node, tokens: list[int], runs: list[Run], computed: int) -> Node:
        assert parent.full or not computed, "KV beneath a node that is not full"
        node = Node(parent, parent.end, tokens, runs, computed)
        node.last_use = self.clock
        self.cached += computed
        if self.reuse:
            parent.children[tokens[0]] = node
        return node

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; the new upper half is returned, branches on `node` stay on the lower half."""
        parent = node.parent
        assert parent is not None and 0 < at < len(node.tokens)
        above, below = cut(node.runs, min(at, node.computed))
        upper = Node(parent, node.start, node.tokens[:at], above, min(at, node.computed))
        upper.live, upper.last_use, upper.raised = node.live, node.last_use, node.raised
        upper.children[node.tokens[at]] = node
        parent.children[node.tokens[0]] = upper
        node.parent, node.start, node.tokens = upper, node.start + at, node.tokens[at:]
        node.runs, node.computed = below, max(0, node.computed - at)
        return upper

    def known(self, tokens: list[int]) -> tuple[int, int]:
        """How many of `tokens` the tree spells from its root on, planned ones included; and how many of those some
        cursor holds."""
        at, live, node = 0, 0, self.root
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            length = common_prefix(child.tokens, tokens, at)
            at += length
            if child.live:
                live = at
            if length < len(child.tokens):
                break
            node = child
        return at, live

    def fill(self, node: Node, rows: int, step: int) -> tuple[list[int], list[Run]]:
        """Raise the watermark of a planned node by `rows` for step number `step`: the tokens, and slots for their
        KV."""
        last = node.runs or (node.parent.runs if node.parent else [])
        taken = self.pool.take(rows, after=last[-1][0] + last[-1][1] if last else None)
        tokens = node.tokens[node.computed : node.computed + rows]
        for run in taken:
            append_run(node.runs, run)
        node.computed += rows
        node.raised = step
        return tokens, taken

    # -- cursors come and go
    def attach(self, node: Node) -> None:
        """Attach a cursor to `node`: its path ends there."""
        for each in node.path():
            if not each.live:
                self.cached -= each.computed
            each.live += 1

    def descend(self, node: Node, to: Node) -> None:
        """Move a cursor that is attached to `node` to a node beneath it. Only the nodes between are looked at."""
        self.clock += 1
        for each in to.path():
            if each is node:
                return
            if not each.live:
                self.cached -= each.computed
            each.live += 1
        raise AssertionError("a cursor descends to a node beneath its own")

    def detach(self, node: Node) -> None:
        """Detach a cursor from `node`. Nodes without a cursor beneath them become cache; planned tokens are dropped."""
        self.clock += 1
        for each in list(node.path()):  # removing a node unlinks it
            each.live -= 1
            assert each.live >= 0
            if each.live == 0 and each.parent is not None:
                self.cached += each.computed
                each.last_use = self.clock
                self._retire(each)

    def _retire(self, node: Node) -> None:
        if node.computed == 0 or not self.reuse:
            self._remove(node)
        else:
            del node.tokens[node.computed :]
            self._push(node)

    def _push(self, node: Node) -> None:
        if not node.children and node.live == 0 and node.parent is not None:
            self._pushes += 1
            heapq.heappush(self._leaves, (node.last_use, self._pushes, node))
            if len(self._leaves) > self._crowded:
                self._tidy()

    def _tidy(self) -> None:
        """Drop stale entries, which would pile up while nothing is evicted."""
        self._leaves = [entry for entry in self._leaves if self._evictable(entry)]
        heapq.heapify(self._leaves)
        self._crowded = 1000 + 2 * len(self._leaves)

    @staticmethod
    def _evictable(entry: tuple[int, int, Node]) -> bool:
        last_use, _, node = entry
        return node.parent is not None and not node.children and not node.live and node.last_use == last_use

    def _remove(self, node: Node) -> None:
        assert not node.children and node.live == 0 and node.parent is not None
        self.pool.give(node.runs)
        self.cached -= node.computed
        if self.reuse:
            del node.parent.children[node.tokens[0]]
        node.runs, node.computed, node.parent = [], 0, None

    def evict(self, slots: int) -> int:
        """Free at least `slots` slots of nodes without a live branch, least recently used leaf first; those freed."""
        freed = 0
        while freed < slots and self._leaves:
            entry = heapq.heappop(self._leaves)
            node = entry[2]
            parent, held = node.parent, node.computed
            if parent is None or not self._evictable(entry):
                continue  # stale: the node was removed, or came into use again
            self._remove(node)
            self._push(parent)
            freed += held
        return freed

    @property
    def bytes(self) -> int:
        """About what the nodes with KV take in the process's memory, beside that KV. It grows as runs get shorter."""
        held = [node for node in self.nodes() if node.computed]
        runs, tokens = sum([len(node.runs) for node in held]), sum([node.computed for node in held])
        return NODE_BYTES * len(held) + RUN_BYTES * runs + TOKEN_BYTES * tokens

    def nodes(self) -> Iterator[Node]:
        """All nodes reachable by matching, parents first, in a stable order (the root left out)."""
        stack = list(reversed(self.root.children.values()))
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children.values()))


def common_prefix(a: list[int], b: list[int], at: int) -> int:
    """How many tokens a[0:] and b[at:] begin with in common (galloping: slice compares, no loop a token)."""
    size = len(a)
    if 0 < size <= len(b) - at and a[-1] == b[at + size - 1] and a == b[at : at + size]:
        return size  # as a rule
    limit = min(size, len(b) - at)
    done, width = 0, 16
    while done < limit:
        width = min(width, limit - done)
        if a[done : done + width] == b[at + done : at + done + width]:
            done += width
            width *= 2
        elif width == 1:
            break
        else:
            width //= 2
    return done
