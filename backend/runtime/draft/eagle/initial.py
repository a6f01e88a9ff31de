"""A head to begin training with: made from its target's own weights.

Owns: which weight of the target begins as which weight of the head. Knows nothing of training or of files.
"""

from __future__ import annotations

import dataclasses

import torch

from .....lang.errors import OptionError
from .config import HeadConfig, default_features
from .files import describe_target
from .head import Eagle3Head
from .target import Target


def initial_head(
    target: Target, draft_ids: torch.Tensor, *, intermediate: int | None = None, seed: int = 0
) -> Eagle3Head:
    """Make a head whose layer is the target's last one, which reads the deepest feature.

    Args:
        target: the model.
        draft_ids: the draft vocabulary, rising ids of the target.
        intermediate: width of the feed-forward; default the target's. What is wider begins near zero.
        seed: of the small random numbers.

    Raises:
        OptionError: `intermediate` is smaller than the target's.
    """
    model = target.config
    wide = model.intermediate_size if intermediate is None else intermediate
    if wide < model.intermediate_size:
        raise OptionError(
            f"the head's feed-forward has {wide} rows, the target's {model.intermediate_size}: it needs as many"
        )
    shape = dataclasses.replace(
        model, architecture="llama", num_layers=1, intermediate_size=wide, tie_word_embeddings=False,
        attention_bias=False, qk_norm=False, sliding_window=None, initializer_range=0.02, eos_ids=(), bos_id=None,
    )  # fmt: skip
    config = HeadConfig(
        shape=shape,
        draft_vocab_size=len(draft_ids),
        feature_layers=default_features(model.num_layers),
        fc_norm=True,
        norm_output=True,
        target=describe_target(model, target.name, target.embed_VE),
    )
    head = Eagle3Head(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.02, generator=generator)
        _fill(head, target, model.hidden_size, model.intermediate_size)
        head.lm_head.weight.copy_(target.head_VE[draft_ids.to(target.device)])
    head.choose_drafts(draft_ids)
    return head


def _fill(head: Eagle3Head, target: Target, hidden: int, wide: int) -> None:
    layer, mine = target.layers[-1], head.midlayer
    for name, part in (("q", mine.self_attn.q_proj), ("k", mine.self_attn.k_proj), ("v", mine.self_attn.v_proj)):
        part.weight[:, :hidden].mul_(0.5)  # the embedding's half
        part.weight[:, hidden:].copy_(layer.weights[name][0])
    mine.self_attn.o_proj.weight.copy_(layer.weights["o"][0])
    mine.mlp.gate_proj.weight[:wide].copy_(layer.weights["gate"][0])
    mine.mlp.up_proj.weight[:wide].copy_(layer.weights["up"][0])
    mine.mlp.down_proj.weight[:, :wide].copy_(layer.weights["down"][0])
    mine.mlp.down_proj.weight[:, wide:].mul_(0.1)
    mine.hidden_norm.weight.copy_(layer.norm_attention_E)
    mine.post_attention_layernorm.weight.copy_(layer.norm_ffn_E)
    head.norm.weight.copy_(target.norm_E)
    head.fc.weight[:, 2 * hidden :] += torch.eye(hidden)
