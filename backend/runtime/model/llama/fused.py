"""`FusedLlama`: the Llama family (Llama, Mistral, Qwen2, Qwen3) on a GPU, in few launches a layer.

Owns: the weights in the layout they are computed in, the KV tensors, and the order of a layer's kernels. Knows nothing
of files, of branches, of which slots a row attends to, or of how steps are captured.

A layer is five launches around the attention: norm and q|k|v; RoPE with the KV write; the output projection, added to
the residual stream; norm, gate|up and SiLU; the down projection, added likewise. (A norm or SiLU is a launch of its own
where the product's kernel lacks it: `matmul.py`.) After the last layer's KV write only wanted rows go on. Every launch
depends on shapes alone, so `compute` may be captured and replayed.

Legend: T rows, W wanted rows, E hidden size, Q query heads, H KV heads, D head dim, C = (Q + 2H) D, I intermediate
size, V vocabulary, N slots, P positions, F = D / 2, S sampled tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import triton

from ...cuda.device_model import LOGIT_ROWS, StartedAttention, StepInputs
from ...cuda.executor import DeviceExecutor
from ...device import reserve_bytes
from ...step.packed import Batch
from ..load.config import ModelConfig
from ..load.store import cache_folder
from ..load.weights import Weights
from . import kernels
from .matmul import FusedLinear, head_product, logits
from .rope import rope_tables
from .tuned import Product, Table, open_table

if TYPE_CHECKING:
    from ...options import EngineOptions
    from ..load.checkpoint import Checkpoint


TUNE_SECONDS = 12.0
"""Most time that measuring takes, at the first start with a model of new shapes."""


class FusedLlama:
    """Implements `step.packed.Model` and `DeviceModel`, and brings its executor. It keeps nothing of `checkpoint`.

    Raises `ModelLoadError` when a tensor is missing or has another shape than the config says.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> None:
        config = checkpoint.config
        self.config = config
        self.device = torch.device(device)
        self.device_type = self.device.type
        self.dtype = dtype
        self.name = checkpoint.name
        self.vocab_size = config.vocab_size
        self.context_length = config.context_length
        config.warn_of_window(checkpoint.name)
        self.kv_bytes_per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
        self.table = _table(self.device)
        # From Hopper on a launch may begin before the one before it has ended.
        self._overlap = self.device_type == "cuda" and torch.cuda.get_device_capability(self.device) >= (9, 0)
        with Weights(checkpoint.tensors, self.device, dtype, checkpoint.name) as take:
            self._embed_VE = take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
            self._layers = [_FusedLayer(take, config, i, self.table) for i in range(config.num_layers)]
            self._norm_E = take("model.norm.weight", config.hidden_size)
            tied = config.tie_word_embeddings
            self.head_VE = self._embed_VE if tied else take("lm_head.weight", config.vocab_size, config.hidden_size)
            self._divisors_F = take.optional("rope_freqs.weight", config.head_dim // 2)
        self._kv: list[tuple[torch.Tensor, torch.Tensor]] = []

    def allocate(self, slots: int) -> None:
        """Make KV tensors of `slots` slots, and RoPE tables for every position that fits in them."""
        config = self.config
        shape = (2, slots, config.num_kv_heads, config.head_dim)
        pairs = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self._layers]
        self._kv = [(pair[0], pair[1]) for pair in pairs]
        divisors_F = None if self._divisors_F is None else self._divisors_F.float().cpu().numpy()
        tables = rope_tables(config, min(slots, self.context_length), divisors_F)
        cos_PD, sin_PD = (torch.from_numpy(table) for table in tables)
        half = config.head_dim // 2
        self._cos_PF = cos_PD[:, half:].to(self.device).contiguous()
        self._sin_PF = sin_PD[:, half:].to(self.device).contiguous()  # the half with the plain sign

    def step_bytes(self, rows: int) -> int:
        """Bytes a step of `rows` rows, and what is captured, need beside weights and KV; an upper estimate."""
        return reserve_bytes(self.config, self.dtype, rows, min(rows, LOGIT_ROWS))

    def tune(self) -> None:
        """Measure the products of few rows that no table knows yet, on this model's own weights; once a machine."""
        from .tune import tune

        weights: dict[Product, list[torch.Tensor]] = {}
        for layer in self._layers:
            for product, weight_NK in layer.products():
                weights.setdefault(product, []).append(weight_NK)
        weights.setdefault(head_product(self.head_VE), []).append(self.head_VE)
        torch.cuda.synchronize(self.device)  # launches that overlap read weights before they wait for anything
        tune(self.table, weights, seconds=TUNE_SECONDS)

    def executor(self, vocab_size: int, options: EngineOptions) -> DeviceExecutor:
        return DeviceExecutor(self, vocab_size, options)

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """One step by itself; float32 logits [W, V] on the host."""
        return DeviceExecutor(self, self.vocab_size, None).logits(batch).cpu().numpy()

    @torch.inference_mode()
    def compute(self, inputs: StepInputs, sampled_S: torch.Tensor, attention: StartedAttention) -> torch.Tensor:
        """One step; the normed last hidden states of the wanted rows [W, E]."""
        x_TE = self._embed_VE.new_empty(len(inputs.tokens_T), self.config.hidden_size)
        kernels.embed(inputs.tokens_T, sampled_S, self._embed_VE, x_TE)
        for layer, (k_NHD, v_NHD) in zip(self._layers[:-1], self._kv):
            mixed_TQ = self._attend(layer, x_TE, k_NHD, v_NHD, inputs, attention)
            layer.finish(x_TE, mixed_TQ)
        mixed_TQ = self._attend(self._layers[-1], x_TE, *self._kv[-1], inputs, attention)
        if len(inputs.want_W) == len(x_TE):  # one row more or less is not worth two launches
            self._layers[-1].finish(x_TE, mixed_TQ)
            x_WE = _rows(x_TE, inputs.want_W)
        else:
            x_WE = _rows(x_TE, inputs.want_W)
            self._layers[-1].finish(x_WE, _rows(mixed_TQ, inputs.want_W))
        kernels.rms_norm(x_WE, self._norm_E, self.config.rms_norm_eps, x_WE)
        return x_WE

    @torch.inference_mode()
    def logits(self, x_WE: torch.Tensor, out_WV: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 logits [W, V] of normed hidden states, written to `out_WV` if it is given."""
        return logits(x_WE, self.head_VE, out_WV, table=self.table)

    def _attend(
        self,
        layer: _FusedLayer,
        x_TE: torch.Tensor,
        k_NHD: torch.Tensor,
        v_NHD: torch.Tensor,
        inputs: StepInputs,
        attention: StartedAttention,
    ) -> torch.Tensor:
        """Write K and V of all rows; what their heads attend to [T, Q*D]."""
        config = self.config
        qkv_TC = layer.qkv(x_TE, norm=layer.norm_attention_E)
        q_TQD = x_TE.new_empty(len(x_TE), config.num_heads, config.head_dim)
        kernels.rope_and_store(
            qkv_TC, inputs.positions_T, inputs.slots_T, self._cos_PF, self._sin_PF,
            layer.qk_norm_D, config.rms_norm_eps, q_TQD, k_NHD, v_NHD, overlap=self._overlap,
        )  # fmt: skip
        out_TQD = torch.empty_like(q_TQD)
        attention.attend(q_TQD, k_NHD, v_NHD, out_TQD)
        return out_TQD.view(len(x_TE), -1)


class _FusedLayer:
    """One block's weights; the residual stream is changed in place."""

    def __init__(self, take: Weights, config: ModelConfig, index: int, table: Table) -> None:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."
        hidden, width, eps = config.hidden_size, config.num_heads * config.head_dim, config.rms_norm_eps
        self.norm_attention_E = take(prefix + "input_layernorm.weight", hidden), eps
        self._norm_ffn_E = take(prefix + "post_attention_layernorm.weight", hidden), eps
        sizes = {"q": width, "k": config.num_kv_heads * config.head_dim, "v": config.num_kv_heads * config.head_dim}
        qkv_CE = torch.cat([take(f"{attention}{p}_proj.weight", n, hidden) for p, n in sizes.items()])
        bias_C = None
        if config.attention_bias:
            bias_C = torch.cat([take(f"{attention}{p}_proj.bias", n) for p, n in sizes.items()])
        self.qkv = FusedLinear(qkv_CE, bias_C, table=table)
        self.qk_norm_D: tuple[torch.Tensor, torch.Tensor] | None = None
        if config.qk_norm:
            q_D, k_D = (take(f"{attention}{p}_norm.weight", config.head_dim) for p in ("q", "k"))
            self.qk_norm_D = q_D, k_D
        o_EQ = take(attention + "o_proj.weight", hidden, width)
        self._o = FusedLinear(o_EQ, take.optional(attention + "o_proj.bias", hidden), table=table)
        wide = config.intermediate_size
        gate_up_IE = [take(f"{prefix}mlp.{p}_proj.weight", wide, hidden) for p in ("gate", "up")]
        self._gate_up = FusedLinear(torch.cat(gate_up_IE), silu=True, table=table)
        self._down = FusedLinear(take(prefix + "mlp.down_proj.weight", hidden, wide), table=table)

    def products(self) -> list[tuple[Product, torch.Tensor]]:
        """The products of this layer, and their weights."""
        return [
            (self.qkv.product(norm=True, add=False), self.qkv.weight_NK),
            (self._o.product(norm=False, add=True), self._o.weight_NK),
            (self._gate_up.product(norm=True, add=False), self._gate_up.weight_NK),
            (self._down.product(norm=False, add=True), self._down.weight_NK),
        ]

    def finish(self, x_TE: torch.Tensor, mixed_TQ: torch.Tensor) -> None:
        """Compute what follows the attention."""
        self._o(mixed_TQ, residual=x_TE)
        self._down(self._gate_up(x_TE, norm=self._norm_ffn_E), residual=x_TE)


def _rows(x_TE: torch.Tensor, want_W: torch.Tensor) -> torch.Tensor:
    out_WE = x_TE.new_empty(len(want_W), x_TE.shape[1])
    kernels.gather_rows(x_TE, want_W, out_WE)
    return out_WE


def _table(device: torch.device) -> Table:
    if device.type != "cuda":
        return Table("", "", None)
    return open_table(torch.cuda.get_device_name(device), triton.__version__, cache_folder())
