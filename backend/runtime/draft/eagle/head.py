"""`Eagle3Head`: the network of an EAGLE-3 head, in plain torch, with the names of published heads.

Owns: its weights, and what one step of it computes. Knows nothing of files, of whose KV it attends to (`attend` does),
of training or of branches.

At position i a head reads the target's features of token i and the embedding of token i + 1, and guesses token i + 2.
Of the features of three layers `fc` makes one vector. In later steps of a chain the head's own output takes its place.

Legend: B rows, L positions, E hidden size, Q query heads, H KV heads, D head dim, M draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .config import HeadConfig

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From rotated q [B, Q, L, D], rotated k and v [B, H, L, D] of the same rows to what q attends to [B, Q, L, D]."""


class HeadNorm(nn.Module):
    """RMS norm with a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and not torch.is_grad_enabled():  # of one row, a fourth of the time of torch's own
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class HeadAttention(nn.Module):
    """Attention of the head's layer; q, k and v read 2E numbers."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        shape = config.shape
        self.dim = shape.head_dim
        wide = 2 * shape.hidden_size
        self.q_proj = nn.Linear(wide, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(wide, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(wide, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, cos_LD: torch.Tensor, sin_LD: torch.Tensor, attend: Attend) -> torch.Tensor:
        q, k, v = (
            proj(x).view(*x.shape[:-1], -1, self.dim).transpose(-2, -3)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(_rotated(q, cos_LD, sin_LD), _rotated(k, cos_LD, sin_LD), v)
        return self.o_proj(mixed.transpose(-2, -3).flatten(-2))


class HeadMlp(nn.Module):
    """Feed-forward with SiLU."""

    def __init__(self, hidden: int, wide: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, wide, bias=False)
        self.up_proj = nn.Linear(hidden, wide, bias=False)
        self.down_proj = nn.Linear(wide, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class HeadLayer(nn.Module):
    """The head's one layer."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        shape = config.shape
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.self_attn = HeadAttention(config)
        self.mlp = HeadMlp(hidden, shape.intermediate_size)
        self.hidden_norm = HeadNorm(hidden, eps)
        self.input_layernorm = HeadNorm(hidden, eps)
        self.post_attention_layernorm = HeadNorm(hidden, eps)
        self.norm_before_residual = config.norm_before_residual

    def forward(
        self,
        embedded: torch.Tensor,
        feature: torch.Tensor,
        cos_LD: torch.Tensor,
        sin_LD: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        normed = self.hidden_norm(feature)
        residual = normed if self.norm_before_residual else feature
        both = torch.cat((self.input_layernorm(embedded), normed), -1)
        residual = residual + self.self_attn(both, cos_LD, sin_LD, attend)
        return residual + self.mlp(self.post_attention_layernorm(residual))


class Eagle3Head(nn.Module):
    """A head. `t2d[i]`: whether token i of the target is a draft token. `d2t[j]`: draft token j is token j + d2t[j]."""

    t2d: torch.Tensor
    d2t: torch.Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shape
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.fc = nn.Linear(3 * hidden, hidden, bias=False)
        if config.fc_norm:
            self.fc_norm = nn.ModuleList(HeadNorm(hidden, eps) for _ in range(3))
        self.midlayer = HeadLayer(config)
        self.norm = HeadNorm(hidden, eps)
        self.lm_head = nn.Linear(hidden, config.draft_vocab_size, bias=False)
        self.register_buffer("t2d", torch.zeros(shape.vocab_size, dtype=torch.bool))
        self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))

    def fuse(self, features: torch.Tensor) -> torch.Tensor:
        """The one vector [..., E] of the target's three features [..., 3E], which lie side by side."""
        if self.config.fc_norm:
            parts = features.chunk(3, -1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts)], -1)
        return self.fc(features)

    def forward(
        self,
        embedded: torch.Tensor,
        feature: torch.Tensor,
        cos_LD: torch.Tensor,
        sin_LD: torch.Tensor,
        attend: Attend,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step over positions; what `lm_head` reads, and the feature of the next step, each [B, L, E].

        `embedded`: embeddings of the tokens one position on. `feature`: fused features, or what the step before gave.
        """
        out = self.midlayer(embedded, feature, cos_LD, sin_LD, attend)
        normed = self.norm(out)
        return normed, normed if self.config.norm_output else out

    def draft_ids(self) -> torch.Tensor:
        """The target's token of each draft token [M]."""
        return torch.arange(len(self.d2t), device=self.d2t.device) + self.d2t

    def choose_drafts(self, ids: torch.Tensor) -> None:
        """Make `ids` [M], rising ids of the target, the draft vocabulary."""
        self.t2d.zero_()
        self.t2d[ids] = True
        self.d2t.copy_(ids - torch.arange(len(ids), device=ids.device))


def _rotated(x: torch.Tensor, cos_LD: torch.Tensor, sin_LD: torch.Tensor) -> torch.Tensor:
    return (x * cos_LD + x.roll(x.shape[-1] // 2, -1) * sin_LD).to(x.dtype)
