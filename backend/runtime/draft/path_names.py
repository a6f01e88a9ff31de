"""`PathNames`: a branch's text, and for each of its positions a number that names all tokens up to there.

Knows nothing of slots. A name is the sum of a hash of each (token, position), modulo 2^64, so names of a longer text go
on from those of a shorter one. Two texts with one name are as good as impossible; they would cost a wrong draft.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..kv.cursor import Cursor
from ..kv.tree import common_prefix

Names = npt.NDArray[np.uint64]


class PathNames:
    """What is known of one branch: its `tokens` without a stand-in, and a name for each."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._names: Names = np.zeros(64, np.uint64)
        self.cuts = 0  # those of the cursor that were seen

    @property
    def names(self) -> Names:
        return self._names[: len(self.tokens)]

    def follow(self, cursor: Cursor) -> None:
        """Take what the branch's text has become."""
        if self.cuts != cursor.cuts:
            self.cuts = cursor.cuts
            del self.tokens[common_prefix(self.tokens, cursor.path_tokens(), 0) :]
        known = len(self.tokens)
        new = cursor.path_tokens(known)
        if not new:
            return
        before = self._names[known - 1 : known].copy()
        self.tokens += new
        if len(self.tokens) > len(self._names):
            grown = np.zeros(2 * len(self.tokens), np.uint64)
            grown[:known] = self._names[:known]
            self._names = grown
        self._names[known : len(self.tokens)] = names_after(before, new, known)


def names_after(before: Names, tokens: Sequence[int], position: int) -> Names:
    """The names of `tokens` at `position` on. `before` holds the name of the token before them, if there is one."""
    found = np.cumsum(_hashes(tokens, position), dtype=np.uint64)
    return found + before if len(before) else found


def _hashes(tokens: Sequence[int], position: int) -> Names:
    h = np.array(tokens, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h ^= np.arange(position, position + len(tokens), dtype=np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h ^= h >> np.uint64(shift)
        h *= np.uint64(factor)
    mixed: Names = h ^ (h >> np.uint64(31))
    return mixed
