"""The tokens of a vocabulary as a trie of their bytes, in arrays. Knows nothing of grammars."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Nodes = npt.NDArray[np.int64]


class TokenTrie:
    """A trie whose nodes are numbers: 0 is the root, and the children of a node are `first[n]` to `first[n + 1]`.

    `label`: the byte that leads to a node. `above`: its parent. `ends`: whether a token ends there. Children stand in
    the order of their bytes.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        """`words`: the bytes of the tokens, sorted, each once, none empty."""
        data = np.frombuffer(b"".join(words), dtype=np.uint8)
        length = np.array([len(word) for word in words], dtype=np.int64)
        begin = np.cumsum(length) - length
        rows, at = np.arange(len(words)), np.zeros(len(words), dtype=np.int64)
        labels, aboves, ends = [np.zeros(1, dtype=np.uint8)], [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=bool)]
        made, depth = 1, 0
        while len(rows):
            label = data[begin[rows] + depth]
            key = at[rows] << 8 | label
            new = np.concatenate([[True], key[1:] != key[:-1]])
            node = made - 1 + np.cumsum(new)
            labels.append(label[new])
            aboves.append(at[rows][new])
            over = length[rows] == depth + 1
            end = np.zeros(int(new.sum()), dtype=bool)
            end[node[over] - made] = True
            ends.append(end)
            at[rows] = node
            made, depth, rows = made + len(end), depth + 1, rows[~over]
        self.label, self.above, self.ends = np.concatenate(labels), np.concatenate(aboves), np.concatenate(ends)
        self.first: Nodes = np.searchsorted(self.above[1:], np.arange(made + 1)) + 1
        self._ends = self.ends.tobytes()
        self._labels, self._first = self.label.tobytes(), array("q", self.first.tobytes())

    def child(self, node: int, byte: int) -> int:
        """Return the child of a node behind a byte; -1 if there is none."""
        return self._labels.find(byte, self._first[node], self._first[node + 1])

    def ends_from(self, data: bytes, start: int) -> list[int]:
        """Return where the tokens end that may stand at a place in a text."""
        found: list[int] = []
        node = 0
        for at in range(start, len(data)):
            node = self.child(node, data[at])
            if node < 0:
                break
            if self._ends[node]:
                found.append(at + 1)
        return found

    def children(self, nodes: Nodes) -> Nodes:
        """Return the children of these nodes."""
        first = self.first[nodes]
        count = self.first[nodes + 1] - first
        children: Nodes = np.arange(int(count.sum())) + np.repeat(first - (np.cumsum(count) - count), count)
        return children

    def spelled(self, node: int) -> bytes:
        """Return the bytes that lead to a node."""
        out = bytearray()
        while node:
            out.append(self._labels[node])
            node = int(self.above[node])
        return bytes(out[::-1])
