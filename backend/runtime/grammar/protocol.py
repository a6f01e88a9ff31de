"""What the runtime asks of a grammar engine: the protocols `CompiledGrammar` and `Matcher`, and masks.

Knows nothing of any engine; one file an engine in `engines/` implements the protocols.

1. A mask is a row of int32 words: bit `i % 32` of word `i // 32` is token id i (as in xgrammar and llguidance).
2. A mask has no bit of a control token, an end-of-text token or a padded id. Whether a text may end is `can_end()`;
   with which token it ends is the gen's business.
3. Where only one continuation is left, the mask has its canonical token alone, and `forced()` names that token and
   those that follow. Forced tokens can be appended without asking the model.
4. A matcher has accepted exactly the committed tokens of its gen (invariant 6 of the runtime).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.int32]


def mask_words(vocab_size: int) -> int:
    """Words of a mask row."""
    return (vocab_size + 31) // 32


def has(row: Mask, token: int) -> bool:
    """Whether a mask has this token."""
    return bool(row[token >> 5] >> (token & 31) & 1)


def set_only(row: Mask, token: int) -> None:
    """Make `row` the mask of this token alone."""
    row.fill(0)
    row.view(np.uint32)[token >> 5] = 1 << (token & 31)


class Matcher(Protocol):
    """Where one text is in a grammar. Not thread-safe; `fork` before sharing.

    A resource limit that an engine meets on the way raises `ConstraintError` from `accept`, `fill` or `forced`. So a
    matcher never goes on with a mask that allows less, or more, than the constraint.
    """

    def fork(self) -> Matcher:
        """An independent copy."""

    def accept(self, token: int) -> bool:
        """Take a token. False if the grammar does not allow it here; then nothing has changed."""

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""

    def fill(self, row: Mask) -> None:
        """Write the mask of the next token into `row`."""

    def allows(self, token: int) -> bool:
        """Whether the mask has this token, where nothing is forced."""

    def forced(self) -> list[int]:
        """The tokens that the mask leaves alone from here on, in order; [] where there is a choice or an end."""

    def can_end(self) -> bool:
        """Whether the text so far is complete."""

    def is_done(self) -> bool:
        """Whether the text is complete and nothing may follow."""


class CompiledGrammar(Protocol):
    """A grammar bound to a vocabulary. Immutable, shared by any number of matchers and threads."""

    engine: str
    """"llguidance", "xgrammar" or "outlines"."""

    def matcher(self) -> Matcher:
        """A new matcher at the beginning."""
