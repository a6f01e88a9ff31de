"""The attention of models that compute everything else themselves: the KV of their layers, and what their rows see.

Owns: `LayerShape` (what one layer's attention is), `LayerAttention` (the protocol of what may compute it), and its
plain torch form. Knows nothing of transformers, nor of what a span is for. Layers without a window or soft-cap go
through `StepAttention`, which computes a shared prefix once. The others take a straightforward way: a tile of rows, the
keys its window reaches, one masked softmax in float32. Key i of a span is at position i, so a window is a lower bound
on i.

Legend: T rows of the step, Q query heads = G groups * H KV heads, D head dim, J = 2H (K heads, then V heads of a slot),
N slots, S tiles, R rows a tile, L keys a tile (padded), M = G * R.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ...attention.plan import AttentionPlan, Ints, plan_attention
from ...attention.torch_attention import StepAttention, zeros
from ...step.packed import Batch, SpanLayout

TILE_ROWS = 128
"""Most rows of a span that are computed together."""
SCORES_AT_ONCE = 1 << 20
"""Most rows x keys (padding included; few rows count as 16) computed at once, which bounds the memory of a layer."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One call of attention in a model's forward. Query head q belongs to KV head q // (query_heads // kv_heads)."""

    query_heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    """What scores are multiplied with (often `head_dim ** -0.5`, but not always)."""
    window: int | None = None
    """A row sees this many positions, its own included; None: all before it."""
    softcap: float | None = None
    """Scores become `softcap * tanh(score / softcap)`."""

    @property
    def plain(self) -> bool:
        return self.window is None and self.softcap is None

    def scaled(self, q_TQD: torch.Tensor) -> torch.Tensor:
        """Queries for an attention that multiplies scores with `head_dim ** -0.5` itself."""
        factor = self.scaling * math.sqrt(self.head_dim)
        return q_TQD if math.isclose(factor, 1.0, rel_tol=1e-6) else q_TQD * factor


class LayerAttention(Protocol):
    """The K and V of every layer of a model, and attention over them."""

    def allocate(self, slots: int) -> None:
        """Make room for `slots` token slots. What was there is dropped."""

    def begin(self, batch: Batch) -> LayerStep:
        """Prepare for the layers of a step."""


class LayerStep(Protocol):
    """The attention of one step, layer after layer."""

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        """Write K and V of all rows of the step to the layer's slots, then attend: [T, Q, D].

        Queries are not scaled yet, heads are in the model's own order, and inputs may have any strides.
        """


class TorchAttention:
    """`LayerAttention` in plain torch, on any device."""

    def __init__(self, layers: Sequence[LayerShape], device: torch.device, dtype: torch.dtype) -> None:
        self.layers = layers
        self.device = device
        self.dtype = dtype
        self.kv_NJD: list[torch.Tensor] = []

    def allocate(self, slots: int) -> None:
        self.kv_NJD = [
            zeros((slots, 2 * layer.kv_heads, layer.head_dim), self.dtype, self.device) for layer in self.layers
        ]

    def begin(self, batch: Batch) -> TorchStep:
        return TorchStep(self, batch)


class TorchStep:
    """A step of `TorchAttention`; plans are made when the first layer asks for them."""

    def __init__(self, attention: TorchAttention, batch: Batch) -> None:
        self._attention = attention
        self._batch = batch
        self._slots_T = torch.from_numpy(np.ascontiguousarray(batch.slots)).to(attention.device)
        self._plan: AttentionPlan | None = None
        self._planned: dict[int, StepAttention] = {}
        self._tiled = TiledStep(batch, attention.device)

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        shape, kv_NJD = self._attention.layers[layer], self._attention.kv_NJD[layer]
        kv_NJD.index_copy_(0, self._slots_T, torch.cat((k_THD, v_THD), dim=1))
        if shape.plain:
            return self._attend_plain(shape, q_TQD, kv_NJD)
        return self._tiled.attend(shape, q_TQD, kv_NJD[:, : shape.kv_heads], kv_NJD[:, shape.kv_heads :])

    def _attend_plain(self, shape: LayerShape, q_TQD: torch.Tensor, kv_NJD: torch.Tensor) -> torch.Tensor:
        """By the step's plan, whose heads are (group, KV head) and whose scaling is that of the head dim."""
        groups = shape.query_heads // shape.kv_heads
        if groups not in self._planned:
            if self._plan is None:
                self._plan = plan_attention(self._batch.spans, self._batch.slots)
            self._planned[groups] = StepAttention(
                self._plan, self._batch.slots, groups, device=kv_NJD.device, dtype=kv_NJD.dtype
            )
        total = len(q_TQD)
        q_TGHD = shape.scaled(q_TQD).reshape(total, shape.kv_heads, groups, shape.head_dim).transpose(1, 2)
        mixed_TQ = self._planned[groups].attend(q_TGHD.reshape(total, -1, shape.head_dim), kv_NJD)
        mixed_THGD = mixed_TQ.view(total, groups, shape.kv_heads, shape.head_dim).transpose(1, 2)
        return mixed_THGD.reshape(total, -1, shape.head_dim)


class TiledStep:
    """Attention with windows and soft-caps over one step, from any K and V tensors: the straightforward way."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self._batch = batch
        self._device = device
        self._by_window: dict[int | None, Tiles] = {}

    def attend(self, shape: LayerShape, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor) -> torch.Tensor:
        """[T, Q, D]; the rows' own K and V are in their slots already."""
        window = shape.window
        if window not in self._by_window:
            plan = TilePlan.of(self._batch.spans, self._batch.slots, window)
            self._by_window[window] = Tiles(plan, torch.from_numpy(plan.ints).to(self._device))
        return self._by_window[window].attend(shape, q_TQD, k_NHD, v_NHD)


class Tile(NamedTuple):
    """Some rows of a span, and the slots of the positions `first_key ...` up to that of its last row."""

    rows: Ints
    slots: Ints
    first_key: int


def tile_groups(spans: Sequence[SpanLayout], slots: Ints, window: int | None) -> Iterator[list[Tile]]:
    """Cut a batch into groups of tiles; those of a group have equally many rows, and are padded to the same keys."""
    by_rows: dict[int, list[Tile]] = {}
    for span in spans:
        for tile in _tiles(span, slots, window):
            by_rows.setdefault(len(tile.rows), []).append(tile)
    for tiles in by_rows.values():
        group: list[Tile] = []
        for tile in sorted(tiles, key=lambda tile: -len(tile.slots)):
            if group and (len(group) + 1) * len(group[0].slots) * max(len(tile.rows), 16) > SCORES_AT_ONCE:
                yield group
                group = []
            group.append(tile)
        yield group


def _tiles(span: SpanLayout, slots: Ints, window: int | None) -> Iterator[Tile]:
    own = slots[span.first_row : span.first_row + span.rows]
    key_slots = np.concatenate([*(np.arange(start, start + length) for start, length in span.context), own])
    for start in range(0, span.rows, TILE_ROWS):
        rows = np.arange(start, min(start + TILE_ROWS, span.rows))
        first_key = 0 if window is None else max(0, span.context_length + start - window + 1)
        last_key = span.context_length + int(rows[-1])
        yield Tile(span.first_row + rows, key_slots[first_key : last_key + 1], first_key)


class Rectangle(NamedTuple):
    """S tiles of R rows over L keys."""

    tiles: int
    rows: int
    keys: int

    @property
    def size(self) -> int:
        """Ints it takes: S*R rows of the batch, S*L slots, S lengths in keys."""
        return self.tiles * (self.rows + self.keys + 1)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """A step cut into rectangles for one window (None: no layer of it looks less far back), made on the host."""

    window: int | None
    rectangles: list[Rectangle]
    ints: Ints  # rectangle after rectangle; a short tile repeats its last slot, which is hidden

    @classmethod
    def of(cls, spans: Sequence[SpanLayout], slots: Ints, window: int | None) -> TilePlan:
        rectangles: list[Rectangle] = []
        ints: list[Ints] = []
        for group in tile_groups(spans, slots, window):
            length_S = np.array([len(tile.slots) for tile in group])
            rectangles.append(Rectangle(len(group), len(group[0].rows), int(length_S.max())))
            l_L = np.arange(length_S.max())
            ints += [tile.rows for tile in group]
            ints += [tile.slots[np.minimum(l_L, len(tile.slots) - 1)] for tile in group]
            ints.append(length_S)
        return cls(window, rectangles, np.concatenate(ints))


class Tiles:
    """A `TilePlan` on a device, ready for every layer."""

    def __init__(self, plan: TilePlan, ints: torch.Tensor) -> None:
        """`ints` are the plan's, int64, on the device."""
        self._parts: list[tuple[Rectangle, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        at = 0
        for rectangle in plan.rectangles:
            s, r, n = rectangle
            rows, slots, length_S = ints[at : at + rectangle.size].split((s * r, s * n, s))
            self._parts.append((rectangle, rows, slots, _hidden(length_S, r, n, plan.window)))
            at += rectangle.size

    def attend(self, shape: LayerShape, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor) -> torch.Tensor:
        """[T, Q, D]; the rows' own K and V are in their slots already."""
        out_TQD = torch.empty_like(q_TQD, memory_format=torch.contiguous_format)
        for (s, r, n), rows, slots, hidden_SRL in self._parts:
            q_SRQD = q_TQD.index_select(0, rows).view(s, r, shape.query_heads, shape.head_dim)
            k_SLHD, v_SLHD = (
                x_NHD.index_select(0, slots).view(s, n, shape.kv_heads, shape.head_dim) for x_NHD in (k_NHD, v_NHD)
            )
            out_TQD.index_copy_(0, rows, _attend_rectangle(shape, q_SRQD, k_SLHD, v_SLHD, hidden_SRL))
        return out_TQD


def _hidden(length_S: torch.Tensor, rows: int, keys: int, window: int | None) -> torch.Tensor:
    """Which keys a row does not see, [S, R, L]."""
    l_L = torch.arange(keys, device=length_S.device)
    # A tile's last key is its last row's own, so row r's own is the one R - 1 - r before it.
    own_SR1 = (length_S[:, None] - rows + torch.arange(rows, device=length_S.device))[..., None]
    hidden_SRL = l_L > own_SR1
    return hidden_SRL if window is None else hidden_SRL | (l_L <= own_SR1 - window)


def _attend_rectangle(
    shape: LayerShape,
    q_SRQD: torch.Tensor,
    k_SLHD: torch.Tensor,
    v_SLHD: torch.Tensor,
    hidden_SRL: torch.Tensor,
) -> torch.Tensor:
    """Outputs of these rows, [S*R, Q, D]. A group's heads are rows of one product: K and V are not repeated."""
    s, r, _, d = q_SRQD.shape
    h, g = shape.kv_heads, shape.query_heads // shape.kv_heads
    q_SHMD = q_SRQD.view(s, r, h, g, d).permute(0, 2, 3, 1, 4).reshape(s, h, g * r, d)
    score_SHML = torch.matmul(q_SHMD, k_SLHD.permute(0, 2, 3, 1)).float() * shape.scaling
    if shape.softcap is not None:
        score_SHML = (score_SHML / shape.softcap).tanh_() * shape.softcap
    score_SHGRL = score_SHML.view(s, h, g, r, -1).masked_fill_(hidden_SRL[:, None, None], -torch.inf)
    weight_SHML = score_SHGRL.softmax(dim=-1).view(s, h, g * r, -1).to(v_SLHD.dtype)
    mixed_SHMD = torch.matmul(weight_SHML, v_SLHD.transpose(1, 2))
    return mixed_SHMD.view(s, h, g, r, d).permute(0, 3, 1, 2, 4).reshape(s * r, shape.query_heads, d)
