"""A checkpoint as a model of torch on its device.

Owns: which code computes which model: `FusedLlama` on a GPU it knows, `Llama` on the CPU and on other GPUs,
transformers for models outside the family. Each is imported only where it is used. Knows nothing of files or options.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from .....lang.errors import OptionError, OutOfMemory
from ...device import Card, card_of, check_fits, free_memory, fused_obstacle, gib, resolve_device, resolve_dtype
from .checkpoint import Checkpoint, Foreign

if TYPE_CHECKING:
    from ...step.packed import Model

log = logging.getLogger("sgl")


def place_of(device: str | torch.device, dtype: str | torch.dtype) -> tuple[str, Card | None, torch.dtype]:
    """The device, its card (None: the CPU) and what floats are there. Raises `OptionError`."""
    place = resolve_device(device)
    if torch.device(place).type == "cuda":
        torch.cuda.empty_cache()  # what a runtime before this one gave back is free
    card = card_of(place)
    return place, card, resolve_dtype(dtype, card)


def placed(found: Checkpoint | Foreign, device: str, dtype: torch.dtype, card: Card | None, attention: str) -> Model:
    """The model on its device; on a GPU, what loading used beside it is given back.

    Raises `ModelLoadError`, `OptionError` for an attention backend that cannot run, and `OutOfMemory`.
    """
    if card is not None and isinstance(found, Checkpoint):
        check_fits(found.config, dtype, card, found.name)
    try:
        if isinstance(found, Foreign):
            model = _foreign(found, device, dtype, attention)
        else:
            model = _own(found, device, dtype, card, attention)
    except MemoryError as error:
        raise OutOfMemory(f"{found.name}: there is not enough memory for the model's weights") from error
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{found.name}: the weights do not fit on {device}, of which {gib(free_memory(device))} are free; use a "
            "smaller dtype or model, another device, or end what else uses this one"
        ) from error
    if card is not None:
        torch.cuda.empty_cache()
    return model


def _own(checkpoint: Checkpoint, device: str, dtype: torch.dtype, card: Card | None, attention: str) -> Model:
    if card is not None and attention != "torch":
        obstacle = fused_obstacle(card, checkpoint.config.head_dim)
        if obstacle is None:
            from ..llama.fused import FusedLlama

            return FusedLlama(checkpoint, device=device, dtype=dtype)
        if attention != "auto":
            raise OptionError(f"attention_backend={attention!r} cannot run here: {obstacle}; use 'auto' or 'torch'")
        log.warning("the plain torch path is used, which is much slower: %s", obstacle)
    from ..llama.llama import Llama

    return Llama(checkpoint, device=device, dtype=dtype)


def _foreign(found: Foreign, device: str, dtype: torch.dtype, attention: str) -> Model:
    if attention not in ("auto", "torch"):
        raise OptionError(
            f"attention_backend={attention!r} is for models of the Llama family; use 'auto' or 'torch': {found.reason}"
        )
    log.info("transformers runs this model, more slowly than a model of the Llama family: %s", found.reason)
    from ..foreign.load import load_transformers

    return load_transformers(found.path, device=device, dtype=dtype, dummy=found.dummy)
