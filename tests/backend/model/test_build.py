"""Which code runs which model: the family's own, transformers, or the plain path where fused kernels cannot run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl.backend.runtime.device import Card
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load import placed as placing
from sgl.backend.runtime.model.load.build import build
from sgl.backend.runtime.model.load.checkpoint import Checkpoint, Foreign
from sgl.backend.runtime.model.load.config import ModelConfig, Unsupported
from sgl.backend.runtime.model.load.dummy import byte_tokenizer
from sgl.backend.runtime.model.load.loader import load_any, load_checkpoint
from sgl.backend.runtime.model.load.shapes import tensor_shapes
from sgl.lang.errors import ModelLoadError, OptionError, OutOfMemory

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "eos_token_id": 7, "bos_token_id": 5, "tie_word_embeddings": True,
}  # fmt: skip
EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": 8, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True,
}  # fmt: skip
CARD = Card("cpu", "A card", (9, 0), total=1 << 40, free=1 << 40)


def save(folder: Path, **change: Any) -> Path:
    config = {key: value for key, value in {**CONFIG, **change}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer(300, "test").save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "T"}))
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported"),
        ({"architectures": None, "model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, "sliding window of 64 tokens"),
        (EXPERTS, "mixtures of experts"),
    ],
)
def test_what_the_family_lacks_is_left_to_transformers(change, reason, tmp_path):
    save(tmp_path, **change)
    for load_format, dummy in (("auto", False), ("safetensors", False), ("dummy", True)):
        found = load_any(tmp_path, load_format, tmp_path)
        assert isinstance(found, Foreign) and found.path == tmp_path and found.dummy == dummy and reason in found.reason
        assert found.tokenizer.encode("ab").ids and found.chat_template == "T"
        assert found.bos_id == 5 and found.eos_ids[0] == 7 and found.name == str(tmp_path)
    if "sliding" not in reason:
        with pytest.raises(Unsupported, match=reason):
            load_checkpoint(tmp_path, "dummy", tmp_path)


def test_a_model_that_also_sees_describes_its_text_apart(tmp_path):
    text = {"vocab_size": 300, "eos_token_id": [9, 8], "bos_token_id": 3}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Sees"], "text_config": text}))
    found = load_any(tmp_path / "config.json", "dummy", tmp_path)
    assert found.tokenizer.get_vocab_size() == 257 and found.path == tmp_path
    (tmp_path / "other.json").write_text((tmp_path / "config.json").read_text())
    assert load_any(tmp_path / "other.json", "dummy", tmp_path).path == tmp_path / "other.json"
    save(tmp_path, architectures=["Sees"], text_config=text, vocab_size=None, eos_token_id=None, bos_token_id=None)
    found = load_any(tmp_path, "auto", tmp_path)
    assert found.eos_ids[:2] == (9, 8) and found.bos_id == 3


def test_dummy_weights_of_a_gguf_file_are_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=r"m\.gguf is a GGUF file: load_format='dummy' takes a config\.json"):
        load_any(tmp_path / "m.gguf", "dummy", tmp_path)


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    save(tmp_path, architectures=["MistralForCausalLM"], sliding_window=128)
    assert isinstance(load_any(tmp_path, "dummy", tmp_path), Checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({**EXPERTS, "moe_intermediate_size": None}, "'moe_intermediate_size' is missing"),
    ],
)
def test_what_is_wrong_is_an_error_still(change, message, tmp_path):
    save(tmp_path, **change)
    with pytest.raises(ModelLoadError, match=message):
        load_any(tmp_path, "dummy", tmp_path)


def test_transformers_is_given_what_was_asked_for(tmp_path, monkeypatch, caplog):
    from sgl.backend.runtime.model.foreign import load as foreign_load

    caplog.set_level(logging.INFO, logger="sgl")
    asked: list[Any] = []

    def load(path: Path, **options: Any) -> str:
        asked.append((path, options))
        return "the model"

    monkeypatch.setattr(foreign_load, "load_transformers", load)
    save(tmp_path, architectures=["GPT2LMHeadModel"])
    model, tokenizer, template, name = build(tmp_path, device="cpu", dtype="bfloat16", load_format="dummy")
    assert asked == [(tmp_path, {"device": "cpu", "dtype": torch.bfloat16, "dummy": True})]
    assert model == "the model" and template is not None and name == tmp_path.name and 7 in tokenizer.eos_ids
    (line,) = [record for record in caplog.records if "transformers runs this model" in record.message]
    assert line.levelname == "INFO" and "GPT2LMHeadModel is not supported" in line.message


def test_a_quantization_that_transformers_does_not_carry_out_is_said(tmp_path, monkeypatch, caplog):
    from sgl.backend.runtime.model.foreign import load as foreign_load

    monkeypatch.setattr(foreign_load, "load_transformers", lambda path, **options: "the model")
    save(tmp_path, architectures=["GPT2LMHeadModel"])
    for quantization, lines in (("q8", 1), ("auto", 0), (None, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sgl"):
            build(tmp_path, device="cpu", dtype="auto", load_format="dummy", quantization=quantization)
        assert [r.getMessage().count("quantization='q8' has no effect") for r in caplog.records] == [1] * lines


def test_memory_that_runs_out_while_loading_is_a_typed_error(tmp_path, monkeypatch):
    found = load_any(save(tmp_path), "dummy", tmp_path)

    def out_of_memory(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 MiB")

    monkeypatch.setattr(placing, "_own", out_of_memory)
    monkeypatch.setattr(placing, "free_memory", lambda device: 5 << 30)
    with pytest.raises(OutOfMemory, match=r"do not fit on cuda:3, of which 5\.0 GiB are free"):
        placing.placed(found, "cuda:3", torch.float32, None, "auto")


def test_weights_are_weighed_before_they_are_loaded(tmp_path, monkeypatch):
    found = load_any(save(tmp_path), "dummy", tmp_path)
    monkeypatch.setattr(placing, "_own", lambda *args: pytest.fail("loaded all the same"))
    with pytest.raises(OutOfMemory, match="weights"):
        placing.placed(found, "cuda", torch.float32, Card("cuda", "Small", (9, 0), 2000, 1000), "auto")


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_an_older_card_runs_the_plain_path_with_one_warning(capability, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="sgl")
    found = load_any(save(tmp_path), "dummy", tmp_path)
    card = Card("cuda", "Old", capability, 1 << 40, 1 << 40)
    assert isinstance(placing._own(found, "cpu", torch.float32, card, "auto"), Llama)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "Old" in record.message and "capability 8.0" in record.message


def test_attention_that_was_asked_for_by_name(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="sgl")
    found = load_any(save(tmp_path), "dummy", tmp_path)  # its heads of 8 are too small for kernels
    assert isinstance(placing._own(found, "cpu", torch.float32, CARD, "torch"), Llama) and not caplog.records
    with pytest.raises(OptionError, match=r"'triton' cannot run here: .*use 'auto' or 'torch'"):
        placing._own(found, "cpu", torch.float32, CARD, "triton")
    with pytest.raises(OptionError, match="'flashinfer' needs a GPU"):
        build(tmp_path, device="cpu", dtype="auto", load_format="dummy", attention="flashinfer")
    build(tmp_path, device="cpu", dtype="auto", load_format="dummy", attention="torch")


def test_the_cpu_runs_the_plain_path_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="sgl")
    model, *_ = build(save(tmp_path), device="cpu", dtype="auto", load_format="dummy")
    assert isinstance(model, Llama) and model.dtype == torch.float32 and not caplog.records
    with pytest.raises(OptionError, match="dtype must be"):
        build(tmp_path, device="cpu", dtype="int8", load_format="dummy")


def test_the_family_needs_neither_transformers_nor_triton(tmp_path):
    save(tmp_path)
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from sgl.backend.runtime.model.load.build import build\n"
        "build(sys.argv[1], device='cpu', dtype='auto', load_format='dummy')\n"
        "assert 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- mixtures of experts, and shapes ------------------------------------------------------------------------------


def test_experts_are_read():
    config = ModelConfig.from_hf({**CONFIG, **EXPERTS, "decoder_sparse_step": 2, "mlp_only_layers": [3]})
    assert (config.num_experts, config.experts_per_token, config.expert_size) == (4, 2, 16)
    assert config.normalized_experts and config.qk_norm
    assert [config.is_sparse(layer) for layer in range(6)] == [False, True, False, False, False, True]
    dense = ModelConfig.from_hf(CONFIG)
    assert not dense.num_experts and not any(dense.is_sparse(layer) for layer in range(4))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {"tie_word_embeddings": False}),
        ("Llama", {"attention_bias": True}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 16}),
        ("Qwen3Moe", {**EXPERTS, "num_hidden_layers": 3, "mlp_only_layers": [1]}),
    ],
)
def test_shapes_are_those_transformers_saves(family, options, tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    options = {key: value for key, value in {**CONFIG, **options}.items() if key not in ("architectures", "model_type")}
    network = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**options))
    network.save_pretrained(tmp_path)
    saved = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    shapes = tensor_shapes(ModelConfig.from_hf(json.loads((tmp_path / "config.json").read_text())))
    if family == "Llama" and options.get("attention_bias"):
        saved = {name: shape for name, shape in saved.items() if not name.endswith("o_proj.bias")}  # made optional
    assert shapes == saved
