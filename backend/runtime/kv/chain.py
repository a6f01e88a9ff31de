"""Side chains: tokens that are scored beside a branch's path, in the same step.

Knows nothing of branches or steps. A trie of token sequences is compressed into chains; a chain holds its own slots,
and each vertex the log-probability of its token. A select hangs its choices under the branch's last token; the
log-probabilities of a prompt are one sequence. A chain is private: it is never in the tree and never matched. The
winner's KV moves into the branch's tail.

The row of a token gives the log-probabilities of its children, so the row of a leaf is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..sample.ask import Looked
from .pool import Run, SlotPool, append_run, cut, part, size
from .tree import common_prefix


class Vertex:
    """One token in the trie; `logprob` given everything before it (None: not known, or no context)."""

    __slots__ = ("children", "logprob", "token", "top")

    def __init__(self, token: int) -> None:
        self.token = token
        self.children: dict[int, Vertex] = {}
        self.logprob: float | None = None
        self.top: tuple[tuple[float, int], ...] = ()

    def learn(self, row: Looked) -> None:
        """Take the row of this token: the log-probabilities of its children."""
        for child, logprob in zip(self.children.values(), row.logprobs):
            child.logprob, child.top = logprob, row.top


class Chain:
    """A run of vertices without branching, from depth `start`; rows are computed for `vertices[:rows]`."""

    __slots__ = ("computed", "depth", "parent", "rows", "runs", "start", "vertices")

    def __init__(self, depth: int, parent: Chain | None, start: int, vertices: list[Vertex]) -> None:
        self.depth = depth  # of the branch's tokens that it hangs under
        self.parent = parent
        self.start = start
        self.vertices = vertices
        self.rows = len(vertices) if vertices[-1].children else len(vertices) - 1
        self.runs: list[Run] = []
        self.computed = 0

    def at(self, depth: int, offsets: Sequence[int]) -> list[Vertex]:
        """The vertices at `depth` + each offset."""
        first = depth - self.start
        return [self.vertices[first + offset] for offset in offsets]

    def raise_by(self, rows: int, pool: SlotPool) -> tuple[list[Vertex], list[Run]]:
        """Raise the watermark by `rows`: the vertices computed and the slots for their KV."""
        vertices, taken = self.vertices[self.computed : self.computed + rows], pool.take(rows)
        for run in taken:
            append_run(self.runs, run)
        self.computed += rows
        return vertices, taken

    def lower(self, depth: int, pool: SlotPool) -> None:
        """Undo: only the vertices before `depth` count as computed (a step that did not happen)."""
        keep = depth - self.start
        assert size(self.runs) == self.computed
        pool.give(part(self.runs, keep, self.computed))
        self.runs = part(self.runs, 0, keep)
        self.computed = keep

    def before(self) -> tuple[Run, ...]:
        """The runs of the chains above and of what this one has computed."""
        runs: list[list[Run]] = []
        chain: Chain | None = self
        while chain is not None:
            runs.append(chain.runs)
            chain = chain.parent
        return tuple(run for part in reversed(runs) for run in part)


class Trie:
    """Sequences that hang under the first `depth` tokens of a branch (0: without any context)."""

    def __init__(self, depth: int, sequences: Sequence[Sequence[int]], pool: SlotPool) -> None:
        self.depth = depth
        self.pool = pool
        self.done = False  # every row was read and the slots are given back
        self.root = Vertex(-1)
        self.paths: list[list[Vertex]] = []
        before: list[int] = []
        for sequence in map(list, sequences):
            self._insert(sequence, common_prefix(before, sequence, 0))
            before = sequence
        self.chains: list[Chain] = []
        for vertex in self.root.children.values():
            self._compress(None, depth, vertex)

    def _insert(self, sequence: Sequence[int], shared: int) -> None:
        """Add a sequence whose first `shared` tokens are those of the sequence added last."""
        path = self.paths[-1][:shared] if shared else []
        vertex = path[-1] if path else self.root
        for token in sequence[shared:]:
            child = vertex.children.get(token)
            if child is None:
                child = vertex.children[token] = Vertex(token)
            path.append(child)
            vertex = child
        self.paths.append(path)

    def _compress(self, parent: Chain | None, start: int, vertex: Vertex) -> None:
        """Depth first, parents before children: the order in which one step can compute all of them."""
        stack = [(parent, start, vertex)]
        while stack:
            parent, start, vertex = stack.pop()
            run = [vertex]
            while len(vertex.children) == 1:
                vertex = next(iter(vertex.children.values()))
                run.append(vertex)
            chain = Chain(self.depth, parent, start, run)
            if chain.rows:
                self.chains.append(chain)
            stack += [(chain, start + len(run), v) for v in reversed(vertex.children.values())]

    def give_back(self) -> None:
        """Free every slot. The log-probabilities that are known stay."""
        for chain in self.chains:
            self.pool.give(chain.runs)
            chain.runs, chain.computed = [], 0

    def take_path(self, winner: int) -> list[Run]:
        """The slots that hold the KV of the first tokens of sequence `winner`. Every other slot is freed."""
        path = set(map(id, self.paths[winner]))
        taken: list[Run] = []
        for chain in self.chains:
            keep = sum(1 for v in chain.vertices[: chain.computed] if id(v) in path)
            mine, rest = cut(chain.runs, keep)
            taken += mine
            self.pool.give(rest)
            chain.runs, chain.computed = [], 0
        return taken
