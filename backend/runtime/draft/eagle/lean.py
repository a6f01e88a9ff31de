"""`LeanHead`: what a packed head computes, in numpy around the kernels' products.

Owns: the order of small operations of one step of a head on the CPU. Knows nothing of chains. `head.py` has the same in
torch, which says what is right; torch's small operations take longer there than the products.

Legend: N positions, E hidden size, Q query heads, H KV heads, G query heads of a KV head, D head dim, C entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .head import Eagle3Head
from .packed_head import PackedLinear

Floats = npt.NDArray[np.float32]


class LeanHead:
    """A head whose products are packed (`packed_head.is_packed`)."""

    def __init__(self, head: Eagle3Head) -> None:
        config = head.config
        layer: Any = head.midlayer
        attention = layer.self_attn
        self._fc = PackedLinear(head.fc.weight) if head.fc.in_features % 32 == 0 else None
        self._head = head
        self._q, self._k, self._v = attention.q_proj, attention.k_proj, attention.v_proj
        self._o, self._mlp = attention.o_proj, layer.mlp
        self._lm_head: Any = head.lm_head
        self._dim, self._kv_heads = config.shape.head_dim, config.shape.num_kv_heads
        self._norms = [_weight(n) for n in (layer.hidden_norm, layer.input_layernorm, layer.post_attention_layernorm)]
        self._norm = _weight(head.norm)
        self._fc_norms = [_weight(norm) for norm in head.fc_norm] if config.fc_norm else []
        self._eps = config.shape.rms_norm_eps
        self._normed_residual, self._normed_output = config.norm_before_residual, config.norm_output

    def fuse(self, features_NF: Floats) -> Floats:
        """The target's three features as one vector."""
        if self._fc_norms:
            parts = np.split(features_NF, 3, -1)
            features_NF = np.concatenate([self._rms(part, w) for part, w in zip(parts, self._fc_norms)], -1)
        if self._fc is None:
            return features_NF @ self._head.fc.weight.numpy().T
        return self._fc.multiply(features_NF)

    def step(
        self, embedded_NE: Floats, feature_NE: Floats, cos_ND: Floats, sin_ND: Floats, kv_2HCD: Floats
    ) -> tuple[Floats, Floats]:
        """One step, as `Eagle3Head.forward`. It writes the last N entries of the KV, those of these positions."""
        hidden, before, after = self._norms
        normed = self._rms(feature_NE, hidden)
        x_NE = normed if self._normed_residual else feature_NE
        both = np.concatenate((self._rms(embedded_NE, before), normed), -1)
        x_NE = x_NE + self._o.multiply(self._attend(both, cos_ND[:, None], sin_ND[:, None], kv_2HCD))
        between = self._rms(x_NE, after)
        gate = self._mlp.gate_proj.multiply(between)
        gate /= 1 + np.exp(-gate)
        x_NE = x_NE + self._mlp.down_proj.multiply(gate * self._mlp.up_proj.multiply(between))
        out = self._rms(x_NE, self._norm)
        return out, out if self._normed_output else x_NE

    def best(self, normed_E: Floats) -> tuple[int, float]:
        """The likeliest draft token and its probability."""
        scores_M = self._lm_head.multiply(normed_E[None])[0]
        best = int(scores_M.argmax())
        return best, 1 / float(np.exp(scores_M - scores_M[best]).sum())

    def _attend(self, both: Floats, cos_N1D: Floats, sin_N1D: Floats, kv_2HCD: Floats) -> Floats:
        new, entries, dim = len(both), kv_2HCD.shape[2], self._dim
        q_NQD, k_NHD, v_NHD = (part.multiply(both).reshape(new, -1, dim) for part in (self._q, self._k, self._v))
        kv_2HCD[0, :, entries - new :] = _rotated(k_NHD, cos_N1D, sin_N1D).transpose(1, 0, 2)
        kv_2HCD[1, :, entries - new :] = v_NHD.transpose(1, 0, 2)
        q_NQD = _rotated(q_NQD, cos_N1D, sin_N1D)
        q_NQD *= dim**-0.5
        groups = q_NQD.shape[1] // self._kv_heads
        q_HRD = q_NQD.reshape(new, -1, groups, dim).transpose(1, 2, 0, 3).reshape(-1, groups * new, dim)
        scores = q_HRD @ kv_2HCD[0].transpose(0, 2, 1)
        if new > 1:
            at = np.arange(entries)
            later_NC = at[None] > at[entries - new :, None]
            scores.reshape(-1, new, entries)[:, later_NC] = -np.inf
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ kv_2HCD[1]).reshape(-1, groups, new, dim)
        return np.ascontiguousarray(mixed.transpose(2, 0, 1, 3)).reshape(new, -1)

    def _rms(self, x: Floats, weight: Floats) -> Floats:
        scale = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
        return x * (weight / np.sqrt(scale + np.float32(self._eps)))


def _weight(norm: Any) -> Floats:
    return norm.weight.detach().numpy()


def _rotated(x: Floats, cos: Floats, sin: Floats) -> Floats:
    half = x.shape[-1] // 2
    return x * cos + np.concatenate((x[..., half:], x[..., :half]), -1) * sin
