"""FlashInfer's attention behind the interface of steps: flat and ragged, with pages of one slot.

Owns: the choice of FlashInfer's kernel, its wrappers and their buffers, and decode steps for CUDA graphs. Knows nothing
of branches, of layers, or of a model's weights. A prefix that spans share is read for each span; `tree_attention` reads
it once, so these kernels are the ones to compare with.

Invariants: 1. row i of a span of n rows sees all keys of its span but the last n - 1 - i; 2. all wrappers share their
buffers on the device, so a step must be launched before the next one is planned; 3. a wrapper plans again only after
the asynchronous copy of its last plan (`_Planner`); 4. a captured step keeps the addresses and grids of its first plan.

Legend: T rows of the step, S spans, Q query heads, H KV heads, D head dim, N slots, U runs, K keys of all spans.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ....lang.errors import OptionError
from ..device import numbered
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
"""Mean rows a span from which the Hopper kernel is used. It computes at least 128 rows of each query head, and does not
cut a span's keys among processors. So the older kernel is better for short spans and for few long contexts."""
INT_WORKSPACE_BYTES = 8 << 20
FIXED_INT_WORKSPACE_BYTES = 1 << 18
FIRST_KEYS = 1 << 20
"""Room of the first index buffer; a larger step doubles it."""
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

    A step that is cut has at most two tiles a processor and KV head, of up to 128 rows. A captured step of `graph_rows`
    decoded spans has more tiles, each of the few rows that a group of query heads needs (FlashInfer's `PrefillPlan`).
    """
    group = query_heads // kv_heads
    cut = 2 * processors // kv_heads
    tile = 16 if group <= 16 else 64 if group <= 64 or head_dim >= 256 else 128
    tiles = max(cut * 128, max(cut, -(-graph_rows * group // tile) + graph_rows) * tile)
    return query_heads * tiles * (head_dim + 1) * 4 + (1 << 20)


def expand(run_end_U: torch.Tensor, run_base_U: torch.Tensor, count_K: torch.Tensor, out_K: torch.Tensor) -> None:
    """Write the slots of keys `count_K` (0, 1, ...) to `out_K`. Runs of no slots are skipped."""
    run_K = torch.searchsorted(run_end_U, count_K, right=True, out_int32=True)
    torch.add(run_base_U.index_select(0, run_K), count_K, out=out_K)


class _Planner:
    """A wrapper of FlashInfer, which copies each plan from pinned memory: the next plan must wait for that copy.

    The copy lies before its step's kernels. So it is over, unless the host is more than one step ahead of the device.
    """

    def __init__(self, wrapper: Any, device: torch.device) -> None:
        self.wrapper = wrapper
        self._copied: Any = torch.cuda.Event() if device.type == "cuda" else None

    @contextmanager
    def ready(self) -> Iterator[Any]:
        """The wrapper, to be planned with once."""
        if self._copied is not None:
            self._copied.synchronize()
        yield self.wrapper
        if self._copied is not None:
            self._copied.record()


class _FlashBuffers:
    """The buffers on the device that all steps share. A buffer that grows is replaced: captured steps keep theirs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.work = torch.zeros(0, dtype=torch.uint8, device=device)
        self.ints = torch.zeros(INT_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
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

    def expand(self, packed: torch.Tensor, caps: FlashCaps, keys: int, indices_K: torch.Tensor) -> torch.Tensor:
        """The first `keys` slots of a packed plan, in `indices_K`."""
        end_U = packed[caps.spans + 1 : caps.spans + 1 + caps.runs]
        base_U = packed[caps.spans + 1 + caps.runs : caps.size]
        expand(end_U, base_U, self.count[:keys], indices_K[:keys])
        return indices_K[:keys]


class FlashStep:
    """A planned step: attends in any number of layers, until the next step is planned."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        """Write the outputs of all rows to `out_TQD` (contiguous; queries may be a view with other strides)."""
        self._wrapper.run(q_TQD, (k_NHD.unsqueeze(1), v_NHD.unsqueeze(1)), out=out_TQD)


class FlashInferAttention:
    """FlashInfer for one model on one device."""

    captured = False
    """`start` may not be in a CUDA graph, since the host plans; `fixed_step` makes a step that can be replayed."""

    def __init__(
        self, query_heads: int, kv_heads: int, head_dim: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        """Raises `OptionError` if FlashInfer is not installed, or has no kernel for this model or device."""
        self.device = numbered(torch.device(device))
        self._flashinfer, capability, self._processors = _load(self.device)
        why_not = supported(head_dim, dtype, capability)
        if why_not is not None:
            raise OptionError(f"attention_backend='flashinfer': {why_not}; use attention_backend='auto'")
        self.query_heads, self.kv_heads, self.head_dim, self.dtype = query_heads, kv_heads, head_dim, dtype
        self._shape = query_heads, kv_heads, head_dim, 1
        self._types = {"q_data_type": dtype, "kv_data_type": dtype}
        self._hopper = capability[0] == 9
        self.buffers = _FlashBuffers(self.device)
        self.buffers.for_work(work_bytes(query_heads, kv_heads, head_dim, self._processors))
        self._planners: dict[str, _Planner] = {}

    def plan(self, batch: Batch) -> FlashPlan:
        """Lay a step out (host only)."""
        return plan_flash(batch.spans, batch.slots)

    def caps(self, rows: int, context_length: int) -> FlashCaps:
        """Capacities that decode steps of up to `rows` rows hardly ever exceed."""
        return FlashCaps(rows, 25 * rows + 512, min(rows * context_length, GRAPH_KEYS), 1)

    def start(self, packed: torch.Tensor, caps: FlashCaps, plan: FlashPlan) -> FlashStep:
        """Plan a step for exactly the rows of `plan`. `packed`: int32 [caps.size] on the device, `plan.pack(caps)`."""
        indices_K = self.buffers.expand(packed, caps, plan.keys, self.buffers.for_keys(plan.keys))
        with self._planner(self.kernel(plan)).ready() as wrapper:
            if plan.decodes:
                self.plan_decode(wrapper, packed[: plan.spans + 1], plan.kv_indptr, indices_K)
            else:
                wrapper.plan(
                    torch.from_numpy(plan.qo_indptr),
                    torch.from_numpy(plan.kv_indptr),
                    indices_K,
                    torch.ones(plan.spans, dtype=torch.int32),  # on the host: FlashInfer would wait for the device's
                    *self._shape,
                    causal=True,
                    max_token_per_sequence=plan.longest,
                    **self._types,
                )
        return FlashStep(wrapper)

    def fixed_step(self, packed: torch.Tensor, caps: FlashCaps) -> FixedFlashStep:
        """A decode step over a `packed` buffer that stays, for a CUDA graph. Make the largest first: it has the largest
        workspace, which then serves all."""
        return FixedFlashStep(self, packed, caps)

    def kernel(self, plan: FlashPlan) -> str:
        """Which kernel runs a step: 'decode' (without tensor cores), 'decode-tensor', 'fa2' or 'fa3'."""
        if not plan.decodes:
            return "fa3" if self._hopper and plan.rows >= FA3_FROM_ROWS * plan.spans else "fa2"
        return "decode-tensor" if self._tensor_cores(plan.spans) else "decode"

    def plan_decode(self, wrapper: Any, indptr_S: torch.Tensor, host_indptr: Ints32, indices_K: torch.Tensor) -> None:
        """Plan by FlashInfer's quicker way: it takes what is on the device as it is, and the host's copy beside it."""
        self._flashinfer.fast_decode_plan(
            wrapper,
            indptr_S,
            indices_K,
            self.buffers.page_lengths(len(host_indptr) - 1),
            *self._shape,
            global_override_indptr_cpu=torch.from_numpy(host_indptr),
            **self._types,
        )

    def fixed_planner(self, spans: int, indptr_S: torch.Tensor, indices_K: torch.Tensor) -> _Planner:
        """The planner of a captured decode step of `spans` spans, over these buffers."""
        graph = work_bytes(self.query_heads, self.kv_heads, self.head_dim, self._processors, graph_rows=spans)
        work = self.buffers.for_work(graph)
        wrapper = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            work,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=self._tensor_cores(spans),
            paged_kv_indptr_buffer=indptr_S,
            paged_kv_indices_buffer=indices_K,
            paged_kv_last_page_len_buffer=self.buffers.page_lengths(spans),
        )
        # Ints of its own, so that it may be captured at any time: a plan of another size would be out of its bounds.
        ints = torch.zeros(FIXED_INT_WORKSPACE_BYTES, dtype=torch.uint8, device=self.device)
        wrapper.reset_workspace_buffer(work, ints)
        return self._primed(wrapper, spans)

    def _planner(self, kind: str) -> _Planner:
        if kind not in self._planners:
            work = self.buffers.work
            if kind.startswith("decode"):
                wrapper = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                    work, "NHD", use_tensor_cores=kind == "decode-tensor"
                )
            else:
                wrapper = self._flashinfer.BatchPrefillWithPagedKVCacheWrapper(work, "NHD", backend=kind)
            wrapper.reset_workspace_buffer(work, self.buffers.ints)
            decodes = kind.startswith("decode")
            self._planners[kind] = self._primed(wrapper, 1) if decodes else _Planner(wrapper, self.device)
        return self._planners[kind]

    def _primed(self, wrapper: Any, spans: int) -> _Planner:
        """A decode planner after its first plan, which loads its kernels: every span has the key of slot 0."""
        planner = _Planner(wrapper, self.device)
        with planner.ready():
            wrapper.plan(
                torch.arange(spans + 1, dtype=torch.int32),
                torch.zeros(spans, dtype=torch.int32, device=self.device),
                self.buffers.page_lengths(spans),
                *self._shape,
                **self._types,
            )
        return planner

    def _tensor_cores(self, spans: int) -> bool:
        group = self.query_heads // self.kv_heads
        return spans >= TENSOR_CORES_FROM_SPANS or group >= TENSOR_CORES_FROM_GROUP or group not in CUDA_CORE_GROUPS


class FixedFlashStep:
    """A decode step of up to `caps.spans` spans for one CUDA graph. Capture `attend` in every layer; before each replay
    send a packed plan to the buffer, then `load` it. Until then every span has one key, slot 0."""

    def __init__(self, attention: FlashInferAttention, packed: torch.Tensor, caps: FlashCaps) -> None:
        self.caps = caps
        self.packed = packed[: caps.size]
        self.indptr_S = packed[: caps.spans + 1]
        self.indices_K = attention.buffers.for_keys(GRAPH_KEYS)
        self._attention = attention
        self._planner = attention.fixed_planner(caps.spans, self.indptr_S, self.indices_K)

    def load(self, plan: FlashPlan) -> None:
        """Make the next replay carry out `plan`, whose `pack(caps)` was sent to the buffer on the current stream, which
        must be the one that replays. Rows that the plan does not have attend to slot 0."""
        caps = self.caps
        keys = plan.keys + caps.spans - plan.spans
        self._attention.buffers.expand(self.packed, caps, keys, self.indices_K)
        with self._planner.ready() as wrapper:
            self._attention.plan_decode(wrapper, self.indptr_S, plan.padded_indptr(caps.spans), self.indices_K)

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        FlashStep(self._planner.wrapper).attend(q_TQD, k_NHD, v_NHD, out_TQD)


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
