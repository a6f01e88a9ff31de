"""Tiny random models of many families, in transformers' own classes, for the tests of models that transformers runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sgl.backend.runtime.model.foreign.attention import TILE_ROWS
from sgl.backend.runtime.model.foreign.model import TransformersModel
from sgl.backend.runtime.step.packed import Batch, SpanLayout

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
    "Gemma3Text": {"head_dim": 8, "sliding_window": WINDOW, "sliding_window_pattern": 2},
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
KERNEL_SIZES = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "num_hidden_layers": 2}
"""What makes any of them one whose heads our kernels compute (others have heads of 8)."""
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
        ids = torch.tensor([tokens], device=reference.device)
        return reference(ids, use_cache=False).logits[0].float().cpu().numpy()


@dataclass
class Text:
    """A text that grows step by step, its rows scattered over the pool."""

    tokens: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    def fork(self) -> Text:
        return Text(list(self.tokens), list(self.slots))

    def runs(self) -> tuple[tuple[int, int], ...]:
        edges = [0, *(i for i, (a, b) in enumerate(pairwise(self.slots), 1) if b != a + 1), len(self.slots)]
        return tuple((self.slots[a], b - a) for a, b in pairwise(edges) if b > a)


class Pool:
    """Slots in blocks of four, in a shuffled order."""

    def __init__(self, slots: int) -> None:
        blocks = np.random.default_rng(5).permutation(slots // 4)
        self._free = [4 * int(block) + i for block in blocks for i in range(4)]

    def step(self, parts: list[tuple[Text, list[int]]]) -> Batch:
        """One step that appends tokens to each path (paths may continue what an earlier part of it writes)."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[SpanLayout] = []
        for path, new in parts:
            taken = [self._free.pop(0) for _ in new]
            spans.append(SpanLayout(len(tokens), len(new), path.runs(), len(path.tokens)))
            tokens += new
            positions += range(len(path.tokens), len(path.tokens) + len(new))
            slots += taken
            path.tokens += new
            path.slots += taken
        arrays = (np.array(values, dtype=np.int64) for values in (tokens, positions, slots))
        return Batch(*arrays, spans, np.arange(len(tokens)))


def some(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 300, count).tolist()


def check_tree(
    model: TransformersModel,
    reference: Any,
    tolerance: float = 2e-4,
    forward: Callable[[Batch], np.ndarray] | None = None,
    prompt: int = TILE_ROWS + 22,
) -> None:
    """Prompts, decodes, forks, chains and a span over another's rows of the same step, each row against its text."""
    forward = forward or model.forward
    pool = Pool(1200)
    model.allocate(1200)

    def run(parts: list[tuple[Text, list[int]]]) -> None:
        got = forward(pool.step(parts))
        assert got.dtype == np.float32 and got.shape[1] == model.vocab_size
        row = 0
        for path, new in parts:
            end = len(path.tokens)
            expected = plain_logits(reference, path.tokens)[end - len(new) : end]
            np.testing.assert_allclose(got[row : row + len(new)], expected, atol=tolerance, rtol=0)
            assert np.abs(expected).max() > 0.3, "the comparison would not notice anything"
            row += len(new)

    a, b = Text(), Text()
    run([(a, some(prompt, 0)), (b, some(7, 1))])
    forks = [a.fork() for _ in range(3)]
    run([(forks[0], some(1, 2)), (forks[1], some(5, 3)), (b, some(1, 4)), (forks[2], some(30, 5)), (a, some(1, 6))])
    again = forks[1].fork()
    run(
        [(again, some(1, 7)), (forks[1], some(1, 8)), (b, some(3, 9)), (forks[2], some(1, 10)), (forks[0], some(1, 11))]
    )
    c = Text()
    batch = pool.step([(c, some(4, 12)), (c, some(1, 13)), (b, some(1, 14))])  # the second reads what the first writes
    got = forward(batch)
    np.testing.assert_allclose(got[:5], plain_logits(reference, c.tokens), atol=tolerance, rtol=0)
    np.testing.assert_allclose(got[5], plain_logits(reference, b.tokens)[-1], atol=tolerance, rtol=0)
