"""GGUF files of every format through the CPU's kernels, against the `gguf` package's numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from sgl.backend.runtime.model.cpu import native
from sgl.backend.runtime.model.cpu.choose import quantised_model
from sgl.backend.runtime.model.cpu.gguf_blocks import READABLE
from sgl.backend.runtime.model.cpu.packed import BLOCK, Q4_1, Q8_0, quantised
from sgl.backend.runtime.model.cpu.quantised_llama import QuantisedLlama
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.gguf_file import GGUFFile
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.errors import ModelLoadError

from ..test_loader import save_gguf

ROUNDED = ("Q5_1", "Q6_K", "Q5_K", "Q3_K", "Q2_K", "IQ4_NL")
"""Formats that the kernels do not read."""
TOKENS = np.array([(7 * i + 3) % 260 for i in range(40)], dtype=np.int64)


@pytest.fixture(autouse=True)
def _needs_library() -> None:
    try:
        native.library()
    except native.MissingLibrary:
        pytest.skip("the kernels were not built: no C++ compiler")


def saved(path: Path, kind: str) -> dict[str, torch.Tensor]:
    return dict(save_gguf(path, gguf.GGMLQuantizationType[kind]))


def logits(model: Any) -> Any:
    model.allocate(64)
    at = np.arange(len(TOKENS))
    return model.forward(Batch(TOKENS, at, at, [SpanLayout(0, len(TOKENS), (), 0)], at))


def loaded(path: Path, cache: Path, quantization: str) -> QuantisedLlama | None:
    return quantised_model(load_checkpoint(path, "auto", cache), quantization, cache)


@pytest.mark.parametrize("kind", [*READABLE, *ROUNDED])
def test_auto_computes_with_the_numbers_of_the_file(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice: packed now, and out of the cache. Other formats are rounded to 8 bits, which the log says."""
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    saved(path, kind)
    file = GGUFFile(path)
    checkpoint = load_checkpoint(path, "auto", cache)
    numbers = {name: torch.from_numpy(file.tensor(name)) for name in file.shapes()}
    for name, values in numbers.items():
        blocks = file.blocks(name)
        assert (blocks is not None) == (kind in READABLE and values.ndim == 2)
        if blocks is not None:  # without loss
            np.testing.assert_array_equal(blocks.floats(), values.numpy())
        elif values.ndim == 2 and "norm" not in name:
            rounded = quantised(values.numpy(), 8).floats()
            most = np.abs(values.numpy()).reshape(len(values), -1, BLOCK).max(-1, keepdims=True)
            error = np.abs(rounded - values.numpy()).reshape(len(values), -1, BLOCK)
            assert (error <= most / 253 + 1e-7).all()
            numbers[name] = torch.from_numpy(rounded)
    object.__setattr__(checkpoint, "tensors", numbers)
    wanted = logits(Llama(checkpoint))
    with caplog.at_level(logging.INFO, "sgl"):
        first, again = loaded(path, cache, "auto"), loaded(path, cache, "auto")
    assert ("other formats are rounded to blocks of 8 bits" in caplog.text) == (kind in ROUNDED)
    assert "packing again" not in caplog.text and not (list(cache.rglob("model.safetensors")))
    got = logits(first)
    np.testing.assert_array_equal(got, logits(again))
    assert np.abs(got - wanted).max() < 2e-3 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_file_of_floats_stays_floats_until_blocks_are_asked_for(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    saved(path, kind)
    with caplog.at_level(logging.INFO, "sgl"):
        assert loaded(path, cache, "auto") is None
    assert "leaves the weights floats" in caplog.text
    wanted = logits(Llama(load_checkpoint(path, "auto", cache)))
    for asked, most in (("q8", 0.02), ("q4", 0.3)):
        model = loaded(path, cache, asked)
        assert model is not None
        assert np.abs(logits(model) - wanted).max() < most * np.abs(wanted).max()


@pytest.mark.parametrize("kind, tensor", [("Q4_1", "blk.1.ffn_up.weight"), ("Q6_K", "blk.0.attn_k.weight")])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_scale_that_is_no_number_is_an_error_of_the_file(
    kind: str, tensor: str, number: float, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    saved(path, kind)
    (found,) = [each for each in gguf.GGUFReader(path).tensors if each.name == tensor]
    data = bytearray(path.read_bytes())
    at = int(found.data_offset) + (208 if kind == "Q6_K" else 0)
    data[at : at + 2] = np.float16(number).tobytes()
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="not finite; download the file again"):
        loaded(path, tmp_path / "cache", "auto")


def test_q4_has_no_larger_blocks_but_embedding_and_head(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "cache"
    saved(path, "Q8_0")
    for asked, bits in (("q4", Q4_1), ("q8", Q8_0), ("auto", Q8_0)):
        model = loaded(path, cache, asked)
        assert model is not None
        kinds = {name: kind for name, (_, _, kind) in model._weights.matrices.items()}
        assert kinds.pop("embedding") == kinds.pop("head") == Q8_0
        assert set(kinds.values()) == {bits}
