"""Random weights and a byte tokenizer, for running a model's *shape* without its files (`load_format="dummy"`).

Owns: what a made-up checkpoint contains. Deterministic: the same config gives the same weights in every process.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ....lang.errors import ModelLoadError
from .config import ModelConfig

END = "<|endoftext|>"


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Normal weights with the config's `initializer_range` (so logits stay small), norms of one, biases of zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)

    hidden, wide, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * dim, config.num_kv_heads * dim
    tensors = {"model.embed_tokens.weight": normal(config.vocab_size, hidden), "model.norm.weight": torch.ones(hidden)}
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = normal(config.vocab_size, hidden)
    for i in range(config.num_layers):
        layer = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = torch.ones(hidden)
        for name, rows, columns in (
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", wide, hidden),
            ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ):
            tensors[f"{layer}{name}.weight"] = normal(rows, columns)
            if config.attention_bias and name[-6] in "qkv":
                tensors[f"{layer}{name}.bias"] = torch.zeros(rows)
        if config.qk_norm:
            for name in ("q_norm", "k_norm"):
                tensors[f"{layer}self_attn.{name}.weight"] = torch.ones(dim)
    return tensors


def byte_tokenizer(vocab_size: int, name: str) -> Tokenizer:
    """One token a byte (ids 0-255) and an end token (256). Ids above, up to the vocabulary's size, are no tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise ModelLoadError(f"{name}: a byte tokenizer needs vocab_size 257, not {vocab_size}; add a tokenizer.json")
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer
