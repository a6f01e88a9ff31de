"""`QuantisedLlama`: the Llama family on a CPU, its weights in blocks of 4 or 8 bits.

Owns: the packed weights, the KV and the engine of the compiled kernels; one call of theirs is one step. Knows nothing
of files, or of how weights became blocks.

Activations are quantised row by row, in blocks of 32, to 16 bits. A row's result has the same bits
whatever rows are beside it, in however many chunks its text came, and whatever is shared.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .....lang.errors import OutOfMemory
from ...step.packed import Batch
from ..llama.rope import rope_tables
from ..load.config import ModelConfig
from . import native
from .native import BatchView, LayerView, MatrixView, ModelView
from .packed import BLOCK, KIND_NAMES
from .packed_weights import ALIGNMENT_BYTES, PackedWeights

MOST_HEAD_DIM = 256
HEAD_STEP = 32
"""Head sizes are multiples of it: a half head is whole vectors, and a head is whole blocks."""


def obstacle(config: ModelConfig) -> str | None:
    """Why the kernels cannot compute a model of these sizes; None if they can."""
    inner = config.num_heads * config.head_dim
    for what, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        if size % BLOCK:
            return f"{what} {size} is not a multiple of {BLOCK}"
    if config.head_dim % HEAD_STEP or config.head_dim > MOST_HEAD_DIM:
        return f"head_dim {config.head_dim} is not a multiple of {HEAD_STEP} up to {MOST_HEAD_DIM}"
    if inner % BLOCK:
        return f"the heads' size {inner} is not a multiple of {BLOCK}"
    return "it has experts" if config.num_experts else None


class QuantisedLlama:
    """A model of the family; implements `step.packed.Model`.

    Args:
        config: The model's sizes, of which `obstacle` has nothing to say.
        weights: Its packed weights.
        threads: How many threads compute.

    Raises:
        MissingLibrary: The kernels were not built.
    """

    one_call = True  # other threads run meanwhile

    def __init__(self, config: ModelConfig, weights: PackedWeights, threads: int | None = None) -> None:
        self.config = config
        self.vocab_size = config.vocab_size
        self.context_length = config.context_length
        self.kv_bytes_per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
        self.quantization = weights.name
        self._weights = in_large_pages(weights)
        self._library = native.library()
        self._level = native.level()
        self._threads = native.threads() if threads is None else threads
        self._kept: list[Any] = []  # what the kernels point to
        self._engine: int | None = None
        self._batch = BatchView()
        self._depths = np.empty(0, np.int32)
        self.features: npt.NDArray[np.float32] | None = None

    def capture_layers(self, layers: Sequence[int]) -> None:
        """Keep the residual stream after so many layers (not after all) of each forward, side by side in `features`."""
        self._depths = np.array(layers, np.int32)

    def embed(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The embeddings of some tokens [T, E]."""
        matrix, rows_TE = self._matrix("embedding"), np.empty((len(tokens), self.config.hidden_size), np.float32)
        for token, row_E in zip(tokens.tolist(), rows_TE):
            self._library.sgl_matrix_row(ctypes.byref(matrix), token, row_E.ctypes.data, self._level)
        return rows_TE

    def allocate(self, slots: int) -> None:
        """Make KV of `slots` slots, RoPE tables for every position that fits in them, and the engine."""
        config = self.config
        # Zeros, left to the operating system: memory that is not written costs nothing.
        kv = [np.zeros((2 * config.num_kv_heads, slots, config.head_dim), np.float32) for _ in range(config.num_layers)]
        tables = rope_tables(config, min(slots, self.context_length), self._weights.rope_divisors)
        cos_PD, sin_PD = (np.ascontiguousarray(table) for table in tables)
        layers = (LayerView * config.num_layers)()
        for i, (layer, kv_JND) in enumerate(zip(layers, kv)):
            prefix = f"layers.{i}."
            for field in ("norm_attention", "norm_feed", "norm_query", "norm_key"):
                setattr(layer, field, self._floats(prefix + field))
            for field in ("qkv", "out", "gate", "up", "down"):
                setattr(layer, field, self._matrix(prefix + field))
            layer.kv = kv_JND.ctypes.data
        view = ModelView(
            config.num_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.vocab_size,
            self._level,
            config.rms_norm_eps,
            self._threads,
            slots,
            self._floats("norm"),
            cos_PD.ctypes.data,
            sin_PD.ctypes.data,
            self._matrix("embedding"),
            self._matrix("head"),
            layers,
        )
        self._kept = [kv, cos_PD, sin_PD, layers, view]
        engine = self._library.sgl_engine(ctypes.byref(view))
        if not engine:
            raise OutOfMemory("no memory for the engine of the CPU kernels")
        self._engine = engine
        freed = weakref.finalize(self, self._library.sgl_engine_free, engine)
        freed.atexit = False  # at the end of the process a step may still run in another thread

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """One step; float32 logits [W, V]."""
        logits_WV = np.empty((len(batch.want), self.vocab_size), dtype=np.float32)
        if not len(batch.tokens):
            return logits_WV
        runs: list[tuple[int, int]] = []
        numbers: list[int] = []
        for first_row, rows, context, context_length in batch.spans:
            numbers += first_row, rows, context_length, len(runs), len(context)
            runs += context
        spans, flat = np.array(numbers, dtype=np.int64), np.array(runs, dtype=np.int64)
        arrays = [np.ascontiguousarray(array) for array in (batch.tokens, batch.positions, batch.slots)]
        want = np.ascontiguousarray(batch.want)
        view = self._batch
        view.rows, view.spans, view.wanted = len(batch.tokens), len(batch.spans), len(want)
        view.tokens, view.positions, view.slots = (array.ctypes.data for array in arrays)
        view.span, view.runs, view.want = spans.ctypes.data, flat.ctypes.data, want.ctypes.data
        view.logits = logits_WV.ctypes.data
        view.depths, view.depth = len(self._depths), self._depths.ctypes.data
        if len(self._depths):
            self.features = np.empty((len(batch.tokens), len(self._depths) * self.config.hidden_size), np.float32)
            view.features = self.features.ctypes.data
        if self._library.sgl_forward(self._engine, ctypes.byref(view)):
            raise OutOfMemory(f"no memory for a step of {len(batch.tokens)} rows; use a smaller chunked_prefill_size")
        return logits_WV

    def _floats(self, name: str) -> int | None:
        array = self._weights.arrays.get(name)
        return None if array is None else array.ctypes.data

    def _matrix(self, name: str) -> MatrixView:
        outputs, depth, kind = self._weights.matrices[name]
        return MatrixView(self._weights.arrays[name].ctypes.data, self._floats(name + ".bias"), kind, outputs, depth, 0)


def in_large_pages(weights: PackedWeights) -> PackedWeights:
    """A copy in memory of its own.

    Weights of a mapped file lie in pages of 4 KB. numpy asks the system for large pages for a large array, which a core
    reads faster. The file's pages can be given back meanwhile.
    """
    places: dict[tuple[int, int], int] = {}
    total = 0
    for array in weights.arrays.values():
        place = (array.ctypes.data, array.nbytes)
        if place not in places:  # a tied head is the embedding
            places[place] = total
            total += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    try:
        memory = np.empty(total + ALIGNMENT_BYTES, dtype=np.uint8)
    except MemoryError:
        return weights
    memory = memory[-memory.ctypes.data % ALIGNMENT_BYTES :]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, array in weights.arrays.items():
        at = places[array.ctypes.data, array.nbytes]
        arrays[name] = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        arrays[name][...] = array
    return replace(weights, arrays=arrays)


def kinds_of(matrices: Mapping[str, tuple[int, int, int]]) -> str:
    """The formats of some matrices, for a log line."""
    return ", ".join(sorted({KIND_NAMES[kind] for _, _, kind in matrices.values()}))
