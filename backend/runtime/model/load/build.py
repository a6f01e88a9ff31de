"""From what a user asks for to a model, a tokenizer and a chat template.

Owns: which code computes which model: `FusedLlama` on a GPU it knows, `Llama` on the CPU and on other GPUs,
transformers for models outside the family. Each is imported only where it is used. Knows nothing of engines.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .....lang.chat import ChatTemplate
from .....lang.errors import OptionError, OutOfMemory
from ...device import Card, card_of, check_fits, free_memory, fused_obstacle, gib, resolve_device, resolve_dtype
from ...options import check_attention
from ...text.tokenizer import Tokenizer
from ..cpu.choose import quantised_model, quantization_of
from .checkpoint import Described
from .fields import contained
from .loader import Checkpoint, Foreign, load_any
from .store import cache_folder

if TYPE_CHECKING:
    from ...step.packed import Model

log = logging.getLogger("sgl")


def build(
    model_path: str | os.PathLike[str] | None,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    load_format: str,
    attention: str = "auto",
    quantization: str | None = None,
) -> tuple[Model, Tokenizer, ChatTemplate | None, str]:
    """Load a checkpoint onto a device; (model, tokenizer, its chat template or None, its name).

    `attention` is the backend that was asked for: with "torch" a device runs no kernels but torch's. `quantization` is
    the format of the weights (see `cpu/choose.py`).

    Raises `OptionError`, `ModelLoadError`, and `OutOfMemory` when the weights do not fit on the device.
    """
    place = resolve_device(device)
    check_attention(attention, place)
    if torch.device(place).type == "cuda":
        torch.cuda.empty_cache()  # what a runtime before this one gave back is free
    card = card_of(place)
    kind = resolve_dtype(dtype, card)
    quantization = quantization_of(quantization, card is not None, None if str(dtype) == "auto" else kind, attention)
    found, tokenizer = _read(None if model_path is None else os.fspath(model_path), load_format)
    model = _model(found, place, kind, card, attention, quantization)
    log.info("device %s, dtype %s", place, kind)
    return model, tokenizer, _template(found), _name(found.name if model_path is None else str(model_path))


def _read(asked: str | None, load_format: str) -> tuple[Checkpoint | Foreign, Tokenizer]:
    """Read the files of a model. They are foreign data: an error that no check foresaw is a `ModelLoadError` too."""

    def tokenizer(found: Checkpoint | Foreign) -> Tokenizer:
        return Tokenizer(
            found.tokenizer, bos_id=found.bos_id, eos_ids=found.eos_ids, add_bos=found.add_bos, vocab_size=None
        )

    try:
        found = contained(lambda: load_any(asked, load_format, cache_folder()), asked, "the model cannot be read")
        return found, contained(lambda: tokenizer(found), found.name, "its tokenizer cannot be used")
    except MemoryError as error:
        raise OutOfMemory(f"{asked}: there is not enough memory to read the model's files") from error


def _model(
    found: Checkpoint | Foreign,
    device: str,
    dtype: torch.dtype,
    card: Card | None,
    attention: str,
    quantization: str | None,
) -> Model:
    """The model on its device; on a GPU, what loading used beside it is given back."""
    if card is not None and isinstance(found, Checkpoint):
        check_fits(found.config, dtype, card, found.name)
    try:
        if isinstance(found, Foreign):
            if quantization is not None:
                log.warning("%s: quantization=%r has no effect: transformers runs this model", found.name, quantization)
            model = _foreign(found, device, dtype, attention)
        else:
            quantised = None if card is not None else quantised_model(found, quantization, cache_folder())
            model = _own(found, device, dtype, card, attention) if quantised is None else quantised
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


def _name(source: str) -> str:
    """What to call the model: a file's or folder's own name, a hub id as it is."""
    path = Path(source)
    if not path.exists():
        return source
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _template(found: Described) -> ChatTemplate | None:
    if found.chat_template is None:
        return None

    def spelled(token: int | None) -> str:
        return "" if token is None else found.tokenizer.id_to_token(token) or ""

    eos = found.eos_ids[0] if found.eos_ids else None
    return ChatTemplate(found.chat_template, bos_token=spelled(found.bos_id), eos_token=spelled(eos), name=found.name)
