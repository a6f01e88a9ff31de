"""GGUF files as checkpoints, converted once: a cache of float32 weights and `tokenizer.json`.

Owns: the cache entries under `<cache>/converted/` and when to trust one. An entry is three files: `meta.json`
(settings, and the size and a checksum of the others), `tokenizer.json`, `model.safetensors` (memory-mapped by every
process). `meta.json` is removed before and written after the others, each by rename. So a reader finds a whole entry
or none. Two processes that convert at once write the same bytes. An entry that does not match is made again. Its key is
the GGUF file's path, size and time of change, and `FORMAT`. Knows nothing of how tensors are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from .checkpoint import Checkpoint, end_ids
from .config import ModelConfig
from .fields import Fields
from .shapes import check_tensors
from .shards import ShardedTensors, read_header
from .store import replace_file

FORMAT = 2
"""Raise it whenever what is written, or how GGUF files are understood, changes."""

_log = logging.getLogger(__name__)
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def load_converted(path: Path, cache: Path) -> Checkpoint:
    """Read the checkpoint of a GGUF file from the cache, or convert it now (and cache it, if the disk allows)."""
    path = path.resolve()
    entry = cache / "converted" / entry_key(path)
    checkpoint = _read_entry(entry, path)
    if checkpoint is not None:
        return checkpoint
    checkpoint = _convert(path)
    try:
        _write_entry(entry, checkpoint)
    except OSError as error:  # a full or read-only disk costs speed at the next start, nothing else
        _log.warning("the converted model could not be cached in %s: %s", entry, error)
    return checkpoint


def entry_key(path: Path) -> str:
    """The name of a GGUF file's entry: it changes when the file does."""
    status = path.stat()
    identity = f"{FORMAT}|{path}|{status.st_size}|{status.st_mtime_ns}"
    return f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _convert(path: Path) -> Checkpoint:
    from .gguf_file import GGUFFile
    from .gguf_tokenizer import adds_bos, build_tokenizer

    file = GGUFFile(path)
    config = ModelConfig.from_gguf(file.metadata, str(path))
    tensors = dict(file.tensors())
    config = dataclasses.replace(config, tie_word_embeddings="lm_head.weight" not in tensors)
    tokenizer = build_tokenizer(file.metadata, str(path))
    fields = Fields(file.metadata, str(path))
    check_tensors(config, {key: (tuple(t.shape), t.dtype) for key, t in tensors.items()}, str(path))
    eot = fields.token("tokenizer.ggml.eot_token_id")
    return Checkpoint(
        name=str(path),
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=fields.text("tokenizer.chat_template"),
        bos_id=config.bos_id,
        eos_ids=end_ids(tokenizer, config.eos_ids if eot is None else (*config.eos_ids, eot)),
        add_bos=config.bos_id is not None and adds_bos(file.metadata),
        gguf=path,
        formats=file.formats(),
    )


def _write_entry(entry: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save_file

    entry.mkdir(parents=True, exist_ok=True)
    (entry / "meta.json").unlink(missing_ok=True)
    weights, tokenizer = entry / "model.safetensors", entry / "tokenizer.json"
    replace_file(weights, lambda temporary: save_file(dict(checkpoint.tensors), temporary))
    replace_file(tokenizer, lambda temporary: checkpoint.tokenizer.save(str(temporary), pretty=False))
    meta = {
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "formats": dict(checkpoint.formats),
        "chat_template": checkpoint.chat_template,
        "bos_id": checkpoint.bos_id,
        "eos_ids": checkpoint.eos_ids,
        "add_bos": checkpoint.add_bos,
        "files": {file.name: fingerprint(file) for file in (weights, tokenizer)},
    }
    replace_file(entry / "meta.json", lambda temporary: temporary.write_text(json.dumps(meta), encoding="utf-8"))


def _read_entry(entry: Path, path: Path) -> Checkpoint | None:
    """Read the cached checkpoint; None if there is none that can be trusted."""
    if not (entry / "meta.json").is_file():
        return None
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        for name, expected in meta["files"].items():
            if fingerprint(entry / name) != expected:
                raise ValueError(f"{name} has changed since it was written")
        return Checkpoint(
            name=str(path),
            config=_config(meta["config"]),
            tensors=_mapped(entry / "model.safetensors"),
            tokenizer=Tokenizer.from_file(str(entry / "tokenizer.json")),
            chat_template=meta["chat_template"],
            bos_id=meta["bos_id"],
            eos_ids=tuple(meta["eos_ids"]),
            add_bos=meta["add_bos"],
            gguf=path,
            formats=meta["formats"],
        )
    except Exception as error:  # any fault of a cache entry has one remedy: to make the entry again
        _log.warning("the cached conversion %s is not usable (%s); converting again", entry, error)
        return None


def _config(raw: dict[str, Any]) -> ModelConfig:
    tuples = {key: tuple(raw.get(key, ())) for key in ("eos_ids", "dense_layers")}
    return ModelConfig(**{**raw, **tuples})


def _mapped(file: Path) -> Mapping[str, torch.Tensor]:
    return ShardedTensors(read_header(file))


def fingerprint(file: Path) -> list[int]:
    """Return the size of a file and a checksum: of a whole small file, of samples spread evenly over a large one.

    Reading half a gigabyte would cost more than the rest of a start. The samples and the size find what happens to
    caches: truncated writes, blocks of zeros, another file under the same name.
    """
    size, checksum = file.stat().st_size, 0
    with file.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            return [size, zlib.crc32(stream.read())]
        for i in range(_SAMPLES):
            stream.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            checksum = zlib.crc32(stream.read(_SAMPLE_BYTES), checksum)
    return [size, checksum]
