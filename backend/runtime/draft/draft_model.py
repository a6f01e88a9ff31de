"""`DraftModel`: a second model that drafts (`speculative_algorithm="STANDALONE"`), checked against its target.

Knows nothing of what a draft model computes, nor of who gets a draft.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ....lang.errors import ModelLoadError, OptionError, OutOfMemory
from ..engine import DEVICE_SLOPE, HOST_SLOPE, Engine
from ..kv.pool import SCRATCH
from ..sizes import allocate
from ..step.executor import executor_of
from ..step.packed import Model
from ..text.tokenizer import Tokenizer
from .model_source import DraftModelSource

log = logging.getLogger("sgl")

Load = Callable[[str], tuple[Model, Tokenizer, Any, str]]
"""Load a model for the device and in the form of the target: the model, its tokenizer, its template, its name."""


@dataclass(frozen=True)
class DraftModel:
    """A draft model that fits its target. `steps`: drafts of its longest chain."""

    model: Model
    name: str
    steps: int

    @property
    def kv_bytes_per_token(self) -> int:
        return self.model.kv_bytes_per_token

    def add(self, engine: Engine) -> None:
        """Let the model draft for an engine. Raises `OptionError` where its texts have no room for such a draft."""
        options, speculation = engine.options, engine.speculation
        if self.steps >= options.context_length:
            raise OptionError(
                f"speculative_num_steps={self.steps}: a context of {options.context_length} tokens leaves no room for "
                "such a draft; give a smaller number"
            )
        if self.model.context_length < options.context_length:
            raise OptionError(
                f"speculative_draft_model_path: {self.name} has a context of {self.model.context_length} tokens, and "
                f"the target's texts may have {options.context_length}; say "
                f"context_length={self.model.context_length}, or use another draft model"
            )
        slots = options.pool_tokens + SCRATCH
        try:
            allocate(self.model, slots)
        except OutOfMemory as error:
            raise OutOfMemory(f"speculative_draft_model_path: {self.name}: {error}") from error
        alone = replace(options, overlap=False, cuda_graph_max_bs=0)  # its steps wait, and none is captured
        speculation.proposers.append(
            DraftModelSource(
                executor_of(self.model, engine.tokenizer.vocab_size, alone),
                speculation.sites,
                slots,
                steps=self.steps,
                step_tokens=options.step_tokens,
                slope=DEVICE_SLOPE if engine.executor.ahead else HOST_SLOPE,
                kv_bytes=self.model.kv_bytes_per_token,
            )
        )
        log.info("draft model %s: up to %d drafts a step", self.name, self.steps)


def draft_model_of(
    path: str | os.PathLike[str] | None, target: Tokenizer, target_name: str, load: Load, steps: int
) -> DraftModel:
    """Load the draft model at `path`.

    Raises `OptionError` where no path is given, and `ModelLoadError` for a model that cannot be read, or whose tokens
    are not those of the target.
    """
    if path is None:
        raise OptionError(
            f"speculative_algorithm='STANDALONE' needs a smaller model with the tokens of {target_name}: say "
            "speculative_draft_model_path="
        )
    try:
        model, tokenizer, _, name = load(os.fspath(path))
    except (ModelLoadError, OptionError) as error:
        raise type(error)(f"speculative_draft_model_path: {error}") from error
    if different := target.difference(tokenizer):
        raise ModelLoadError(
            f"speculative_draft_model_path: {name} has other tokens than {target_name}: {different}; a draft model "
            "needs the target's own vocabulary, as a smaller model of the same family has"
        )
    return DraftModel(model, name, steps)
