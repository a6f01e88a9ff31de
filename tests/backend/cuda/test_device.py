"""What a card can do and what fits on it, asked of cards that are plain values; and a real one where there is one."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from sgl.backend.runtime.device import (
    Card,
    card_of,
    check_fits,
    free_memory,
    fused_obstacle,
    pool_tokens,
    reserve_bytes,
    resolve_device,
    resolve_dtype,
)
from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.lang.errors import OptionError, OutOfMemory

GIB = 1 << 30
HOPPER = Card("cuda", "NVIDIA H200", (9, 0), total=141 * GIB, free=139 * GIB)
TURING = Card("cuda:1", "Tesla T4", (7, 5), total=16 * GIB, free=15 * GIB)
LLAMA_8B = ModelConfig(
    architecture="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
    num_kv_heads=8, head_dim=128, rms_norm_eps=1e-5, rope_theta=5e5, max_position_embeddings=131072,
)  # fmt: skip


def test_auto_takes_what_the_card_computes(caplog):
    caplog.set_level(logging.INFO, logger="sgl")
    assert resolve_dtype("auto", None) == torch.float32
    assert resolve_dtype("auto", HOPPER) == torch.bfloat16
    assert not caplog.records
    assert resolve_dtype("auto", TURING) == torch.float16
    (record,) = caplog.records
    assert record.levelname == "INFO" and "Tesla T4" in record.message and "7.5" in record.message


@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16"])
def test_a_dtype_that_is_named_is_taken(asked):
    assert resolve_dtype(asked, None) == resolve_dtype(asked, HOPPER) == getattr(torch, asked)
    if asked != "bfloat16":
        assert resolve_dtype(asked, TURING) == getattr(torch, asked)


def test_bfloat16_is_refused_where_there_is_none():
    with pytest.raises(OptionError, match=r"dtype='bfloat16': cuda:1 \(Tesla T4.*7\.5.*use dtype='float16'"):
        resolve_dtype("bfloat16", TURING)
    assert resolve_dtype("bfloat16", replace(TURING, capability=(8, 0))) == torch.bfloat16


@pytest.mark.parametrize("card", [None, HOPPER])
def test_a_dtype_that_does_not_exist(card):
    with pytest.raises(OptionError, match="one of float32, bfloat16, float16, got 'fp8'"):
        resolve_dtype("fp8", card)


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "mps", "meta", ""])
def test_devices_that_are_none(asked):
    with pytest.raises(OptionError, match="use 'auto', 'cpu' or 'cuda'"):
        resolve_device(asked)


def test_devices_that_are_not_there():
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(OptionError, match=r"'cuda:99': torch sees"):
        resolve_device("cuda:99")
    assert card_of("cpu") is None


def test_where_fused_kernels_run():
    assert all(fused_obstacle(HOPPER, dim, has_triton=True) is None for dim in (16, 64, 80, 128, 256))
    assert "triton is not installed" in fused_obstacle(HOPPER, 128, has_triton=False)
    assert fused_obstacle(TURING, 128, has_triton=True) == (
        "cuda:1 (Tesla T4, compute capability 7.5) is older than compute capability 8.0"
    )
    for dim in (8, 512):
        assert f"heads of {dim} are not between 16 and 256" in fused_obstacle(HOPPER, dim, has_triton=True)


def test_weights_that_do_not_fit_are_refused_with_numbers():
    check_fits(LLAMA_8B, torch.bfloat16, HOPPER)
    check_fits(LLAMA_8B, torch.float32, HOPPER)
    needed = 8_030_261_248 * 2
    check_fits(LLAMA_8B, torch.bfloat16, replace(HOPPER, free=needed))
    with pytest.raises(OutOfMemory) as caught:
        check_fits(LLAMA_8B, torch.bfloat16, replace(HOPPER, free=needed - 1), "my/model")
    message = str(caught.value)
    assert "my/model" in message and "8.0 billion parameters in bfloat16" in message
    assert "need 15.0 GiB" in message and "15.0 GiB free of 141.0 GiB" in message and "dtype=" not in message
    with pytest.raises(OutOfMemory, match=r"need 29\.9 GiB.*use dtype='bfloat16' \(half as much\), a smaller model"):
        check_fits(LLAMA_8B, torch.float32, replace(HOPPER, free=20 * GIB))
    with pytest.raises(OutOfMemory, match=r"use dtype='float16' \(half as much\)"):
        check_fits(LLAMA_8B, torch.float32, replace(TURING, free=20 * GIB))
    with pytest.raises(OutOfMemory, match="use a smaller model"):
        check_fits(LLAMA_8B, torch.float32, replace(TURING, free=14 * GIB))


def test_the_pool_takes_a_fraction_and_leaves_the_reserve():
    assert pool_tokens(100 * GIB, 0.5, 1024, 2 * GIB) == 50 * GIB // 1024
    assert pool_tokens(10 * GIB, 0.9, 1024, 2 * GIB) == 8 * GIB // 1024, "the reserve is more than the rest"
    assert pool_tokens(1001, 1.0, 1000, 0) == 1
    for free, reserve in ((999, 0), (5000, 4001), (100, 4000)):
        with pytest.raises(OutOfMemory, match=r"no room for KV.*GiB are free.*chunked_prefill_size"):
            pool_tokens(free, 0.9999, 1000, reserve)


def test_the_reserve_grows_with_the_step():
    small = reserve_bytes(LLAMA_8B, torch.bfloat16, step_tokens=256, wanted=8)
    large = reserve_bytes(LLAMA_8B, torch.bfloat16, step_tokens=8192, wanted=256)
    assert GIB // 2 < small < GIB < large < 3 * GIB
    assert large - GIB // 2 > 8192 * (3 * 14336 + 2 * 4096) * 2, "what a feed-forward holds at once"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_card_that_is_there():
    card = card_of("cuda")
    assert card is not None and card.name and card.capability >= (7, 0) and 0 < card.free <= card.total
    before = free_memory("cuda")
    block = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    assert before - free_memory("cuda") >= block.nbytes // 2
    assert resolve_device("auto") == "cuda" and card_of("cuda:0").name == card.name
