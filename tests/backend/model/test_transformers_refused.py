"""Models that transformers knows and our attention cannot compute: each is refused by name, never run wrongly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sgl.backend.runtime.model.foreign import probe as transformers_probe
from sgl.backend.runtime.model.foreign.load import load_transformers
from sgl.backend.runtime.model.foreign.model import TransformersModel
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.errors import BackendError, ModelLoadError

from .tiny_transformers import EXPERTS, FAMILIES, random_model, saved

REFUSED = {
    "sinks": ("GptOss", {**EXPERTS, "head_dim": 8}, "sinks"),
    "convolutions": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "layers of type conv"),
    "state space": ("Mamba", {}, "linear_attention"),
    "chunked attention": ("Llama4Text", {**EXPERTS, "head_dim": 8, "attention_chunk_size": 16}, "chunked_attention"),
    "recurrence": ("Rwkv", {}, "only 0 of its 3 layers"),
    "attention of its own": ("Falcon", {}, "only 0 of its 3 layers"),
    "linear biases": ("Bloom", {}, "only 0 of its 3 layers"),
    "masks of its own": ("Doge", {}, "cannot be replaced"),
    "both directions": ("Gemma2", {**FAMILIES["Gemma2"], "is_causal": False}, "neither causal"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_attention_cannot_compute_is_refused(what, tmp_path):
    family, options, message = REFUSED[what]
    random_model(family, options).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_transformers(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "supported: decoder-only" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: transformers.BartConfig(), "encoder-decoder"),
        (lambda: transformers.Gemma3Config(), "multimodal"),
        (lambda: transformers.ViTConfig(), "no causal language model"),
    ],
)
def test_other_kinds_of_model_are_refused_before_weights_are_read(config, message, tmp_path):
    config().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=message):
        load_transformers(tmp_path)


def test_broken_folders_are_refused(tmp_path):
    saved(tmp_path, "Olmo2", {})
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(match: str, **change: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelLoadError, match=match):
            load_transformers(tmp_path)

    refused("cannot read its config", model_type="nothing-like-it")
    refused("quantized", quantization_config={"quant_method": "gptq", "bits": 4})
    refused("is missing", num_hidden_layers=4)
    refused("cannot load it", hidden_size=96)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    refused("cannot load it")
    (tmp_path / "model.safetensors").unlink()
    refused("cannot load it")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot read its config"):
        load_transformers(tmp_path)


def test_state_outside_attention_is_seen_in_the_logits():
    """A model with nothing unusual in its config or its attention, whose rows read the row before them."""
    network = random_model("Olmo2", {})

    def shift(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + torch.cat((torch.zeros_like(output[:, :1]), output[:, :-1]), dim=1)

    network.model.layers[1].mlp.register_forward_hook(shift)
    with pytest.raises(ModelLoadError, match="state outside attention"):
        TransformersModel(network, "shifted")


def test_positions_by_row_are_seen_in_the_logits():
    network = random_model("Olmo2", {})
    own = network.model.rotary_emb.forward

    def by_row(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return own(x, torch.arange(x.shape[1])[None])

    network.model.rotary_emb.forward = by_row
    with pytest.raises(ModelLoadError, match="takes positions from elsewhere"):
        TransformersModel(network, "by row")


def test_logits_that_overflow_are_named():
    network = random_model("Olmo2", {})
    with torch.no_grad():
        network.lm_head.weight *= 1e9
    with pytest.raises(ModelLoadError, match=r"not finite in torch\.float16"):
        TransformersModel(network.half(), "large")


def test_unknown_arguments_of_attention_refuse_the_model():
    recorder = transformers_probe.AttentionRecorder("odd")
    q_1QTD, kv_1HTD = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8)
    mask = transformers_probe._read_mask(mask_function=transformers.masking_utils.causal_mask_function)
    recorder(torch.nn.Identity(), q_1QTD, kv_1HTD, kv_1HTD, mask, {"scaling": None, "head_bias": None})
    assert recorder.layers[0].scaling == 8**-0.5
    with pytest.raises(ModelLoadError, match="given head_bias"):
        recorder(torch.nn.Identity(), q_1QTD, kv_1HTD, kv_1HTD, mask, {"head_bias": torch.zeros(1)})
    with pytest.raises(ModelLoadError, match="not attention of a text to itself"):
        recorder(torch.nn.Identity(), q_1QTD, kv_1HTD[:, :, :2], kv_1HTD[:, :, :2], mask, {})


def test_masks_are_read_for_what_they_are():
    from transformers import masking_utils as masks

    def read(function: Any, size: int | None = None) -> Any:
        pattern = transformers_probe._read_mask(mask_function=function, local_size=size)
        return pattern.window if pattern.causal else "refused"

    assert read(masks.causal_mask_function) is None
    assert read(masks.sliding_window_causal_mask_function(33), 33) == 33
    assert read(masks.sliding_window_causal_mask_function(1), 1) == 1
    assert read(masks.sliding_window_causal_mask_function(34), 33) == "refused"
    assert read(masks.sliding_window_causal_mask_function(4096)) == "refused"
    assert read(masks.bidirectional_mask_function) == "refused"
    chunked = masks.chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.long))
    assert read(chunked, 16) == "refused"
    assert read(masks.packed_sequence_mask_function(torch.zeros(1, 9, dtype=torch.long))) == "refused"


def test_a_forward_that_changes_its_attentions_fails(tmp_path):
    saved(tmp_path, "Olmo2", {})
    model = load_transformers(tmp_path)
    model.allocate(16)
    rows = np.arange(4)
    batch = Batch(rows + 5, rows, rows, [SpanLayout(0, 4, (), 0)], rows)
    model.network.model.layers = model.network.model.layers[:2]
    model.network.config.num_hidden_layers = 2
    with pytest.raises(BackendError, match="2 attentions in a step"):
        model.forward(batch)
