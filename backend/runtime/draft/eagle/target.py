"""`Target`: the model that a head is trained for, as a dense forward in torch that gives its features.

Owns: the weights in torch, and the features, last hidden states and likeliest tokens of packed rows. Knows nothing of
the engine, of KV or of heads. (`model/llama` computes ragged steps and gives logits only.)

Legend: B rows, L positions, E hidden size, Q query heads, H KV heads, D head dim, V vocabulary, W wanted positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...model.llama.rope import rope_tables
from ...model.load.checkpoint import Checkpoint
from ...model.load.config import ModelConfig
from ...model.load.weights import Weights

_LOGIT_ROWS = 4096


@dataclass(frozen=True)
class Seen:
    """What the target says of rows. `top[b, l]`: the likeliest token after position l where it was wanted, else 0."""

    features: torch.Tensor  # [B, L, 3E]
    last: torch.Tensor  # [B, L, E] normed
    top: torch.Tensor  # [B, L] int32


class Target:
    """A model of the Llama family. Raises `ModelLoadError` for a checkpoint that is not whole."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> None:
        config = checkpoint.config
        self.config, self.name = config, checkpoint.name
        self.device, self.dtype = torch.device(device), dtype
        with checkpoint.weights(self.device, dtype) as take:
            self.embed_VE = take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
            self.layers = [_DenseLayer(take, config, i) for i in range(config.num_layers)]
            self.norm_E = take("model.norm.weight", config.hidden_size)
            tied = config.tie_word_embeddings
            self.head_VE = self.embed_VE if tied else take("lm_head.weight", config.vocab_size, config.hidden_size)
        divisors_F = checkpoint.tensors.get("rope_freqs.weight")
        self._divisors_F = None if divisors_F is None else divisors_F.float().cpu().numpy()
        self._rope = torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def see(
        self, tokens_BL: torch.Tensor, segments_BL: torch.Tensor, wanted_BL: torch.Tensor, after: tuple[int, ...]
    ) -> Seen:
        """Run the model over packed rows. `after`: after how many layers the residual stream is a feature.
        `wanted_BL`: positions whose likeliest next token is computed."""
        x = F.embedding(tokens_BL.long(), self.embed_VE)
        cos_LD, sin_LD = self._tables(tokens_BL.shape[1])
        allowed = visible(segments_BL)[:, None]
        kept: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.layers):
            if number in after:
                kept[number] = x
            x = layer(x, cos_LD, sin_LD, allowed)
        kept[len(self.layers)] = x
        last = F.rms_norm(x, self.norm_E.shape, self.norm_E, self.config.rms_norm_eps)
        top = torch.zeros_like(tokens_BL, dtype=torch.int32)
        if bool(wanted_BL.any()):
            wanted_WE = last[wanted_BL]
            best = [F.linear(part, self.head_VE).argmax(-1) for part in wanted_WE.split(_LOGIT_ROWS)]
            top[wanted_BL] = torch.cat(best).to(torch.int32)
        return Seen(torch.cat([kept[number] for number in after], -1), last, top)

    def _tables(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self._rope[0]) < positions:
            cos, sin = (torch.from_numpy(t) for t in rope_tables(self.config, positions, self._divisors_F))
            self._rope = cos.to(self.device, self.dtype), sin.to(self.device, self.dtype)
        return self._rope[0][:positions], self._rope[1][:positions]


class _DenseLayer:
    """One block over whole rows."""

    def __init__(self, take: Weights, config: ModelConfig, index: int) -> None:
        prefix = f"model.layers.{index}."
        hidden, dim, wide = config.hidden_size, config.head_dim, config.intermediate_size
        self.config = config
        self.weights: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        for name, rows, columns in (
            ("q", config.num_heads * dim, hidden),
            ("k", config.num_kv_heads * dim, hidden),
            ("v", config.num_kv_heads * dim, hidden),
            ("o", hidden, config.num_heads * dim),
        ):
            path = f"{prefix}self_attn.{name}_proj."
            self.weights[name] = take(path + "weight", rows, columns), take.optional(path + "bias", rows)
        for name, rows, columns in (("gate", wide, hidden), ("up", wide, hidden), ("down", hidden, wide)):
            self.weights[name] = take(f"{prefix}mlp.{name}_proj.weight", rows, columns), None
        self.norm_attention_E = take(prefix + "input_layernorm.weight", hidden)
        self.norm_ffn_E = take(prefix + "post_attention_layernorm.weight", hidden)
        self.qk_norm = (
            {n: take(f"{prefix}self_attn.{n}_norm.weight", dim) for n in ("q", "k")} if config.qk_norm else {}
        )

    def __call__(
        self, x: torch.Tensor, cos_LD: torch.Tensor, sin_LD: torch.Tensor, allowed_B1LL: torch.Tensor
    ) -> torch.Tensor:
        config, eps = self.config, self.config.rms_norm_eps
        normed = F.rms_norm(x, self.norm_attention_E.shape, self.norm_attention_E, eps)
        heads = {n: self._product(n, normed).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for n in "qkv"}
        for name in "qk":
            if self.qk_norm:
                heads[name] = F.rms_norm(heads[name], (config.head_dim,), self.qk_norm[name], eps)
            swapped = heads[name].roll(config.head_dim // 2, -1)
            heads[name] = heads[name] * cos_LD + swapped * sin_LD
        groups = config.num_heads // config.num_kv_heads
        k, v = (heads[n].repeat_interleave(groups, 1) for n in "kv")
        mixed = F.scaled_dot_product_attention(heads["q"], k, v, attn_mask=allowed_B1LL)
        x = x + self._product("o", mixed.transpose(1, 2).flatten(2))
        normed = F.rms_norm(x, self.norm_ffn_E.shape, self.norm_ffn_E, eps)
        return x + self._product("down", F.silu(self._product("gate", normed)) * self._product("up", normed))

    def _product(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, *self.weights[name])


def visible(segments_BL: torch.Tensor) -> torch.Tensor:
    """Which positions each position of a packed row attends to [B, L, L]: its own conversation's, up to itself."""
    positions = segments_BL.shape[1]
    earlier = torch.ones(positions, positions, dtype=torch.bool, device=segments_BL.device).tril()
    return (segments_BL[:, :, None] == segments_BL[:, None, :]) & earlier
