"""From the options of a head to a source of drafts: the head is loaded, and checked against the model.

Knows nothing of what a head computes. A model that a head can read has `HeadTarget`'s attributes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from ....lang.errors import NotYet, OptionError
from ..model.load.config import ModelConfig
from .eagle.files import check_rows, load_head
from .eagle.head import Eagle3Head
from .eagle.packed_head import pack_head
from .eagle.propose import Drafter
from .head_source import HeadSource

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger("sgl")
SHIPPED_HEAD = Path(__file__).parent / "eagle" / "smollm2-135m"
"""The head of the embedded model."""


@runtime_checkable
class HeadTarget(Protocol):
    """What a head asks of a model, beside a step."""

    config: ModelConfig
    features: npt.NDArray[np.float32] | None
    """The features of the last forward's rows [T, 3E], side by side. None: none are asked for."""

    def capture_layers(self, layers: Sequence[int]) -> None:
        """Keep the residual stream after so many layers, of each forward from now on."""

    def embed(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The embeddings of tokens [T, E]."""


def head_of(path: str | os.PathLike[str] | None, model: Any, name: str, *, embedded: bool) -> Eagle3Head:
    """Load the head at `path` for a model, and let the model keep its features. `embedded`: it is the default model,
    whose head is in the package.

    Raises `OptionError` where a head is missing or the model cannot have one, `NotYet` on a GPU, and `ModelLoadError`
    for a head that is damaged or of another model.
    """
    if (device := getattr(model, "device_type", "cpu")) != "cpu":
        raise NotYet(
            f"Runtime(speculative_algorithm='EAGLE3') on device {device!r} is not supported by this version of sgl "
            "yet; leave it out, or say device='cpu'"
        )
    if not isinstance(model, HeadTarget):
        raise OptionError(
            "speculative_algorithm='EAGLE3' needs the hidden states of the model's layers, and this model runs through "
            f"{'transformers' if 'foreign' in type(model).__module__ else type(model).__name__}; leave it out"
        )
    if path is None and not embedded:
        raise OptionError(
            f"speculative_algorithm='EAGLE3' needs a head of {name}: say speculative_draft_model_path=; one is trained "
            "with `sgl draft train`"
        )
    folder = SHIPPED_HEAD if path is None else Path(path).expanduser()
    head = load_head(folder)
    check_rows(head, model.config, lambda ids: _embedded(model, ids), head_name=str(folder), name=name)
    layers = head.config.features_of(model.config.num_layers)
    if max(layers) >= model.config.num_layers:
        raise NotYet(
            f"{folder}: 'eagle_aux_hidden_state_layer_ids' asks for features after the last layer of {name}, which is "
            "not supported by this version of sgl yet; use another head"
        )
    if not pack_head(head):
        log.warning(
            "the head %s is computed by torch in float32, about three times as slowly: no kernels take it", folder
        )
    model.capture_layers(layers)
    return head


@dataclass(frozen=True)
class HeadDrafter:
    """A head that `head_of` loaded, and for which it has prepared the model."""

    head: Eagle3Head
    kv_bytes_per_token: int = 0  # a head's KV is not the pool's

    def add(self, engine: Engine) -> None:
        """Let the head draft for an engine of that model."""
        model, options = engine.model, engine.options
        assert isinstance(model, HeadTarget)
        longest = min(options.context_length, options.pool_tokens) + options.chain_drafts + 1
        drafter = Drafter(self.head, lambda ids: _embedded(model, ids), positions=longest)
        speculation = engine.speculation
        speculation.proposers.append(
            HeadSource(drafter, model, speculation.sites, options.chain_drafts, engine.tokenizer.vocab_size)
        )


def _embedded(model: HeadTarget, ids: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(model.embed(ids.numpy()))
