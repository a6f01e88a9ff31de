"""Random weights and a byte tokenizer, to run a model's *shape* without its files (`load_format="dummy"`).

Knows nothing of models but their config. Deterministic: the same config gives the same weights in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .....lang.errors import ModelLoadError
from .config import ModelConfig
from .shapes import Shape, parameter_count, tensor_shapes
from .weights import Converted, Supply, Tensors

END = "<|endoftext|>"
CPU_DRAWN_PARAMETERS = 200_000_000
"""Most parameters that are drawn on the CPU for a GPU too, which takes seconds. Tests compare the two devices."""


class DummyTensors(Tensors):
    """Made-up weights of a config: normal with its `initializer_range` (so logits stay small), norms of one, biases of
    zero.

    Up to `CPU_DRAWN_PARAMETERS` they are drawn on the CPU, the same for every device. Above, a GPU draws its own, one
    tensor at a time, in the dtype asked for. Those are the same in every process and on every GPU of a kind, but differ
    from the CPU's.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self._config = config
        self._seed = seed
        self._shapes = tensor_shapes(config)
        self._drawn: dict[str, torch.Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        if self._drawn is None:  # all at once: they come from one generator, in order
            self._drawn = random_tensors(self._config, self._seed)
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def supply(self, device: torch.device, dtype: torch.dtype) -> Supply:
        if device.type == "cpu" or parameter_count(self._config) <= CPU_DRAWN_PARAMETERS:
            return Converted(self, device, dtype)
        return _DrawnThere(self._shapes, self._config.initializer_range, self._seed, device, dtype)


class _DrawnThere:
    """Made-up weights drawn on the device when taken, each from a generator of its own."""

    def __init__(
        self, shapes: Mapping[str, Shape], deviation: float, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._shapes = shapes
        self._deviation = deviation
        self._seed = seed
        self._device = device
        self._dtype = dtype

    def take(self, name: str) -> torch.Tensor | None:
        shape = self._shapes.get(name)
        if shape is None:
            return None
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        if (constant := _constant(name)) is not None:
            return tensor.fill_(constant)
        digest = hashlib.blake2b(f"{self._seed}|{name}".encode(), digest_size=7).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(digest, "little"))
        return tensor.normal_(0.0, self._deviation, generator=generator)

    def close(self) -> None:
        pass


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """The made-up weights of a config in float32 on the CPU, all drawn now."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: Shape) -> torch.Tensor:
        if (constant := _constant(name)) is not None:
            return torch.full(shape, constant)
        return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)

    return {name: draw(name, shape) for name, shape in tensor_shapes(config).items()}


def _constant(name: str) -> float | None:
    """What all numbers of a tensor are, where they are not random."""
    return 0.0 if name.endswith(".bias") else 1.0 if name.endswith("norm.weight") else None


def byte_tokenizer(vocab_size: int, name: str) -> Tokenizer:
    """One token a byte (ids 0-255) and an end token (256). Ids above, up to the vocabulary's size, are no tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise ModelLoadError(f"{name}: a byte tokenizer needs vocab_size 257, not {vocab_size}; add a tokenizer.json")
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer
