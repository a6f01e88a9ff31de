"""`AttentionPlan`: a step's ragged attention as a few dense pieces, made once a step and used by every layer.

Knows nothing of torch, of layers, or of what a span is for. The slots that a row sees are split into disjoint parts. A
*piece* is one part for many rows: a (batched, masked) attention that also yields the log-sum-exp of its scores. A row's
parts are merged exactly by those (the cascade of FlashInfer and of Hydragen). Runs with the same spans beneath them are
one piece. The rest of a span (private context and own rows) joins a padded rectangle of similar spans. The order of
keys does not matter, since positions are already in them; so contiguous runs are joined.

Legend: T rows of the step, S spans of a piece, R rows a span (padded), L keys a span (padded), P pieces a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..step.packed import Run, SpanLayout
from .tree_runs import ranges

Ints = npt.NDArray[np.int64]

SHARE_FROM_SLOTS = 256
"""Slots, counted once for each span, from which a shared run gets a piece of its own (30-50 us a layer: call and
merge, measured on two cores)."""
TILE_ROWS = 128
"""Most rows of a span that are computed together. Without tiles half of a prompt's scores would be computed to be
masked: 512 rows took 3.8 ms a layer, 2.75 with tiles (the kernel's own causal mode: 4.0)."""
PADDING_COST = 1500
"""Padding (rows x keys, see `_cost`) that costs as much as one more call. A call costs 20 us, gathering is cheap (80 us
for 8 x 500 slots, against 300 us of attention over them): so spans are batched, and only a lone span is a view."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One dense attention: S spans of R rows over L keys each. Index arrays are flat, span after span."""

    rows: slice | Ints  # [S*R] rows of the batch; a short span repeats its last row
    slots: slice | Ints  # [S*L] KV slots; a short span repeats its last slot, behind the limit
    spans: int
    limit_SR: Ints | None  # the last key a row sees; None: it sees all


class _Tile(NamedTuple):
    """Up to `TILE_ROWS` rows of a span. Row r sees all keys in `runs` but the last `rows - 1 - r`."""

    first_row: int
    rows: int
    runs: list[Run]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Pieces, and where each row's parts lie in the concatenation of their outputs (padding rows included)."""

    pieces: tuple[Piece, ...]
    parts: tuple[slice | Ints, ...]  # P times [T]; empty when the one piece's output is the answer
    absent_TP: npt.NDArray[np.bool_] | None  # parts that a row does not have; None: every row has P


def plan_attention(spans: Sequence[SpanLayout], slots: Ints) -> AttentionPlan:
    """Cut a batch (its spans, and the slots [T] its rows are written to) into pieces."""
    shared, private = _split_context(spans)
    pieces: list[Piece] = []
    real: list[tuple[Ints, Ints | None]] = []  # per piece: rows of the batch, and which outputs are not padding
    for members, runs in shared:
        rows = _concatenate([_rows_of(spans[i]) for i in members])
        pieces.append(Piece(compact(rows), _slots_of(runs), 1, None))
        real.append((rows, None))
    tiles = [tile for span, runs in zip(spans, private) for tile in _tiles(span, runs, slots)]
    for bucket in _buckets(tiles):
        piece, rows, kept = _rectangle(bucket)
        pieces.append(piece)
        real.append((rows, kept))
    return _merge_order(pieces, real, len(slots))


def _split_context(
    spans: Sequence[SpanLayout],
) -> tuple[list[tuple[tuple[int, ...], list[Run]]], list[list[Run]]]:
    """(groups of spans with the runs they share, what is left of each span's context), runs joined."""
    users: dict[Run, list[int]] = {}
    for i, span in enumerate(spans):
        for run in span.context:
            if run[1]:
                users.setdefault(run, []).append(i)
    together: dict[tuple[int, ...], list[Run]] = {}
    for run, members in users.items():
        together.setdefault(tuple(members), []).append(run)
    shared: list[tuple[tuple[int, ...], list[Run]]] = []
    private: list[list[Run]] = [[] for _ in spans]
    for group, runs in together.items():
        if len(group) > 1 and len(group) * sum(run[1] for run in runs) >= SHARE_FROM_SLOTS:
            shared.append((group, _join(runs)))
        else:
            for i in group:
                private[i].extend(runs)
    return shared, [_join(runs) for runs in private]


def _tiles(span: SpanLayout, runs: list[Run], slots: Ints) -> Iterator[_Tile]:
    """The span's rows in tiles, each with its keys: private context, then own rows up to the tile's last."""
    for start in range(0, span.rows, TILE_ROWS):
        rows = min(TILE_ROWS, span.rows - start)
        own = runs_of(slots[span.first_row : span.first_row + start + rows])
        yield _Tile(span.first_row + start, rows, _join(runs + own))


def _buckets(tiles: list[_Tile]) -> list[list[_Tile]]:
    """Group tiles of similar size: one joins the rectangle of longer ones until the padding outweighs a call."""
    sized = sorted(((tile.rows, _length(tile.runs), i) for i, tile in enumerate(tiles)), key=lambda s: (-s[1], s[2]))
    buckets: list[list[int]] = []
    most_rows = longest = waste = 0
    for rows, length, i in sized:
        widest = max(most_rows, rows)
        grown = len(buckets[-1]) * (_cost(widest, longest) - _cost(most_rows, longest)) if buckets else 0
        waste += grown + _cost(widest, longest) - _cost(rows, length)
        if not buckets or waste > PADDING_COST:
            buckets.append([])
            most_rows, longest, waste = rows, length, 0
        else:
            most_rows = widest
        buckets[-1].append(i)
    # In the batch's own order rows often need no index at all.
    return [[tiles[i] for i in sorted(bucket)] for bucket in buckets]


def _cost(rows: int, length: int) -> int:
    return (rows + 3) * length  # a key costs about as much as three rows' use of it


def _rectangle(bucket: list[_Tile]) -> tuple[Piece, Ints, Ints | None]:
    """One padded piece; the rows it really has, and their places in its output (None: all, in order)."""
    rows_S = np.array([tile.rows for tile in bucket], dtype=np.int64)
    first_S = np.array([tile.first_row for tile in bucket], dtype=np.int64)
    length_S = np.array([_length(tile.runs) for tile in bucket], dtype=np.int64)
    r_SR = np.minimum(np.arange(rows_S.max()), rows_S[:, None] - 1)
    rows_SR = first_S[:, None] + r_SR
    limit_SR = (length_S - rows_S)[:, None] + r_SR
    if len(bucket) == 1:
        slots = _slots_of(bucket[0].runs)
    else:
        flat = _expand([run for tile in bucket for run in tile.runs])
        l_SL = np.minimum(np.arange(length_S.max()), length_S[:, None] - 1)
        slots = flat[(np.cumsum(length_S) - length_S)[:, None] + l_SL].reshape(-1)
    sees_all = bool((limit_SR == length_S.max() - 1).all())
    piece = Piece(compact(rows_SR.reshape(-1)), slots, len(bucket), None if sees_all else limit_SR)
    if bool((rows_S == rows_S[0]).all()):
        return piece, rows_SR.reshape(-1), None
    real = (np.arange(rows_SR.shape[1]) < rows_S[:, None]).reshape(-1)
    return piece, rows_SR.reshape(-1)[real], np.flatnonzero(real)


def _merge_order(pieces: list[Piece], real: list[tuple[Ints, Ints | None]], total: int) -> AttentionPlan:
    """Find each row's parts: the p-th piece that has row t put its output at place `order[t, p]`."""
    count_T = np.bincount(_concatenate([rows for rows, _ in real]), minlength=total)
    if len(pieces) == 1 and real[0][1] is None and isinstance(pieces[0].rows, slice):
        return AttentionPlan(tuple(pieces), (), None)
    depth = int(count_T.max())
    order_TP = np.zeros((total, depth), dtype=np.int64)
    next_T = np.zeros(total, dtype=np.int64)
    offset = 0
    for piece, (rows, kept) in zip(pieces, real):
        order_TP[rows, next_T[rows]] = offset + (np.arange(len(rows)) if kept is None else kept)
        next_T[rows] += 1
        size = piece.rows.stop - piece.rows.start if isinstance(piece.rows, slice) else len(piece.rows)
        offset += size
    absent_TP = np.arange(depth) >= count_T[:, None]
    parts = tuple(compact(order_TP[:, p]) for p in range(depth))
    return AttentionPlan(tuple(pieces), parts, absent_TP if bool(absent_TP.any()) else None)


def runs_of(slots: Ints) -> list[Run]:
    """Slots as contiguous runs, in order."""
    if len(slots) == 1:
        return [(int(slots[0]), 1)]
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    return [(int(slots[a]), b - a) for a, b in pairwise([0, *breaks.tolist(), len(slots)])]


def _join(runs: list[Run]) -> list[Run]:
    joined: list[Run] = []
    for start, length in runs:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


def _length(runs: list[Run]) -> int:
    return sum(run[1] for run in runs)


def _expand(runs: list[Run]) -> Ints:
    """All slots of some runs, in order."""
    start, length = np.array(runs, dtype=np.int64).T
    return ranges(length, start)


def _slots_of(runs: list[Run]) -> slice | Ints:
    return slice(runs[0][0], sum(runs[0])) if len(runs) == 1 else _expand(runs)


def _rows_of(span: SpanLayout) -> Ints:
    return np.arange(span.first_row, span.first_row + span.rows)


def _concatenate(arrays: list[Ints]) -> Ints:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def compact(index: Ints) -> slice | Ints:
    """Return an index as a slice, if it is one: slices are views."""
    if int(index[-1]) - int(index[0]) == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
