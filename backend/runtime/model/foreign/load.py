"""`load_transformers`: a folder of a model that is not of the Llama family, as a `TransformersModel`.

Owns: what is refused before gigabytes of weights are read, and which class runs a model on a device. Knows nothing of
steps.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from .....lang.errors import ModelLoadError
from ...device import FUSED_HEAD_DIMS, card_of, fused_obstacle, on
from ..load.fields import first_line
from .model import TransformersModel
from .probe import SUPPORTED

_log = logging.getLogger(__name__)

_LAYER_TYPES = ("full_attention", "sliding_attention", "attention")


def load_transformers(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    dummy: bool = False,
) -> TransformersModel:
    """Load a folder with `config.json` and safetensors; `dummy`: random weights for any `config.json`.

    Raises `ModelLoadError` for what transformers cannot read, and for what is not supported.
    """
    name = os.fspath(path)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file, an unknown model, code of its own: types vary by version
        raise ModelLoadError(f"{name}: transformers cannot read its config ({first_line(error)})") from error
    _refuse_by_config(config, name)
    try:
        network = _random(config, device, dtype) if dummy else _read(name, config, dtype)
    except (ModelLoadError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name}: transformers cannot load it ({first_line(error)})") from error
    place = torch.device(device)
    with on(place):
        return _class_for(place)(network.to(place).eval(), name, prove=not dummy)


def _class_for(device: torch.device) -> type[TransformersModel]:
    """The class that runs a model on a device: on a GPU that kernels are made for, one with an executor of its own."""
    card = card_of(str(device))
    if card is None:
        return TransformersModel
    if (obstacle := fused_obstacle(card, FUSED_HEAD_DIMS[0])) is not None:
        _log.warning("attention and sampling are plain torch and numpy, which is much slower: %s", obstacle)
        return TransformersModel
    from .device import DeviceTransformers

    return DeviceTransformers


def _refuse_by_config(config: Any, name: str) -> None:
    """Refuse what a config already tells, before gigabytes are read."""
    kind = f"{name}: {config.model_type!r}"
    if getattr(config, "quantization_config", None):
        raise ModelLoadError(f"{name}: quantized safetensors are not supported; use the unquantized checkpoint")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelLoadError(f"{kind} is an encoder-decoder model; supported: {SUPPORTED}")
    if config.get_text_config() is not config:
        raise ModelLoadError(f"{kind} is a multimodal model; supported: {SUPPORTED}")
    from transformers import AutoModelForCausalLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelLoadError(f"{kind} has no causal language model in transformers; supported: {SUPPORTED}")
    types = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    if other := sorted({str(kind) for kind in types} - set(_LAYER_TYPES)):
        raise ModelLoadError(f"{kind} has layers of type {', '.join(other)}; supported: {SUPPORTED}")


def _read(name: str, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    network, report = AutoModelForCausalLM.from_pretrained(
        name, config=config, dtype=dtype, attn_implementation="eager", trust_remote_code=False,
        use_safetensors=True, local_files_only=True, output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(f"{name}: the tensor {missing[0]!r} is missing; the checkpoint is incomplete")
    return network


def _random(config: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Random weights, the same in every process, and without a trace on the caller's random numbers."""
    from transformers import AutoModelForCausalLM

    place = torch.device(device)
    with torch.random.fork_rng([] if place.type == "cpu" else [place]), place:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
        )
