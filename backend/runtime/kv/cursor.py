"""A cursor: a place in the tree of KV, with the tokens that lead to it and a watermark.

Knows nothing of ops, jobs or the engine. A cursor is a frozen path of nodes (ending in `node`, at depth `base`) and a
private, growing `tail` of tokens. Of its `length` tokens the first `computed` have KV: that is its watermark.

1. `0 <= computed <= length`, and `tail_computed > 0` only if the whole path is full.
2. `runs` hold the KV of the first `tail_computed` tokens of the tail, then `reserve` free slots to grow into.
3. An *attached* cursor holds its path. A *parked* one holds only its tokens. Its node is the root and its watermark
   is 0; its KV is ordinary cache that a later match may find again.
4. Only the last token may be a stand-in (a negative number): it stands for one that a step in flight will sample.
5. `written` are tokens that may come next. Their KV lies in the first slots of the reserve, right after the watermark.
   Where the next token is the first of them, the watermark rises over it without computing; any other next token makes
   all of them worthless. So nothing is lowered when a draft is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator

from .pool import Run, append_run, cut, part, size
from .tree import Node, Tree


class Cursor:
    """One place in `tree`. A new cursor is parked and has no tokens."""

    __slots__ = (
        "_path_context",
        "attached",
        "base",
        "cuts",
        "high",
        "node",
        "pinned",
        "reserve",
        "runs",
        "tail",
        "tail_computed",
        "tree",
        "written",
    )

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.node: Node = tree.root
        self.base = 0
        self.tail: list[int] = []
        self.runs: list[Run] = []
        self.reserve = 0
        self.tail_computed = 0
        self.written: list[int] = []
        self.attached = False
        self.pinned = False  # its KV is never given up for others (a cached prefix)
        self.cuts = 0  # how often a part of the text was forgotten
        self.high = 0  # deepest position that was ever computed here: rows below it are recomputation
        self._path_context: tuple[Node, int, tuple[Run, ...]] | None = None  # a full node and the runs of its path

    @property
    def length(self) -> int:
        return self.base + len(self.tail)

    @property
    def computed(self) -> int:
        """The watermark: tokens 0 .. computed-1 have KV."""
        if self.node.full:
            return self.base + self.tail_computed
        for node in self.node.path():
            if node.computed or node.parent is None:
                return node.start + node.computed
        raise AssertionError("a path ends in the root")

    def path_tokens(self, depth: int = 0) -> list[int]:
        """The tokens from `depth` to the end; only as much of the path is walked as holds them."""
        if depth >= self.base:
            return self.tail[depth - self.base :]
        parts = [self.tail]
        for node in self.node.path():
            parts.append(node.tokens[max(0, depth - node.start) :])
            if node.start <= depth:
                break
        return [token for part in reversed(parts) for token in part]

    def context(self, depth: int) -> tuple[Run, ...]:
        """The runs for the KV of tokens 0 .. depth-1; those beyond `computed` are the reserve's, and hold none yet."""
        known, undone = self._path_context, self.tree.undone
        if known is not None and (known[1] != undone or known[0].end > depth):
            known = None
        nodes: list[Node] = []
        for node in self.node.path():
            if known is not None and node is known[0]:
                break
            nodes.append(node)
        else:
            known = None  # the path leads elsewhere now
        above = () if known is None else known[2]
        while nodes and nodes[-1].full and nodes[-1].end <= depth:
            node = nodes.pop()
            above += tuple(node.runs)
            known = node, undone, above
        self._path_context = known
        rest = [run for node in reversed(nodes) for run in part(node.runs, 0, depth - node.start)]
        return (*above, *rest, *part(self.runs, 0, depth - self.base)) if rest or depth > self.base else above

    # -- tokens
    def extend(self, tokens: list[int]) -> None:
        """Append known tokens."""
        for token in tokens:
            if not self.written:
                break
            self._append(token)
            tokens = tokens[1:]
        self.tail.extend(tokens)

    @property
    def runs_ahead(self) -> bool:
        """Whether the last token is a stand-in."""
        return bool(self.tail) and self.tail[-1] < 0

    def commit(self, token: int) -> None:
        """Append a sampled or forced token. Where the last token is a stand-in, `token` takes its place."""
        tail = self.tail
        if tail and tail[-1] < 0:
            tail[-1] = token
        elif self.written:
            self._append(token)
        else:
            tail.append(token)

    def _append(self, token: int) -> None:
        """Append a token; if it is the first one in `written`, with its KV."""
        self.tail.append(token)
        if token == self.written[0] and self.tail_computed + 1 == len(self.tail):
            del self.written[0]
            self.tail_computed += 1
            self.reserve -= 1
            self.high = max(self.high, self.length)
        else:
            self.written = []

    def fall_back(self) -> None:
        """Drop the stand-in, if there is one.

        A step in flight may still write the slot of the stand-in. The step of the slot's next owner comes later.
        """
        if self.runs_ahead:
            self._drop_last()
            self.high = min(self.high, self.length)

    def _drop_last(self) -> None:
        del self.tail[-1]
        self._lower_tail(len(self.tail))

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on and lower the watermark (a text cut at a stop). The constant that follows
        may begin with the same tokens: their KV stays where it is, as `written`."""
        self.cuts += 1
        if self.base and length <= self.base:  # those tokens went into the tree meanwhile (a preemption): leave it
            self.park()
        keep = length - self.base
        assert 0 <= keep <= len(self.tail), "cut beyond the end"
        lost, further = self.tail[keep : self.tail_computed], self.written
        if self.tail_computed == len(self.tail):
            lost += further
        del self.tail[keep:]
        self._lower_tail(keep)
        self.written = lost

    # -- the watermark rises
    def want_logits(self) -> None:
        """Make sure that the last token is still to be computed: its row gives the next token's logits."""
        if self.tail_computed == len(self.tail):
            assert self.tail, "a cursor without a private token has no row to want"
            self._lower_tail(len(self.tail) - 1)

    def slots_for(self, rows: int) -> int:
        """Slots to take from the pool before the watermark can rise by `rows`."""
        in_path = max(0, min(rows, self.base - self.computed))
        return in_path + max(0, rows - in_path - self.reserve)

    def raise_by_one(self) -> tuple[int, int, tuple[Run, ...]] | None:
        """Raise the watermark over the last token; returns its depth, its slot, and the context before it.

        None where that takes more than a slot from the reserve. It does what `raise_by(1, ...)` does, at less cost: a
        decoding branch needs it in nearly every step.
        """
        at, reserve, runs = self.tail_computed, self.reserve, self.runs
        if self.written:
            self.written = []
        if at + 1 != len(self.tail) or not reserve or not self.attached:
            return None
        start, length = runs[-1]
        if reserve > length:
            return None
        known = self._path_context
        if known is None or known[0] is not self.node or known[1] != self.tree.undone:
            if not self.node.full:
                return None
            self.context(self.base)
            known = self._path_context
            assert known is not None
        context = known[2] if len(runs) == 1 else known[2] + tuple(runs[:-1])
        slot = start + length - reserve
        if slot > start:
            context += ((start, slot - start),)
        self.tail_computed = at + 1
        self.reserve = reserve - 1
        return self.base + at, slot, context

    def raise_by(self, rows: int, spare: int, step: int, hope: int = 0) -> Iterator[tuple[list[int], list[Run]]]:
        """Raise the watermark by `rows`, in the planned nodes of the path and then in the tail.

        Yields the tokens to compute and the slots for their KV, piece by piece. `spare`: slots that the tail takes
        ahead. `step`: the step being planned. `hope`: more slots ahead, where a run has room for them.
        """
        for node in self._planned_nodes():
            if not rows:
                return
            taken = min(rows, len(node.tokens) - node.computed)
            rows -= taken
            yield self.tree.fill(node, taken, step)
        if rows:
            self.written = []
            if rows > self.reserve:
                self._take(rows - self.reserve, spare, hope)
            at = self.tail_computed
            self.tail_computed += rows
            self.reserve -= rows
            yield self.tail[at : at + rows], part(self.runs, at, at + rows)

    def _take(self, need: int, spare: int, hope: int) -> None:
        """Take at least `need` slots more to grow into."""
        last = self.runs or self.node.runs
        ask = min(need + spare + hope, self.tree.pool.available)
        ahead = self.tree.pool.take(ask, after=last[-1][0] + last[-1][1] if last else None, spare=min(hope, ask - need))
        for run in ahead:
            append_run(self.runs, run)
        self.reserve += size(ahead)

    def write_ahead(self, draft: list[int], spare: int) -> list[Run]:
        """Let the step being planned compute the KV of `draft`, tokens that may follow; returns the slots for it. Only
        as much of the draft is taken as free slots allow: nobody gives up KV for a guess."""
        assert self.tail_computed == len(self.tail), "a draft follows the last token's row"
        self.written = draft[: self.reserve_for(len(draft), spare)]
        return part(self.runs, self.tail_computed, self.tail_computed + len(self.written))

    def reserve_for(self, rows: int, spare: int) -> int:
        """Let the reserve grow to `rows` slots, as far as free slots allow; how many of those rows it has room for."""
        if rows > self.reserve and self.tree.pool.available:
            self._take(min(rows - self.reserve, self.tree.pool.available), spare, 0)
        return min(rows, self.reserve)

    def adopt(self, tokens: list[int], runs: list[Run]) -> None:
        """Append `tokens`, of which the first have their KV in `runs` already (the winner of a select)."""
        self.drop_reserve()
        for run in runs:
            append_run(self.runs, run)
        self.extend(tokens)
        self.tail_computed += size(runs)
        self.high = max(self.high, self.computed)

    def _planned_nodes(self) -> list[Node]:
        """The nodes of the path that are not full, from the top; usually none."""
        nodes: list[Node] = []
        for node in self.node.path():
            if node.full:
                break
            nodes.append(node)
        return nodes[::-1]

    # -- and falls
    def lower(self, depth: int) -> None:
        """Undo: only the first `depth` tokens count as computed (a step that did not happen)."""
        if depth >= self.base:
            self._lower_tail(depth - self.base)
            return
        self._lower_tail(0)
        self.tree.undone += 1
        for node in self.node.path():
            keep = max(0, min(len(node.tokens), depth - node.start))
            if node.computed > keep:
                node.runs, lost = cut(node.runs, keep)
                self.tree.pool.give(lost)
                node.computed = keep
            if node.start <= depth:
                break

    def _lower_tail(self, keep: int) -> None:
        self.written = []
        lost = max(0, self.tail_computed - keep)
        self.tail_computed -= lost
        self.reserve += lost

    # -- between tail and tree
    def settle(self, keep: int = 1) -> None:
        """Freeze the tail except its last `keep` tokens into the tree, and attach there."""
        count = max(0, len(self.tail) - keep)
        target = self.node
        if count:
            have = min(self.tail_computed, count)
            frozen, rest = cut(self.runs, have)
            target = self.tree.plant(self.node, self.tail[:count], frozen, have)
            self.runs, self.tail = rest, self.tail[count:]
            self.tail_computed -= have
            if not self.tail_computed:
                self.drop_reserve()
        if not self.attached:
            self.tree.attach(target)
            self.attached = True
        elif target is not self.node:
            self.tree.descend(self.node, target)
        self.node, self.base = target, target.end

    def drop_reserve(self) -> None:
        """Give back the slots to grow into."""
        self.written = []
        self.runs, reserve = cut(self.runs, self.tail_computed)
        self.tree.pool.give(reserve)
        self.reserve = 0

    def park(self, step: int = 0) -> None:
        """Hold no KV: what is computed becomes cache, only the tokens stay. The watermark is 0 again. `step`: the
        number of the step being planned, if one is. A stand-in goes, although its row counts as computed once."""
        if self.runs_ahead:
            self._drop_last()
        if not self.attached:
            return
        tokens = self.path_tokens()
        self.drop_reserve()
        node = self.node
        if self.tail_computed:
            frozen = self.tail[: self.tail_computed]
            node = self.tree.plant(node, frozen, self.runs, self.tail_computed, step)
            if node is not self.node:
                self.tree.descend(self.node, node)
        self.runs, self.tail_computed = [], 0
        self.tree.detach(node)
        self.attached = False
        self._path_context = None
        self.node, self.base, self.tail = self.tree.root, 0, tokens

    def follow(self, other: Cursor) -> None:
        """Continue from where `other` (settled) is. The last token is this cursor's own to compute."""
        if other.length:
            assert len(other.tail) == 1, "fork settles the parent down to its last token"
            self.node, self.base, self.tail = other.node, other.base, list(other.tail)
            self._path_context = other._path_context
            self.tree.attach(self.node)
            self.attached = True
