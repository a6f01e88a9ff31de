"""`load_head` and `save_head`: a head's folder, `config.json` and `model.safetensors`.

Owns: the names of published heads (SpecForge's, and vLLM's with the prefix `model.`), and the int8 form. Knows nothing
of what a head computes.

1. Every tensor of the file is used, and every tensor of the head is in the file, or loading raises.
2. The int8 form of `X.weight` [N, K] is `X.weight` in int8 and `X.weight_scale` [N] in float32; W = scale * int8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .....lang.errors import ModelLoadError, OptionError, suggest
from ...model.load.config import ModelConfig
from ...model.load.fields import read_json
from ...model.load.shards import ShardedTensors, read_header
from ...model.load.store import replace_file
from .config import HeadConfig
from .head import Eagle3Head

FORMS = ("bf16", "int8")
_SCALE = "_scale"
_PROBE_TOKENS, _PROBE_SIZES = 32, 8
_LEAST_LIKENESS = 0.9
"""Cosine between what the head remembers of its target's embeddings and those of a model; other models have about 0."""


def load_head(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Eagle3Head:
    """Load a head.

    Args:
        folder: the folder with `config.json` and `model.safetensors`.
        device: where its tensors go; default the CPU.
        dtype: of its weights; default float32.

    Raises:
        ModelLoadError: a file is missing or damaged, a tensor is missing, unknown or of another shape, or the config
            asks for what is not supported. The message names the key, and what to do.
    """
    folder = Path(folder).expanduser()
    config = HeadConfig.from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ModelLoadError(f"{file}: no such file; a head's folder has config.json and model.safetensors")
    found = _plain_names(ShardedTensors(read_header(file)), str(file))
    with torch.device("meta"):
        head = Eagle3Head(config)
    wanted = dict(head.state_dict())
    if config.draft_vocab_size == config.shape.vocab_size:  # such heads may leave out maps that say nothing
        found.setdefault("t2d", torch.ones(config.shape.vocab_size, dtype=torch.bool))
        found.setdefault("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
    _check_names(found, wanted, str(file))
    ready = {name: _taken(found, name, like, dtype, str(file)) for name, like in wanted.items()}
    head.load_state_dict(ready, assign=True)
    head.requires_grad_(False)
    _check_drafts(head, str(file))
    return head.to(device)


def save_head(head: Eagle3Head, folder: str | Path, *, form: str = "bf16") -> Path:
    """Write a head's folder and return it.

    Args:
        head: the head.
        folder: where to; made if it is not there.
        form: "bf16" (default), which other loaders read, or "int8", of half the size.

    Raises:
        OptionError: `form` is another word.
    """
    if form not in FORMS:
        raise OptionError(f"a head is stored as {' or '.join(FORMS)}, not {form!r}{suggest(form, FORMS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in head.state_dict().items():
        tensor = tensor.detach().cpu()
        if form == "int8" and tensor.dim() == 2:
            tensors[name], tensors[name + _SCALE] = quantise(tensor.float())
        else:
            tensors[name] = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    replace_file(folder / "model.safetensors", lambda to: save_file(contiguous, to, metadata={"format": "pt"}))
    text = json.dumps(head.config.to_json(), indent=2) + "\n"
    replace_file(folder / "config.json", lambda to: to.write_text(text, encoding="utf-8"))
    return folder


def quantise(weight_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight as int8 [N, K] and a float32 scale of each row [N], the one of a few with the least squared error."""
    most_N = weight_NK.abs().amax(1).clamp_min(1e-12)
    best_N = torch.full_like(most_N, float("inf"))
    scale_N = most_N / 127
    for part in (1.0, 0.95, 0.9, 0.85, 0.8):
        tried_N = most_N * part / 127
        rounded_NK = (weight_NK / tried_N[:, None]).round().clamp(-127, 127)
        error_N = (rounded_NK * tried_N[:, None] - weight_NK).square().sum(1)
        scale_N = torch.where(error_N < best_N, tried_N, scale_N)
        best_N = torch.minimum(best_N, error_N)
    return (weight_NK / scale_N[:, None]).round().clamp(-127, 127).to(torch.int8), scale_N


def describe_target(model: ModelConfig, name: str, embed_VE: torch.Tensor) -> dict[str, Any]:
    """What a head remembers of its target: its name (of a path the last part), its layers, and a few numbers of its
    embeddings."""
    rows = _probe(lambda ids: embed_VE[ids], len(embed_VE))
    return {
        "name": Path(name).name.removesuffix(".gguf"),
        "num_hidden_layers": model.num_layers,
        "embeddings": [[round(float(x), 5) for x in row] for row in rows],
    }


def check_head(head: Eagle3Head, model: ModelConfig, embed_VE: torch.Tensor, *, head_name: str, name: str) -> None:
    """Raise `ModelLoadError` unless the head was trained for the model `name`, by its shape and by its embeddings."""
    check_rows(head, model, lambda ids: embed_VE[ids], head_name=head_name, name=name)


def check_rows(
    head: Eagle3Head,
    model: ModelConfig,
    embed: Callable[[torch.Tensor], torch.Tensor],
    *,
    head_name: str,
    name: str,
) -> None:
    """`check_head` for a model that gives the embeddings of tokens one by one."""
    head.config.check_target(model, head_name, name)
    kept = head.config.target.get("embeddings")
    if kept is None:
        return
    try:
        mine = torch.tensor(kept, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"{head_name}: the field 'target' has no table of embeddings ({error})") from None
    theirs = _probe(embed, model.vocab_size)
    alike = float(torch.cosine_similarity(mine.flatten(), theirs.flatten(), 0)) if mine.shape == theirs.shape else 0.0
    if not alike >= _LEAST_LIKENESS:
        raise ModelLoadError(
            f"{head_name}: it was trained for {head.config.target.get('name', 'another model')}, whose embeddings "
            f"('target') are not those of {name}; train a head with `sgl draft train --model {name}`"
        )


def _probe(embed: Callable[[torch.Tensor], torch.Tensor], vocab: int) -> torch.Tensor:
    ids = torch.arange(0, vocab, max(1, vocab // _PROBE_TOKENS))[:_PROBE_TOKENS]
    return embed(ids)[:, :_PROBE_SIZES].float().cpu()


def _plain_names(tensors: Mapping[str, torch.Tensor], file: str) -> dict[str, torch.Tensor]:
    """Tensors by SpecForge's names. vLLM's have the prefix `model.`, and call the layer `layers.0`."""
    named: dict[str, torch.Tensor] = {}
    for name in tensors:
        plain = name.removeprefix("model.").replace("layers.0.", "midlayer.", 1)
        if plain in named:
            raise ModelLoadError(
                f"{file}: the tensor {plain!r} is there twice, once as {name!r}; export the head again"
            )
        named[plain] = tensors[name]
    return named


def _check_names(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], file: str) -> None:
    for name in wanted:
        if name not in found:
            raise ModelLoadError(f"{file}: the tensor {name!r} is missing; download or train the head again")
    for name in found:
        if name not in wanted and not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in wanted):
            raise ModelLoadError(
                f"{file}: the tensor {name!r} is not of an EAGLE-3 head as its config describes it"
                f"{suggest(name, list(wanted))}; it would be left out, so the head is refused: fix config.json "
                "('fc_norm' for 'fc_norm.0.weight', ...) or use another head"
            )


def _taken(
    found: Mapping[str, torch.Tensor], name: str, like: torch.Tensor, dtype: torch.dtype, file: str
) -> torch.Tensor:
    tensor = found[name]
    if tensor.shape != like.shape:
        raise ModelLoadError(
            f"{file}: {name!r} has shape {tuple(tensor.shape)}, but config.json says {tuple(like.shape)}; the head was "
            "trained for another model or vocabulary, or config.json is another head's"
        )
    if not like.is_floating_point():
        if tensor.is_floating_point():
            raise ModelLoadError(f"{file}: {name!r} has type {tensor.dtype}, not {like.dtype}; export the head again")
        return tensor.to(like.dtype)
    scale = found.get(name + _SCALE)
    if (scale is not None) != (tensor.dtype == torch.int8):
        raise ModelLoadError(f"{file}: {name!r} in int8 and {name + _SCALE!r} belong together; one of them is missing")
    if scale is None:
        if not tensor.is_floating_point():
            raise ModelLoadError(f"{file}: {name!r} has type {tensor.dtype}; floats and int8 with scales are supported")
        return tensor.to(dtype, copy=True)
    if scale.shape != like.shape[:1]:
        raise ModelLoadError(f"{file}: {name + _SCALE!r} has shape {tuple(scale.shape)}, not {tuple(like.shape[:1])}")
    return (tensor.float() * scale.float()[:, None]).to(dtype)


def _check_drafts(head: Eagle3Head, file: str) -> None:
    """The two maps must agree: else a draft would be another token than was meant."""
    ids = head.draft_ids()
    vocab = head.config.shape.vocab_size
    if bool(((ids < 0) | (ids >= vocab)).any()):
        raise ModelLoadError(f"{file}: 'd2t' leads beyond the vocabulary of {vocab} tokens; export the head again")
    said = torch.zeros(vocab, dtype=torch.bool)
    said[ids] = True
    if int(said.sum()) != len(ids) or not torch.equal(said, head.t2d):
        raise ModelLoadError(
            f"{file}: 't2d' and 'd2t' do not describe the same tokens ('d2t' holds offsets); export the head again"
        )
