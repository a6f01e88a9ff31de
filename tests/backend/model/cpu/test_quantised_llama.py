"""The CPU kernels against plain numpy and torch over the same weights, at every level of instructions of this machine.

The oracle of a model is `Llama` in float32 over the blocks, dequantised. Activations of 16 bits leave a difference of
about 1e-4 of the logits' range.
"""

from __future__ import annotations

import ctypes
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.model.cpu import choose, native
from sgl.backend.runtime.model.cpu.choose import quantised_model
from sgl.backend.runtime.model.cpu.gguf_blocks import READABLE, read_blocks
from sgl.backend.runtime.model.cpu.packed import Q4_0, Q4_1, Q4_K, Q8_0, Blocks, Floats, packed, quantised
from sgl.backend.runtime.model.cpu.packed_weights import kept, pack
from sgl.backend.runtime.model.cpu.quantised_llama import QuantisedLlama, obstacle
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.checkpoint import Checkpoint
from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.backend.runtime.model.load.dummy import byte_tokenizer
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.errors import ModelLoadError, NotYet, OptionError


def built() -> bool:
    try:
        return bool(native.library())
    except native.MissingLibrary:
        return False


needs_library = pytest.mark.skipif(not built(), reason="the kernels were not built: no C++ compiler")
LEVELS = [i for i in range(len(native.LEVELS)) if built() and native.library().sgl_has_level(i)]
CONFIG = ModelConfig(
    architecture="llama", vocab_size=300, hidden_size=96, intermediate_size=160, num_layers=3, num_heads=6,
    num_kv_heads=2, head_dim=32, rms_norm_eps=1e-5, rope_theta=10_000.0, max_position_embeddings=4096,
)  # fmt: skip
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "architecture": "qwen2"},
    "head norms": {"qk_norm": True, "architecture": "qwen3"},
    "one query a KV head": {"num_kv_heads": 6},
    "seven queries a KV head": {"num_heads": 7, "num_kv_heads": 1},
    "wide heads": {"head_dim": 128, "num_heads": 2, "num_kv_heads": 1},
    "one layer": {"num_layers": 1},
}


# -- blocks
def blocks_of(kind: int, outputs: int, depth: int, seed: int = 0) -> Blocks:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256 if kind == Q8_0 else 16, (outputs, depth), dtype=np.uint8)
    shape = outputs, depth // 32
    real = np.float32 if kind == Q4_K else np.float16
    scale = rng.standard_normal(shape).astype(real)
    return Blocks(kind, codes, scale, rng.standard_normal(shape).astype(real) if kind in (Q4_1, Q4_K) else None)


@pytest.mark.parametrize("kind", READABLE)
def test_blocks_of_a_file_are_read_without_loss(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((6, 512)).astype(np.float32)
    if kind == "Q4_K":  # the package does not quantise to it: any bytes with finite scales are blocks
        raw = np.random.default_rng(2).integers(0, 256, (6, 2, 144), dtype=np.uint8)
        raw[..., :4] = np.random.default_rng(3).random((6, 2, 2)).astype(np.float16).view(np.uint8)
        raw = raw.reshape(6, -1)
    else:
        raw = gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, kind))
    exact = gguf.quants.dequantize(raw, getattr(gguf.GGMLQuantizationType, kind))
    np.testing.assert_array_equal(read_blocks(kind, raw, 6, 512).floats(), exact)


@pytest.mark.parametrize("bits, most", [(4, 0.5 / 15), (8, 0.5 / 127)])
def test_a_float_weight_is_rounded_to_the_nearest_code(bits: int, most: float) -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (40, 96)).astype(np.float32)
    weight[3] = 0  # a block of zeros has no scale
    assert np.abs(quantised(weight, bits).floats() - weight).max() <= 2 * most + 2e-3


# -- products
def view_of(blocks: Blocks, bias: Any = None) -> tuple[native.MatrixView, Any]:
    data = packed(blocks)
    return native.MatrixView(
        data.ctypes.data, None if bias is None else bias.ctypes.data, blocks.kind, *blocks.shape, 0
    ), data


def product(blocks: Blocks, x: Any, level: int, bias: Any = None) -> Any:
    matrix, data = view_of(blocks, bias)
    y = np.full((len(x), blocks.shape[0]), np.nan, np.float32)
    native.library().sgl_multiply(ctypes.byref(matrix), x.ctypes.data, len(x), y.ctypes.data, level)
    del data
    return y


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q4_K, Q8_0])
@pytest.mark.parametrize("outputs, depth, rows", [(16, 32, 1), (50, 64, 3), (33, 96, 13), (200, 512, 512)])
def test_a_product_is_that_of_the_floats(level: int, kind: int, outputs: int, depth: int, rows: int) -> None:
    rng = np.random.default_rng(4)
    blocks, bias = blocks_of(kind, outputs, depth), rng.standard_normal(outputs).astype(np.float32)
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    x[0, ::7] *= 500  # outliers leave the other activations of their block 16 bits less theirs
    exact = x.astype(np.float64) @ blocks.floats().astype(np.float64).T + bias
    size = np.abs(x).astype(np.float64) @ np.abs(blocks.floats()).astype(np.float64).T + 1
    y = product(blocks, x, level, bias)
    assert (np.abs(y - exact) / size).max() < 2e-4
    for row in {0, rows // 2, rows - 1}:
        np.testing.assert_array_equal(product(blocks, x[row : row + 1], level, bias)[0], y[row])


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q4_K, Q8_0])
def test_the_largest_codes_overflow_nothing(level: int, kind: int) -> None:
    top = 255 if kind == Q8_0 else 15
    for code in (0, top):
        codes = np.full((16, 64), code, dtype=np.uint8)
        ones = np.ones((16, 2), np.float32 if kind == Q4_K else np.float16)
        blocks = Blocks(kind, codes, ones, ones if kind in (Q4_1, Q4_K) else None)
        for sign in (1, -1):
            x = np.full((3, 64), sign * 1.0, np.float32)
            np.testing.assert_allclose(product(blocks, x, level), x @ blocks.floats().T, rtol=1e-5, atol=1e-3)


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q4_K, Q8_0])
def test_a_row_of_a_matrix_is_its_floats(level: int, kind: int) -> None:
    blocks = blocks_of(kind, 37, 64)
    matrix, _data = view_of(blocks)
    row = np.empty(64, np.float32)
    for i in (0, 15, 16, 36):
        native.library().sgl_matrix_row(ctypes.byref(matrix), i, row.ctypes.data, level)
        np.testing.assert_allclose(row, blocks.floats()[i], rtol=1e-6, atol=1e-6)


# -- the model
def both(variant: dict[str, Any], bits: int = 8, slots: int = 3000) -> tuple[QuantisedLlama, Llama]:
    """A random model twice: over blocks, and in float32 over the same blocks dequantised."""
    config = replace(CONFIG, **variant)
    generator = torch.Generator().manual_seed(3)
    shown: dict[str, torch.Tensor] = {}

    def supply(name: str) -> Blocks | Floats | None:
        known = shapes(config)
        if name not in known:
            return None
        value = torch.randn(known[name], generator=generator) * 0.2
        if len(known[name]) == 1:
            shown[name] = value + (1 if "norm" in name else 0)
            return shown[name].numpy()
        blocks = quantised(value.numpy(), 8 if "embed" in name or "head" in name else bits)
        shown[name] = torch.from_numpy(blocks.floats())
        return blocks

    weights = pack(config, supply, None, "test")
    checkpoint = Checkpoint(
        name="test", tokenizer=byte_tokenizer(300, "test"), chat_template=None, bos_id=None, eos_ids=(),
        add_bos=False, config=config, tensors=shown,
    )  # fmt: skip
    oracle = Llama(checkpoint)
    model = QuantisedLlama(config, weights, threads=2)
    for each in (model, oracle):
        each.allocate(slots)
    return model, oracle


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, wide, dim = config.hidden_size, config.intermediate_size, config.head_dim
    out = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        out["lm_head.weight"] = (config.vocab_size, hidden)
    for i in range(config.num_layers):
        at = f"model.layers.{i}."
        out |= {f"{at}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        for part, heads in (("q", config.num_heads), ("k", config.num_kv_heads), ("v", config.num_kv_heads)):
            out[f"{at}self_attn.{part}_proj.weight"] = heads * dim, hidden
            if config.attention_bias:
                out[f"{at}self_attn.{part}_proj.bias"] = (heads * dim,)
            if config.qk_norm and part != "v":
                out[f"{at}self_attn.{part}_norm.weight"] = (dim,)
        out[at + "self_attn.o_proj.weight"] = hidden, config.num_heads * dim
        out |= {f"{at}mlp.{part}_proj.weight": (wide, hidden) for part in ("gate", "up")}
        out[at + "mlp.down_proj.weight"] = hidden, wide
    return out


def span_batch(spans: list[tuple[list[int], list[tuple[int, int]], list[int]]], want: list[int] | None = None) -> Batch:
    """Spans as (tokens, context runs, slots of the rows)."""
    layouts, tokens, positions, slots = [], [], [], []
    for ids, runs, own in spans:
        length = sum(run[1] for run in runs)
        layouts.append(SpanLayout(len(tokens), len(ids), tuple(runs), length))
        tokens += ids
        positions += range(length, length + len(ids))
        slots += own
    arrays = (np.array(values, dtype=np.int64) for values in (tokens, positions, slots))
    return Batch(*arrays, layouts, np.array(range(len(tokens)) if want is None else want, dtype=np.int64))


def assert_near(got: Any, wanted: Any) -> None:
    assert got.shape == wanted.shape
    if wanted.size:
        assert np.abs(got - wanted).max() < 2e-3 * max(1.0, np.abs(wanted).max())


@needs_library
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_torch_over_the_same_blocks(
    level: int, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.LEVEL_VARIABLE, native.LEVELS[level])
    model, oracle = both(variant, bits=4)
    tokens = [(7 * i + 3) % 300 for i in range(150)]
    steps = [
        span_batch([(tokens[:100], [], [*range(10, 110)]), (tokens[:3], [], [*range(200, 203)])]),
        span_batch([(tokens[100:101], [(10, 100)], [110]), (tokens[3:70], [(200, 3)], [*range(300, 367)])], [0, 67]),
        span_batch([(tokens[90:92], [(10, 70)], [400, 402]), (tokens[91:92], [(10, 70)], [401])], [1]),
        span_batch([(tokens[:2], [(10, 70), (400, 1)], [405, 407])], []),
    ]
    for step in steps:
        assert_near(model.forward(step), oracle.forward(step))


@needs_library
def test_a_row_has_the_same_bits_in_any_company() -> None:
    """Chunks, shared prefixes, neighbours and threads do not change a bit."""
    model, _ = both({"num_layers": 2})
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 300, 1300).tolist()
    whole = model.forward(span_batch([(tokens, [], [*range(1300)])], [700, 1299]))
    for cut in (1, 63, 64, 65, 512, 700, 1299):
        model.forward(span_batch([(tokens[:cut], [], [*range(1400, 1400 + cut)])], []))
        rest = span_batch([(tokens[cut:], [(1400, cut)], [*range(1400 + cut, 2700)])], [1299 - cut])
        np.testing.assert_array_equal(model.forward(rest)[0], whole[1])

    def decoding(slots: int) -> list[Any]:
        contexts = [[(0, 700)], [(0, 700), (1400, 3)]]
        return [([token], contexts[i % 2], [slots + i]) for i, token in enumerate(tokens[700:708])]

    shared = model.forward(span_batch(decoding(2800)))
    np.testing.assert_array_equal(shared[0], whole[0])
    alone = [model.forward(span_batch([span]))[0] for span in decoding(2900)]
    np.testing.assert_array_equal(shared, np.stack(alone))


@needs_library
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_trees_of_spans(data: st.DataObject) -> None:
    """Spans over shared and private runs of any lengths, as the scheduler packs them."""
    model, oracle = _small()
    draw = data.draw
    free, runs, spans = 0, [], []
    for _ in range(draw(st.integers(1, 4))):  # runs of context, computed first
        length = draw(st.integers(1, 150))
        ids = [draw(st.integers(0, 299)) for _ in range(3)]
        tokens = [ids[i % 3] for i in range(length)]
        before = list(draw(st.sampled_from(runs))) if runs and draw(st.booleans()) else []
        step = span_batch([(tokens, before, [*range(free, free + length)])], [])
        model.forward(step), oracle.forward(step)
        runs.append([*before, (free, length)])
        free += length + draw(st.integers(0, 2))
    for _ in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(1, 40))
        context = list(draw(st.sampled_from([[], *runs])))
        spans.append(([draw(st.integers(0, 299))] * rows, context, [*range(free, free + rows)]))
        free += rows
    step = span_batch(spans)
    assert_near(model.forward(step), oracle.forward(step))


_MADE: list[Any] = []


def _small() -> tuple[QuantisedLlama, Llama]:
    if not _MADE:
        _MADE.append(both({"num_layers": 2}, slots=4000))
    return _MADE[0]  # type: ignore[no-any-return]


@needs_library
def test_numbers_that_are_none_stay_so() -> None:
    """A NaN in the weights shows in the logits; 8 bits would hide it."""
    model, _ = both({})
    model._weights.arrays["layers.1.norm_feed"][5] = np.nan
    assert np.isnan(model.forward(span_batch([([1, 2], [], [0, 1])]))).all()


@needs_library
def test_a_step_without_rows_or_wishes() -> None:
    model, _ = both({})
    assert model.forward(span_batch([])).shape == (0, 300)
    assert model.forward(span_batch([([1, 2, 3], [], [0, 1, 2])], [])).shape == (0, 300)


# -- what is chosen, and the cache
@pytest.mark.parametrize(
    "change, said",
    [
        ({"hidden_size": 100}, "hidden_size 100"),
        ({"intermediate_size": 50}, "intermediate_size 50"),
        ({"head_dim": 80}, "head_dim 80"),
        ({"head_dim": 512}, "head_dim 512"),
        ({"num_experts": 4}, "experts"),
    ],
)
def test_sizes_that_no_kernel_takes_go_to_torch(
    change: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, **change)
    assert said in str(obstacle(config))
    checkpoint = Checkpoint(
        name="odd", tokenizer=byte_tokenizer(300, "odd"), chat_template=None, bos_id=None, eos_ids=(), add_bos=False,
        config=config, tensors={},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "sgl"):
        assert quantised_model(checkpoint, "q8", tmp_path) is None
    assert said in caplog.text and "torch computes" in caplog.text


def test_a_missing_library_is_said_and_torch_computes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise native.MissingLibrary("the CPU kernels were not built; install a compiler")

    monkeypatch.setattr(choose, "library", missing)
    checkpoint = Checkpoint(
        name="m", tokenizer=byte_tokenizer(300, "m"), chat_template=None, bos_id=None, eos_ids=(), add_bos=False,
        config=CONFIG, tensors={},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "sgl"):
        assert quantised_model(checkpoint, "q4", tmp_path) is None
    assert "install a compiler" in caplog.text


@pytest.mark.parametrize(
    "asked, options, meant",
    [
        ("auto", {}, "auto"), ("auto", {"dtype": "float32"}, None), ("auto", {"attention": "torch"}, None),
        ("q4", {}, "q4"), (None, {}, None), ("auto", {"on_gpu": True}, "auto"),
    ],
)  # fmt: skip
def test_auto_gives_way_to_what_was_asked_for(asked: Any, options: dict[str, Any], meant: Any) -> None:
    others = {"on_gpu": False, "dtype": None, "attention": "auto", **options}
    assert choose.quantization_of(asked, **others) == meant


def test_a_wrong_quantization_is_named() -> None:
    with pytest.raises(OptionError, match="did you mean 'q4'"):
        choose.quantization_of("q44", False, None, "auto")
    with pytest.raises(OptionError, match="contradict"):
        choose.quantization_of("q4", False, "bfloat16", "auto")
    with pytest.raises(NotYet, match="CPU"):
        choose.quantization_of("q8", True, None, "auto")


@needs_library
def test_a_level_that_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LEVEL_VARIABLE, "sse9")
    with pytest.raises(OptionError, match="portable"):
        native.level()


def test_a_matrix_of_another_shape_is_an_error_of_the_checkpoint() -> None:
    known = shapes(CONFIG)

    def supply(name: str) -> Floats | None:
        if name == "model.layers.1.mlp.up_proj.weight":
            return np.zeros((3, 96), np.float32)
        return np.zeros(known[name], np.float32) if name in known else None

    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.up_proj"):
        pack(CONFIG, supply, 8, "x")


@pytest.mark.parametrize("damage", ["truncated", "another version", "changed", "no json", "places"])
def test_a_damaged_cache_is_packed_again(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known, made = shapes(CONFIG), []

    def make() -> Any:
        made.append(1)
        return pack(CONFIG, lambda name: np.full(known[name], 0.5, np.float32) if name in known else None, 8, "x")

    first = kept(tmp_path, make)
    again = kept(tmp_path, make)
    assert len(made) == 1
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
        assert array.ctypes.data % 64 == 0
    del first, again
    file, meta = tmp_path / "weights.bin", tmp_path / "meta.json"
    values = json.loads(meta.read_text())
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "changed":
        file.write_bytes(b"\1" + file.read_bytes()[1:])
    elif damage == "no json":
        meta.write_text("{")
    else:
        if damage == "places":
            values["places"] = {"norm": [64, "<f4", [10**9]]}
        else:
            values["format"] = 0
        meta.write_text(json.dumps(values))
    with caplog.at_level(logging.WARNING, "sgl"):
        found = kept(tmp_path, make)
    assert len(made) == 2 and "packing again" in caplog.text
    assert set(found.matrices) == set(make().matrices)
