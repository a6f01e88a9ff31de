"""The small fused kernels of a layer, in Triton: embedding, RMS norm, RoPE with the KV write, SiLU, row gathering.

Owns: everything between the matrix products and the attention on a GPU. Knows nothing of layers, graphs or batches.

1. Every function computes in float32 and rounds once, when it stores. Offsets that may pass 2**31 are int64.
2. A launch depends on shapes alone, so it may be captured and replayed. Rows may be strided.
3. With `overlap` (compute capability 9 and later) a launch first waits for the end of the launch before. Until then it
   writes nothing, and reads weights and the inputs of the step only.

Legend: T rows (tokens), S sampled tokens, V vocabulary, E hidden size, I intermediate size, W wanted rows, C = (Q + 2H)
D columns of q|k|v, Q query heads, H KV heads, D head dim, F = D/2, P positions, N slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_COLUMNS = 1024
"""Columns that one program of a copying or elementwise kernel takes."""
_HEADS = 4
"""Heads of one row that one program rotates: few, so that a single row still spreads over several multiprocessors."""


def embed(tokens_T: torch.Tensor, sampled_S: torch.Tensor, embed_VE: torch.Tensor, out_TE: torch.Tensor) -> None:
    """out = embed[token]. Both kinds of token are int32; a negative token `-(1 + i)` stands for `sampled_S[i]`."""
    rows, width = out_TE.shape
    if rows:
        grid = (rows, triton.cdiv(width, _COLUMNS))
        strides = embed_VE.stride(0), out_TE.stride(0)
        _embed[grid](tokens_T, sampled_S, embed_VE, out_TE, width, *strides, BLOCK=_COLUMNS)


def rms_norm(
    x_TE: torch.Tensor, weight_E: torch.Tensor, eps: float, out_TE: torch.Tensor, *, overlap: bool = False
) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight. `out_TE` may be `x_TE`; E is at most 16,384."""
    rows, width = x_TE.shape
    if rows:
        block = triton.next_power_of_2(width)
        options = {"BLOCK": block, "num_warps": max(1, min(16, block // 512)), **_overlapping(overlap)}
        _rms_norm[(rows,)](x_TE, weight_E, out_TE, width, eps, x_TE.stride(0), out_TE.stride(0), **options)


def rope_and_store(
    qkv_TC: torch.Tensor,
    positions_T: torch.Tensor,
    slots_T: torch.Tensor,
    cos_PF: torch.Tensor,
    sin_PF: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    q_TQD: torch.Tensor,
    k_NHD: torch.Tensor,
    v_NHD: torch.Tensor,
    *,
    overlap: bool = False,
) -> None:
    """Rotate q and k, write q to `q_TQD` and k and v to their slots, in one launch.

    A row of `qkv_TC` is its q heads, its k heads, its v heads. Rotation pairs dimension i with i + D/2; `cos_PF` and
    `sin_PF` are float32. `norms` are the weights (q, k) of an RMS norm over each head that comes before it. Positions
    and slots are int32. The last three tensors are contiguous.
    """
    rows, queries, dim = q_TQD.shape
    heads = k_NHD.shape[1]
    if not rows:
        return
    norm_q, norm_k = (qkv_TC, qkv_TC) if norms is None else norms
    grid = (rows, triton.cdiv(queries + 2 * heads, _HEADS))
    _rope_and_store[grid](
        qkv_TC,
        positions_T,
        slots_T,
        cos_PF,
        sin_PF,
        norm_q,
        norm_k,
        q_TQD,
        k_NHD,
        v_NHD,
        qkv_TC.stride(0),
        eps,
        Q=queries,
        H=heads,
        D=dim,
        NORMED=norms is not None,
        HEADS=_HEADS,
        BLOCK=triton.next_power_of_2(dim // 2),
        num_warps=max(1, min(4, _HEADS * dim // 256)),
        **_overlapping(overlap),
    )


def silu_mul(both_T2I: torch.Tensor, out_TI: torch.Tensor) -> None:
    """out = silu(first half of the row) * second half."""
    rows, width = out_TI.shape
    if rows:
        grid = (rows, triton.cdiv(width, _COLUMNS))
        _silu_mul[grid](both_T2I, out_TI, width, both_T2I.stride(0), out_TI.stride(0), BLOCK=_COLUMNS)


def gather_rows(x_TE: torch.Tensor, rows_W: torch.Tensor, out_WE: torch.Tensor) -> None:
    """out[w] = x[rows[w]]; `rows_W` is int32."""
    rows, width = out_WE.shape
    if rows:
        grid = (rows, triton.cdiv(width, _COLUMNS))
        _gather_rows[grid](x_TE, rows_W, out_WE, width, x_TE.stride(0), out_WE.stride(0), BLOCK=_COLUMNS)


def _overlapping(overlap: bool) -> dict[str, bool]:
    return {"OVERLAP": True, "launch_pdl": True} if overlap else {"OVERLAP": False}


@triton.jit
def _embed(tokens, sampled, table, out, width, table_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    token = tl.load(tokens + row)
    late = token < 0
    token = tl.where(late, tl.load(sampled + tl.where(late, -1 - token, 0), mask=late, other=0), token).to(tl.int64)
    values = tl.load(table + token * table_stride + columns, mask=inside)
    tl.store(out + row * out_stride + columns, values, mask=inside)


@triton.jit
def _rms_norm(x, weight, out, width, eps, x_stride, out_stride, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, axis=0) / width + eps) * scale
    tl.store(out + row * out_stride + columns, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rope_and_store(
    qkv,
    positions,
    slots,
    cos,
    sin,
    norm_q,
    norm_k,
    q_out,
    k_out,
    v_out,
    qkv_stride,
    eps,
    Q: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    NORMED: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One row, HEADS of its heads. The two halves of each head are two tiles, so that rotation needs no shuffle.

    What no launch of the layers writes (position, slot, angles, weights) is there before the launch before has ended.
    """
    F: tl.constexpr = D // 2
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    half = tl.arange(0, BLOCK)[None, :]
    inside = (head < Q + 2 * H) & (half < F)
    is_q = head < Q
    turned = head < Q + H
    if OVERLAP:
        gdc_launch_dependents()
    angle = tl.load(positions + row, cache_modifier=".cg").to(tl.int64) * F + half
    slot = tl.load(slots + row, cache_modifier=".cg").to(tl.int64)
    cosine = tl.where(turned, tl.load(cos + angle, mask=half < F, other=1.0), 1.0)
    sine = tl.where(turned, tl.load(sin + angle, mask=half < F, other=0.0), 0.0)
    if NORMED:
        for_q = inside & is_q
        for_k = inside & turned & (head >= Q)
        gain_low = _either(norm_q + half, for_q, norm_k + half, for_k)
        gain_high = _either(norm_q + F + half, for_q, norm_k + F + half, for_k)
    if OVERLAP:
        gdc_wait()
    source = qkv + row * qkv_stride + head * D + half
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + F, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        mean = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1))[:, None] / D
        scale = tl.where(turned, tl.rsqrt(mean + eps), 1.0)
        low *= scale * gain_low
        high *= scale * gain_high
    kind = q_out.dtype.element_ty
    new_low = (low * cosine - high * sine).to(kind)
    new_high = (high * cosine + low * sine).to(kind)
    q_at = q_out + (row * Q + head) * D + half
    tl.store(q_at, new_low, mask=inside & is_q)
    tl.store(q_at + F, new_high, mask=inside & is_q)
    k_at = k_out + (slot * H + head - Q) * D + half
    tl.store(k_at, new_low, mask=inside & turned & (head >= Q))
    tl.store(k_at + F, new_high, mask=inside & turned & (head >= Q))
    v_at = v_out + (slot * H + head - Q - H) * D + half
    tl.store(v_at, new_low, mask=inside & (head >= Q + H))
    tl.store(v_at + F, new_high, mask=inside & (head >= Q + H))


@triton.jit
def _either(first, for_first, second, for_second):
    """float32 values of `first` or `second` where its mask is set, 1 where neither is."""
    ones = tl.load(first, mask=for_first, other=1.0).to(tl.float32)
    return ones * tl.load(second, mask=for_second, other=1.0).to(tl.float32)


@triton.jit
def _silu_mul(both, out, width, both_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(both + row * both_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * both_stride + width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gather_rows(x, rows, out, width, x_stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    source = tl.load(rows + row).to(tl.int64)
    values = tl.load(x + source * x_stride + columns, mask=inside)
    tl.store(out + row * out_stride + columns, values, mask=inside)
