"""Tables of rotary position embedding (Su et al., RoFormer), with the scalings of long-context checkpoints.

Owns: inverse frequencies, and tables of cos and sin, in numpy. Knows nothing of attention or batches, or of torch.
Convention: "half rotation" (dimension i is paired with i + D/2), as in transformers' checkpoints. The sine table is
signed, so that rotating is `x * cos + roll(x, D/2) * sin`: three kernels.

Legend: P positions, D head dim, F = D/2 frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..load.config import ModelConfig

Floats = npt.NDArray[np.float32]


def rope_tables(config: ModelConfig, positions: int, divisors_F: Floats | None = None) -> tuple[Floats, Floats]:
    """cos and signed sin, float32 [P, D] each. `divisors_F` divides the frequencies (GGUF's `rope_freqs`)."""
    inverse_F, scale = inverse_frequencies(config)
    if divisors_F is not None:
        inverse_F = inverse_F / divisors_F
    angle_PF = np.outer(np.arange(positions, dtype=np.float32), inverse_F)
    cos_PF, sin_PF = np.cos(angle_PF) * np.float32(scale), np.sin(angle_PF) * np.float32(scale)
    return np.concatenate((cos_PF, cos_PF), axis=1), np.concatenate((-sin_PF, sin_PF), axis=1)


def inverse_frequencies(config: ModelConfig) -> tuple[Floats, float]:
    """Inverse frequencies [F], and the factor cos and sin are multiplied by (YaRN's attention temperature)."""
    dim = config.head_dim
    base = np.float32(config.rope_theta)
    inverse_F: Floats = np.float32(1) / base ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    scaling = config.rope_scaling
    if scaling is None:
        return inverse_F, 1.0
    if scaling["rope_type"] == "linear":
        return inverse_F / np.float32(scaling["factor"]), 1.0
    if scaling["rope_type"] == "llama3":
        return _llama3(inverse_F, scaling), 1.0
    return _yarn(inverse_F, config.rope_theta, scaling), _yarn_temperature(scaling)


def _llama3(inverse_F: Floats, scaling: Mapping[str, Any]) -> Floats:
    """Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between interpolated."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns_F = scaling["original_max_position_embeddings"] * inverse_F / (2 * math.pi)
    keep_F = ((turns_F - low) / (high - low)).clip(0, 1)
    scaled_F: Floats = inverse_F * (keep_F + (1 - keep_F) / scaling["factor"]).astype(np.float32)
    return scaled_F


def _yarn(inverse_F: Floats, theta: float, scaling: Mapping[str, Any]) -> Floats:
    """YaRN (Peng et al. 2023, section 3.2, "NTK by parts"): the ramp runs between two numbers of turns."""
    dim, original = 2 * len(inverse_F), scaling["original_max_position_embeddings"]

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = dimension_of(scaling.get("beta_fast") or 32)
    last = dimension_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = (last - first) or 0.001
    slow_F = ((np.arange(dim // 2, dtype=np.float32) - first) / width).clip(0, 1)
    scaled_F: Floats = inverse_F * (slow_F / scaling["factor"] + (1 - slow_F)).astype(np.float32)
    return scaled_F


def _yarn_temperature(scaling: Mapping[str, Any]) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    top, bottom = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return temperature(top) / temperature(bottom) if top and bottom else temperature(1.0)
