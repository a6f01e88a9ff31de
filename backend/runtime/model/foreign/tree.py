"""`DeviceAttention`: the attention of a model whose layers differ, by the kernels of `TreeAttention` where they can.

Owns: which layers are computed by which kernels or in plain torch, windows expressed as spans without windows, and a
step's plans in one array. Knows nothing of transformers, of executors or of how `TreeAttention` works.

Layers with equal heads share a `TreeAttention`; queries are scaled where a layer's scale differs. Layers with
soft-caps, and head dims the kernels are not made for, always go the straightforward way of `Tiles`.

Legend: T rows of the step, Q query heads, H KV heads, D head dim, N slots.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ...attention.plan import runs_of
from ...attention.torch_attention import zeros
from ...attention.tree_attention import TreeAttention, TreeStep
from ...attention.tree_plan import Caps, TreePlan
from ...device import FUSED_HEAD_DIMS
from ...step.packed import Batch, Run, SpanLayout
from .attention import LayerShape, TilePlan, Tiles

log = logging.getLogger("sgl")

CUT_KEYS = 1 << 18
"""Most keys of a step that rows may read by themselves once they are spans of their own."""


class DeviceCaps(NamedTuple):
    """Ints of a step's packed plans."""

    size: int


class _Kind(NamedTuple):
    """What a plan depends on: the heads (None: plain torch) and the window."""

    tree: TreeAttention | None
    window: int | None


class _PlanPart(NamedTuple):
    """One plan of a step, with its place among the ints."""

    tree: TreeAttention | None
    plan: TreePlan | TilePlan
    caps: Caps | None
    size: int


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A step's plans, and which one each kind of layer goes by."""

    slots: npt.NDArray[np.int64]
    parts: list[_PlanPart]
    part_of: list[int]

    @property
    def needs(self) -> DeviceCaps:
        return DeviceCaps(_up(len(self.slots)) + sum(part.size for part in self.parts))

    def pack(self, room: DeviceCaps) -> npt.NDArray[np.int32]:
        """The slots, then each plan where a multiple of 4 ints begins."""
        packed = np.zeros(room.size, dtype=np.int32)
        packed[: len(self.slots)] = self.slots
        at = _up(len(self.slots))
        for part in self.parts:
            ints = part.plan.ints if isinstance(part.plan, TilePlan) else part.plan.pack(part.caps or part.plan.needs)
            packed[at : at + len(ints)] = ints
            at += part.size
        return packed


class DeviceAttention:
    """Implements `LayerAttention`, and plans and starts steps as `DeviceExecutor` wants it."""

    captured = False

    def __init__(self, layers: Sequence[LayerShape], device: torch.device, dtype: torch.dtype) -> None:
        self.layers = layers
        self.device = device
        self.dtype = dtype
        self.kv_2NHD: list[torch.Tensor] = []
        trees: dict[tuple[int, int, int], TreeAttention] = {}
        kinds: dict[_Kind, int] = {}
        self.kind_of: list[int] = []
        for layer in layers:
            tree = None
            if _obstacle(layer) is None:
                heads = layer.query_heads, layer.kv_heads, layer.head_dim
                tree = trees[heads] = trees.get(heads) or TreeAttention(*heads, device, dtype)
            self.kind_of.append(kinds.setdefault(_Kind(tree, layer.window), len(kinds)))
        self._kinds = list(kinds)
        _log_choice(layers)

    def without_kernels(self) -> None:
        """Compute everything in plain torch from now on."""
        self._kinds = [_Kind(None, kind.window) for kind in self._kinds]

    def allocate(self, slots: int) -> None:
        self.kv_2NHD = [
            zeros((2, slots, layer.kv_heads, layer.head_dim), self.dtype, self.device) for layer in self.layers
        ]

    def plan(self, batch: Batch) -> DevicePlan:
        """How a step's layers attend (host only)."""
        spans: dict[int | None, Sequence[SpanLayout] | None] = {None: batch.spans}
        parts: dict[_Kind, int] = {}
        found: list[_PlanPart] = []
        part_of: list[int] = []
        for tree, window in self._kinds:
            if window not in spans:
                assert window is not None
                spans[window] = without_window(batch, window)
            if spans[window] is None:
                tree = None
            same = _Kind(tree, None if spans[window] is batch.spans else window)
            if same not in parts:
                parts[same] = len(found)
                found.append(_plan_part(same, batch, spans[window]))
            part_of.append(parts[same])
        return DevicePlan(batch.slots, found, part_of)

    def start(self, packed: torch.Tensor, caps: DeviceCaps, plan: DevicePlan) -> DeviceStep:
        """Begin a step whose packed plans (int32 [caps.size]) are in `packed`."""
        return DeviceStep(self, packed, plan)

    def begin(self, batch: Batch) -> DeviceStep:
        plan = self.plan(batch)
        room = plan.needs
        return self.start(torch.from_numpy(plan.pack(room)).to(self.device), room, plan)


class DeviceStep:
    """A started step; implements `LayerStep`."""

    def __init__(self, attention: DeviceAttention, packed: torch.Tensor, plan: DevicePlan) -> None:
        self._attention = attention
        self._slots_T = packed[: len(plan.slots)].long()
        steps: list[TreeStep | Tiles] = []
        at = _up(len(plan.slots))
        for part in plan.parts:
            section = packed[at : at + part.size]
            if isinstance(part.plan, TilePlan):
                steps.append(Tiles(part.plan, section.long()))
            else:
                assert part.tree is not None and part.caps is not None
                steps.append(part.tree.start(section, part.caps, part.plan))
            at += part.size
        self._step_of = [steps[plan.part_of[kind]] for kind in attention.kind_of]

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        k_NHD, v_NHD = self._attention.kv_2NHD[layer]
        k_NHD.index_copy_(0, self._slots_T, k_THD)
        v_NHD.index_copy_(0, self._slots_T, v_THD)
        shape, step = self._attention.layers[layer], self._step_of[layer]
        if isinstance(step, Tiles):
            return step.attend(shape, q_TQD, k_NHD, v_NHD)
        q_TQD = shape.scaled(q_TQD).contiguous()
        out_TQD = torch.empty_like(q_TQD)
        step.attend(q_TQD, k_NHD, v_NHD, out_TQD)
        return out_TQD


def _plan_part(kind: _Kind, batch: Batch, spans: Sequence[SpanLayout] | None) -> _PlanPart:
    if kind.tree is None or spans is None:
        tiles = TilePlan.of(batch.spans, batch.slots, kind.window)
        return _PlanPart(None, tiles, None, _up(len(tiles.ints)))
    plan = kind.tree.plan(batch if spans is batch.spans else replace(batch, spans=spans))
    caps = plan.needs
    return _PlanPart(kind.tree, plan, caps, _up(caps.size))


def without_window(batch: Batch, window: int) -> Sequence[SpanLayout] | None:
    """Spans in which every row sees without a window what it sees with one.

    A window that reaches beyond every row's text is none: the batch's own spans. Else a span is cut. The rows that see
    everything stay together; each row after them becomes a span whose context is what it sees of its text. K and V of
    all rows are written before any attends, so rows of a span may be each other's context. None where too many rows
    would read their keys by themselves: long prompts.
    """
    spans = batch.spans
    beyond = [span.context_length + span.rows - window for span in spans]
    if max(beyond) <= 0:
        return spans
    if window * sum(min(far, span.rows) for far, span in zip(beyond, spans) if far > 0 and span.rows > 1) > CUT_KEYS:
        return None
    return list(chain.from_iterable(_cut(span, batch.slots, window) for span in spans))


def _cut(span: SpanLayout, slots: npt.NDArray[np.int64], window: int) -> Iterator[SpanLayout]:
    before = span.context_length
    near = window - before  # rows that see everything
    if near >= span.rows:
        yield span
        return
    near = max(0, near)
    if near:
        yield SpanLayout(span.first_row, near, span.context, before)
    runs = span.context
    if span.rows > 1:
        runs += tuple(runs_of(slots[span.first_row : span.first_row + span.rows - 1]))
    for row in range(near, span.rows):
        position = before + row
        yield SpanLayout(span.first_row + row, 1, _between(runs, position - window + 1, position), window - 1)


def _between(runs: Sequence[Run], first: int, end: int) -> tuple[Run, ...]:
    """The parts of some runs that hold their keys `first .. end - 1`."""
    found: list[Run] = []
    at = 0
    for start, length in runs:
        low, high = max(first - at, 0), min(end - at, length)
        if low < high:
            found.append((start + low, high - low))
        at += length
    return tuple(found)


def _obstacle(layer: LayerShape) -> str | None:
    """Why the kernels do not compute a layer; None: they do."""
    if layer.softcap is not None:
        return "a soft-cap"
    if layer.head_dim not in FUSED_HEAD_DIMS:
        return f"heads of {layer.head_dim}"
    return None


def _log_choice(layers: Sequence[LayerShape]) -> None:
    obstacles = [_obstacle(layer) for layer in layers]
    if reasons := sorted({why for why in obstacles if why is not None}):
        slow = len(layers) - obstacles.count(None)
        log.warning("attention of %d of %d layers is plain torch, slower: %s", slow, len(layers), ", ".join(reasons))
    windows = {layer.window for layer, why in zip(layers, obstacles) if why is None and layer.window is not None}
    if windows:
        log.info("steps with long prompts beyond a window (%s) attend in plain torch", ", ".join(map(str, windows)))


def _up(n: int) -> int:
    return -(-n // 4) * 4
