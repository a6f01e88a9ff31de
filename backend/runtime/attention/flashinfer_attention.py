"""FlashInfer's attention behind the step interface: flat and ragged, with pages of one slot.

Owns: the choice of kernel, FlashInfer's planners and their buffers, and decode steps made for CUDA graphs
(`FixedFlashStep`). Knows nothing of branches, of layers, or of a model's weights.

Row i of a span of n rows sees all of the span's keys but the last n - 1 - i. Nothing is shared between spans: a prefix
that many have is read for each of them. `tree_attention` does that better; these kernels are the ones to compare with.

FlashInfer plans on the host (`plan`, once a step: how keys are cut among processors) and writes its plan to the device
by an asynchronous copy from pinned memory. Invariants:

- Everything on the device (workspaces, indices, plans) is ordered by the one stream on which steps run, so planners
  share it. A step must be run, or replayed, before the next one is planned.
- Pinned memory is not: the copy of an earlier step may still have to read it when the host plans the next. So planners
  come in pairs that take turns, with an event after each copy (`_Turns`): a step waits until the copy of the step
  before the last is done, which it is unless the host is more than one step ahead of the device.
- A captured step has the addresses and grids of its first plan. For a fixed number of decoded spans FlashInfer's plans
  differ only in what they write to the workspace (`use_cuda_graph`), whichever of the pair made them.

Legend: T rows of the step, S spans, Q query heads, H KV heads, D head dim, N slots, U runs, K keys of all spans.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ....lang.errors import OptionError
from ..step.packed import Batch
from .flash_plan import FlashCaps, FlashPlan, Ints32, plan_flash

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16)
CUDA_CORE_GROUPS = (1, 2, 3, 4, 8)
"""Query heads a KV head that FlashInfer's decode kernel without tensor cores is made for."""
TENSOR_CORES_FROM_GROUP = 8
TENSOR_CORES_FROM_SPANS = 32
"""From here on decoding has enough arithmetic for tensor cores (they compute at least 16 rows, needed or not)."""
FA3_FROM_ROWS = 64
"""Mean rows a span from which the Hopper kernel is used: it computes at least 128 rows of each query head, and does not
cut a span's keys among processors, so the older one is better for short spans and for few long contexts."""
INT_WORKSPACE = 8 << 20
FIXED_INT_WORKSPACE = 1 << 18
FIRST_KEYS = 1 << 20
GRAPH_KEYS = 1 << 22
"""Keys of all spans (4 bytes each, once for all captured steps) for which a captured step has room."""


def supported(head_dim: int, dtype: torch.dtype, capability: tuple[int, int]) -> str | None:
    """Why FlashInfer has no kernel for this, or None. `capability`: the GPU's, such as (9, 0)."""
    if capability < (8, 0):
        return f"FlashInfer needs a GPU of compute capability 8.0 or more, this one has {capability[0]}.{capability[1]}"
    if head_dim not in HEAD_DIMS:
        return f"FlashInfer has no kernel for head dim {head_dim}, only for {', '.join(map(str, HEAD_DIMS))}"
    if dtype not in DTYPES:
        return f"FlashInfer has no kernel for {dtype}, only for {' and '.join(map(str, DTYPES))}"
    return None


def work_bytes(query_heads: int, kv_heads: int, head_dim: int, processors: int, graph_rows: int = 0) -> int:
    """Bytes of partial results that FlashInfer may ask for: [query heads, tiles, rows of a tile, head dim + 1] floats.

    A step that is cut has at most two tiles a processor and KV head, of up to 128 rows; a captured one of `graph_rows`
    decoded spans has room for more, of the few rows that a group of query heads needs (`PrefillPlan` in FlashInfer).
    """
    group = query_heads // kv_heads
    cut = 2 * processors // kv_heads
    tile = 16 if group <= 16 else 64 if group <= 64 or head_dim >= 256 else 128
    tiles = max(cut * 128, max(cut, -(-graph_rows * group // tile) + graph_rows) * tile)
    return query_heads * tiles * (head_dim + 1) * 4 + (1 << 20)


def expand(run_end_U: torch.Tensor, run_base_U: torch.Tensor, count: torch.Tensor, out: torch.Tensor) -> None:
    """Write the slots of keys `count` (0, 1, ...) to `out`. Runs of no slots are skipped."""
    run_K = torch.searchsorted(run_end_U, count, right=True, out_int32=True)
    torch.add(run_base_U.index_select(0, run_K), count, out=out)


class _Turns:
    """Two planners that take turns, so that neither overwrites pinned memory which a copy has still to read."""

    def __init__(self, first: Any, second: Any, device: torch.device) -> None:
        self._planners = (first, second)
        self._copied = tuple(torch.cuda.Event() if device.type == "cuda" else None for _ in range(2))
        self._turn = 0
        for copied in self._copied:  # a planner's first plan was made before it came here
            if copied is not None:
                copied.record()

    @contextmanager
    def next(self) -> Iterator[Any]:
        """The planner whose turn it is; it is to be planned with once."""
        self._turn ^= 1
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        yield self._planners[self._turn]
        if copied is not None:
            copied.record()


class _FlashBuffers:
    """The buffers on the device that all steps share. A buffer that grows is replaced: captured steps keep theirs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.work = torch.zeros(0, dtype=torch.uint8, device=device)
        self.ints = torch.zeros(INT_WORKSPACE, dtype=torch.uint8, device=device)
        self.ones = self.indices = self.count = torch.empty(0, dtype=torch.int32, device=device)

    def for_work(self, size: int) -> torch.Tensor:
        if size > len(self.work):
            self.work = torch.zeros(size, dtype=torch.uint8, device=self.device)
        return self.work

    def for_keys(self, keys: int) -> torch.Tensor:
        if keys > len(self.indices):
            keys = max(keys, FIRST_KEYS, 2 * len(self.indices))
            self.indices = torch.zeros(keys, dtype=torch.int32, device=self.device)
            self.count = torch.arange(keys, dtype=torch.int32, device=self.device)
        return self.indices

    def page_lengths(self, spans: int) -> torch.Tensor:
        if spans > len(self.ones):
            self.ones = torch.ones(max(spans, 1024), dtype=torch.int32, device=self.device)
        return self.ones[:spans]

    def expand(self, packed: torch.Tensor, caps: FlashCaps, keys: int, indices: torch.Tensor) -> torch.Tensor:
        """The first `keys` slots of a packed plan, in `indices`."""
        end_U = packed[caps.spans + 1 : caps.spans + 1 + caps.runs]
        base_U = packed[caps.spans + 1 + caps.runs : caps.size]
        expand(end_U, base_U, self.count[:keys], indices[:keys])
        return indices[:keys]


class FlashStep:
    """A planned step: attends in any number of layers, until the next step is planned."""

    def __init__(self, planner: Any) -> None:
        self._planner = planner

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        """Write the outputs of all rows to `out_TQD` (contiguous; queries may be a view with other strides)."""
        self._planner.run(q_TQD, (k_NHD.unsqueeze(1), v_NHD.unsqueeze(1)), out=out_TQD)


class FlashInferAttention:
    """FlashInfer for one model on one device. `captured`: whether `start` may be in a CUDA graph. It may not, since to
    plan is the host's work; `fixed_step` gives a step that can be replayed."""

    captured = False

    def __init__(
        self, query_heads: int, kv_heads: int, head_dim: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        """OptionError if FlashInfer is not installed, or has no kernel for this model or device."""
        self.device = _with_index(torch.device(device))
        self._flashinfer, capability, processors = _load(self.device)
        why_not = supported(head_dim, dtype, capability)
        if why_not is not None:
            raise OptionError(f"attention_backend='flashinfer': {why_not}; use attention_backend='auto'")
        self.query_heads, self.kv_heads, self.head_dim, self.dtype = query_heads, kv_heads, head_dim, dtype
        self._processors = processors
        self._hopper = capability[0] == 9
        self._room = _FlashBuffers(self.device)
        self._room.for_work(work_bytes(query_heads, kv_heads, head_dim, processors))
        self._turns: dict[str, _Turns] = {}

    def plan(self, batch: Batch) -> FlashPlan:
        """The host's part, without the device."""
        return plan_flash(batch.spans, batch.slots)

    def caps(self, rows: int, context_length: int) -> FlashCaps:
        """Capacities that decode steps of up to `rows` rows hardly ever exceed."""
        return FlashCaps(rows, 25 * rows + 512, min(rows * context_length, GRAPH_KEYS), 1)

    def start(self, packed: torch.Tensor, caps: FlashCaps, plan: FlashPlan) -> FlashStep:
        """Plan a step for exactly the rows of `plan`. `packed`: int32 [caps.size] on the device, `plan.pack(caps)`."""
        room, kind = self._room, self.kernel(plan)
        indices_K = room.expand(packed, caps, plan.keys, room.for_keys(plan.keys))
        with self._turns_of(kind).next() as planner:
            if plan.decodes:
                indptr_S = packed[: plan.spans + 1]
                self._plan_decode(planner, indptr_S, plan.kv_indptr, indices_K)
            else:
                planner.plan(
                    torch.from_numpy(plan.qo_indptr),
                    torch.from_numpy(plan.kv_indptr),
                    indices_K,
                    torch.ones(plan.spans, dtype=torch.int32),  # on the host: a device's would be waited for
                    *self._shape,
                    causal=True,
                    q_data_type=self.dtype,
                    kv_data_type=self.dtype,
                    max_token_per_sequence=plan.longest,
                )
        return FlashStep(planner)

    def fixed_step(self, packed: torch.Tensor, caps: FlashCaps) -> FixedFlashStep:
        """A decode step over a `packed` buffer that stays, for a CUDA graph. Make the largest first: it has the largest
        workspace, which then serves all."""
        return FixedFlashStep(self, packed, caps)

    def kernel(self, plan: FlashPlan) -> str:
        """Which kernel runs a step: 'decode' (without tensor cores), 'decode-tensor', 'fa2' or 'fa3'."""
        if not plan.decodes:
            return "fa3" if self._hopper and plan.rows >= FA3_FROM_ROWS * plan.spans else "fa2"
        return "decode-tensor" if self._tensor_cores(plan.spans) else "decode"

    def _tensor_cores(self, spans: int) -> bool:
        group = self.query_heads // self.kv_heads
        return spans >= TENSOR_CORES_FROM_SPANS or group >= TENSOR_CORES_FROM_GROUP or group not in CUDA_CORE_GROUPS

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.query_heads, self.kv_heads, self.head_dim, 1

    def _turns_of(self, kind: str) -> _Turns:
        if kind not in self._turns:
            room = self._room
            planners: list[Any] = []
            for _ in range(2):
                if kind.startswith("decode"):
                    planner = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                        room.work, "NHD", use_tensor_cores=kind == "decode-tensor"
                    )
                else:
                    planner = self._flashinfer.BatchPrefillWithPagedKVCacheWrapper(room.work, "NHD", backend=kind)
                planner.reset_workspace_buffer(room.work, room.ints)
                if kind.startswith("decode"):
                    self._prime(planner, 1)
                planners.append(planner)
            self._turns[kind] = _Turns(planners[0], planners[1], self.device)
        return self._turns[kind]

    def _fixed_planners(self, step: FixedFlashStep) -> tuple[Any, Any]:
        room = self._room
        work = room.for_work(
            work_bytes(self.query_heads, self.kv_heads, self.head_dim, self._processors, graph_rows=step.caps.spans)
        )
        # Its own, so that it may be captured at any time: a plan of another size would be out of its bounds.
        ints = torch.zeros(FIXED_INT_WORKSPACE, dtype=torch.uint8, device=self.device)
        planners: list[Any] = []
        for _ in range(2):
            planner = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                work,
                "NHD",
                use_cuda_graph=True,
                use_tensor_cores=self._tensor_cores(step.caps.spans),
                paged_kv_indptr_buffer=step.indptr_S,
                paged_kv_indices_buffer=step.indices_K,
                paged_kv_last_page_len_buffer=room.page_lengths(step.caps.spans),
            )
            planner.reset_workspace_buffer(work, ints)
            self._prime(planner, step.caps.spans)
            planners.append(planner)
        return planners[0], planners[1]

    def _prime(self, planner: Any, spans: int) -> None:
        """The first plan of a decode planner, which loads its kernels: every span has the key of slot 0."""
        planner.plan(
            torch.arange(spans + 1, dtype=torch.int32),
            torch.zeros(spans, dtype=torch.int32, device=self.device),
            self._room.page_lengths(spans),
            *self._shape,
            q_data_type=self.dtype,
            kv_data_type=self.dtype,
        )

    def _plan_decode(self, planner: Any, indptr_S: torch.Tensor, host_indptr: Ints32, indices_K: torch.Tensor) -> None:
        """FlashInfer's quicker way to plan: it takes what is on the device as it is, and the host's copy beside it."""
        self._flashinfer.fast_decode_plan(
            planner,
            indptr_S,
            indices_K,
            self._room.page_lengths(len(host_indptr) - 1),
            *self._shape,
            q_data_type=self.dtype,
            kv_data_type=self.dtype,
            global_override_indptr_cpu=torch.from_numpy(host_indptr),
        )


class FixedFlashStep:
    """A decode step of up to `caps.spans` spans for one CUDA graph. Capture `attend` in every layer; before each replay
    send a packed plan to the buffer, then `load` it. Until then every span has one key, slot 0."""

    def __init__(self, attention: FlashInferAttention, packed: torch.Tensor, caps: FlashCaps) -> None:
        self.caps = caps
        self.packed = packed[: caps.size]
        self.indptr_S = packed[: caps.spans + 1]
        self.indices_K = attention._room.for_keys(GRAPH_KEYS)
        self._attention = attention
        planners = attention._fixed_planners(self)
        self._turns = _Turns(*planners, attention.device)
        self._step = FlashStep(planners[0])

    def load(self, plan: FlashPlan) -> None:
        """Make the next replay carry out `plan`, whose `pack(caps)` was sent to the buffer on the current stream, which
        must be the one that replays. Rows that the plan does not have attend to slot 0."""
        attention, caps = self._attention, self.caps
        keys = plan.keys + caps.spans - plan.spans
        attention._room.expand(self.packed, caps, keys, self.indices_K)
        with self._turns.next() as planner:
            attention._plan_decode(planner, self.indptr_S, plan.padded_indptr(caps.spans), self.indices_K)

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        """As `FlashStep.attend`, for `caps.spans` rows. The same addresses whichever planner made the plan."""
        self._step.attend(q_TQD, k_NHD, v_NHD, out_TQD)


def _load(device: torch.device) -> tuple[Any, tuple[int, int], int]:
    """FlashInfer; the device's compute capability; how many processors it has."""
    if device.type != "cuda" or not torch.cuda.is_available():
        raise OptionError("attention_backend='flashinfer' needs an NVIDIA GPU; use attention_backend='auto'")
    try:
        flashinfer = importlib.import_module("flashinfer")
    except ImportError as error:
        raise OptionError(
            f"attention_backend='flashinfer' needs flashinfer-python: pip install 'sgl[gpu]' ({error})"
        ) from error
    properties = torch.cuda.get_device_properties(device)
    return flashinfer, (properties.major, properties.minor), properties.multi_processor_count


def _with_index(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device
