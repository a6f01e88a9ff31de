"""Which weights a CPU computes with: those of the file in 4 or 8 bits, or float32 ones through torch.

Owns: what `quantization=` means on the CPU. Knows nothing of kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .....lang.errors import NotYet, OptionError, suggest
from ..load.checkpoint import Checkpoint
from ..load.converted import DequantisedTensors, entry_key
from ..load.fields import contained
from .gguf_blocks import FLOATS
from .native import MissingLibrary, library
from .packed import Blocks, Floats
from .packed_weights import PackedWeights, Supply, kept, pack
from .quantised_llama import QuantisedLlama, kinds_of, obstacle

if TYPE_CHECKING:
    import torch

    from ..load.gguf_file import GGUFFile

log = logging.getLogger("sgl")
QUANTIZATIONS = ("auto", "q4", "q8", None)
_BITS = {"q4": 4, "q8": 8}


def quantization_of(asked: str | None, on_gpu: bool, dtype: str | None, attention: str) -> str | None:
    """`quantization=` as it is meant beside the other options: "auto" gives way to a dtype or an attention backend.

    Args:
        asked: What the user wrote.
        on_gpu: Whether the model goes to a GPU, where "auto" means floats.
        dtype: What the user wants floats to be, "float32" for one; None for "auto".
        attention: The attention backend that the user asked for.

    Raises:
        OptionError: It does not exist, or contradicts `dtype`.
        NotYet: It needs a GPU's kernels.
    """
    if asked not in QUANTIZATIONS:
        known = ", ".join(repr(name) for name in QUANTIZATIONS)
        hint = suggest(str(asked), [name for name in QUANTIZATIONS if name])
        raise OptionError(f"quantization must be one of {known}, got {asked!r}{hint}")
    if asked in _BITS and on_gpu:
        raise NotYet(f"Runtime(quantization={asked!r}) is for the CPU in this version of sgl; leave it out on a GPU")
    if asked in _BITS and dtype not in (None, "float32"):
        raise OptionError(f"quantization={asked!r} and dtype={dtype} contradict each other; leave one of them out")
    return None if asked == "auto" and (dtype is not None or attention != "auto") else asked


def quantised_model(checkpoint: Checkpoint, quantization: str | None, cache: Path) -> QuantisedLlama | None:
    """The model over weights in blocks; None where torch is to compute, which a log line explains.

    Args:
        checkpoint: A model of the family.
        quantization: "auto": the file's own blocks, if it is quantised, and 8 bits where no kernel reads them; "q4",
            "q8": blocks of 4 or 8 bits, the file's own where they are no larger; None: float weights.
        cache: The folder under which packed weights are kept.
    """
    if quantization is None:
        return None
    if quantization == "auto" and not _in_blocks(checkpoint.formats):
        log.info("%s: quantization='auto' leaves the weights floats: the file has no blocks to keep", checkpoint.name)
        return None
    why = obstacle(checkpoint.config)
    if why is None:
        try:
            library()
        except MissingLibrary as error:
            why = str(error)
    if why is not None:
        log.warning(
            "%s: torch computes in float32, which takes up to seven times the time a token of one stream and six times "
            "the memory of the weights: %s",
            checkpoint.name,
            why,
        )
        return None
    weights = _weights(checkpoint, quantization, cache)
    log.info("%s: weights in %s (%s)", checkpoint.name, kinds_of(weights.matrices), weights.name)
    return QuantisedLlama(checkpoint.config, weights)


def _weights(checkpoint: Checkpoint, quantization: str, cache: Path) -> PackedWeights:
    bits = _BITS.get(quantization, 8)
    tensors = checkpoint.tensors
    if not isinstance(tensors, DequantisedTensors) or checkpoint.gguf is None:
        return pack(checkpoint.config, _floats_of(tensors), bits, quantization, checkpoint.name)

    def made() -> PackedWeights:
        log.info("%s: packing the weights for the CPU's kernels, once", checkpoint.name)
        return pack(checkpoint.config, _blocks_of(tensors.file()), bits, quantization, checkpoint.name)

    entry = cache / "packed" / f"{entry_key(checkpoint.gguf)}-{quantization}"
    return contained(lambda: kept(entry, made), checkpoint.name, "its weights cannot be packed")


def _in_blocks(formats: Mapping[str, str]) -> bool:
    """Whether most of a file's matrices are quantised. A checkpoint of floats has none of that kind."""
    matrices = [kind for name, kind in formats.items() if name.endswith("proj.weight")]
    return 2 * sum(kind not in FLOATS for kind in matrices) > len(matrices)


def _blocks_of(file: GGUFFile) -> Supply:
    """The tensors of a GGUF file: as its blocks where the kernels read them, else as numbers."""

    def supply(name: str) -> Blocks | Floats | None:
        if name not in file:
            return None
        blocks = file.blocks(name)
        return file.tensor(name) if blocks is None else blocks

    return supply


def _floats_of(tensors: Mapping[str, torch.Tensor]) -> Supply:
    def supply(name: str) -> Floats | None:
        found = tensors.get(name)
        return None if found is None else found.float().numpy()

    return supply
