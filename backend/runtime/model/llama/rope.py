"""Tables of rotary position embedding (Su et al., RoFormer), with the scalings of long-context checkpoints.

Owns: inverse frequencies, and tables of cos and sin. Knows nothing of attention or batches.
Convention: "half rotation" (dimension i is paired with i + D/2), as in transformers' checkpoints. The sine table is
signed, so that rotating is `x * cos + roll(x, D/2) * sin`: three kernels.

Legend: P positions, D head dim, F = D/2 frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..load.config import ModelConfig


def rope_tables(
    config: ModelConfig, positions: int, divisors_F: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and signed sin, float32 [P, D] each. `divisors_F` divides the frequencies (GGUF's `rope_freqs`)."""
    inverse_F, scale = inverse_frequencies(config)
    if divisors_F is not None:
        inverse_F = inverse_F / divisors_F
    angle_PF = torch.outer(torch.arange(positions, dtype=torch.float32), inverse_F)
    cos_PF, sin_PF = angle_PF.cos() * scale, angle_PF.sin() * scale
    return torch.cat((cos_PF, cos_PF), dim=1), torch.cat((-sin_PF, sin_PF), dim=1)


def inverse_frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Inverse frequencies [F], and the factor cos and sin are multiplied by (YaRN's attention temperature)."""
    dim = config.head_dim
    inverse_F = 1.0 / (config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    scaling = config.rope_scaling
    if scaling is None:
        return inverse_F, 1.0
    if scaling["rope_type"] == "linear":
        return inverse_F / scaling["factor"], 1.0
    if scaling["rope_type"] == "llama3":
        return _llama3(inverse_F, scaling), 1.0
    return _yarn(inverse_F, config.rope_theta, scaling), _yarn_temperature(scaling)


def _llama3(inverse_F: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between interpolated."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns_F = scaling["original_max_position_embeddings"] * inverse_F / (2 * math.pi)
    keep_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    scaled_F: torch.Tensor = inverse_F * (keep_F + (1 - keep_F) / scaling["factor"])
    return scaled_F


def _yarn(inverse_F: torch.Tensor, theta: float, scaling: Mapping[str, Any]) -> torch.Tensor:
    """YaRN (Peng et al. 2023, section 3.2, "NTK by parts"): the ramp runs between two numbers of turns."""
    dim, original = 2 * inverse_F.numel(), scaling["original_max_position_embeddings"]

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = dimension_of(scaling.get("beta_fast") or 32)
    last = dimension_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = (last - first) or 0.001
    slow_F = ((torch.arange(dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    scaled_F: torch.Tensor = inverse_F * (slow_F / scaling["factor"] + (1 - slow_F))
    return scaled_F


def _yarn_temperature(scaling: Mapping[str, Any]) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    top, bottom = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return temperature(top) / temperature(bottom) if top and bottom else temperature(1.0)
