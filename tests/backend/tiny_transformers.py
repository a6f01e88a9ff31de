"""Tiny random models of many families, in transformers' own classes, for the tests of models that transformers runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SIZES = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
WINDOW = 9
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "num_key_value_heads": 6, "head_dim": 8, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 40, "first_k_dense_replace": 1,
}  # fmt: skip

FAMILIES = {
    "Gemma2": {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0},
    "Gemma3Text": {"head_dim": 8, "sliding_window": WINDOW, "sliding_window_pattern": 3},
    "Phi3": {"sliding_window": WINDOW},
    "Olmo2": {},
    "Olmo3": {"sliding_window": WINDOW},
    "GPTNeoX": {},
    "StableLm": {},
    "Granite": {"attention_multiplier": 0.3, "logits_scaling": 2.0},
    "Cohere2": {"sliding_window": WINDOW, "logit_scale": 1.0},
    "Mixtral": {**EXPERTS, "sliding_window": None},
    "Qwen3Moe": {**EXPERTS, "head_dim": 8},
    "Mistral": {"sliding_window": WINDOW},
    "GPT2": {"n_positions": 512, "scale_attn_by_inverse_layer_idx": True},
    "DeepseekV3": LATENT,
}  # fmt: skip
WINDOWED = ("Gemma2", "Gemma3Text", "Phi3", "Olmo3", "Cohere2", "Mistral")


def random_model(family: str, options: dict[str, Any]) -> Any:
    """Random weights, norms and biases too, so that they matter; in eager attention."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += torch.randn_like(parameter) * (0.1 if "norm" in name else 0.3)
    return model


def saved(folder: Path, family: str, options: dict[str, Any] | None = None) -> Any:
    reference = random_model(family, FAMILIES[family] if options is None else options)
    reference.save_pretrained(folder)
    return reference


def plain_logits(reference: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return reference(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
