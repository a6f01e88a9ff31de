"""Training-time test: a head run on its own outputs for several steps, over whole rows at once, and its loss.

Owns: the attention of later steps, and soft cross entropy. Knows nothing of data or of optimisers. What is measured
here for each step is also what decides how many drafts of a chain are accepted (`evaluate`): a draft counts only while
all drafts before it were right, and then its inputs were those of the text.

Source: section 3 of Li et al., EAGLE-3 (arXiv 2503.01840).

Legend: B rows, L positions, E hidden size, Q query heads = G groups x H KV heads, D head dim, M draft vocabulary,
N guessed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...model.llama.rope import rope_tables
from .head import Eagle3Head

Compiled = Callable[[Callable[..., Any]], Callable[..., Any]]


class Unroller:
    """Runs heads over packed rows.

    Step s at position p reads the embedding of token p + 1 + s, and what step s - 1 gave at p (step 0: the features).
    It attends to what step 0 saw up to p, and at p itself to the steps between. It guesses token p + 2 + s.

    `compiled` may compile the hot functions (`torch.compile`); the default leaves them as they are.
    """

    def __init__(self, compiled: Compiled = lambda function: function) -> None:
        self._mix = compiled(mix)
        self._tables: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def steps(
        self,
        head: Eagle3Head,
        embed_VE: torch.Tensor,
        tokens_BL: torch.Tensor,
        allowed_BLL: torch.Tensor,
        features_BLF: torch.Tensor,
        steps: int,
    ) -> Iterator[torch.Tensor]:
        """What `lm_head` reads after each step [B, L, E]."""
        positions = tokens_BL.shape[1]
        cos, sin = self._rope(head, positions + steps, tokens_BL.device)
        attend = _Unrolled(self._mix, allowed_BLL)
        feature = head.fuse(features_BLF)
        for step in range(steps):
            embedded = F.embedding(tokens_BL.roll(-1 - step, 1).long(), embed_VE)
            at = slice(step, step + positions)
            normed, feature = head(embedded, feature, cos[at], sin[at], attend)
            yield normed

    def _rope(self, head: Eagle3Head, positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = positions, device
        if key not in self._tables:
            cos, sin = (torch.from_numpy(table) for table in rope_tables(head.config.shape, positions))
            self._tables[key] = cos.to(device), sin.to(device)
        return self._tables[key]


class _Unrolled:
    """The attention of successive steps: all keep K and V, and those of later steps are seen at their position only."""

    def __init__(self, mix: Callable[..., torch.Tensor], allowed_BLL: torch.Tensor) -> None:
        self._mix, self._allowed = mix, allowed_BLL
        self._first: tuple[torch.Tensor, torch.Tensor] | None = None
        self._later: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self._first is None:
            self._first = k, v
        else:
            self._later.append((k, v))
        return self._mix(q, *self._first, [k for k, _ in self._later], [v for _, v in self._later], self._allowed)


def mix(
    q_BQLD: torch.Tensor,
    k_BHLD: torch.Tensor,
    v_BHLD: torch.Tensor,
    later_k: list[torch.Tensor],
    later_v: list[torch.Tensor],
    allowed_BLL: torch.Tensor,
) -> torch.Tensor:
    """Attention to `k` and `v` where it is allowed, and to each of the later ones at the query's own position."""
    rows, queries, positions, dim = q_BQLD.shape
    kv = k_BHLD.shape[1]
    q = (q_BQLD * dim**-0.5).reshape(rows, kv, -1, dim)  # the groups of a KV head are rows of one product
    scores = (q @ k_BHLD.transpose(-1, -2)).view(rows, kv, -1, positions, positions).float()
    scores = scores.masked_fill(~allowed_BLL[:, None, None], float("-inf"))
    q = q.view(rows, kv, -1, positions, dim)
    own = [(q * k[:, :, None]).float().sum(-1, keepdim=True) for k in later_k]
    most = scores.detach().amax(-1, keepdim=True)
    for each in own:
        most = torch.maximum(most, each.detach())
    weights = (scores - most).exp()
    total = weights.sum(-1, keepdim=True)
    flat = weights.to(v_BHLD.dtype).view(rows, kv, -1, positions)
    out = (flat @ v_BHLD).view(rows, kv, -1, positions, dim).float()
    for each, v in zip(own, later_v):
        weight = (each - most).exp()
        total = total + weight
        out = out + weight * v[:, :, None].float()
    return (out / total).to(q_BQLD.dtype).view(rows, queries, positions, dim)


def guess_losses(
    logits_NM: torch.Tensor, wanted_NM: torch.Tensor, total_N: torch.Tensor, weight_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weighted cross entropy of softmax(logits) under softmax(wanted), summed; its gradient; the best guesses.

    `total_N`: the log of the summed exponentials of `wanted`, which is the same for every step.
    """
    logits = logits_NM.float()
    p = (wanted_NM.float() - total_N[:, None]).exp()
    own_N = logits.logsumexp(-1)
    loss = ((own_N - (p * logits).sum(-1)) * weight_N).sum()
    gradient = (((logits - own_N[:, None]).exp() - p) * weight_N[:, None]).to(logits_NM.dtype)
    return loss, gradient, logits_NM.argmax(-1)


class SoftCrossEntropy(torch.autograd.Function):
    """`guess_losses` of hidden @ weight.T. The gradient is computed at once, so nothing as wide as M is kept twice."""

    @staticmethod
    def forward(
        ctx: Any,
        losses: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        hidden_NE: torch.Tensor,
        weight_ME: torch.Tensor,
        wanted_NM: torch.Tensor,
        total_N: torch.Tensor,
        weight_N: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient, best = losses(F.linear(hidden_NE, weight_ME), wanted_NM, total_N, weight_N)
        ctx.save_for_backward(hidden_NE, weight_ME, gradient)
        ctx.mark_non_differentiable(best)
        return loss, best

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_NE, weight_ME, gradient_NM = ctx.saved_tensors
        scale = grads[0].to(gradient_NM.dtype)
        return None, gradient_NM @ weight_ME * scale, gradient_NM.t() @ hidden_NE * scale, None, None, None


def guessed(written_BL: torch.Tensor) -> torch.Tensor:
    """Flat places of the tokens that are guessed [N]: written ones that have two others of their row before them."""
    places = np.flatnonzero(written_BL.numpy())
    return torch.from_numpy(places[places % written_BL.shape[1] >= 2])


def origins(segments_BL: torch.Tensor, places_N: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """From where step `step` guesses each place (flat), and whether that is in the same conversation."""
    positions = segments_BL.shape[1]
    flat = segments_BL.flatten()
    from_N = places_N - 2 - step
    inside = places_N % positions >= 2 + step
    from_N = from_N.clamp_min(0)
    return from_N, inside & (flat[from_N] == flat[places_N])
