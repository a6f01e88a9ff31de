"""`FlashPlan`: a step's ragged attention laid out flat, one slot a page, as FlashInfer takes it.

Owns: the order of keys, and the layout of the packed plan. Knows nothing of torch, of FlashInfer, or of layers.

A span's keys are its context's slots in order of position, then its own rows' slots. Nothing is shared: a prefix that
many spans have is listed for each of them. On the host keys are runs of slots; the device expands them once a step.

Legend: T rows of the step, S spans, U runs (own rows count as runs of one slot), K keys of all spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..step.packed import SpanLayout
from .tree_runs import ranges

Ints = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]

NO_RUN = np.iinfo(np.int32).max
"""`run_end` of an unused run: behind every key."""


class FlashCaps(NamedTuple):
    """Capacities of a packed plan: most spans, runs, keys, and rows of a span."""

    spans: int
    runs: int
    keys: int  # on the device only
    longest: int

    @property
    def size(self) -> int:
        """Ints in a packed plan."""
        return self.spans + 1 + 2 * self.runs


@dataclass(frozen=True, slots=True)
class FlashPlan:
    """One step, flat, on the host. Key k of the step is in slot `run_base[u] + k`, where u is the first run with
    `run_end[u] > k`. Packed: `kv_indptr`, `run_end`, `run_base`, at offsets that depend on the capacities only."""

    qo_indptr: Ints32  # [S + 1] rows
    kv_indptr: Ints32  # [S + 1] keys
    run_end: Ints32  # [U]
    run_base: Ints32  # [U]
    longest: int  # most rows of a span

    @property
    def rows(self) -> int:
        return int(self.qo_indptr[-1])

    @property
    def spans(self) -> int:
        return len(self.qo_indptr) - 1

    @property
    def keys(self) -> int:
        return int(self.kv_indptr[-1])

    @property
    def decodes(self) -> bool:
        """Every span is one row."""
        return self.longest == 1

    @property
    def needs(self) -> FlashCaps:
        """The least capacities."""
        return FlashCaps(self.spans, len(self.run_end), self.keys, self.longest)

    def fits(self, caps: FlashCaps) -> bool:
        """Whether `pack` can lay this step out with these capacities (of one row a span where a step is captured)."""
        padding = self._padding(caps)
        return (
            caps.longest >= self.longest
            and caps.spans >= self.spans
            and caps.runs >= len(self.run_end) + padding
            and caps.keys >= self.keys + padding
        )

    def padded_indptr(self, spans: int) -> Ints32:
        """`kv_indptr` [spans + 1]; spans that the step does not have get one key each."""
        padding = np.arange(1, spans - self.spans + 1, dtype=np.int32) + self.kv_indptr[-1]
        return np.concatenate((self.kv_indptr, padding), dtype=np.int32)

    def pack(self, caps: FlashCaps) -> Ints32:
        """Lay the plan out as int32 [caps.size]; the keys of padding spans are slot 0.

        Raises `ValueError` if the plan does not fit.
        """
        if not self.fits(caps):
            raise ValueError(f"this step needs {self.needs}, which does not fit {caps}: run it with capacities that do")
        padding, runs = self._padding(caps), len(self.run_end)
        packed = np.zeros(caps.size, dtype=np.int32)
        packed[: self.spans + padding + 1] = self.padded_indptr(self.spans + padding)
        end = packed[caps.spans + 1 : caps.spans + 1 + caps.runs]
        end[:runs] = self.run_end
        end[runs : runs + padding] = np.arange(1, padding + 1) + self.keys
        end[runs + padding :] = NO_RUN
        base = packed[caps.spans + 1 + caps.runs :]
        base[:runs] = self.run_base
        base[runs : runs + padding] = -self.keys - np.arange(padding)
        return packed

    def _padding(self, caps: FlashCaps) -> int:
        return max(0, caps.spans - self.spans) if self.decodes else 0


def plan_flash(spans: Sequence[SpanLayout], slots: Ints) -> FlashPlan:
    """Lay a step's keys out flat. `spans` lie end to end over all T rows; row t is written to `slots[t]`."""
    count = len(spans)
    rows_S = np.fromiter((span.rows for span in spans), np.int64, count)
    runs_S = np.fromiter((len(span.context) for span in spans), np.int64, count)
    context = chain.from_iterable(chain.from_iterable(span.context for span in spans))
    context_U2 = np.fromiter(context, np.int64, 2 * int(runs_S.sum())).reshape(-1, 2)
    both_S = runs_S + rows_S
    last_S = np.cumsum(both_S)
    at_context = ranges(runs_S, last_S - both_S)
    at_own = ranges(rows_S, last_S - rows_S)
    first = np.empty(int(last_S[-1]), dtype=np.int64)
    length = np.ones_like(first)
    first[at_context], first[at_own] = context_U2[:, 0], slots
    length[at_context] = context_U2[:, 1]
    end = np.cumsum(length)
    return FlashPlan(
        _indptr(np.cumsum(rows_S)),
        _indptr(end[last_S - 1]),
        end.astype(np.int32),
        (first - (end - length)).astype(np.int32),
        int(rows_S.max()),
    )


def _indptr(end: Ints) -> Ints32:
    return np.concatenate(([0], end), dtype=np.int32, casting="same_kind")
