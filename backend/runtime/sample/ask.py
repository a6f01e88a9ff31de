"""What is asked of one row of logits, besides a sample: the log-probabilities of some tokens.

Owns: the question and its answer. Every wanted row of a step has one `Request` (sample from it) or one `Lookup`
(read it); whoever computed the row answers it where the row lies, so that logits never travel.
"""

from __future__ import annotations

from typing import NamedTuple


class Lookup(NamedTuple):
    """Wanted: natural-log probabilities of `ids`, under the raw logits, and of the `top` most probable tokens."""

    ids: tuple[int, ...]
    top: int = 0


class Looked(NamedTuple):
    """`logprobs[i]` is that of `ids[i]`; `top` holds (logprob, id), falling, of equals the lowest id first."""

    logprobs: tuple[float, ...]
    top: tuple[tuple[float, int], ...] = ()
