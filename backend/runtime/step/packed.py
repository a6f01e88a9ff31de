"""`Batch`: one step, packed for a model. The interface between the scheduler and every model.

Knows nothing of branches, nodes or programs, and nothing of torch (the toy model runs without it). A model's
`forward(batch)` promises:

1. The K and V of *all* rows are written to their `slots` before *any* row attends, layer by layer. So a span may read
   slots that another span of the same step writes.
2. A row attends to every slot of its span's `context` runs, and to the rows of its own span up to and including itself.
3. Logits are returned for the rows in `want` only, in that order.

Two spans that share a prefix name the *same run* (equal pairs) at the same place in their `context`. So an attention
backend may compute that run once for all rows under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..kv.pool import Run as Run


class SpanLayout(NamedTuple):
    """Where one span lies in the batch and what lies before it.

    `context` are the runs that hold positions `0 .. context_length - 1`, in order of position. The span's own rows are
    `first_row .. first_row + rows - 1`, at positions `context_length ...` (position = depth).
    """

    first_row: int
    rows: int
    context: tuple[Run, ...]
    context_length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """T rows (tokens) of one step, W of which want logits."""

    tokens: npt.NDArray[np.int64]  # [T]
    positions: npt.NDArray[np.int64]  # [T]
    slots: npt.NDArray[np.int64]  # [T] where each row's K and V go
    spans: Sequence[SpanLayout]
    want: npt.NDArray[np.int64]  # [W] rows whose logits are asked for


@runtime_checkable
class Model(Protocol):
    """What the engine asks of a model. The model owns the KV tensors; for all others slots are numbers.

    A model that a draft head can read has more: `draft/build.py` says what.
    `one_call`, if a model has it and it is true: its forward is one call of compiled code, without the interpreter.
    """

    vocab_size: int
    """Width of the logits (padded ids included; the tokenizer says which are real)."""
    context_length: int
    """Longest position + 1 the model was made for."""
    kv_bytes_per_token: int

    def allocate(self, slots: int) -> None:
        """Make room for `slots` token slots of KV. Called once, before the first forward."""

    def forward(self, batch: Batch) -> Any:
        """Run one step; float32 logits [W, vocab_size], as a numpy array (W may be 0)."""
