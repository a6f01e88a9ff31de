"""Safetensors files as a mapping of tensors: headers are read at once, tensors when they are asked for.

Owns: the file format of the `safetensors` package (an 8-byte length, a JSON header, then bytes), its errors, and the
memory map that tensors on the CPU are views of. Knows nothing of models; `fetch` brings bytes to a GPU.
Invariant: a shard that could be opened holds every byte its header promises.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .....lang.errors import ModelLoadError
from .fetch import Fetch, TensorPlace
from .fields import parse_json, without_overlap
from .weights import Converted, Supply, Tensors

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_HEADER_BYTES = 100_000_000
"""Longest header, the format's own limit."""
_MOST_SIDES = 16


class ShardedTensors(Tensors):
    """All tensors of some safetensors files. On the CPU they are views of private memory maps (writing copies a page).

    `places` says where each tensor lies (`read_header`).
    """

    def __init__(self, places: Mapping[str, TensorPlace]) -> None:
        self.places = places
        self._maps: dict[Path, mmap.mmap] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        place = self.places[name]
        if not math.prod(place.shape):
            return torch.empty(place.shape, dtype=place.dtype)
        mapped = self._maps.get(place.file)
        if mapped is None:
            with place.file.open("rb") as file:
                mapped = self._maps[place.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(mapped, dtype=place.dtype, count=math.prod(place.shape), offset=place.start)
        return flat.view(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def supply(self, device: torch.device, dtype: torch.dtype) -> Supply:
        """Read ahead on threads for a GPU; on the CPU, the mapping itself."""
        return Fetch(self.places, device, dtype) if device.type == "cuda" else Converted(self, device, dtype)


@dataclass(frozen=True)
class _Section:
    """The part of a file behind its header: where it starts, and how many bytes it has."""

    file: Path
    start: int
    size: int


def read_header(file: Path) -> dict[str, TensorPlace]:
    """Read where each tensor of a file lies. Raises `ModelLoadError` for a file that is not whole."""
    try:
        section, header = _open(file)
        header.pop("__metadata__", None)
        places = {name: _place(section, name, entry) for name, entry in header.items()}
        ends = [(p.start, p.start + math.prod(p.shape) * p.dtype.itemsize, name) for name, p in places.items()]
        if (over := without_overlap(ends)) is not None:
            raise ValueError(f"the bytes of {over!r:.200} are another tensor's too")
        return places
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file}: truncated or damaged ({error}); download it again") from error


def _open(file: Path) -> tuple[_Section, dict[str, Any]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _HEADER_BYTES):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return _Section(file, 8 + length, size - 8 - length), header


def _place(section: _Section, name: str, entry: Any) -> TensorPlace:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise ValueError(f"the header's entry of {name!r} is not understood")
    if kind not in _DTYPES:
        raise ModelLoadError(f"{section.file}: the tensor {name!r} has type {kind}, which is not supported")
    if not all(type(n) is int and 0 <= n <= section.size for n in shape) or len(shape) > _MOST_SIDES:
        raise ValueError(f"{name!r} has shape {shape}")
    if end - begin != math.prod(shape) * _DTYPES[kind].itemsize or begin < 0:
        raise ValueError(f"{name!r} of shape {shape} and type {kind} lies at bytes {begin} to {end}")
    if end > section.size:
        raise ValueError(f"{name!r} ends at byte {end} of {section.size}")
    return TensorPlace(section.file, section.start + begin, tuple(shape), _DTYPES[kind])
