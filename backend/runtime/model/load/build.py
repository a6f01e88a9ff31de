"""From what a user asks for to a model, a tokenizer and a chat template.

Owns: the order of it: options are checked, files are read, the kernels of the CPU are asked first, then torch
(`placed.py`), which is imported only where it computes. Knows nothing of engines.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .....lang.chat import ChatTemplate
from .....lang.errors import OutOfMemory
from ...options import check_attention
from ...text.tokenizer import Tokenizer
from ..cpu.choose import quantised_model, quantization_of
from .checkpoint import Described
from .fields import contained
from .loader import Checkpoint, Foreign, load_any
from .store import cache_folder

if TYPE_CHECKING:
    import torch

    from ...step.packed import Model

log = logging.getLogger("sgl")
_CUDA_DRIVER = "libcuda.so.1"
_AMD_DRIVER = Path("/dev/kfd")


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
    where = None
    if not _certainly_cpu(device) or str(dtype) != "auto":
        from .placed import place_of

        where = place_of(device, dtype)
    place, card, kind = where or ("cpu", None, None)
    check_attention(attention, place)
    asked = None if str(dtype) == "auto" else str(kind).removeprefix("torch.")
    quantization = quantization_of(quantization, card is not None, asked, attention)
    found, tokenizer = _read(None if model_path is None else os.fspath(model_path), load_format)
    model: Model | None = None
    if card is None and isinstance(found, Checkpoint):
        model = quantised_model(found, quantization, cache_folder())
    if model is None:
        from .placed import place_of, placed

        if isinstance(found, Foreign) and quantization not in (None, "auto"):
            log.warning("%s: quantization=%r has no effect: transformers runs this model", found.name, quantization)
        place, card, kind = where or place_of("cpu", dtype)
        model = placed(found, place, kind, card, attention)
        log.info("device %s, dtype %s", place, kind)
    return model, tokenizer, _template(found), _name(found.name if model_path is None else str(model_path))


def _certainly_cpu(device: str | torch.device) -> bool:
    """Whether the model goes to the CPU, as far as that is known without torch, whose import takes seconds.

    Without a driver torch finds no GPU either. Another system than Linux, or a driver, and torch is to say.
    """
    if device == "auto" and sys.platform == "linux" and "torch" not in sys.modules and not _AMD_DRIVER.exists():
        try:
            ctypes.CDLL(_CUDA_DRIVER)
        except OSError:
            return True
    return device == "cpu"


def _read(asked: str | None, load_format: str) -> tuple[Checkpoint | Foreign, Tokenizer]:
    """Read the files of a model. They are foreign data: an error that no check foresaw is a `ModelLoadError` too."""

    def tokenizer(found: Checkpoint | Foreign) -> Tokenizer:
        return Tokenizer(
            found.tokenizer,
            bos_id=found.bos_id,
            eos_ids=found.eos_ids,
            add_bos=found.add_bos,
            vocab_size=None,
            taken=True,
        )

    try:
        found = contained(lambda: load_any(asked, load_format, cache_folder()), asked, "the model cannot be read")
        return found, contained(lambda: tokenizer(found), found.name, "its tokenizer cannot be used")
    except MemoryError as error:
        raise OutOfMemory(f"{asked}: there is not enough memory to read the model's files") from error


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
