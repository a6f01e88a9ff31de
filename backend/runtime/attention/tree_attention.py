"""`TreeAttention`: attention of whole steps on a GPU, over plans of slot runs (`tree_plan`), in Triton.

Owns: what is launched for a step, in which sizes, and a step's scratch memory. Knows nothing of models, of branches, or
of when steps are captured. All launches are decided from `Caps`, none from a plan's values. So what one plan captured
carries out any plan that fits. Needs triton.

Legend: T rows, Q query heads, H KV heads, D head dim, N slots, K keys of all tiles, P parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ....lang.errors import OptionError
from ..step.packed import Batch
from . import tree_kernels
from .tree_plan import LATENCY_ROWS, PROGRAMS, Caps, TileRows, TreePlan, plan_tree, usual_caps

ONCE_PROGRAMS = 8
"""Programs a processor up to which a program is launched for every place of an item, though it may be empty."""
LONG_SPAN_ROWS = 256
"""Mean rows of a span from which a large step has the wide tiles of `Tilings.prompt`; shorter ones would leave them
half empty (117 spans of 70 rows over 1,500 shared keys, 32/8 heads of 128: 659 us a layer, 1,482 with wide tiles)."""
NARROW_M = 64
"""Rows x heads of the other wide tiles."""
SIDE_BY_SIDE_ROWS = 64
"""Captured steps of more rows have a launch for each kind, side by side: alone, small items take half the registers,
so twice as many of them run at once. (256 rows, 900 keys shared and 100 own, 32/8 heads: 86 us a layer, 97 in one
launch; up to 64 rows the other launch costs what it brings.)"""
MERGE_ELEMENTS = 8192
"""Parts x heads x head dim (all padded) that a program merges at a time: 64 registers a thread of 4 warps."""
EXPAND_BLOCK = 1024
LOG2_E = 1.4426950408889634


class Tiling(NamedTuple):
    """How one kind of item is computed: keys a block, stages of the pipeline of loads, warps."""

    keys: int
    stages: int
    warps: int


class Tilings(NamedTuple):
    """What is tuned on the card (`benchmarks/gpu/attention.py --tune`), for one head dim and type."""

    small: Tiling  # decoding: bound by memory, so what counts is bytes in flight and programs side by side
    alone: Tiling  # the same in a launch without wide items: fewer registers, so more programs side by side
    wide: Tiling  # shared prefixes and prompts in steps of few rows; its warps are the whole launch's
    prompt: Tiling  # wide items of larger steps: bound by arithmetic
    prompt_m: int  # their rows x heads
    work: int  # items x KV heads to cut a step into, for each processor

    @staticmethod
    def of(head_dim: int, element_size: int) -> Tilings:
        """The choice for a padded head dim and a type of so many bytes."""
        if element_size == 4:
            exact = Tiling(32 if head_dim <= 128 else 16, 2, 8)  # multiplied without matrix units: registers run out
            return Tilings(exact, exact, exact, exact, 64, 4)
        keys = 64 if head_dim <= 128 else 32
        small = Tiling(128 if head_dim <= 64 else keys, 3, 4)
        return Tilings(small, small._replace(stages=2), Tiling(keys, 3, 4), Tiling(keys, 3, 8), 128, 4)


class _AttentionLaunch(NamedTuple):
    programs: int
    wide_room: int
    constants: dict[str, Any]


class TreeAttention:
    """Attention for one model's head layout. Query head q belongs to KV head `q // (query_heads // kv_heads)`."""

    captured = True

    def __init__(
        self, query_heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        if query_heads % kv_heads:
            raise OptionError(f"{query_heads} query heads cannot be shared out among {kv_heads} KV heads")
        if not 16 <= head_dim <= 256:
            raise OptionError(f"head dim {head_dim}: attention on a GPU is made for 16 to 256")
        self.heads = (query_heads, kv_heads)
        self.head_dim = head_dim
        self.device = device
        self.dtype = dtype
        self.tilings = Tilings.of(_power(head_dim), dtype.itemsize)
        self.processors, self.overlap = PROGRAMS // 4, False
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            self.processors = properties.multi_processor_count
            self.overlap = properties.major >= 9

    def plan(self, batch: Batch) -> TreePlan:
        """Cut a step into items (host only)."""
        long = len(batch.tokens) >= LONG_SPAN_ROWS * len(batch.spans)
        prompt_m = self.tilings.prompt_m if long else min(NARROW_M, self.tilings.prompt_m)
        return plan_tree(batch.spans, batch.slots, heads=self.heads, programs=self._work, prompt_m=prompt_m)

    def caps(self, rows: int, context_length: int) -> Caps:
        """Capacities for a captured step of `rows` rows (at most `FEW_ROWS`), for contexts up to `context_length`."""
        return usual_caps(rows, context_length, heads=self.heads, programs=self._work)

    def start(self, packed: torch.Tensor, caps: Caps, plan: TreePlan | None = None) -> TreeStep:
        """Begin a step whose packed plan (int32 [caps.size], on the device) is or will be in `packed`."""
        query, kv = self.heads
        return TreeStep(self, packed, caps, TileRows.of(query // kv, caps.rows) if plan is None else plan.tile_rows)

    def launches(self, caps: Caps, tile: TileRows) -> list[_AttentionLaunch]:
        """List what one `attend` launches.

        Few rows: wide and small items in one launch. So a shared prefix and private contexts are read at the same time,
        and an empty kind costs nothing. More than `SIDE_BY_SIDE_ROWS`: a launch a kind; the second begins when all of
        the first run. More than `FEW_ROWS`: a launch a kind, one after the other. A merge of parts follows. Up to
        `LATENCY_ROWS`, the program that finishes a row's last part merges the row instead.
        """
        if caps.few and not (self.overlap and caps.wide and caps.rows > SIDE_BY_SIDE_ROWS):
            return [self._launch(caps, tile, caps.wide, caps.small, "ALONE")]
        orders = ("FIRST", "SECOND") if caps.few else ("ALONE", "ALONE")
        kinds = zip((caps.wide, 0), (0, caps.small), orders)
        return [self._launch(caps, tile, *kind) for kind in kinds if kind[0] + kind[1]]

    def _launch(self, caps: Caps, tile: TileRows, wide_room: int, small_room: int, order: str) -> _AttentionLaunch:
        small, wide = self.tilings.small, self.tilings.prompt if tile.wide_m > NARROW_M else self.tilings.wide
        if not wide_room:
            small = self.tilings.alone
        programs = (wide_room + small_room) * self.heads[1]
        once = not caps.few or programs <= ONCE_PROGRAMS * self.processors
        constants = {
            **self._sizes(),
            "WIDE_M": tile.wide_m if wide_room else 0,
            "WIDE_N": wide.keys,
            "WIDE_STAGES": wide.stages,
            "SMALL_M": tile.small_m if small_room else 0,
            "SMALL_N": small.keys,
            "SMALL_STAGES": small.stages,
            "ONCE": once,
            "LAST_MERGES": caps.rows <= LATENCY_ROWS,
            "ORDER": int(getattr(tree_kernels, order if self.overlap else "APART").value),
            "PRECISION": "ieee" if self.dtype == torch.float32 else "tf32",
            "num_warps": wide.warps if wide_room else small.warps,
        }
        if self.overlap:
            constants["launch_pdl"] = True
        if once:
            return _AttentionLaunch(programs, wide_room, constants)
        # All of the first of two must run at once, or the second begins late.
        return _AttentionLaunch(2 * self.processors if order == "FIRST" else self._work, wide_room, constants)

    def _sizes(self) -> dict[str, Any]:
        query, kv = self.heads
        dim, group = _power(self.head_dim), _power(query // kv)
        parts = min(32, max(1, MERGE_ELEMENTS // (dim * group)))
        return {"Q": query, "H": kv, "D": self.head_dim, "DP": dim, "GP": group, "P": parts}

    def merging(self) -> dict[str, Any]:
        """What the kernel that merges is made for."""
        options = self._sizes() | {"OVERLAP": self.overlap}
        return options | {"launch_pdl": True} if self.overlap else options

    @property
    def _work(self) -> int:
        return self.tilings.work * self.processors


class TreeStep:
    """A started step: its scratch and its launches, the same for every layer."""

    def __init__(self, attention: TreeAttention, packed: torch.Tensor, caps: Caps, tile: TileRows) -> None:
        query, kv = attention.heads
        empty, on = torch.empty, attention.device
        self._packed = packed
        self._rows = caps.rows
        self._wide, self._small, self._listed, self._place, self._indptr, runs = (packed[at:] for at in caps.offsets)
        self._slots_K = empty(max(1, caps.keys), dtype=torch.int32, device=on)
        # The parts of thousands of rows are memory traffic that counts; rounding them costs less than a bit.
        part_dtype = torch.float32 if caps.few else attention.dtype
        self._part_out_PQD = empty((max(1, caps.parts), query, attention.head_dim), dtype=part_dtype, device=on)
        self._part_lse_PQ = empty((max(1, caps.parts), query), dtype=torch.float32, device=on)
        tickets = caps.rows * kv if caps.rows <= LATENCY_ROWS else 0
        self._tickets = empty(max(1, tickets), dtype=torch.int32, device=on)
        self._launches = attention.launches(caps, tile)
        self._merge_grid = (caps.rows, kv) if caps.parts and not tickets else None
        self._shape = attention.merging()
        self._scale = attention.head_dim**-0.5 * LOG2_E
        grid = (min(caps.runs, 8 * attention.processors),)
        tree_kernels.expand[grid](packed, runs, self._slots_K, self._tickets, TICKETS=tickets, BLOCK=EXPAND_BLOCK)

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        """Write the attention of the step's rows to `out_TQD`. All contiguous; T is the step's rows (`caps.rows`).

        The K and V of all rows are in their slots already. Scores are scaled by D ** -0.5; padding rows become 0.
        """
        assert len(q_TQD) == len(out_TQD) == self._rows
        for programs, wide_room, constants in self._launches:
            tree_kernels.attend[(programs,)](
                self._packed, self._wide, self._small, self._listed, self._place, self._indptr, self._slots_K,
                q_TQD, k_NHD, v_NHD, out_TQD, self._part_out_PQD, self._part_lse_PQ, self._tickets,
                wide_room, self._scale, **constants,
            )  # fmt: skip
        if self._merge_grid is not None:
            tree_kernels.merge[self._merge_grid](
                self._indptr, self._part_out_PQD, self._part_lse_PQ, out_TQD, **self._shape
            )


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()
