"""`NativeChain`: a whole chain of a packed head as one call of the compiled kernels.

Owns: what the kernels are given (`model/cpu/native/chain.h` has the same structures). Knows nothing of branches. What
is computed is `lean.py`'s, which stays where a head does not fit; products, norms and attention are those of a
quantised model. The embeddings of the tokens that can be drafted are packed in 8 bits, like the weights.

Legend: N new positions, E hidden size, H KV heads, D head dim, C capacity, M draft vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .....lang.errors import OutOfMemory
from ...model.cpu import native
from ...model.cpu.packed import BLOCK
from ...model.cpu.quantised_llama import HEAD_STEP, MOST_HEAD_DIM
from .head import Eagle3Head
from .packed_head import PackedLinear, is_packed

Floats = npt.NDArray[np.float32]


class NativeChain:
    """A packed head (`fits`).

    Args:
        head: the head.
        embedded_ME: the embeddings of the tokens that it can draft.
        cos_PD, sin_PD: RoPE tables.
    """

    def __init__(self, head: Eagle3Head, embedded_ME: torch.Tensor, cos_PD: Floats, sin_PD: Floats) -> None:
        config = head.config
        layer: Any = head.midlayer
        shape, attention, mlp = config.shape, layer.self_attn, layer.mlp
        parts: tuple[Any, ...] = (
            *(PackedLinear(head.fc.weight), attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
            *(mlp.gate_proj, mlp.up_proj, mlp.down_proj, head.lm_head, PackedLinear(embedded_ME)),
        )
        norms = [layer.hidden_norm, layer.input_layernorm, layer.post_attention_layernorm, head.norm]
        floats = [norm.weight.detach().numpy() for norm in norms]
        fuse_norms: Any = head.fc_norm if config.fc_norm else ()
        fuse = np.concatenate([norm.weight.detach().numpy() for norm in fuse_norms]) if config.fc_norm else None
        tables = [np.ascontiguousarray(table) for table in (cos_PD, sin_PD)]
        view = native.HeadView(
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            config.draft_vocab_size,
            native.level(),
            native.threads(),
            shape.rms_norm_eps,
            config.norm_output,
            config.norm_before_residual,
            0,
            None if fuse is None else fuse.ctypes.data,
            *(array.ctypes.data for array in (*floats, *tables)),
            *(part.view for part in parts),
        )
        self._library = native.library()
        self._kept = [head, parts, floats, fuse, tables, view]  # what the kernels point to
        chain = self._library.sgl_chain(ctypes.byref(view))
        if not chain:
            raise OutOfMemory("no memory for the chain of a draft head")
        self._chain = chain
        freed = weakref.finalize(self, self._library.sgl_chain_free, chain)
        freed.atexit = False

    def draft(
        self,
        features_NF: Floats,
        embedded_NE: Floats,
        positions: Sequence[int],
        kv_2HCD: Floats,
        length: int,
        drafts: int,
        least: float,
    ) -> tuple[list[int], list[float]]:
        """Draft tokens, by their numbers in the draft vocabulary; and their probabilities.

        `positions`: the new ones, then those of the chain. `kv_2HCD` has `length` entries, and room for the new ones
        and `drafts`, into which they are written.
        """
        rows, ids, chances = len(features_NF), np.empty(drafts, np.int32), np.empty(drafts, np.float32)
        features, embedded = (np.ascontiguousarray(each, np.float32) for each in (features_NF, embedded_NE))
        at = np.array(positions, np.int64)
        wanted = native.DraftsView(
            rows,
            features.ctypes.data,
            embedded.ctypes.data,
            at.ctypes.data,
            kv_2HCD.ctypes.data,
            kv_2HCD.shape[2],
            length,
            drafts,
            least,
            0,
            ids.ctypes.data,
            chances.ctypes.data,
        )
        count = self._library.sgl_draft(self._chain, ctypes.byref(wanted))
        if count < 0:
            raise OutOfMemory(f"no memory for {drafts} drafts of a head behind {rows} positions")
        return ids[:count].tolist(), chances[:count].tolist()


def fits(head: Eagle3Head) -> bool:
    """Whether the kernels compute whole chains of this head: it is packed, and so can be the rest of it."""
    dim = head.config.shape.head_dim
    return is_packed(head) and not (head.fc.in_features % BLOCK or dim % HEAD_STEP) and dim <= MOST_HEAD_DIM
