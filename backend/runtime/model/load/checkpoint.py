"""`Checkpoint`: a loaded model before it is built, from any kind of file; and the tokens that end its text.

Owns: the values every loader returns. Knows nothing of files or of how tensors are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from .config import ModelConfig
from .weights import Weights

if TYPE_CHECKING:
    import torch

END_OF_GENERATION = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>",
)  # fmt: skip
"""Control tokens that end a turn or a text; configs often name only one of those a chat model really uses."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What any loaded model says of its text. `name` is the file or folder it came from."""

    name: str
    tokenizer: Tokenizer
    chat_template: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Described):
    """`tensors` have the names of HF checkpoints, in the file's own float type (float32 when dequantised). They may be
    read from the disk only when they are asked for."""

    config: ModelConfig
    tensors: Mapping[str, torch.Tensor]
    gguf: Path | None = None
    """The GGUF file that the tensors were made from, if they were."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """The format of each tensor in that file."""

    def weights(self, device: torch.device | str, dtype: torch.dtype) -> Weights:
        """Begin to bring the tensors to a device; a `with` block takes them in it (see `weights`)."""
        import torch

        return Weights(self.tensors, torch.device(device), dtype, self.name)


@dataclass(frozen=True, kw_only=True)
class Foreign(Described):
    """A model whose computation is not the family's: transformers runs it. `path` is its folder (or a config by another
    name, for random weights, which `dummy` asks for); `reason` says what the family lacks."""

    path: Path
    reason: str
    dummy: bool


def end_ids(tokenizer: Tokenizer, declared: Iterable[int]) -> tuple[int, ...]:
    """All ids that end a generation: the declared ones first, then known control tokens. No duplicates."""
    control = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    known = [control[token] for token in END_OF_GENERATION if token in control]
    return tuple(dict.fromkeys([*declared, *known]))
