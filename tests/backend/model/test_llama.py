"""The Llama family against transformers' own classes, on tiny random checkpoints, and against itself in pieces."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from sgl.backend.runtime.model.llama.linear import Linear
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.step.packed import Batch, Model, SpanLayout
from sgl.lang.errors import ModelLoadError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads, and lose much to them when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

FAMILY = {
    "llama": ("Llama", {}),
    "llama, one KV head a head": ("Llama", {"num_key_value_heads": 6}),
    "llama, group of 2": ("Llama", {"num_key_value_heads": 3}),
    "llama, one KV head": ("Llama", {"num_key_value_heads": 1}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, wide heads": ("Llama", {"head_dim": 16}),
    "llama, biases": ("Llama", {"attention_bias": True}),
    "llama 3 scaling": ("Llama", {"rope_scaling": LLAMA3, "rope_theta": 1000.0}),
    "linear scaling": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "yarn": ("Llama", {"rope_scaling": YARN}),
    "yarn, every option": ("Llama", {"rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False,
                                                      "mscale": 0.9, "mscale_all_dim": 0.5}}),
    "yarn, attention factor": ("Llama", {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}  # fmt: skip


def save_reference(folder: Path, family: str, options: dict):
    """A random transformers model, saved in `folder`; norms and biases are random too, so that they matter."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter += torch.randn_like(parameter) * 0.3
    model.save_pretrained(folder)
    return model


def load(folder: Path, slots: int = 600, **options) -> Llama:
    # The random models have no tokenizer; what a tokenizer-less folder would lack is not needed here.
    byte_level = load_checkpoint(folder, "dummy", folder).tokenizer
    byte_level.save(str(folder / "tokenizer.json"))
    model = Llama(load_checkpoint(folder, "safetensors", folder), **options)
    model.allocate(slots)
    return model


def one_span(tokens, context=(), start=0, slots=None, want=None) -> Batch:
    n = len(tokens)
    slots = range(start, start + n) if slots is None else slots
    return Batch(
        tokens=np.array(tokens, dtype=np.int64),
        positions=np.arange(start, start + n),
        slots=np.array(slots, dtype=np.int64),
        spans=[SpanLayout(0, n, tuple(context), start)],
        want=np.arange(n) if want is None else np.array(want, dtype=np.int64),
    )


def tokens_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 300, n)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Llama:
    folder = tmp_path_factory.mktemp("tiny")
    save_reference(folder, "Llama", {})
    return load(folder)


@pytest.mark.parametrize("name", FAMILY)
def test_logits_equal_transformers(name, tmp_path):
    family, options = FAMILY[name]
    reference = save_reference(tmp_path, family, options)
    model = load(tmp_path)
    assert isinstance(model, Model)
    tokens = tokens_of(150)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens)[None]).logits[0].numpy()
    got = model.forward(one_span(tokens))
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    assert np.abs(expected).max() > 0.5, "the comparison would not notice anything"


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_a_prompt_in_chunks_is_the_prompt(tiny, chunk):
    tokens = tokens_of(120)
    whole = tiny.forward(one_span(tokens))
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        context = [(0, start)] if start else []
        got = tiny.forward(one_span(part, context, start))
        np.testing.assert_allclose(got, whole[start : start + chunk], atol=1e-4)


def test_many_spans_in_one_step_are_each_alone(tiny):
    """A shared prefix, private continuations in scattered slots, a span that reads what another one writes."""
    prefix, other = tokens_of(100), tokens_of(30, seed=9)
    endings = [tokens_of(n, seed=n) for n in (1, 1, 5, 60)]
    tiny.forward(one_span(prefix, want=[]))
    spans, first = [SpanLayout(0, 30, (), 0)], 30
    for ending in endings:
        spans.append(SpanLayout(first, len(ending), ((0, 100),), 100))
        first += len(ending)
    spans.append(SpanLayout(first, 1, ((200, 30),), 30))  # continues `other`, which this very step writes
    tokens = np.concatenate([other, *endings, [77]])
    positions = np.concatenate([np.arange(s.context_length, s.context_length + s.rows) for s in spans])
    slots = np.concatenate(
        [np.arange(200, 230), np.random.default_rng(0).permutation(np.arange(300, 300 + first - 29))]
    )
    got = tiny.forward(Batch(tokens, positions, slots, spans, np.arange(len(tokens))))
    row = 0
    for text in [other, *endings, np.append(other, 77)]:
        alone = tiny.forward(one_span(text if text is other or len(text) == 31 else np.append(prefix, text)))
        n = 1 if len(text) == 31 else len(text)
        np.testing.assert_allclose(got[row : row + n], alone[-n:], atol=1e-4)
        row += n


def test_only_wanted_rows_in_the_order_asked(tiny):
    tokens = tokens_of(40)
    everything = tiny.forward(one_span(tokens))
    np.testing.assert_allclose(tiny.forward(one_span(tokens, want=[39, 3, 3])), everything[[39, 3, 3]], atol=1e-5)


def test_nothing_wanted_still_writes_every_layer(tiny):
    tokens = tokens_of(40)
    expected = tiny.forward(one_span(tokens))[-1]
    tiny.allocate(600)
    assert tiny.forward(one_span(tokens[:39], want=[])).shape == (0, 300)
    np.testing.assert_allclose(tiny.forward(one_span(tokens[39:], [(0, 39)], 39))[0], expected, atol=1e-4)


def test_an_empty_step(tiny):
    empty = np.empty(0, dtype=np.int64)
    assert tiny.forward(Batch(empty, empty, empty, [], empty)).shape == (0, 300)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype, tmp_path):
    reference = save_reference(tmp_path, "Llama", {"initializer_range": 0.05})
    model = load(tmp_path, dtype=dtype)
    tokens = tokens_of(50)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert np.abs(model.forward(one_span(tokens)) - expected).max() < 0.1 * np.abs(expected).max()
    assert model.kv_bytes_per_token == 2 * 2 * 2 * 8 * 2


def test_the_plain_linear_agrees_with_the_packed_one():
    weight, bias, x = torch.randn(20, 12), torch.randn(20), torch.randn(5, 12)
    with torch.inference_mode():
        got = Linear(weight, bias)(x)
        assert Linear(weight)(x[:0]).shape == (0, 20)
    torch.testing.assert_close(got, x @ weight.T + bias)


def test_a_sliding_window_limits_the_context(tmp_path, caplog):
    save_reference(tmp_path, "Mistral", {"sliding_window": 64})
    with caplog.at_level(logging.WARNING, logger="sgl"):
        model = load(tmp_path)
    assert model.context_length == 64
    assert "sliding window" in caplog.text and "64" in caplog.text


def test_weights_of_another_model_are_refused(tmp_path):
    save_reference(tmp_path, "Llama", {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ModelLoadError, match=r"gate_proj\.weight.*\(80, 48\).*\(96, 48\)"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelLoadError, match=r"model\.layers\.2\..*missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported.*LlamaForCausalLM"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.*linear, llama3, yarn"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 4}, "not a multiple"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
    ],
)
def test_what_is_not_supported_is_named(change, message):
    with pytest.raises(ModelLoadError, match=message):
        ModelConfig.from_hf({"architectures": ["LlamaForCausalLM"], **SIZES, **change})


def test_both_spellings_of_rope_are_the_same():
    base = {"architectures": ["LlamaForCausalLM"], **SIZES}
    old = ModelConfig.from_hf({**base, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})
    new = ModelConfig.from_hf({**base, "rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}})
    assert old == new and old.rope_theta == 5e5


def test_yarn_extends_the_context():
    base = {"architectures": ["Qwen2ForCausalLM"], **SIZES}
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert ModelConfig.from_hf({**base, "rope_scaling": scaling}).context_length == 2048
