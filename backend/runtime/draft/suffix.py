"""A tree of what followed the same text before, with counts: a source of drafts that computes nothing.

The idea is SuffixDecoding's (Oliaro et al. 2024, arXiv 2411.04975): the longest end of the text that was seen before
says what comes next. All branches of a runtime write into one tree. It holds constants, results of tools, and what
other rows of a batch generated.

1. A node stands for a *context*: tokens in a row that were seen. It counts how often, and knows its last place.
2. The tree deepens where texts repeat: a context is continued by one token more each time it is seen again. So new text
   costs some three nodes a token, at any depth, and a token costs at most `DEPTH` additions.
3. A reader of a text holds the nodes of all ends of its text. So neither a token nor a guess scans anything.
4. Memory is bounded: a full tree is begun anew.

Each token is guessed before it is added, and whether the guess was right is told to a listener. So how good guesses
are is known without spending a row on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .proposer import Guess, Kind

DEPTH = 24
"""Tokens of the longest context."""
MOST_NODES = 120_000
"""Nodes of a full tree."""
NODE_BYTES = 260
"""Of a node and its tokens, about."""
BLOCK_TOKENS = 32
"""Constant text is added by such blocks; a block that was added before, behind the same block, is not added again."""

_ROOT = 0
_DEPTH_CLASS = [d if d <= 3 else 4 if d <= 5 else 5 if d <= 8 else 6 if d <= 16 else 7 for d in range(DEPTH + 1)]


class SuffixTree:
    """The contexts that were seen. Nodes are numbers; the lists have one entry a node."""

    def __init__(self, most_nodes: int | None = None) -> None:
        self.most_nodes = MOST_NODES if most_nodes is None else most_nodes
        self.generation = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew. Readers find out by `generation`."""
        self.generation += 1
        self._child: dict[tuple[int, int], int] = {}
        self._blocks: set[int] = set()
        self._token = [-1]
        self._count = [0]
        self._best: list[int] = [-1]  # the child that was seen most often; of equals the last one seen
        self._follows = [0]  # the children's counts together
        self._text: list[list[int]] = [[]]  # the last place: a text, and the tokens of it that are before the place
        self._at = [0]

    def __len__(self) -> int:
        return len(self._token)

    def _make(self, parent: int, token: int, text: list[int], at: int) -> int:
        node = len(self._token)
        self._child[parent, token] = node
        self._token.append(token)
        self._count.append(1)
        self._best.append(-1)
        self._follows.append(0)
        self._text.append(text)
        self._at.append(at)
        self._follow(parent, node)
        return node

    def _follow(self, parent: int, node: int) -> None:
        self._follows[parent] += 1
        best = self._best[parent]
        if best < 0 or self._count[node] >= self._count[best]:
            self._best[parent] = node

    def add(self, ends: list[int], text: list[int], token: int) -> list[int]:
        """Append a token to `text`, whose ends are the nodes `ends` (the shortest first); its new ends."""
        count, get = self._count, self._child.get
        text.append(token)
        at = len(text)
        found = [_ROOT]
        for node in ends[:DEPTH]:
            child = get((node, token))
            if child is None:
                self._make(node, token, text, at)
                break  # nor was a longer context followed by this token
            count[child] += 1
            if self._best[child] < 0:  # seen for the second time: what followed then is told of now
                before, then = self._text[child], self._at[child]
                if then < len(before):
                    self._make(child, before[then], before, then + 1)
            self._follow(node, child)
            self._text[child], self._at[child] = text, at
            found.append(child)
        return found

    def ends_of(self, tokens: Sequence[int]) -> list[int]:
        """The nodes of the ends of a text that were seen before, the shortest first."""
        ends = [_ROOT]
        for token in tokens[-DEPTH:]:
            more = [_ROOT]
            for node in ends[:DEPTH]:
                child = self._child.get((node, token))
                if child is None:
                    break
                more.append(child)
            ends = more
        return ends

    def guess(self, ends: list[int], most: int) -> list[Guess]:
        """Guess up to `most` tokens behind a text with these ends."""
        best, tokens = self._best, self._token
        depth = len(ends) - 1
        while depth > 0 and best[ends[depth]] < 0:
            depth -= 1
        if not depth:
            return []
        node, out = ends[depth], list[Guess]()
        while len(out) < most:
            child = best[node]
            if child < 0:
                break
            out.append(Guess(tokens[child], self._kind(depth, self._count[child], self._follows[node])))
            node, depth = child, depth + 1
        text, at = self._text[node], self._at[node]
        for token in text[at : at + most - len(out)]:  # seen once like this, or too deep for nodes
            out.append(Guess(token, self._kind(depth, 1, 1)))
            depth += 1
        return out

    @staticmethod
    def _kind(depth: int, count: int, of: int) -> Kind:
        """A kind for each class of depth, and for how often the guess was right among the times that were counted."""
        sure = 3 if 2 * count > 2 * of - 1 and of > 1 else 2 if count == of else 1 if 2 * count >= of else 0
        return 4 * _DEPTH_CLASS[min(depth, DEPTH)] + sure

    def is_new_block(self, before: Sequence[int], block: Sequence[int]) -> bool:
        """Whether a block of constant text was not added yet behind the block `before`."""
        name = hash((*before, -1, *block))
        new = name not in self._blocks
        if new:
            self._blocks.add(name)
        return new

    def make_room(self) -> None:
        """Begin anew if the tree is full."""
        if len(self._token) + 8 * len(self._blocks) > self.most_nodes:
            self.forget()


class TextReader:
    """Reads one branch's text into a tree. `read`: tokens of it that were read."""

    __slots__ = ("_ends", "_generation", "_text", "_tree", "read")

    def __init__(self, tree: SuffixTree) -> None:
        self._tree = tree
        self._generation = -1
        self._ends = [_ROOT]
        self._text: list[int] = []
        self.read = 0

    def take(
        self, path: Callable[[int], list[int]], length: int, learn: Callable[[Kind, bool], None] | None, most: int
    ) -> None:
        """Read the text up to `length`, at most the last `most` tokens; `path(depth)` gives its tokens from a depth on.
        `learn(kind, right)` is told of the guess of each token."""
        if self._generation != self._tree.generation:
            self._generation = self._tree.generation
            self.read = 0
        if self.read > length:  # cut at a stop
            self._go_to(path(max(0, length - DEPTH)))
        elif not self.read:
            self._ends, self._text = [_ROOT], []
            first = max(0, length - most) // BLOCK_TOKENS * BLOCK_TOKENS
            self._take_constant(path(first)[: length - first])
        elif length - self.read > most:
            self._go_to(path(max(0, length - DEPTH)))
        elif self.read < length:
            for token in path(self.read)[: length - self.read]:
                self._take_one(token, learn)
        self.read = length

    def _go_to(self, tokens: list[int]) -> None:
        """Go on behind these tokens, which are not added."""
        self._ends, self._text = self._tree.ends_of(tokens), tokens

    def _take_one(self, token: int, learn: Callable[[Kind, bool], None] | None) -> None:
        tree = self._tree
        if learn is not None and (guess := tree.guess(self._ends, 1)):
            learn(guess[0].kind, guess[0].token == token)
        self._ends = tree.add(self._ends, self._text, token)

    def _take_constant(self, tokens: list[int]) -> None:
        """Read a text from its beginning. Blocks that other branches read are passed over."""
        tree, skipped = self._tree, False
        before: tuple[int, ...] = ()
        for i in range(0, len(tokens), BLOCK_TOKENS):
            block = tuple(tokens[i : i + BLOCK_TOKENS])
            known = len(block) == BLOCK_TOKENS and not tree.is_new_block(before, block)
            before = block
            if known:
                skipped = True
                continue
            if skipped:
                self._go_to(tokens[max(0, i - DEPTH) : i])
                skipped = False
            for token in block:
                self._ends = tree.add(self._ends, self._text, token)
        if skipped:
            self._go_to(tokens[-DEPTH:])

    def guess(self, most: int) -> list[Guess]:
        return self._tree.guess(self._ends, most)
