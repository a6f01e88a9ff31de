"""Reading a GGUF file: its metadata as plain values, its tensors in float32 under their names in HF checkpoints.

Owns: the name map, the undoing of llama.cpp's row permutation of q and k, and the errors of damaged files. The format
itself and the block formats are the `gguf` package's. Knows nothing of tokenizers (`gguf_tokenizer`) or of caching.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .....lang.errors import ModelLoadError
from ..cpu.gguf_blocks import READABLE, read_blocks
from ..cpu.packed import BLOCK, Blocks
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

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(HF name, float32 tensor) of every tensor; dequantised one at a time."""
        for raw in self._reader.tensors:
            name = self._hf_name(raw.name)
            yield name, self._permuted(name, self._dequantised(raw))

    def formats(self) -> dict[str, str]:
        """The format of each tensor by its HF name: "F16", "Q4_1", ..."""
        return {self._hf_name(raw.name): raw.tensor_type.name for raw in self._reader.tensors}

    def blocks(self) -> Mapping[str, Callable[[], Blocks]]:
        """By HF name, the tensors that lie in blocks which the CPU kernels read; each is read when it is called."""
        found: dict[str, Callable[[], Blocks]] = {}
        for raw in self._reader.tensors:
            name = self._hf_name(raw.name)
            if raw.tensor_type.name in READABLE and len(raw.shape) == 2 and not int(raw.shape[0]) % BLOCK:
                found[name] = partial(self._blocks, name, raw)
        return found

    def _blocks(self, name: str, raw: Any) -> Blocks:
        depth, outputs = (int(size) for size in raw.shape)
        blocks = read_blocks(raw.tensor_type.name, raw.data, outputs, depth)
        order = self._permuted(name, torch.arange(outputs)[:, None])[:, 0].numpy()
        return blocks if (order == np.arange(outputs)).all() else blocks.rows(order)

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

    def _dequantised(self, raw: Any) -> torch.Tensor:
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
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))

    def _permuted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """llama.cpp interleaves each head's rotation pairs for the llama architecture; HF keeps them in two halves."""
        arch = self.metadata.get("general.architecture")
        projection = name.rsplit(".", 2)[-2]
        if arch not in ("llama", "mistral") or projection not in ("q_proj", "k_proj"):
            return tensor
        fields = Fields(self.metadata, str(self.path))
        heads = fields.whole(f"{arch}.attention.head_count")
        if projection == "k_proj":
            heads = fields.whole(f"{arch}.attention.head_count_kv", heads)
        if not tensor.ndim or tensor.shape[0] % (2 * heads):
            raise ModelLoadError(
                f"{self.path}: tensor {name!r} has shape {tuple(tensor.shape)}, which is not for {heads} heads"
            )
        half, rest = tensor.shape[0] // heads // 2, tensor.shape[1:]
        return tensor.reshape(heads, half, 2, *rest).transpose(1, 2).reshape(tensor.shape).contiguous()


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

    try:
        reader = GGUFReader(path)
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
