"""The small fused kernels against float64: every element is the exact value, rounded once."""

from __future__ import annotations

from typing import Any

import pytest

from ..cuda.interpreted import DEVICE, torch

from sgl.backend.runtime.model.llama.kernels import embed, gather_rows, rms_norm, rope_and_store, silu_mul  # isort: skip

HALF_STEP = {torch.float32: 2.0**-21, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8 if DEVICE == "cuda" else 2.0**-7}
"""Half the distance of neighbours of a type, relative; for float32 with room for the sum's own rounding. The
interpreter cuts bfloat16 off where a GPU rounds."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape).to(device=DEVICE, dtype=dtype)


def ids(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def assert_rounded_once(got: Any, exact: Any) -> None:
    """Within half a step of the exact value, and of what float32 arithmetic adds to it."""
    error = (got.double() - exact).abs()
    allowed = HALF_STEP[got.dtype] * 1.01 * exact.abs() + 2e-6
    assert bool((error <= allowed).all()), f"{float((error - allowed).max())} too far"


def normed(x: Any, weight: Any, eps: float) -> Any:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def test_embed_reads_sampled_tokens_through_negative_ones() -> None:
    table, out = made(11, 1500), made(5, 1500)
    embed(ids(3, -1, 10, -3, 0), ids(7, 8, 9), table, out)
    assert torch.equal(out, table[[3, 7, 10, 9, 0]])


def test_embed_reads_no_sampled_token_where_none_is_named() -> None:
    table, out = made(4, 6), made(2, 6)
    embed(ids(1, 3), ids(), table, out)
    assert torch.equal(out, table[[1, 3]])


@pytest.mark.parametrize("dtype", HALF_STEP)
@pytest.mark.parametrize("width", [1, 96, 1000, 4096])
def test_rms_norm(width: int, dtype: Any) -> None:
    x, weight = made(3, width, dtype=dtype), made(width, dtype=dtype)
    out = torch.empty_like(x)
    rms_norm(x, weight, 1e-5, out)
    assert_rounded_once(out, normed(x, weight, 1e-5))


def test_rms_norm_in_place_over_strided_rows() -> None:
    whole, weight = made(4, 300), made(100)
    before = whole.clone()
    rms_norm(whole[:, 100:200], weight, 1e-6, whole[:, 100:200])
    assert_rounded_once(whole[:, 100:200], normed(before[:, 100:200], weight, 1e-6))
    assert torch.equal(whole[:, :100], before[:, :100]) and torch.equal(whole[:, 200:], before[:, 200:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silu_mul(dtype: Any) -> None:
    both, out = made(3, 2 * 1100, dtype=dtype) * 4, made(3, 1100, dtype=dtype)
    silu_mul(both, out)
    gate, up = both.double().chunk(2, dim=1)
    assert_rounded_once(out, gate * gate.sigmoid() * up)


def test_gather_rows() -> None:
    x, out = made(6, 1030, dtype=torch.bfloat16), made(4, 1030, dtype=torch.bfloat16)
    gather_rows(x, ids(5, 0, 0, 2), out)
    assert torch.equal(out, x[[5, 0, 0, 2]])


def turned(x_THD: Any, cos_TF: Any, sin_TF: Any) -> Any:
    low, high = x_THD.double().chunk(2, dim=-1)
    cos, sin = cos_TF.double()[:, None], sin_TF.double()[:, None]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads, kv_heads, dim", [(4, 2, 64), (9, 3, 80), (1, 1, 2), (3, 1, 256), (5, 5, 10)])
@pytest.mark.parametrize("with_norms", [False, True])
def test_rope_and_store(heads: int, kv_heads: int, dim: int, with_norms: bool, dtype: Any) -> None:
    rows, room = 3, 7
    columns = (heads + 2 * kv_heads) * dim
    qkv = made(rows, columns + 8, dtype=dtype)[:, :columns]  # rows may be strided
    cos, sin = made(12, dim // 2), made(12, dim // 2)
    norms = (made(dim, dtype=dtype), made(dim, dtype=dtype)) if with_norms else None
    positions, slots = [11, 0, 4], [6, 1, 2]
    q = torch.empty(rows, heads, dim, dtype=dtype, device=DEVICE)
    k, v = made(room, kv_heads, dim, dtype=dtype), made(room, kv_heads, dim, dtype=dtype)
    old_k, old_v = k.clone(), v.clone()
    rope_and_store(qkv, ids(*positions), ids(*slots), cos, sin, norms, 1e-6, q, k, v)

    each = qkv.reshape(rows, -1, dim)
    was_q, was_k, was_v = each.split([heads, kv_heads, kv_heads], dim=1)
    if norms is not None:
        was_q, was_k = normed(was_q, norms[0], 1e-6), normed(was_k, norms[1], 1e-6)
    assert_rounded_once(q, turned(was_q, cos[positions], sin[positions]))
    assert_rounded_once(k[slots], turned(was_k, cos[positions], sin[positions]))
    assert torch.equal(v[slots], was_v)
    others = [slot for slot in range(room) if slot not in slots]
    assert torch.equal(k[others], old_k[others]) and torch.equal(v[others], old_v[others])


def test_no_rows_are_no_launch() -> None:
    nothing = made(0, 8)
    rms_norm(nothing, made(8), 1e-5, nothing)
    silu_mul(made(0, 16), nothing)
    embed(ids(), ids(), made(3, 8), nothing)
    gather_rows(made(3, 8), ids(), nothing)
    q, cache = made(0, 1, 4), made(2, 1, 4)
    rope_and_store(made(0, 12), ids(), ids(), made(3, 2), made(3, 2), None, 1e-5, q, cache, cache)
