"""Triton kernels for y = x W^T with few rows of x: what counts is how fast W is read.

Owns: `rows_kernel` (multiplies elementwise, 1 to 4 rows of x) and `tiles_kernel` (tensor cores with W as the left
operand, up to 64 rows; may split K over programs). Knows nothing of which to take (`tuned`) or of layers (`matmul`).

1. Sums are float32 and in a fixed order (no atomic adds of values), so results repeat bit by bit.
2. Values are rounded once, when they are stored. Sizes are ordinary arguments: one compiled kernel serves all shapes.
3. Of overlapping launches ("programmatic dependent launch") a program asks for its first weights, which no kernel
   writes, then waits for the launch before. Every program waits, so a chain of launches keeps its order.

Legend: M rows of x, N columns of y, K their depth; BM, BN, BK their blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _block(pointers, k, K, WHOLE: tl.constexpr):
    """One block along K of a few rows; each element of W is read once in a launch, hence evicted first."""
    if WHOLE:
        return tl.load(pointers + k, eviction_policy="evict_first")
    return tl.load(pointers + k, mask=k < K, other=0.0, eviction_policy="evict_first")


@triton.jit
def _finish(y, up, pointers, inside, bias, n, N, BIAS: tl.constexpr, SILU: tl.constexpr, ADD: tl.constexpr):
    """Bias, SiLU, residual, and the one rounding. `n` has the shape that broadcasts to y's."""
    if BIAS:
        y += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
        if SILU:
            up += tl.load(bias + N + n, mask=n < N, other=0.0).to(tl.float32)
    if SILU:
        y = y * tl.sigmoid(y) * up
    if ADD:
        y += tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    tl.store(pointers, y.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def _inputs(x, gain, squares, m, k, M, K, x_stride, BM: tl.constexpr, WHOLE: tl.constexpr, NORM: tl.constexpr):
    """Float32 [BM, 1, BK] of x (times `gain`), and the squares of x added to those so far. Rows past M are 0."""
    pointers = x + m * x_stride + k
    if WHOLE and BM == 1:
        values = tl.load(pointers).to(tl.float32)
    else:
        values = tl.load(pointers, mask=(m < M) & (k < K), other=0.0).to(tl.float32)
    if NORM:
        squares += values * values
        if WHOLE:
            values *= tl.load(gain + k).to(tl.float32)
        else:
            values *= tl.load(gain + k, mask=k < K, other=0.0).to(tl.float32)
    return values, squares


@triton.jit(do_not_specialize=["M", "eps"])
def rows_kernel(
    x, weight, bias, gain, out, M, N, K, x_stride, out_stride, eps,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr,
    NORM: tl.constexpr, SILU: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A program computes BN columns of y for all BM rows. While one block of W is multiplied the next is on its way.

    NORM: y is as if x had been divided by its root mean square and multiplied by `gain` (the division comes last).
    SILU: W has 2N rows, gate and up. WHOLE: K is a multiple of BK. ADD: y is added to what `out` holds.

    Everything is a block [BM or 1, BN or 1, BK] whose threads lie along K alone (BK is 256 a warp or more): so all
    blocks have one layout, and neither shared memory nor a barrier is needed before the sum at the end.
    """
    if OVERLAP:
        gdc_launch_dependents()
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.arange(0, BM)[:, None, None]
    k = tl.arange(0, BK)[None, None, :]
    rows = weight + (tl.minimum(n, N - 1).to(tl.int64) * K)[None, :, None]
    rows_up = rows + tl.cast(N, tl.int64) * K
    w = _block(rows, k, K, WHOLE)
    w_up = w
    if SILU:
        w_up = _block(rows_up, k, K, WHOLE)
    if OVERLAP:
        gdc_wait()
    total = tl.zeros((BM, BN, BK), tl.float32)
    total_up = total
    squares = tl.zeros((BM, 1, BK), tl.float32)
    for start in range(BK, K, BK):
        ahead = _block(rows, start + k, K, WHOLE)
        values, squares = _inputs(x, gain, squares, m, start - BK + k, M, K, x_stride, BM, WHOLE, NORM)
        total += w.to(tl.float32) * values
        w = ahead
        if SILU:
            ahead_up = _block(rows_up, start + k, K, WHOLE)
            total_up += w_up.to(tl.float32) * values
            w_up = ahead_up
    values, squares = _inputs(x, gain, squares, m, (tl.cdiv(K, BK) - 1) * BK + k, M, K, x_stride, BM, WHOLE, NORM)
    y = tl.sum(total + w.to(tl.float32) * values, axis=2)
    up = y
    if SILU:
        up = tl.sum(total_up + w_up.to(tl.float32) * values, axis=2)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=2) / K + eps)
        y *= scale
        up *= scale
    row = tl.arange(0, BM)[:, None]
    column = n[None, :]
    inside = (row < M) & (column < N)
    _finish(y, up, out + row * out_stride + column, inside, bias, column, N, BIAS, SILU, ADD)


@triton.jit
def _fetch(rows, start, K, BK: tl.constexpr):
    """Ask for the first four blocks of W to be brought into the L2 cache, by lines of 128 bytes (64 of 16 bits)."""
    lines = tl.minimum(start + 64 * tl.arange(0, BK // 16), K - 1)
    pointers = (rows + lines[None, :]).to(tl.int64, bitcast=True)
    ask: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(ask, "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def _columns(x, m, k, M, K, x_stride, WHOLE: tl.constexpr):
    """[BK, BM] of x^T; rows of x past M are 0."""
    inside = m[None, :] < M
    if not WHOLE:
        inside &= k[:, None] < K
    return tl.load(x + m[None, :] * x_stride + k[:, None], mask=inside, other=0.0)


@triton.jit
def _dot(w, x, total):
    return tl.dot(w, x, total, input_precision="ieee")


@triton.jit(do_not_specialize=["M", "parts"])
def tiles_kernel(
    x, weight, bias, partial, arrived, out, M, N, K, x_stride, out_stride, parts,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr, SPLIT: tl.constexpr,
    SILU: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, OVERLAP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A program computes a [BN, BM] tile of y^T over one part of K; grid (tiles of N, parts).

    EARLY (0 to 2, no more than a part has): that many blocks of W are on their way into registers before the launch
    before has ended. They are multiplied last, so that the others follow at once.

    SPLIT: parts > 1. Each program leaves its sums in `partial` (float32 [parts, tiles, 1 or 2, BN, BM]) and counts
    itself in `arrived` (int32 [tiles], zero between launches); the last of a tile adds all of them in order.
    """
    tile = tl.program_id(0)
    part = tl.program_id(1)
    n = tile * BN + tl.arange(0, BN)
    m = tl.arange(0, BM)
    depth = tl.cdiv(tl.cdiv(K, BK), parts) * BK
    rows = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K
    rows_up = rows + tl.cast(N, tl.int64) * K
    begin = part * depth
    k = begin + tl.arange(0, BK)
    if OVERLAP:
        gdc_launch_dependents()
    if EARLY > 0:
        first = _block(rows, k[None, :], K, WHOLE)
        if SILU:
            first_up = _block(rows_up, k[None, :], K, WHOLE)
    if EARLY > 1:
        second = _block(rows, BK + k[None, :], K, WHOLE)
        if SILU:
            second_up = _block(rows_up, BK + k[None, :], K, WHOLE)
    if OVERLAP:
        if EARLY == 0:
            _fetch(rows, begin, K, BK)
            if SILU:
                _fetch(rows_up, begin, K, BK)
        gdc_wait()
    total = tl.zeros((BN, BM), tl.float32)
    total_up = total
    for start in range(begin + EARLY * BK, tl.minimum(begin + depth, K), BK):
        k = start + tl.arange(0, BK)
        values = _columns(x, m, k, M, K, x_stride, WHOLE)
        total = _dot(_block(rows, k[None, :], K, WHOLE), values, total)
        if SILU:
            total_up = _dot(_block(rows_up, k[None, :], K, WHOLE), values, total_up)
    k = begin + tl.arange(0, BK)
    if EARLY > 0:
        values = _columns(x, m, k, M, K, x_stride, WHOLE)
        total = _dot(first, values, total)
        if SILU:
            total_up = _dot(first_up, values, total_up)
    if EARLY > 1:
        values = _columns(x, m, BK + k, M, K, x_stride, WHOLE)
        total = _dot(second, values, total)
        if SILU:
            total_up = _dot(second_up, values, total_up)
    inside = (n[:, None] < N) & (m[None, :] < M)
    pointers = out + m[None, :] * out_stride + n[:, None]
    if not SPLIT:
        _finish(total, total_up, pointers, inside, bias, n[:, None], N, BIAS, SILU, ADD)
    else:
        kinds: tl.constexpr = 2 if SILU else 1
        spot = partial + tile * (kinds * BN * BM) + tl.arange(0, BN)[:, None] * BM + m[None, :]
        jump = tl.num_programs(0) * (kinds * BN * BM)
        tl.store(spot + part * jump, total, cache_modifier=".cg")
        if SILU:
            tl.store(spot + part * jump + BN * BM, total_up, cache_modifier=".cg")
        tl.debug_barrier()
        if tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == parts - 1:
            total = tl.zeros((BN, BM), tl.float32)
            total_up = total
            for other in range(parts):
                total += tl.load(spot + other * jump, cache_modifier=".cg")
                if SILU:
                    total_up += tl.load(spot + other * jump + BN * BM, cache_modifier=".cg")
            _finish(total, total_up, pointers, inside, bias, n[:, None], N, BIAS, SILU, ADD)
            tl.store(arrived + tile, 0)
