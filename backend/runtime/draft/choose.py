"""From the options of a `Runtime` to what drafts beside the tree of texts: a head, a draft model, or nothing.

Knows nothing of either. torch is imported for a head only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from .draft_model import Load, draft_model_of

if TYPE_CHECKING:
    from ..engine import Engine
    from ..step.packed import Model
    from ..text.tokenizer import Tokenizer


class LoadedDrafter(Protocol):
    """What drafts, loaded and checked against the target."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV that it keeps beside each slot of the target's."""

    def add(self, engine: Engine) -> None:
        """Let it draft for an engine."""


def drafter_of(
    algorithm: str | None,
    path: str | os.PathLike[str] | None,
    model: Model,
    tokenizer: Tokenizer,
    name: str,
    load: Load,
    *,
    steps: int,
    embedded: bool,
) -> LoadedDrafter | None:
    """Load what `speculative_algorithm` names, for a target with this `model`, `tokenizer` and `name`.

    `load` loads a model as the target was; `steps` are the drafts of the longest chain. `embedded`: the target is the
    default model. Raises `OptionError`, `ModelLoadError`, and `NotYet` for a head on a GPU.
    """
    if algorithm == "EAGLE3":
        from .build import HeadDrafter, head_of

        return HeadDrafter(head_of(path, model, name, embedded=embedded))
    if algorithm == "STANDALONE":
        return draft_model_of(path, tokenizer, name, load, steps)
    return None
