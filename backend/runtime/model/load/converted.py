"""GGUF files as checkpoints, converted once: a cache of `tokenizer.json`, and of float32 weights where they are used.

Owns: the cache entries under `<cache>/converted/` and when to trust one. An entry has `meta.json` (settings) with
`tokenizer.json`, and, once floats were asked for, `weights.json` with `model.safetensors` (memory-mapped by every
process). The JSON file has the size and a checksum of the other. It is removed before and written after the other, each
by rename. So a reader finds a whole pair or none. Two processes that convert at once write the same bytes. A pair that
does not match is made again. An entry's key is the GGUF file's path, size and time of change, and `FORMAT`. Knows
nothing of how tensors are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from .checkpoint import Checkpoint, end_ids
from .config import ModelConfig
from .fields import Fields, contained
from .shapes import check_shapes
from .store import replace_file
from .weights import Converted, Supply, Tensors

if TYPE_CHECKING:
    import torch

    from .gguf_file import GGUFFile

FORMAT = 3
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
    checkpoint = _convert(path, entry)
    try:
        _write_entry(entry, checkpoint)
    except OSError as error:  # a full or read-only disk costs speed at the next start, nothing else
        _log.warning("the converted model could not be cached in %s: %s", entry, error)
    return checkpoint


class DequantisedTensors(Tensors):
    """The tensors of a GGUF file in float32, made when the first is asked for, and kept in the file's cache entry.

    Raises `ModelLoadError` then, for a tensor that cannot be read.
    """

    def __init__(self, path: Path, entry: Path, names: Collection[str], file: GGUFFile | None = None) -> None:
        self._path, self._entry, self._names, self._file = path, entry, names, file

    def file(self) -> GGUFFile:
        """The opened file: reading what it says takes seconds, so what was opened once is kept."""
        if self._file is None:
            from .gguf_file import GGUFFile

            self._file = GGUFFile(self._path)
        return self._file

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._floats[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def supply(self, device: torch.device, dtype: torch.dtype) -> Supply:
        floats = self._floats
        return floats.supply(device, dtype) if isinstance(floats, Tensors) else Converted(floats, device, dtype)

    @cached_property
    def _floats(self) -> Mapping[str, torch.Tensor]:
        found = _read_weights(self._entry)
        if found is not None:
            return found
        import torch

        _log.info("%s: making float32 weights of its blocks, once", self._path)
        tensors = contained(lambda: dict(self.file().tensors()), self._path, "its tensors cannot be read")
        made = {name: torch.from_numpy(numbers) for name, numbers in tensors.items()}
        try:
            _write_weights(self._entry, made)
        except OSError as error:
            _log.warning("the converted weights could not be cached in %s: %s", self._entry, error)
            return made
        return _read_weights(self._entry) or made  # mapped: the copy in memory is given back


def entry_key(path: Path) -> str:
    """The name of a GGUF file's entry: it changes when the file does."""
    status = path.stat()
    identity = f"{FORMAT}|{path}|{status.st_size}|{status.st_mtime_ns}"
    return f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _convert(path: Path, entry: Path) -> Checkpoint:
    from .gguf_file import GGUFFile
    from .gguf_tokenizer import adds_bos, build_tokenizer

    file = GGUFFile(path)
    config = ModelConfig.from_gguf(file.metadata, str(path))
    shapes = file.shapes()
    config = dataclasses.replace(config, tie_word_embeddings="lm_head.weight" not in shapes)
    tokenizer = build_tokenizer(file.metadata, str(path))
    fields = Fields(file.metadata, str(path))
    check_shapes(config, shapes, str(path))
    eot = fields.token("tokenizer.ggml.eot_token_id")
    return Checkpoint(
        name=str(path),
        config=config,
        tensors=DequantisedTensors(path, entry, shapes, file),
        tokenizer=tokenizer,
        chat_template=fields.text("tokenizer.chat_template"),
        bos_id=config.bos_id,
        eos_ids=end_ids(tokenizer, config.eos_ids if eot is None else (*config.eos_ids, eot)),
        add_bos=config.bos_id is not None and adds_bos(file.metadata),
        gguf=path,
        formats=file.formats(),
    )


def _write_entry(entry: Path, checkpoint: Checkpoint) -> None:
    tokenizer = entry / "tokenizer.json"
    meta = {
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "formats": dict(checkpoint.formats),
        "chat_template": checkpoint.chat_template,
        "bos_id": checkpoint.bos_id,
        "eos_ids": checkpoint.eos_ids,
        "add_bos": checkpoint.add_bos,
    }
    with _told(entry / "meta.json", tokenizer, meta):
        replace_file(tokenizer, lambda temporary: checkpoint.tokenizer.save(str(temporary), pretty=False))


def _write_weights(entry: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    weights = entry / "model.safetensors"
    with _told(entry / "weights.json", weights, {}):
        replace_file(weights, lambda temporary: save_file(dict(tensors), temporary))


@contextmanager
def _told(told: Path, file: Path, values: dict[str, Any]) -> Iterator[None]:
    """Have `file` written, and then the JSON file that vouches for it."""
    told.parent.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    yield
    text = json.dumps({**values, "file": fingerprint(file)})
    replace_file(told, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _vouched(told: Path, file: Path) -> dict[str, Any]:
    """The values of a JSON file. Raises whatever is wrong with it; `ValueError` if the file it vouches for changed."""
    values: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if fingerprint(file) != values["file"]:
        raise ValueError(f"{file.name} has changed since it was written")
    return values


def _read_entry(entry: Path, path: Path) -> Checkpoint | None:
    """Read the cached checkpoint; None if there is none that can be trusted."""
    if not (entry / "meta.json").is_file():
        return None
    try:
        meta = _vouched(entry / "meta.json", entry / "tokenizer.json")
        return Checkpoint(
            name=str(path),
            config=_config(meta["config"]),
            tensors=DequantisedTensors(path, entry, meta["formats"].keys()),
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


def _read_weights(entry: Path) -> Tensors | None:
    """The cached float32 weights, mapped; None if there are none that can be trusted."""
    if not (entry / "weights.json").is_file():
        return None
    from .shards import ShardedTensors, read_header

    try:
        _vouched(entry / "weights.json", entry / "model.safetensors")
        return ShardedTensors(read_header(entry / "model.safetensors"))
    except Exception as error:
        _log.warning("the converted weights in %s are not usable (%s); converting again", entry, error)
        return None


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
