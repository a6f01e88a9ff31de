"""A tiny random Llama as a folder, with a byte tokenizer that has ChatML's control tokens."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from tokenizers import AddedToken

from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.backend.runtime.model.load.dummy import byte_tokenizer, random_tensors
from sgl.lang.chat import CHATML

SIZES = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "tie_word_embeddings": False, "initializer_range": 0.2,
}  # fmt: skip


def save_tiny(folder: Path, seed: int = 3, **change) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {**SIZES, **change}
    tokenizer = byte_tokenizer(300, "test")
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<|im_end|>", "<|im_start|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHATML)
    save_file(random_tensors(ModelConfig.from_hf(config), seed=seed), folder / "model.safetensors")
    return folder
