"""`TreePlan`: a step's ragged attention as equal items of work for a GPU, in one array of int32.

Owns: the cutting, and the layout of the packed plan. Knows nothing of torch, of Triton, or of layers.

Invariants: 1. row j of an item sees its key i if and only if `i <= limit + j` (a span's own rows come last among its
keys); 2. the parts of a row lie side by side (`place`, `indptr`); 3. a row with exactly one part needs no merging: its
item is *direct* (`part_begin` -1) and writes the output; 4. every section of a packed plan begins where `Caps` says, so
a captured step reads any plan that fits; 5. what is not filled is zero, and an item without rows is no work; 6. a row
that no span has is in an item without keys, and its output is 0.

Legend: T rows, S spans, F groups of spans, O = S + F owners of keys, U runs, L tiles, I items, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..step.packed import SpanLayout
from .tree_runs import Context, ranges, split_context

Ints = npt.NDArray[np.int64]

SHARE_FROM_KEYS = 512
"""Keys that need not be read again, from which a shared run becomes a tile of its own."""
MERGE_COST_KEYS = 16
"""Keys a tile reads in the time that one more part of a row takes to be written and merged."""
WIDE_COST_KEYS = 2
"""Keys a small tile reads while a wide one reads one."""
LEAST_CHUNK_KEYS = 256
"""Keys below which a tile is not cut: more programs would not make it faster, and each adds a part to merge."""
LEAST_CHUNK_KEYS_FEW_ROWS = 64
"""The same in steps of few rows (`LATENCY_ROWS`)."""
ALIGN_KEYS = 64
"""Chunks are multiples of this, so that only a tile's last block of keys is ragged."""
RUN_SLOTS = 4096
"""Longer runs are expanded in pieces, by several programs."""
PROGRAMS = 4 * 132
"""Pieces of work (items times KV heads) to aim for: four for each processor of an H200."""
LATENCY_ROWS = 4
"""Steps of so few rows wait for memory rather than for its bandwidth: they get half the pieces, all running at once."""
FEW_ROWS = 512
"""Steps of more rows are made of prompts, and use wider tiles."""

HEADER_INTS = 16
"""Ints before the first item: how many there are of `WIDE`, `SMALL`, `RUNS`; the rest is zero."""
WIDE, SMALL, RUNS = 0, 1, 2
ITEM_INTS = 8
"""Ints an item: q_begin, q_count, key_begin, key_count, limit, part_begin, 0, 0. Its rows are `q_begin ...`, or, where
that is negative, those listed from `-1 - q_begin` on."""
RUN_INTS = 4
"""Ints a run: first slot, length, destination, 0."""
SEES_ALL = 1 << 30


class TileRows(NamedTuple):
    """Most rows of a small and of a wide tile, and the rows times heads their matrices have (a power of two)."""

    small: int
    wide: int
    small_m: int
    wide_m: int

    @staticmethod
    def of(group: int, rows: int, prompt_m: int = 128) -> TileRows:
        """For `group` query heads a KV head, in a step of `rows` rows; `prompt_m`: the wide size of large steps."""
        small_m = max(16, 1 << (group - 1).bit_length())
        wide_m = max(64 if rows <= FEW_ROWS else prompt_m, small_m)
        return TileRows(small_m // group, wide_m // group, small_m, wide_m)


class Caps(NamedTuple):
    """Room in a packed plan: most rows of the step, items, listed rows, parts (of one row each), runs, and keys."""

    rows: int
    wide: int
    small: int
    listed: int
    parts: int
    runs: int
    keys: int  # slots of all tiles, expanded; on the device only

    @property
    def few(self) -> bool:
        """Whether it is a step of few rows, which may be captured."""
        return self.rows <= FEW_ROWS

    @property
    def offsets(self) -> tuple[int, int, int, int, int, int]:
        """Where wide items, small items, listed rows, places, indptr and runs begin. All are multiples of 4."""
        wide = HEADER_INTS
        small = wide + ITEM_INTS * self.wide
        listed = small + ITEM_INTS * self.small
        place = listed + _up(self.listed, 4)
        indptr = place + _up(self.parts, 4)
        return wide, small, listed, place, indptr, indptr + _up(self.rows + 1, 4)

    @property
    def size(self) -> int:
        """Ints in a packed plan."""
        return self.offsets[-1] + RUN_INTS * self.runs


@dataclass(frozen=True, slots=True)
class TreePlan:
    """One step's work: built once on the host, packed, copied, and used by every layer.

    A *tile* is some rows (with all query heads of a KV head) over a list of keys. It has rows of one span over its
    private context and its own rows, or rows of many spans over the runs that they share. Small tiles are for decoding,
    wide ones for prompts and shared prefixes. A tile is cut along its keys into *items*, until they occupy the whole
    device. An item's result is a *part* of each of its rows. The slots of a tile lie side by side in an array, which
    the device expands from `runs` once a step.
    """

    rows: int
    tile_rows: TileRows
    wide_IC: Ints  # [., ITEM_INTS]
    small_IC: Ints  # [., ITEM_INTS]
    listed: Ints  # rows of tiles whose rows are not consecutive
    place_P: Ints  # where an item's parts go; a row's parts are consecutive
    indptr_T: Ints | None  # [T + 1]; None: no row has parts
    runs_UC: Ints  # [U, RUN_INTS]
    keys: int

    @property
    def needs(self) -> Caps:
        """The least capacities (rows exactly), rounded up a little so that similar steps have equal ones."""
        return Caps(
            self.rows,
            _up(len(self.wide_IC), 16),
            _up(len(self.small_IC), 16),
            _up(len(self.listed), 64),
            _up(len(self.place_P), 64),
            _up(len(self.runs_UC), 64),
            _up(self.keys, 1024),
        )

    def fits(self, caps: Caps) -> bool:
        """Whether a step captured with these capacities can carry out this plan."""
        wide, small = self._padding(caps)
        return (
            caps.rows >= self.rows
            and caps.few == (self.rows <= FEW_ROWS)
            and caps.wide >= len(self.wide_IC) + len(wide)
            and caps.small >= len(self.small_IC) + len(small)
            and caps.listed >= len(self.listed)
            and caps.parts >= len(self.place_P)
            and caps.runs >= len(self.runs_UC)
            and caps.keys >= self.keys
        )

    def pack(self, caps: Caps) -> npt.NDArray[np.int32]:
        """The plan as int32 [caps.size]. Raises ValueError if it does not fit."""
        if not self.fits(caps):
            raise ValueError(f"this step needs {self.needs}, which does not fit {caps}: run it with capacities that do")
        wide, small = self._padding(caps)
        packed = np.zeros(caps.size, dtype=np.int32)
        packed[WIDE] = len(self.wide_IC) + len(wide)
        packed[SMALL] = len(self.small_IC) + len(small)
        packed[RUNS] = len(self.runs_UC)
        at_wide, at_small, at_listed, at_place, at_indptr, at_runs = caps.offsets
        for at, values in (
            (at_wide, self.wide_IC),
            (at_wide + self.wide_IC.size, wide),
            (at_small, self.small_IC),
            (at_small + self.small_IC.size, small),
            (at_listed, self.listed),
            (at_place, self.place_P),
            (at_runs, self.runs_UC),
        ):
            if values.size:
                packed[at : at + values.size] = values.reshape(-1)
        if self.indptr_T is not None:
            packed[at_indptr : at_indptr + self.rows + 1] = self.indptr_T
            packed[at_indptr + self.rows + 1 : at_indptr + caps.rows + 1] = self.indptr_T[-1]
        return packed

    def _padding(self, caps: Caps) -> tuple[Ints, Ints]:
        """Items (wide, small) without keys for the rows that the captured step has and this one has not."""
        rows = caps.rows - self.rows
        if rows <= 0:
            return _NO_ITEMS, _NO_ITEMS
        wide = rows > self.tile_rows.small and caps.wide > 0
        most = self.tile_rows.wide if wide else self.tile_rows.small
        items = np.zeros((-(-rows // most), ITEM_INTS), dtype=np.int64)
        items[:, 0] = np.arange(self.rows, caps.rows, most)
        items[:, 1] = np.minimum(most, caps.rows - items[:, 0])
        items[:, 5] = -1
        return (items, _NO_ITEMS) if wide else (_NO_ITEMS, items)


_NO_ITEMS: Ints = np.zeros((0, ITEM_INTS), dtype=np.int64)
_NONE: Ints = np.zeros(0, dtype=np.int64)


def usual_caps(rows: int, context_length: int, *, heads: tuple[int, int], programs: int = PROGRAMS) -> Caps:
    """Capacities that steps of up to `rows` rows (at most `FEW_ROWS`) hardly ever exceed.

    An unusual step (very many runs, deep nesting of shared prefixes) may not fit, and is run by itself.
    """
    tile = TileRows.of(heads[0] // heads[1], rows)
    cut = int(_pieces(rows, programs, heads[1])) + 1  # items that cutting tiles may add
    wide = 0 if rows <= tile.small else _up(cut + rows, 16)
    return Caps(
        rows,
        wide,
        _up(cut + 3 * rows, 16),
        _up(8 * rows, 64) if rows > 2 else 0,
        _up(cut * min(rows, tile.wide) + 8 * rows, 64),
        _up(32 * rows + 1024, 64),
        _up(min(rows * context_length, max(1 << 20, context_length)) + rows, 1024),
    )


def plan_tree(
    spans: Sequence[SpanLayout], slots: Ints, *, heads: tuple[int, int], programs: int = PROGRAMS, prompt_m: int = 128
) -> TreePlan:
    """Cut a step into items. `slots` [T] are where its rows are written; `heads` are (query, KV) heads.

    `spans` lie end to end over all T rows. `programs`: pieces of work that occupy the device.
    """
    tile_rows = TileRows.of(heads[0] // heads[1], len(slots), prompt_m)
    rows_S = np.array([span[1] for span in spans], dtype=np.int64)
    first_S = rows_S.cumsum() - rows_S
    context, groups = split_context(spans, partial(_worth_sharing, rows_S.tolist(), tile_rows))
    runs_UC, length_O = _lay_out_keys(first_S, slots, context)
    tiles = _tiles(first_S, rows_S, groups, length_O, tile_rows)
    wide, items_IC, source_I, merged_I = _items(tiles, len(slots), tile_rows, _pieces(len(slots), programs, heads[1]))
    listed = tiles.row_of[len(slots) :] if groups and int(items_IC[:, 0].min()) < 0 else _NONE
    place_P, indptr_T = _places(items_IC, source_I, merged_I, tiles.row_of, len(slots))
    keys = int(length_O.sum())
    return TreePlan(len(slots), tile_rows, items_IC[:wide], items_IC[wide:], listed, place_P, indptr_T, runs_UC, keys)


def _pieces(rows: int, programs: int, kv_heads: int) -> float:
    """Items to aim for."""
    return (programs // 2 if rows <= LATENCY_ROWS else programs) / kv_heads


def _worth_sharing(rows_S: list[int], tile_rows: TileRows, group: tuple[int, ...], keys: int) -> bool:
    """Whether reading `keys` shared keys once for a group of spans saves more than the parts it adds cost."""
    rows = [rows_S[i] for i in group]
    together = sum(rows)
    small, wide = tile_rows.small, tile_rows.wide
    fewer = sum([1 if n <= small else -(-n // wide) for n in rows]) - (1 if together <= small else -(-together // wide))
    return fewer * keys >= max(SHARE_FROM_KEYS, MERGE_COST_KEYS * together)


def _lay_out_keys(first_S: Ints, slots: Ints, context: Context) -> tuple[Ints, Ints]:
    """Runs [U, RUN_INTS] with their destinations, owner by owner; how many keys each owner has [O]."""
    if len(first_S) == len(slots):
        own, own_first, own_length = np.arange(len(slots)), slots, np.ones(len(slots), dtype=np.int64)
    else:
        own, own_first, own_length = _own_runs(first_S, slots)
    # Stable: a span's own rows stay behind its context.
    owner = np.concatenate((context.owner, own))
    order = owner.argsort(kind="stable")
    owner = owner[order]
    first = np.concatenate((context.first, own_first))[order]
    length = np.concatenate((context.length, own_length))[order]
    last = np.ones(len(owner), dtype=np.bool_)
    np.not_equal(owner[1:], owner[:-1], out=last[:-1])
    end_O = length.cumsum()[last]
    length_O = end_O.copy()
    length_O[1:] -= end_O[:-1]
    last[:-1] |= first[1:] != first[:-1] + length[:-1]
    at = last.nonzero()[0]
    end = length.cumsum()[at]
    begin = np.zeros_like(end)
    begin[1:] = end[:-1]
    # The last run of those that touch: its end minus the length of all.
    first = first[at] + length[at] - (end - begin)
    length = end - begin
    if int(length.max()) > RUN_SLOTS:
        pieces = np.maximum(1, -(-length // RUN_SLOTS))
        offset = ranges(pieces) * RUN_SLOTS
        first = first.repeat(pieces) + offset
        begin = begin.repeat(pieces) + offset
        length = np.minimum(RUN_SLOTS, length.repeat(pieces) - offset)
    runs_UC = np.zeros((len(first), RUN_INTS), dtype=np.int64)
    runs_UC[:, 0] = first
    runs_UC[:, 1] = length
    runs_UC[:, 2] = begin
    return runs_UC, length_O


def _own_runs(first_S: Ints, slots: Ints) -> tuple[Ints, Ints, Ints]:
    """The runs of slots that each span's rows are written to: span, first slot, length."""
    breaks = np.ones(len(slots), dtype=np.bool_)
    breaks[1:] = slots[1:] != slots[:-1] + 1
    breaks[first_S] = True
    at = breaks.nonzero()[0]
    length = np.diff(at, append=len(slots))
    return first_S.searchsorted(at, side="right") - 1, slots[at], length


class _Tiles(NamedTuple):
    """Tiles, [L] each. `row_of` lists rows: 0 .. T - 1, then the groups' rows; `source` is a place in it."""

    row_of: Ints
    source: Ints
    rows: Ints
    key_begin: Ints
    keys: Ints
    limit: Ints
    wide: npt.NDArray[np.bool_]
    alone: npt.NDArray[np.bool_]  # its rows are in no other tile


def _tiles(first_S: Ints, rows_S: Ints, groups: list[tuple[int, ...]], length_O: Ints, tile_rows: TileRows) -> _Tiles:
    spans, total = len(rows_S), int(rows_S.sum())
    first_O, rows_O, row_of = first_S, rows_S, np.arange(total)
    alone_O = np.ones(len(length_O), dtype=np.bool_)
    if groups:
        beneath = member = np.array([i for group in groups for i in group])
        rows_F = size_F = np.array([len(group) for group in groups])
        if total > spans:
            rows_M = rows_S[member]
            rows_F = np.add.reduceat(rows_M, size_F.cumsum() - size_F)
            beneath = first_S[member].repeat(rows_M) + ranges(rows_M)
        row_of = np.concatenate((row_of, beneath))
        first_O = np.concatenate((first_S, total + rows_F.cumsum() - rows_F))
        rows_O = np.concatenate((rows_S, rows_F))
        alone_O[member] = False
        alone_O[spans:] = False
    # What a span's tile sees ends with its own last row; a group's tile sees all.
    limit_O = length_O - rows_O
    limit_O[spans:] = SEES_ALL
    begin_O = length_O.cumsum() - length_O
    wide_O = rows_O > tile_rows.small
    most_O = np.where(wide_O, tile_rows.wide, tile_rows.small)
    count_O = -(-rows_O // most_O)
    if int(count_O.max()) == 1:
        keys = np.minimum(length_O, limit_O + rows_O)
        return _Tiles(row_of, first_O, rows_O, begin_O, keys, limit_O, wide_O, alone_O)
    owner = np.arange(len(rows_O)).repeat(count_O)
    before = ranges(count_O) * most_O[owner]
    rows = np.minimum(most_O[owner], rows_O[owner] - before)
    limit = limit_O[owner] + before
    keys = np.minimum(length_O[owner], limit + rows)
    return _Tiles(row_of, first_O[owner] + before, rows, begin_O[owner], keys, limit, wide_O[owner], alone_O[owner])


def _items(
    tiles: _Tiles, total: int, tile_rows: TileRows, pieces: float
) -> tuple[int, Ints, Ints, npt.NDArray[np.bool_]]:
    """How many items are wide; all items, wide and long ones first; their `source`; whether their parts merge."""
    least = LEAST_CHUNK_KEYS_FEW_ROWS if total <= LATENCY_ROWS else LEAST_CHUNK_KEYS
    chunk: Ints | int
    if tiles.wide.any():
        each = float((tiles.keys * np.where(tiles.wide, WIDE_COST_KEYS, 1)).sum()) / pieces
        narrow, wide = (max(least, _up(int(keys), ALIGN_KEYS)) for keys in (each, each / WIDE_COST_KEYS))
        chunk = np.where(tiles.wide, wide, narrow)
    else:
        chunk = max(least, _up(int(int(tiles.keys.sum()) / pieces), ALIGN_KEYS))
    size = -(-tiles.keys // -(-tiles.keys // chunk))
    size += -size % ALIGN_KEYS
    count = -(-tiles.keys // size)
    tile = np.arange(len(count)).repeat(count)
    before = ranges(count) * size[tile]
    keys = np.minimum(size[tile], tiles.keys[tile] - before)
    order = (-(keys + (tiles.wide[tile] << 40))).argsort(kind="stable")
    tile, before, keys = tile[order], before[order], keys[order]
    source, rows = tiles.source[tile], tiles.rows[tile]
    merged = (count > 1)[tile]
    first = source
    if len(tiles.row_of) > total:  # of groups, whose rows may not be consecutive
        row = tiles.row_of[source]
        together = tiles.row_of[source + rows - 1] - row == rows - 1
        first = np.where(together, row, total - 1 - source)
        merged |= ~tiles.alone[tile]
    items = np.zeros((len(tile), ITEM_INTS), dtype=np.int64)
    items[:, 0] = first
    items[:, 1] = rows
    items[:, 2] = tiles.key_begin[tile] + before
    items[:, 3] = keys
    items[:, 4] = tiles.limit[tile] - before
    return int(tiles.wide[tile].sum()), items, source, merged


def _places(
    items_IC: Ints, source_I: Ints, merged_I: npt.NDArray[np.bool_], row_of: Ints, total: int
) -> tuple[Ints, Ints | None]:
    """Number the parts: fills in `part_begin`; returns each part's place and where each row's parts begin."""
    items_IC[:, 5] = -1
    if not merged_I.any():
        return _NONE, None
    rows = items_IC[merged_I, 1]
    items_IC[merged_I, 5] = rows.cumsum() - rows
    row_P = row_of[source_I[merged_I].repeat(rows) + ranges(rows)]
    place_P = np.empty_like(row_P)
    place_P[row_P.argsort(kind="stable")] = np.arange(len(row_P))
    indptr_T = np.zeros(total + 1, dtype=np.int64)
    np.bincount(row_P, minlength=total).cumsum(out=indptr_T[1:])
    return place_P, indptr_T


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
