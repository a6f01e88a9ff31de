"""Names and shapes of the tensors of a model of the family: for weights that are made up, and to know what they weigh.

Owns: the list, in the order in which made-up weights are drawn. Knows nothing of values, files or devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .....lang.errors import ModelLoadError
from .config import ModelConfig

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The shape of every tensor, by its name in HF checkpoints."""
    return dict(_tensor_shapes(config))


def _tensor_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden_size
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)
    for i in range(config.num_layers):
        yield from ((f"model.layers.{i}.{name}", shape) for name, shape in _layer_shapes(config, i).items())


def check_tensors(config: ModelConfig, found: Mapping[str, tuple[Shape, torch.dtype]], name: str) -> None:
    """Compare what a config says with the tensors that are there, before anything is allocated.

    Raises `ModelLoadError` for a tensor that is missing, has another shape, or holds no floats.
    """
    check_shapes(config, {tensor: shape for tensor, (shape, _) in found.items()}, name)
    for tensor in tensor_shapes(config):
        if not found[tensor][1].is_floating_point:
            raise ModelLoadError(f"{name}: {tensor!r} has type {found[tensor][1]}; weights are floats")


def check_shapes(config: ModelConfig, found: Mapping[str, Shape], name: str) -> None:
    """Compare what a config says with the shapes of the tensors that are there.

    Raises `ModelLoadError` for a tensor that is missing or has another shape.
    """
    for tensor, shape in _tensor_shapes(config):
        there = found.get(tensor)
        if there is None:
            raise ModelLoadError(f"{name}: the tensor {tensor!r} is missing; the checkpoint is incomplete")
        if there != shape:
            raise ModelLoadError(
                f"{name}: {tensor!r} has shape {there}, but the config says {shape}; config and weights are of "
                "different models"
            )


def parameter_count(config: ModelConfig) -> int:
    """Numbers in all tensors together (tied embeddings once)."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of all weights in `dtype`."""
    return parameter_count(config) * dtype.itemsize


def _layer_shapes(config: ModelConfig, layer: int) -> dict[str, Shape]:
    hidden, dim = config.hidden_size, config.head_dim
    q, kv = config.num_heads * dim, config.num_kv_heads * dim
    shapes: dict[str, Shape] = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name, rows, columns in (
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
    ):
        shapes[f"{name}.weight"] = (rows, columns)
        if config.attention_bias and name[-6] in "qkv":
            shapes[f"{name}.bias"] = (rows,)
    if config.is_sparse(layer):
        shapes["mlp.gate.weight"] = (config.num_experts, hidden)
        for expert in range(config.num_experts):
            shapes |= _feed_forward(f"mlp.experts.{expert}.", hidden, config.expert_size)
    else:
        shapes |= _feed_forward("mlp.", hidden, config.intermediate_size)
    if config.qk_norm:
        shapes |= {f"self_attn.{name}.weight": (dim,) for name in ("q_norm", "k_norm")}
    return shapes


def _feed_forward(prefix: str, hidden: int, wide: int) -> dict[str, Shape]:
    return {
        f"{prefix}gate_proj.weight": (wide, hidden),
        f"{prefix}up_proj.weight": (wide, hidden),
        f"{prefix}down_proj.weight": (hidden, wide),
    }
