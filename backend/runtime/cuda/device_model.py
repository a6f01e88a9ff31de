"""`DeviceModel`: what the executor and its captured steps ask of a model on a device.

Knows no model, no attention and no executor: both sides import from here.

Legend: T rows, W wanted rows, E hidden size, V vocabulary, S sampled tokens, Q query heads, H KV heads, D head dim,
N slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

LOGIT_ROWS = 1024
"""Rows whose logits are computed and read at a time, where a step wants more (2,000 choices of a select, say)."""


class StepInputs(NamedTuple):
    """What a step reads besides KV: int32 tensors on the device."""

    tokens_T: torch.Tensor  # -1 - i stands for sampled_S[i]
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    want_W: torch.Tensor


class StartedAttention(Protocol):
    """The attention of one step, after its plan was sent to the device."""

    def attend(self, q_TQD: torch.Tensor, k_NHD: torch.Tensor, v_NHD: torch.Tensor, out_TQD: torch.Tensor) -> None:
        """Write the attention of all rows of one layer to `out_TQD`."""


class DeviceModel(Protocol):
    """A model whose steps are launched on one stream of a device. No method waits for the device."""

    device: torch.device
    vocab_size: int
    """Columns of its logits."""

    def tune(self) -> None:
        """Choose the model's kernels by measuring them, once, before the first step."""

    def compute(self, inputs: StepInputs, sampled_S: torch.Tensor, attention: Any) -> torch.Tensor:
        """Launch one step; what `logits` makes logits of, a row for each wanted one [W, ...].

        `attention` is the step that the executor's attention has started. A token `-1 - i` stands for `sampled_S[i]`.
        """

    def logits(self, hidden_WE: torch.Tensor, out_WV: torch.Tensor | None = None) -> torch.Tensor:
        """Launch the logits [W, V] of some of these rows, in any float type; in `out_WV` where steps are captured."""
