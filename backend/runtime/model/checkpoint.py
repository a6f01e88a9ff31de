"""`Checkpoint`: a loaded model before it is built, whatever files it came from; and which tokens end its text.

Owns: the value every loader returns. Knows nothing of files or of how tensors are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from .config import ModelConfig

END_OF_GENERATION = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>",
)  # fmt: skip
"""Control tokens that end a turn or a text; configs often name only one of those a chat model really uses."""


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` have the names of HF checkpoints, in the file's own float type (float32 when dequantised)."""

    name: str
    config: ModelConfig
    tensors: Mapping[str, torch.Tensor]
    tokenizer: Tokenizer
    chat_template: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool


def end_ids(tokenizer: Tokenizer, declared: Iterable[int]) -> tuple[int, ...]:
    """All ids that end a generation: the declared ones first, then known control tokens. No duplicates."""
    control = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    known = [control[token] for token in END_OF_GENERATION if token in control]
    return tuple(dict.fromkeys([*declared, *known]))
