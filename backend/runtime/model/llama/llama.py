"""`Llama`: the Llama family (Llama, Mistral, Qwen2, Qwen3) over ragged batches, for the CPU and its small steps.

Owns: the weights in the layout they are computed in, and the KV tensors. Knows nothing of files, of tokens' meaning, or
of branches (a `Batch` says which slots a row attends to).

The layout is made once, when the model is built. q, k and v are one matrix, gate and up another. Query heads are stored
(group, KV head), and the output projection's columns match. K and V of a slot lie side by side, as do q|k|v of a row:
one write stores both. After the last layer's KV write only wanted rows go on.

Legend: T rows, W wanted rows, E hidden size, Q query heads = G groups * H KV heads, D head dim, J = 2H, A = Q + H
(heads that are rotated), C = (Q + 2H) D, I intermediate size, V vocabulary, N slots, P positions, F = D / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ...attention.plan import plan_attention
from ...attention.torch_attention import StepAttention, zeros
from ...device import reserve_bytes
from ...step.packed import Batch
from ..load.config import ModelConfig
from ..load.weights import Weights
from .linear import Linear
from .rope import rope_tables

if TYPE_CHECKING:
    from ..load.loader import Checkpoint


class Llama:
    """A model of the family; implements `step.packed.Model`. It keeps nothing of `checkpoint`.

    Raises `ModelLoadError` when a tensor is missing or has another shape than the config says.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        config = checkpoint.config
        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype
        self.vocab_size = config.vocab_size
        self.context_length = config.context_length
        config.warn_of_window(checkpoint.name)
        element = torch.empty(0, dtype=dtype).element_size()
        self.device_type = self.device.type
        self.kv_bytes_per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * element
        with checkpoint.weights(self.device, dtype) as take:
            self._embed_VE = take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
            self._layers = [_LlamaLayer(take, config, i) for i in range(config.num_layers)]
            self._norm_E = take("model.norm.weight", config.hidden_size)
            tied = config.tie_word_embeddings
            head_VE = self._embed_VE if tied else take("lm_head.weight", config.vocab_size, config.hidden_size)
        self._head = Linear(head_VE)
        divisors_F = checkpoint.tensors.get("rope_freqs.weight")
        self._rope_divisors_F = None if divisors_F is None else divisors_F.float().numpy()
        self._kv_NJD: list[torch.Tensor] = []
        self._captured: tuple[int, ...] = ()
        self.features: npt.NDArray[np.float32] | None = None

    def capture_layers(self, layers: Sequence[int]) -> None:
        """Keep the residual stream after so many layers (not after all) of each forward, side by side in `features`."""
        self._captured = tuple(layers)

    def embed(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The embeddings of some tokens [T, E]."""
        return F.embedding(self._tensor(tokens), self._embed_VE).float().cpu().numpy()

    def allocate(self, slots: int) -> None:
        """Make KV tensors of `slots` slots, and RoPE tables for every position that fits in them."""
        config = self.config
        shape = (slots, 2 * config.num_kv_heads, config.head_dim)
        # Zeros, not empty: padding keys are masked, but a NaN in their V would survive a weight of zero.
        self._kv_NJD = [zeros(shape, self.dtype, self.device) for _ in self._layers]
        tables = rope_tables(config, min(slots, self.context_length), self._rope_divisors_F)
        self._cos_PD, self._sin_PD = (torch.from_numpy(table).to(self.device, self.dtype) for table in tables)

    def step_bytes(self, rows: int) -> int:
        """Bytes a step of `rows` rows needs beside weights and KV; an upper estimate."""
        return reserve_bytes(self.config, self.dtype, rows, min(rows, 512))

    @torch.inference_mode()
    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """One step; float32 logits [W, V] on the host."""
        wanted = len(batch.want)
        if not len(batch.tokens):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        plan = plan_attention(batch.spans, batch.slots)
        groups = self.config.num_heads // self.config.num_kv_heads
        attention = StepAttention(plan, batch.slots, groups, device=self.device, dtype=self.dtype)
        positions_T = self._tensor(batch.positions)
        cos_T1D, sin_T1D = self._cos_PD[positions_T][:, None], self._sin_PD[positions_T][:, None]
        x_TE = F.embedding(self._tensor(batch.tokens), self._embed_VE)
        kept: dict[int, torch.Tensor] = {}
        for number, (layer, kv_NJD) in enumerate(zip(self._layers[:-1], self._kv_NJD)):
            if number in self._captured:
                kept[number] = x_TE
            x_TE = x_TE + layer.attend(x_TE, cos_T1D, sin_T1D, kv_NJD, attention, None)
            x_TE = x_TE + layer.feed_forward(x_TE)
        if self._captured:
            kept[len(self._layers) - 1] = x_TE
            self.features = torch.cat([kept[number] for number in self._captured], -1).float().cpu().numpy()
        want_W = None if _is_every_row(batch.want, len(batch.tokens)) else self._tensor(batch.want)
        mixed_WE = self._layers[-1].attend(x_TE, cos_T1D, sin_T1D, self._kv_NJD[-1], attention, want_W)
        if not wanted:
            return np.empty((0, self.vocab_size), dtype=np.float32)
        x_WE = (x_TE if want_W is None else x_TE[want_W]) + mixed_WE
        x_WE = x_WE + self._layers[-1].feed_forward(x_WE)
        logits_WV = self._head(F.rms_norm(x_WE, self._norm_E.shape, self._norm_E, self.config.rms_norm_eps))
        return logits_WV.float().cpu().numpy()

    def _tensor(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


class _LlamaLayer:
    """One block: attention and feed-forward, each with its norm. The caller adds the residual."""

    def __init__(self, take: Weights, config: ModelConfig, index: int) -> None:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."
        self._heads = _Heads(config.num_heads, config.num_kv_heads, config.head_dim)
        self._eps = config.rms_norm_eps
        self._norm_attn_E = take(prefix + "input_layernorm.weight", config.hidden_size)
        self._norm_ffn_E = take(prefix + "post_attention_layernorm.weight", config.hidden_size)
        self._qkv = self._make_qkv(take, attention, config)
        self._norm_AD = self._make_qk_norm(take, attention, config) if config.qk_norm else None
        width = config.num_heads * config.head_dim
        o_EQD = take(attention + "o_proj.weight", config.hidden_size, width)
        o_bias = take.optional(attention + "o_proj.bias", config.hidden_size)
        self._o = Linear(self._heads.group_first(o_EQD.t()).t().contiguous(), o_bias)
        wide = config.intermediate_size
        self._gate_up = Linear(
            torch.cat([take(f"{prefix}mlp.{p}_proj.weight", wide, config.hidden_size) for p in ("gate", "up")])
        )
        self._wide = wide
        self._down = Linear(take(prefix + "mlp.down_proj.weight", config.hidden_size, wide))

    def _make_qkv(self, take: Weights, prefix: str, config: ModelConfig) -> Linear:
        sizes = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
        widths = {p: heads * config.head_dim for p, heads in sizes.items()}
        weight = {p: take(f"{prefix}{p}_proj.weight", n, config.hidden_size) for p, n in widths.items()}
        weight["q"] = self._heads.group_first(weight["q"])
        if not config.attention_bias:
            return Linear(torch.cat(list(weight.values())))
        bias = {p: take(f"{prefix}{p}_proj.bias", n) for p, n in widths.items()}
        bias["q"] = self._heads.group_first(bias["q"])
        return Linear(torch.cat(list(weight.values())), torch.cat(list(bias.values())))

    def _make_qk_norm(self, take: Weights, prefix: str, config: ModelConfig) -> torch.Tensor:
        q_D, k_D = (take(f"{prefix}{p}_norm.weight", config.head_dim) for p in ("q", "k"))
        return torch.cat((q_D.expand(config.num_heads, -1), k_D.expand(config.num_kv_heads, -1)))

    def attend(
        self,
        x_TE: torch.Tensor,
        cos_T1D: torch.Tensor,
        sin_T1D: torch.Tensor,
        kv_NJD: torch.Tensor,
        attention: StepAttention,
        want_W: torch.Tensor | None,
    ) -> torch.Tensor:
        """Write K and V of all rows; the attention output of all rows [T, E], or of the wanted ones [W, E]."""
        heads = self._heads
        h_TE = F.rms_norm(x_TE, self._norm_attn_E.shape, self._norm_attn_E, self._eps)
        qkv_THD = self._qkv(h_TE).view(x_TE.shape[0], -1, heads.dim)
        qk_TAD = qkv_THD[:, : heads.query + heads.kv]
        rotated_TAD = qk_TAD
        if self._norm_AD is not None:
            rotated_TAD = F.rms_norm(qk_TAD, (heads.dim,), None, self._eps) * self._norm_AD
        # In place, so that k lies beside v again and both are stored by one write.
        swapped_TAD = rotated_TAD.roll(heads.dim // 2, -1)
        torch.addcmul(rotated_TAD * cos_T1D, swapped_TAD, sin_T1D, out=qk_TAD)
        attention.write(kv_NJD, qkv_THD[:, heads.query :])
        if want_W is not None and not len(want_W):
            return x_TE[:0]
        mixed_TQ = attention.attend(qkv_THD[:, : heads.query].contiguous(), kv_NJD)
        return self._o(mixed_TQ if want_W is None else mixed_TQ[want_W])

    def feed_forward(self, x_TE: torch.Tensor) -> torch.Tensor:
        h_TE = F.rms_norm(x_TE, self._norm_ffn_E.shape, self._norm_ffn_E, self._eps)
        both_TI2 = self._gate_up(h_TE)
        return self._down(F.silu(both_TI2[:, : self._wide]).mul_(both_TI2[:, self._wide :]))


@dataclass(frozen=True, slots=True)
class _Heads:
    query: int
    kv: int
    dim: int

    def group_first(self, rows: torch.Tensor) -> torch.Tensor:
        """Reorder rows [Q*D, ...] from (KV head, group) to (group, KV head)."""
        split = rows.reshape(self.kv, self.query // self.kv, self.dim, *rows.shape[1:])
        return split.transpose(0, 1).reshape(rows.shape)


def _is_every_row(want: npt.NDArray[np.int64], rows: int) -> bool:
    return len(want) == rows and bool((want == np.arange(rows)).all())
