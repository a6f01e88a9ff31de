"""`SuffixSource`: drafts from the tree of suffixes, which it reads the branches' texts into.

Knows nothing of the tree's nodes (`suffix.py`), nor of who gets a draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ..job.gen import GenJob
from ..program.branch import Branch
from .chances import Sites
from .proposer import Guess, Proposer, Terms
from .suffix import NODE_BYTES, SuffixTree, TextReader

READ_TOKENS, LATE_TOKENS = 16_384, 128
"""Tokens that are read of the prompts of a step's branches together; and of what a branch wrote while nothing was read.
What comes before is passed over."""


class SuffixSource(Proposer):
    """Drafts from a tree of suffixes."""

    name = "suffix"

    def __init__(self, sites: Sites) -> None:
        self.tree = SuffixTree()
        self._sites = sites
        self._readers: WeakKeyDictionary[Branch, TextReader] = WeakKeyDictionary()

    def forget(self) -> None:
        self.tree.forget()

    def memory(self) -> tuple[int, int, int]:
        nodes = len(self.tree)
        return nodes * NODE_BYTES, self.tree.most_nodes * NODE_BYTES, nodes

    def propose(self, jobs: Sequence[GenJob], most: int, terms: Terms) -> list[Sequence[Guess]]:
        self.tree.make_room()
        room = max(LATE_TOKENS, READ_TOKENS // max(1, len(jobs)))
        return [self._propose(job, most, room) for job in jobs]

    def _propose(self, job: GenJob, most: int, room: int) -> Sequence[Guess]:
        reader = self._readers.get(job.branch)
        if reader is None:
            reader = self._readers[job.branch] = TextReader(self.tree)
        path, length = job.cursor.path_tokens, job.cursor.length - job.cursor.runs_ahead
        if reader.read < job.start:
            reader.take(path, job.start, None, room)
        reader.take(path, length, self._sites[job.where].learn, LATE_TOKENS)
        return reader.guess(most)
