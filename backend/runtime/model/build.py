"""From what a user asks for to a model, a tokenizer and a chat template.

Owns: resolving "auto" (device, dtype) and putting the loaded parts together.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from ....lang.chat import ChatTemplate
from ....lang.errors import OptionError
from ..text.tokenizer import Tokenizer
from .llama import Llama
from .loader import Checkpoint, load_checkpoint
from .store import cache_folder

log = logging.getLogger("sgl")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(
    model_path: str | os.PathLike[str] | None, *, device: str, dtype: str, load_format: str
) -> tuple[Llama, Tokenizer, ChatTemplate | None, str]:
    """Load a checkpoint onto a device; (model, tokenizer, its chat template or None, its name)."""
    place = _device(device)
    kind = _dtype(dtype, place)
    checkpoint = load_checkpoint(None if model_path is None else os.fspath(model_path), load_format, cache_folder())
    model = Llama(checkpoint, device=place, dtype=kind)
    tokenizer = Tokenizer(
        checkpoint.tokenizer,
        bos_id=checkpoint.bos_id,
        eos_ids=checkpoint.eos_ids,
        add_bos=checkpoint.add_bos,
        vocab_size=None,
    )
    log.info("device %s, dtype %s", place, kind)
    return model, tokenizer, _template(checkpoint), _name(checkpoint.name if model_path is None else str(model_path))


def _name(source: str) -> str:
    """What to call the model: a file's or folder's own name, a hub id as it is."""
    path = Path(source)
    if not path.exists():
        return source
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        raise OptionError(f"device={asked!r} is not a device; use 'auto', 'cpu' or 'cuda'") from None
    if kind not in ("cpu", "cuda"):
        raise OptionError(f"device={asked!r} is not supported; use 'auto', 'cpu' or 'cuda'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device={asked!r}: torch sees no GPU; use device='cpu' or a CUDA build of torch")
    return asked


def _dtype(asked: str, device: str) -> torch.dtype:
    if asked == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if asked not in _DTYPES:
        raise OptionError(f"dtype must be 'auto' or one of {', '.join(_DTYPES)}, got {asked!r}")
    return _DTYPES[asked]


def _template(checkpoint: Checkpoint) -> ChatTemplate | None:
    if checkpoint.chat_template is None:
        return None

    def spelled(token: int | None) -> str:
        return "" if token is None else checkpoint.tokenizer.id_to_token(token) or ""

    eos = checkpoint.eos_ids[0] if checkpoint.eos_ids else None
    return ChatTemplate(
        checkpoint.chat_template, bos_token=spelled(checkpoint.bos_id), eos_token=spelled(eos), name=checkpoint.name
    )
