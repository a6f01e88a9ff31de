"""Ragged attention in plain torch: carries out an `AttentionPlan` on the CPU, or on a GPU that has nothing better.

Owns: a step's index tensors and masks (`StepAttention`), one dense attention with log-sum-exp (`attend_dense`), and the
merge of parts. Knows nothing of branches or of a model's weights; KV tensors are the model's.

Query heads are ordered (group, KV head), not (KV head, group) as in checkpoints. A model permutes its q and o weights
when it is loaded. So [T, G*H, D] -> [T*G, H, D] is a view, and no layer copies queries or outputs to rearrange heads.

Legend: T rows of the step, G query heads a KV head, H KV heads, Q = G * H, D head dim, J = 2H (K heads, then V heads of
a slot), N slots, S, R, L, P as in `plan`; B, M, N of a dense attention: batch, queries, keys (in a piece S, G * R, L);
C rows of all pieces.
"""

from __future__ import annotations

import numpy as np
import torch

from .plan import AttentionPlan, Ints, Piece, compact

_flash_cpu = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def attend_dense(
    q_BHMD: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the log-sum-exp of its scores: [B, M, H, D], float32 [B, M, H]. Any strides; `mask` is added.

    The CPU kernel behind torch's own attention returns both, in this layout, but has no public name; elsewhere
    `attend_dense_plain` does the same in matrix products.
    """
    if _flash_cpu is None or q_BHMD.device.type != "cpu" or q_BHMD.dtype == torch.float16:
        return attend_dense_plain(q_BHMD, k_BHND, v_BHND, mask)
    out_BHMD, lse_BHM = _flash_cpu(q_BHMD, k_BHND, v_BHND, attn_mask=mask)
    return out_BHMD.transpose(1, 2), lse_BHM.transpose(1, 2)


def attend_dense_plain(
    q_BHMD: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend_dense` by two matrix products and a float32 softmax."""
    score_BHMN = torch.matmul(q_BHMD, k_BHND.transpose(-1, -2)).float() * q_BHMD.shape[-1] ** -0.5
    if mask is not None:
        score_BHMN += mask
    lse_BHM = score_BHMN.logsumexp(dim=-1)
    out_BHMD = torch.matmul((score_BHMN - lse_BHM[..., None]).exp().to(v_BHND.dtype), v_BHND)
    return out_BHMD.transpose(1, 2), lse_BHM.transpose(1, 2)


class StepAttention:
    """A plan on one device: every index tensor and mask of a step, built once for all layers."""

    def __init__(
        self, plan: AttentionPlan, slots: Ints, groups: int, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._write = _on(device, compact(slots))
        self._pieces = [_DevicePiece(piece, groups, device, dtype) for piece in plan.pieces]
        self._parts = [_on(device, part) for part in plan.parts]
        self._absent_TP1: torch.Tensor | None = None
        if plan.absent_TP is not None:
            self._absent_TP1 = torch.from_numpy(plan.absent_TP).to(device)[..., None]

    def write(self, kv_NJD: torch.Tensor, new_TJD: torch.Tensor) -> None:
        """Store the K and V of all rows of the step in a layer's KV tensor ([slots, J, D])."""
        if isinstance(self._write, slice):
            kv_NJD[self._write] = new_TJD
        else:
            kv_NJD.index_copy_(0, self._write, new_TJD)

    def attend(self, q_TQD: torch.Tensor, kv_NJD: torch.Tensor) -> torch.Tensor:
        """Outputs [T, Q*D] for queries [T, Q, D] (contiguous; Q = G*H heads in that order)."""
        total, heads, dim = q_TQD.shape
        if not self._parts:
            return self._pieces[0].attend(q_TQD, kv_NJD)[0].reshape(total, heads * dim)
        results = [piece.attend(q_TQD, kv_NJD) for piece in self._pieces]
        out_CQD = torch.cat([out.reshape(-1, heads, dim) for out, _ in results])
        if len(self._parts) == 1:
            return _take(out_CQD, self._parts[0]).reshape(total, heads * dim)
        lse_CQ = torch.cat([lse.reshape(-1, heads) for _, lse in results])
        return self._merge(out_CQD, lse_CQ).reshape(total, heads * dim)

    def _merge(self, out_CQD: torch.Tensor, lse_CQ: torch.Tensor) -> torch.Tensor:
        """Weigh each part by its share of the row's total: softmax of the log-sum-exps."""
        lse_TPQ = torch.stack([_take(lse_CQ, part) for part in self._parts], dim=1)
        if self._absent_TP1 is not None:
            lse_TPQ.masked_fill_(self._absent_TP1, -torch.inf)
        weight_TPQ1 = lse_TPQ.softmax(dim=1).to(out_CQD.dtype)[..., None]
        merged_TQD = _take(out_CQD, self._parts[0]) * weight_TPQ1[:, 0]
        for p, part in enumerate(self._parts[1:], start=1):
            merged_TQD.addcmul_(_take(out_CQD, part), weight_TPQ1[:, p])
        return merged_TQD


class _DevicePiece:
    """A piece on one device."""

    def __init__(self, piece: Piece, groups: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self._rows = _on(device, piece.rows)
        self._slots = _on(device, piece.slots)
        self._spans = piece.spans
        self._mask_S1ML: torch.Tensor | None = None
        if piece.limit_SR is not None:
            length = _size(piece.slots) // piece.spans
            limit_SM = torch.from_numpy(piece.limit_SR).to(device).repeat_interleave(groups, dim=1)
            hidden_SML = torch.arange(length, device=device) > limit_SM[..., None]
            self._mask_S1ML = torch.zeros(hidden_SML.shape, dtype=dtype, device=device)
            self._mask_S1ML = self._mask_S1ML.masked_fill_(hidden_SML, -torch.inf)[:, None]

    def attend(self, q_TQD: torch.Tensor, kv_NJD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and log-sum-exps of the piece's rows: [S*R, Q, D] and [S*R, Q] when reshaped."""
        _, joint, dim = kv_NJD.shape
        heads = joint // 2
        kv_SJLD = _take(kv_NJD, self._slots).view(self._spans, -1, joint, dim).transpose(1, 2)
        q_SHMD = _take(q_TQD, self._rows).view(self._spans, -1, heads, dim).transpose(1, 2)
        return attend_dense(q_SHMD, kv_SJLD[:, :heads], kv_SJLD[:, heads:], self._mask_S1ML)


def _on(device: torch.device | str, index: slice | Ints) -> slice | torch.Tensor:
    return index if isinstance(index, slice) else torch.from_numpy(np.ascontiguousarray(index)).to(device)


def _take(tensor: torch.Tensor, index: slice | torch.Tensor) -> torch.Tensor:
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


def _size(index: slice | Ints) -> int:
    return index.stop - index.start if isinstance(index, slice) else len(index)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make zeros that cost memory only where they are written.

    On the CPU, numpy leaves them to the operating system. `torch.zeros` writes every page: seconds for a pool of
    gigabytes.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
