"""What may be asked of one row of logits besides a sample: the log-probabilities of some tokens.

Knows nothing of models or of branches. Every wanted row of a step has one `Request` (sample from it) or one `Lookup`
(read it). The row is answered where it lies, on the host or on a device, so logits never travel.
"""

from __future__ import annotations

from typing import NamedTuple


class Lookup(NamedTuple):
    """Asks for the natural-log probabilities of `ids`, under the raw logits, and of the `top` most probable tokens."""

    ids: tuple[int, ...]
    top: int = 0


class Looked(NamedTuple):
    """`logprobs[i]` belongs to `ids[i]`; `top` holds (logprob, id), falling; of equals the lowest id comes first."""

    logprobs: tuple[float, ...]
    top: tuple[tuple[float, int], ...] = ()
