"""The card a model runs on: what it can compute, and what fits into its memory.

Owns: what is asked of a GPU before and after a model is loaded. A card is a value (`Card`), so tests need no GPU. The
errors say what does not fit and what to do. Knows nothing of files, and of models only their size.
"""

from __future__ import annotations

import importlib.util
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ...lang.errors import OptionError, OutOfMemory, suggest
from .model.load.config import ModelConfig
from .model.load.shapes import parameter_count, weight_bytes

log = logging.getLogger("sgl")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT_DTYPES = {"float": "float32", "fp32": "float32", "bf16": "bfloat16", "half": "float16", "fp16": "float16"}
BFLOAT16_CAPABILITY = (8, 0)
"""Ampere: what came before computes bfloat16 in software, many times slower than float16."""
FUSED_CAPABILITY = (8, 0)
"""The oldest cards Triton compiles for."""
FUSED_HEAD_DIMS = range(16, 257)
"""Head dims that the attention kernels are made for."""
WORKSPACE_BYTES = 512 << 20
"""Memory that libraries and captured graphs keep."""


@dataclass(frozen=True)
class Card:
    """A GPU: its compute capability, and its bytes of memory when it was looked at."""

    device: str
    name: str
    capability: tuple[int, int]
    total: int
    free: int

    def __str__(self) -> str:
        return f"{self.device} ({self.name}, compute capability {self.capability[0]}.{self.capability[1]})"


def card_of(device: str) -> Card | None:
    """The card behind a device's name; None for the CPU."""
    if torch.device(device).type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    return Card(
        device=device,
        name=found.name,
        capability=(found.major, found.minor),
        total=found.total_memory,
        free=free_memory(device),
    )


def free_memory(device: str | torch.device) -> int:
    """Free bytes of a GPU's memory. What torch keeps for reuse counts as used: empty its cache before."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def resolve_device(asked: str | torch.device) -> str:
    """`asked` as the name of a device of torch ("auto": a GPU if there is one). Raises `OptionError`."""
    asked = str(asked) if isinstance(asked, torch.device) else asked
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        if not isinstance(asked, str):
            raise TypeError
    except (RuntimeError, TypeError):
        hint = "; did you mean 'cuda'?" if asked == "gpu" else suggest(str(asked), ("auto", "cpu", "cuda"))
        raise OptionError(f"device={asked!r} is not a device{hint}; use 'auto', 'cpu' or 'cuda'") from None
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device={asked!r} is not supported; use 'auto', 'cpu' or 'cuda'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device={asked!r}: torch sees no GPU; use device='cpu' or a CUDA build of torch")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device={asked!r}: torch sees {torch.cuda.device_count()} GPU(s), the first is 'cuda:0'")
    return asked


def resolve_dtype(asked: str | torch.dtype, card: Card | None) -> torch.dtype:
    """`asked` as a dtype the card computes in. "auto" is float32 on the CPU, else bfloat16, or float16 on cards without
    it. Short names ("bf16") and torch's own dtypes are taken too. Raises `OptionError`."""
    name = str(asked).removeprefix("torch.")
    asked = SHORT_DTYPES.get(name, name)
    if asked != "auto" and asked not in DTYPES:
        known = ("auto", *DTYPES)
        raise OptionError(f"dtype must be 'auto' or one of {', '.join(DTYPES)}, got {asked!r}{suggest(asked, known)}")
    if card is None:
        return torch.float32 if asked == "auto" else DTYPES[asked]
    able = card.capability >= BFLOAT16_CAPABILITY
    if asked == "auto":
        if not able:
            log.info("%s has no bfloat16: dtype float16", card)
        return torch.bfloat16 if able else torch.float16
    if asked == "bfloat16" and not able:
        raise OptionError(f"dtype='bfloat16': {card} has none; use dtype='float16' (or 'auto'), or 'float32'")
    return DTYPES[asked]


def fused_obstacle(card: Card, head_dim: int, has_triton: bool | None = None) -> str | None:
    """Why the fused kernels do not run a model on this card and installation; None: they do. `has_triton`: None finds
    out."""
    if has_triton is None:
        has_triton = importlib.util.find_spec("triton") is not None
    if not has_triton:
        return "the package triton is not installed"
    if card.capability < FUSED_CAPABILITY:
        return f"{card} is older than compute capability {FUSED_CAPABILITY[0]}.{FUSED_CAPABILITY[1]}"
    if head_dim not in FUSED_HEAD_DIMS:
        return f"heads of {head_dim} are not between {FUSED_HEAD_DIMS[0]} and {FUSED_HEAD_DIMS[-1]}"
    return None


def check_fits(config: ModelConfig, dtype: torch.dtype, card: Card, name: str = "the model") -> None:
    """Raise `OutOfMemory` if the weights alone are larger than the card's free memory."""
    needed = weight_bytes(config, dtype)
    if needed <= card.free:
        return
    half = "bfloat16" if card.capability >= BFLOAT16_CAPABILITY else "float16"
    smaller = f"dtype={half!r} (half as much), " if dtype == torch.float32 and needed // 2 <= card.free else ""
    raise OutOfMemory(
        f"{name}: the weights ({parameter_count(config) / 1e9:.1f} billion parameters in {_dtype_name(dtype)}) need "
        f"{gib(needed)}, but {card} has {gib(card.free)} free of {gib(card.total)}: use {smaller}a smaller model, "
        "another device, or end what else uses this one"
    )


def pool_tokens(free_bytes: int, fraction: float, kv_bytes_per_token: int, reserve_bytes: int) -> int:
    """Tokens of KV that fit into `fraction` of the memory that is free once the weights are loaded. At least
    `reserve_bytes` of it are left to activations and graphs. Raises `OutOfMemory` if not one token fits."""
    room = min(int(free_bytes * fraction), free_bytes - reserve_bytes)
    tokens = room // kv_bytes_per_token
    if tokens < 1:
        raise OutOfMemory(
            f"no room for KV: beside the weights {gib(free_bytes)} are free, of which a step needs "
            f"{gib(reserve_bytes)}; use a smaller dtype or model, lower chunked_prefill_size, or say max_total_tokens"
        )
    return tokens


def reserve_bytes(config: ModelConfig, dtype: torch.dtype, step_tokens: int, wanted: int) -> int:
    """Bytes a step of `step_tokens` rows uses beside weights and KV, `wanted` of them with logits; an upper estimate.

    Alive at once in a layer: the residual and its norm, q, k, v and the mixed values, and the feed-forward's three wide
    parts. Logits are float32 and copied for sampling.
    """
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    row = 3 * config.hidden_size + heads * config.head_dim + 3 * config.intermediate_size
    return step_tokens * row * dtype.itemsize + 3 * 4 * wanted * config.vocab_size + WORKSPACE_BYTES


def gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def numbered(device: torch.device) -> torch.device:
    """The device with its index: which one is current differs from thread to thread."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make `device` the current one in a `with` block: kernels are launched there, whichever thread drives."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
