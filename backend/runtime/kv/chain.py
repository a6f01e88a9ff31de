"""Side chains: tokens scored beside a branch's path, in the same step.

Owns: a trie of token sequences compressed into chains, their slots, and the log-probability of every token in it.
Used by select (the choices hang under the branch's last token) and by prompt log-probabilities (one sequence). A chain
is private: never in the tree, never matched. The winner's KV moves into the branch's tail; the rest is freed.

The row of a token gives the log-probabilities of its children, so a leaf's row is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..sample.ask import Looked
from ..step.packed import Run
from .pool import SlotPool, cut

if TYPE_CHECKING:
    from ..step.span import Span


class Vertex:
    """One token in the trie; `logprob` given everything before it (None: not known, or no context)."""

    __slots__ = ("children", "logprob", "token", "top")

    def __init__(self, token: int) -> None:
        self.token = token
        self.children: dict[int, Vertex] = {}
        self.logprob: float | None = None
        self.top: tuple[tuple[float, int], ...] = ()

    def learn(self, row: Looked) -> None:
        """The row of this token: what its children's log-probabilities are."""
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

    def asked(self, span: Span) -> list[Vertex]:
        """The vertices whose rows a span of this chain wants."""
        first = span.start - self.start
        return [self.vertices[first + offset] for offset in span.want]

    def before(self) -> tuple[Run, ...]:
        """The runs of the chains above and of what this one has computed."""
        above = self.parent.before() if self.parent else ()
        return above + tuple(self.runs)


class Trie:
    """Sequences hung at depth `depth` under a branch (0: under nothing, with no context at all)."""

    def __init__(self, depth: int, sequences: Sequence[Sequence[int]]) -> None:
        self.depth = depth
        self.done = False  # every row was read and the slots are given back
        self.root = Vertex(-1)
        self.paths: list[list[Vertex]] = [self._insert(s) for s in sequences]
        self.chains: list[Chain] = []
        for vertex in self.root.children.values():
            self._compress(None, depth, vertex)

    def _insert(self, sequence: Sequence[int]) -> list[Vertex]:
        vertex, path = self.root, []
        for token in sequence:
            child = vertex.children.get(token)
            if child is None:
                child = vertex.children[token] = Vertex(token)
            path.append(child)
            vertex = child
        return path

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

    def give_back(self, pool: SlotPool) -> None:
        """Free every slot (what was scored stays scored)."""
        for chain in self.chains:
            pool.give(chain.runs)
            chain.runs, chain.computed = [], 0

    def take_path(self, winner: int, pool: SlotPool) -> list[Run]:
        """The slots that hold the KV of the first tokens of sequence `winner`; every other slot is freed."""
        path = set(map(id, self.paths[winner]))
        taken: list[Run] = []
        for chain in self.chains:
            keep = sum(1 for v in chain.vertices[: chain.computed] if id(v) in path)
            mine, rest = cut(chain.runs, keep)
            taken += mine
            pool.give(rest)
            chain.runs, chain.computed = [], 0
        return taken
