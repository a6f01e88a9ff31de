"""`PackedWeights`: a checkpoint's weights as the kernels read them, made once and kept in a cache.

Owns: which matrices of a model are packed together, and the cache entries under `<cache>/packed/`. Knows nothing of
kernels.

An entry is `weights.bin`, every array at a multiple of 64 bytes, and `meta.json` with their places. It has checksums of
every byte of both: the kernels believe what they are given. `meta.json` is written last, so a reader finds a whole
entry or none. The packing is the same on every machine.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .....lang.errors import ModelLoadError
from ..load.config import ModelConfig
from ..load.store import replace_file
from .packed import Q8_0, Blocks, Floats, packed, quantised, stacked

FORMAT = 2
"""Raise it whenever what is written changes."""
ALIGNMENT_BYTES = 64
PIECE_BYTES, READ_BYTES = 16 << 20, 1 << 20

_log = logging.getLogger(__name__)
Supply = Callable[[str], Blocks | Floats | None]
"""A tensor by its name in a checkpoint: as blocks if the file has such, else as floats."""


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """`arrays`: packed bytes, norms and biases by name; `matrices`: (outputs, depth, kind) of the packed ones."""

    name: str
    arrays: Mapping[str, npt.NDArray[Any]]
    matrices: Mapping[str, tuple[int, int, int]]
    rope_divisors: Floats | None = None


def pack(config: ModelConfig, supply: Supply, bits: int | None, name: str, source: str = "checkpoint") -> PackedWeights:
    """Pack a checkpoint.

    Args:
        config: The model's sizes.
        supply: Gives a tensor by name.
        bits: 4 or 8: the bits of matrices that the file has as floats, or in another format. None: floats are refused.
        name: What to call the format.
        source: What the checkpoint is called in errors.

    Raises:
        ModelLoadError: A tensor is missing, or has another shape than the config says.
    """
    packing = _Packing(config, supply, bits, source)
    packing.model()
    for bits, count in packing.rounded.items():
        _log.info(
            "%s: %d matrices in other formats are rounded to blocks of %d bits",
            source,
            count,
            bits,
        )
    return PackedWeights(name, packing.arrays, packing.matrices, packing.divisors)


class _Packing:
    def __init__(self, config: ModelConfig, supply: Supply, bits: int | None, source: str) -> None:
        self.config, self.supply, self.bits, self.source = config, supply, bits, source
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.matrices: dict[str, tuple[int, int, int]] = {}
        self.rounded: dict[int, int] = {}  # matrices that are no blocks of the file's own, by their bits
        self.divisors: Floats | None = None

    def model(self) -> None:
        config = self.config
        hidden, wide = config.hidden_size, config.intermediate_size
        widths = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
        sizes = {part: heads * config.head_dim for part, heads in widths.items()}
        embedding = self._blocks("model.embed_tokens.weight", config.vocab_size, hidden, most_bits=8)
        self._add("embedding", embedding)
        if config.tie_word_embeddings:
            self.arrays["head"], self.matrices["head"] = self.arrays["embedding"], self.matrices["embedding"]
        else:
            self._add("head", self._blocks("lm_head.weight", config.vocab_size, hidden, most_bits=8))
        self._floats("norm", "model.norm.weight", hidden)
        divisors = self.supply("rope_freqs.weight")
        self.divisors = None if divisors is None or isinstance(divisors, Blocks) else divisors
        for i in self._shown(range(config.num_layers)):
            ours, theirs = f"layers.{i}.", f"model.layers.{i}."
            attention = theirs + "self_attn."
            self._floats(ours + "norm_attention", theirs + "input_layernorm.weight", hidden)
            self._floats(ours + "norm_feed", theirs + "post_attention_layernorm.weight", hidden)
            if config.qk_norm:
                self._floats(ours + "norm_query", attention + "q_norm.weight", config.head_dim)
                self._floats(ours + "norm_key", attention + "k_norm.weight", config.head_dim)
            parts = [self._blocks(f"{attention}{p}_proj.weight", size, hidden) for p, size in sizes.items()]
            self._add(ours + "qkv", stacked(self._alike(parts)))
            if config.attention_bias:
                biases = [self._take(f"{attention}{p}_proj.bias", size) for p, size in sizes.items()]
                self.arrays[ours + "qkv.bias"] = np.concatenate(biases)
            self._add(ours + "out", self._blocks(attention + "o_proj.weight", hidden, sizes["q"]))
            self._floats(ours + "out.bias", attention + "o_proj.bias", hidden, optional=True)
            for part, outputs, depth in (("gate", wide, hidden), ("up", wide, hidden), ("down", hidden, wide)):
                self._add(ours + part, self._blocks(f"{theirs}mlp.{part}_proj.weight", outputs, depth))

    def _shown(self, layers: Iterable[int]) -> Iterable[int]:
        """The layers, with a bar in a terminal; for a small model there is none to see."""
        from tqdm.auto import tqdm

        what = "packing the weights, once"
        shown: Iterable[int] = tqdm(layers, desc=what, unit="layer", disable=None, delay=1, leave=False)
        return shown

    def _add(self, name: str, blocks: Blocks) -> None:
        self.arrays[name] = packed(blocks)
        self.matrices[name] = (*blocks.shape, blocks.kind)

    def _blocks(self, name: str, outputs: int, depth: int, most_bits: int = 4) -> Blocks:
        found = self.supply(name)
        if found is None:
            raise ModelLoadError(f"{self.source}: the tensor {name!r} is missing; the checkpoint is incomplete")
        if tuple(found.shape) != (outputs, depth):
            raise ModelLoadError(
                f"{self.source}: {name!r} has shape {tuple(found.shape)}, but the config says {(outputs, depth)}; "
                "config and weights are of different models"
            )
        if isinstance(found, Blocks):
            found = self._finite(name, found)
            if self.bits is None or found.bits <= max(self.bits, most_bits):
                return found
            found = found.floats()
        if self.bits is None:
            raise ModelLoadError(f"{self.source}: {name!r} is not in blocks")
        bits = max(self.bits, most_bits)
        self.rounded[bits] = self.rounded.get(bits, 0) + 1
        return self._finite(name, quantised(self._finite_floats(name, found), bits))

    def _alike(self, parts: list[Blocks]) -> list[Blocks]:
        """The parts of one matrix in one kind: where they differ, all are rounded to 8 bits."""
        if len({part.kind for part in parts}) == 1:
            return parts
        self.rounded[8] = self.rounded.get(8, 0) + sum(part.bits != 8 for part in parts)
        return [part if part.kind == Q8_0 else quantised(part.floats(), 8) for part in parts]

    def _take(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        found = self.supply(name)
        if found is None or isinstance(found, Blocks) or tuple(found.shape) != shape:
            raise ModelLoadError(
                f"{self.source}: the tensor {name!r} of shape {shape} is missing; the checkpoint is incomplete"
            )
        return self._finite_floats(name, np.ascontiguousarray(found))

    def _finite(self, name: str, blocks: Blocks) -> Blocks:
        for scales in (blocks.scale_NB, blocks.minimum_NB):
            if scales is not None:
                self._finite_floats(name, scales)
        return blocks

    def _finite_floats(self, name: str, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.isfinite(numbers).all():
            raise ModelLoadError(f"{self.source}: {name!r} holds numbers that are not finite; download the file again")
        return numbers

    def _floats(self, ours: str, theirs: str, *shape: int, optional: bool = False) -> None:
        if not optional or self.supply(theirs) is not None:
            self.arrays[ours] = self._take(theirs, *shape)


def kept(entry: Path, make: Callable[[], PackedWeights]) -> PackedWeights:
    """The packed weights of a cache entry; made, and kept there, if it has none that can be trusted."""
    found = _read(entry)
    if found is not None:
        return found
    made = make()
    try:
        _write(entry, made)
    except OSError as error:  # a full or read-only disk costs speed at the next start, nothing else
        _log.warning("the packed weights could not be cached in %s: %s", entry, error)
        return made
    return _read(entry) or made  # mapped: the copy in memory is given back


def _write(entry: Path, weights: PackedWeights) -> None:
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "meta.json").unlink(missing_ok=True)
    places: dict[str, tuple[int, str, list[int]]] = {}
    arrays = dict(weights.arrays)
    if weights.rope_divisors is not None:
        arrays["rope_divisors"] = weights.rope_divisors
    known: dict[int, tuple[int, str, list[int]]] = {}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for name, array in arrays.items():
                if id(array) not in known:  # the tied head is written once
                    file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
                    known[id(array)] = (file.tell(), array.dtype.str, [*array.shape])
                    file.write(np.ascontiguousarray(array).data)
                places[name] = known[id(array)]

    replace_file(entry / "weights.bin", write)
    meta = {
        "format": FORMAT,
        "name": weights.name,
        "places": places,
        "matrices": weights.matrices,
        "weights": checksums(entry / "weights.bin"),
    }
    meta["meta"] = _checksum_of(meta)
    replace_file(entry / "meta.json", lambda temporary: temporary.write_text(json.dumps(meta), encoding="utf-8"))


def _read(entry: Path) -> PackedWeights | None:
    """The weights of an entry, mapped; None if there is none that can be trusted."""
    if not (entry / "meta.json").is_file():
        return None
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("meta", None) != _checksum_of(meta) or meta["format"] != FORMAT:
            raise ValueError("its description has changed since it was written, or is of another version")
        if checksums(entry / "weights.bin") != meta["weights"]:
            raise ValueError("the weights have changed since they were written")
        raw = np.memmap(entry / "weights.bin", dtype=np.uint8, mode="r")
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (at, kind, shape) in meta["places"].items():
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            arrays[name] = raw[at : at + size].view(kind).reshape(shape)
        divisors = arrays.pop("rope_divisors", None)
        matrices = {name: tuple(sizes) for name, sizes in meta["matrices"].items()}
        return PackedWeights(meta["name"], arrays, matrices, divisors)
    except Exception as error:  # any fault of a cache entry has one remedy: to make the entry again
        _log.warning("the packed weights in %s are not usable (%s); packing again", entry, error)
        return None


def checksums(file: Path) -> list[int]:
    """The size of a file, and a checksum of each piece of 16 MiB; some gigabytes a second."""

    def of_piece(at: int) -> int:
        with file.open("rb") as stream:  # read, not mapped: what is only checked is not memory of this process
            stream.seek(at)
            checksum = 0
            for _ in range(0, PIECE_BYTES, READ_BYTES):
                checksum = zlib.crc32(stream.read(READ_BYTES), checksum)
            return checksum

    size = file.stat().st_size
    with ThreadPoolExecutor(max_workers=8) as threads:
        return [size, *threads.map(of_piece, range(0, size, PIECE_BYTES))]


def _checksum_of(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
