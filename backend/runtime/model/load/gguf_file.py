"""Reading a GGUF file: its metadata as plain values, its tensors in float32 under their names in HF checkpoints.

Owns: the name map, the undoing of llama.cpp's row permutation of q and k, and the errors of damaged files. The format
itself and the block formats are the `gguf` package's. Knows nothing of tokenizers (`gguf_tokenizer`) or of caching.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .....lang.errors import ModelLoadError
from ..cpu.gguf_blocks import READABLE, read_blocks
from ..cpu.packed import Blocks
from .fields import Fields, brief, first_line, without_overlap

MAGIC = b"GGUF"
LONGEST_NAME = 256

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFFile:
    """An opened file: `metadata` at once, tensors when asked. Raises `ModelLoadError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        try:
            self.metadata: dict[str, Any] = {
                key: field.contents() for key, field in self._reader.fields.items() if not key.startswith("GGUF.")
            }
        except Exception as error:
            raise ModelLoadError(f"{path}: the GGUF metadata cannot be read ({error}); download it again") from error

    @cached_property
    def _raw(self) -> dict[str, Any]:
        """The tensors by their HF names: asked for once it is known that the model is of the family."""
        return {self._hf_name(raw.name): raw for raw in self._reader.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def tensors(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """(HF name, numbers) of every tensor; dequantised one at a time."""
        for name in self._raw:
            yield name, self.tensor(name)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers of a tensor by its HF name."""
        numbers = self._dequantised(self._raw[name])
        order = self._order(name, numbers.shape)
        return numbers if order is None else numbers[order]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its HF name."""
        return {name: tuple(int(n) for n in reversed(raw.shape)) for name, raw in self._raw.items()}

    def formats(self) -> dict[str, str]:
        """The format of each tensor by its HF name: "F16", "Q4_1", ..."""
        return {name: raw.tensor_type.name for name, raw in self._raw.items()}

    def blocks(self, name: str) -> Blocks | None:
        """A tensor by its HF name as the file has it; None if it is no matrix in blocks that the CPU kernels read."""
        raw = self._raw[name]
        kind = raw.tensor_type.name
        if kind not in READABLE or len(raw.shape) != 2:
            return None
        depth, outputs = (int(size) for size in raw.shape)
        blocks = read_blocks(kind, raw.data, outputs, depth)
        order = self._order(name, blocks.shape)
        return blocks if order is None else blocks.rows(order)

    def _hf_name(self, name: str) -> str:
        if len(name) > LONGEST_NAME:
            raise ModelLoadError(f"{self.path}: a tensor has a name of {len(name)} characters, {brief(name)}")
        stem, _, kind = name.rpartition(".")
        if stem in _TOP:
            return f"{_TOP[stem]}.{kind}"
        block = stem.split(".", 2)
        if len(block) == 3 and block[0] == "blk" and block[2] in _BLOCK:
            return f"model.layers.{block[1]}.{_BLOCK[block[2]]}.{kind}"
        raise ModelLoadError(f"{self.path}: the tensor {name!r} belongs to no supported model")

    def _dequantised(self, raw: Any) -> npt.NDArray[np.float32]:
        from gguf.quants import dequantize

        try:
            with np.errstate(all="ignore"):  # a damaged block may hold any numbers
                values = dequantize(raw.data, raw.tensor_type)
        except NotImplementedError as error:
            raise ModelLoadError(
                f"{self.path}: tensor {raw.name!r} has type {raw.tensor_type.name}, which is not supported; "
                "use a file in F16, Q8_0, Q4_K_M or another common type"
            ) from error
        except (ValueError, TypeError, IndexError) as error:
            raise ModelLoadError(f"{self.path}: tensor {raw.name!r} cannot be read ({first_line(error)})") from error
        shape = tuple(int(n) for n in reversed(raw.shape))
        if math.prod(shape) != values.size:
            raise ModelLoadError(f"{self.path}: tensor {raw.name!r} of shape {shape} has {values.size} numbers")
        # A copy: the file's own mapping is read-only, and must be free to be closed.
        return np.array(values, dtype=np.float32).reshape(shape)

    def _order(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64] | None:
        """HF's order of a tensor's rows, where the file has another.

        llama.cpp interleaves each head's rotation pairs for the llama architecture; HF keeps them in two halves.
        """
        arch = self.metadata.get("general.architecture")
        projection = name.rsplit(".", 2)[-2]
        if arch not in ("llama", "mistral") or projection not in ("q_proj", "k_proj"):
            return None
        fields = Fields(self.metadata, str(self.path))
        heads = fields.whole(f"{arch}.attention.head_count")
        if projection == "k_proj":
            heads = fields.whole(f"{arch}.attention.head_count_kv", heads)
        if not shape or shape[0] % (2 * heads):
            raise ModelLoadError(f"{self.path}: tensor {name!r} has shape {shape}, which is not for {heads} heads")
        return np.arange(shape[0]).reshape(heads, shape[0] // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _open(path: Path) -> Any:
    """A `gguf.GGUFReader`, after the checks that make its failures understandable."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head, counts = file.read(4), file.read(20)
    if head != MAGIC:
        raise ModelLoadError(f"{path}: not a GGUF file (it begins with {head!r}, not {MAGIC!r})")
    if len(counts) == 20:
        version, tensors, fields = struct.unpack("<IQQ", counts)
        if version < 1 << 16 and max(tensors, fields) > size:  # of a file in the other byte order, it is larger
            raise ModelLoadError(
                f"{path}: the GGUF file has {size} bytes and says that it holds {tensors} tensors and {fields} fields; "
                "download it again"
            )
    from gguf import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Its bytes are a plain array: each slice of a `memmap` costs many times as much, and each string is one."""

        @property
        def data(self) -> npt.NDArray[np.uint8]:
            return self._bytes

        @data.setter
        def data(self, mapped: npt.NDArray[np.uint8]) -> None:
            self._bytes = np.asarray(mapped)

    try:
        reader = Reader(path)
    except Exception as error:  # past the end the reader fails in whatever numpy call comes first
        raise ModelLoadError(
            f"{path}: the GGUF file is truncated or damaged ({type(error).__name__}: {error}); download it again"
        ) from error
    end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
    if end > size:
        raise ModelLoadError(f"{path}: the GGUF file is truncated ({size} bytes of {end}); download it again")
    places = ((int(t.data_offset), int(t.data_offset) + int(t.n_bytes), str(t.name)) for t in reader.tensors)
    if (over := without_overlap(places)) is not None:
        raise ModelLoadError(f"{path}: the bytes of tensor {brief(over)} are another tensor's too; download it again")
    return reader
