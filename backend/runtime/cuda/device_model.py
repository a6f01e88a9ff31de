"""`DeviceModel`: what the executor and its steps ask of a model on a device. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from ..model.llama.fused import Inputs


class DeviceModel(Protocol):
    """A model whose steps are launched on a device's stream, one after the other. Nothing here waits for the device."""

    device: torch.device
    vocab_size: int
    """Columns of its logits."""

    def tune(self) -> None:
        """Measure what is to be measured, once, before the first step."""

    def compute(self, inputs: Inputs, sampled_S: torch.Tensor, attention: Any) -> torch.Tensor:
        """One step; what `logits` makes logits of, a row for each wanted one [W, ...]. `attention` is the step that the
        executor's attention has started; a token `-1 - i` stands for `sampled_S[i]`."""

    def logits(self, hidden_WE: torch.Tensor, out_WV: torch.Tensor | None = None) -> torch.Tensor:
        """The logits [W, V] of some of these rows, in any float type; in `out_WV` where steps are captured."""
