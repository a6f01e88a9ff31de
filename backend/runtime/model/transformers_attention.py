"""Attention for models that compute everything else themselves: the KV of their layers, and what their rows see.

Owns: `LayerShape` (what one layer's attention is), `LayerAttention` (the seam behind which any kernel may stand), and
its plain torch form. Knows nothing of transformers, nor of what a span is for.

Layers without a window or soft-cap go through `StepAttention`, which computes a shared prefix once. The others take a
straightforward way: a tile of rows, the keys its window reaches, one masked softmax in float32. Key i of a span is at
position i (its context runs are in order of position), so a window is a lower bound on i.

Legend: T rows of the step, Q query heads = G groups * H KV heads, D head dim, J = 2H (K heads, then V heads of a slot),
N slots, S tiles, R rows a tile (padded), L keys a tile (padded).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ..attention.plan import Ints, Plan, plan_attention
from ..attention.torch_attention import StepAttention, zeros
from ..batch import Batch, SpanLayout

TILE = 128
"""Most rows of a span that are computed together."""
WORK_AT_ONCE = 1 << 20
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


class LayerAttention(Protocol):
    """The K and V of every layer of a model, and attention over them."""

    def allocate(self, slots: int) -> None:
        """Make room for `slots` token slots. What was there is dropped."""

    def begin(self, batch: Batch) -> None:
        """Prepare for the layers of a step."""

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        """Write K and V of all rows of the step to the layer's slots, then attend: [T, Q, D].

        Queries are not scaled yet, heads are in the model's own order, and inputs may have any strides.
        """


class TorchAttention:
    """`LayerAttention` in plain torch, on any device."""

    def __init__(self, layers: Sequence[LayerShape], device: torch.device, dtype: torch.dtype) -> None:
        self._layers = layers
        self._device = device
        self._dtype = dtype
        self._kv_NJD: list[torch.Tensor] = []

    def allocate(self, slots: int) -> None:
        self._kv_NJD = [
            zeros((slots, 2 * layer.kv_heads, layer.head_dim), self._dtype, self._device) for layer in self._layers
        ]

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._slots_T = torch.from_numpy(np.ascontiguousarray(batch.slots)).to(self._device)
        self._plan: Plan | None = None
        self._planned: dict[int, StepAttention] = {}
        self._tiled = TiledStep(batch, self._device)

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        shape, kv_NJD = self._layers[layer], self._kv_NJD[layer]
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
                self._plan, self._batch.slots, groups, device=self._device, dtype=self._dtype
            )
        total = len(q_TQD)
        q_TGHD = q_TQD.reshape(total, shape.kv_heads, groups, shape.head_dim).transpose(1, 2)
        factor = shape.scaling * math.sqrt(shape.head_dim)
        if not math.isclose(factor, 1.0, rel_tol=1e-6):
            q_TGHD = q_TGHD * factor
        mixed_TQ = self._planned[groups].attend(q_TGHD.reshape(total, -1, shape.head_dim), kv_NJD)
        mixed_THGD = mixed_TQ.view(total, groups, shape.kv_heads, shape.head_dim).transpose(1, 2)
        return mixed_THGD.reshape(total, -1, shape.head_dim)


class TiledStep:
    """Attention with windows and soft-caps over one step, from any K and V tensors: the straightforward way."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self._batch = batch
        self._device = device
        self._by_window: dict[int | None, list[_Rectangle]] = {}

    def attend(self, shape: LayerShape, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor) -> torch.Tensor:
        """[T, Q, D]; the rows' own K and V are in their slots already."""
        window = shape.window
        if window not in self._by_window:
            groups = tile_groups(self._batch.spans, self._batch.slots, window)
            self._by_window[window] = [_Rectangle.of(group, window, self._device) for group in groups]
        out_TQD = torch.empty_like(q_TQD, memory_format=torch.contiguous_format)
        for rectangle in self._by_window[window]:
            out_TQD[rectangle.rows] = rectangle.attend(shape, q_TQD, k_NHD, v_NHD)
        return out_TQD


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
            if group and (len(group) + 1) * len(group[0].slots) * max(len(tile.rows), 16) > WORK_AT_ONCE:
                yield group
                group = []
            group.append(tile)
        yield group


def _tiles(span: SpanLayout, slots: Ints, window: int | None) -> Iterator[Tile]:
    own = slots[span.first_row : span.first_row + span.rows]
    key_slots = np.concatenate([*(np.arange(start, start + length) for start, length in span.context), own])
    for start in range(0, span.rows, TILE):
        rows = np.arange(start, min(start + TILE, span.rows))
        first_key = 0 if window is None else max(0, span.context_length + start - window + 1)
        last_key = span.context_length + int(rows[-1])
        yield Tile(span.first_row + rows, key_slots[first_key : last_key + 1], first_key)


@dataclass(frozen=True, slots=True)
class _Rectangle:
    """S tiles of R rows over L keys, on the device."""

    rows: torch.Tensor  # [S*R] rows of the batch
    slots: torch.Tensor  # [S*L]; a short tile repeats its last slot, which is hidden
    hidden_SRL: torch.Tensor
    tiles: int

    @classmethod
    def of(cls, group: list[Tile], window: int | None, device: torch.device) -> _Rectangle:
        rows = len(group[0].rows)
        length_S = np.array([len(tile.slots) for tile in group])
        l_L = np.arange(length_S.max())
        slots_SL = np.stack([tile.slots[np.minimum(l_L, len(tile.slots) - 1)] for tile in group])
        # A tile's last key is its last row's own, so row r's own is the one R - 1 - r before it.
        own_SR = (length_S - rows)[:, None] + np.arange(rows)
        hidden_SRL = l_L > own_SR[..., None]
        if window is not None:
            hidden_SRL |= l_L <= own_SR[..., None] - window
        return cls(
            torch.from_numpy(np.concatenate([tile.rows for tile in group])).to(device),
            torch.from_numpy(slots_SL.reshape(-1)).to(device),
            torch.from_numpy(hidden_SRL).to(device),
            len(group),
        )

    def attend(
        self,
        shape: LayerShape,
        q_TQD: torch.Tensor,
        k_NHD: torch.Tensor,
        v_NHD: torch.Tensor,
    ) -> torch.Tensor:
        """Outputs of these rows, [S*R, Q, D]."""
        s, h, d = self.tiles, shape.kv_heads, shape.head_dim
        k_SHLD = k_NHD[self.slots].view(s, -1, h, d).transpose(1, 2)
        v_SHLD = v_NHD[self.slots].view(s, -1, h, d).transpose(1, 2)
        q_SHGRD = q_TQD[self.rows].view(s, -1, h, shape.query_heads // h, d).permute(0, 2, 3, 1, 4)
        score_SHGRL = torch.matmul(q_SHGRD, k_SHLD.transpose(-1, -2)[:, :, None]).float() * shape.scaling
        if shape.softcap is not None:
            score_SHGRL = (score_SHGRL / shape.softcap).tanh() * shape.softcap
        weight_SHGRL = score_SHGRL.masked_fill(self.hidden_SRL[:, None, None], -torch.inf).softmax(dim=-1)
        mixed_SHGRD = torch.matmul(weight_SHGRL.to(v_SHLD.dtype), v_SHLD[:, :, None])
        return mixed_SHGRD.permute(0, 3, 1, 2, 4).reshape(-1, shape.query_heads, d)
