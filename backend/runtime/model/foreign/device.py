"""`DeviceTransformers`: a model that transformers runs, on a device whose executor samples there and runs ahead.

Owns: what differs from `TransformersModel`: its attention, its executor, tokens that the host does not know yet. Knows
nothing of files. No step is captured, since how the model's code is launched is its own. Needs triton.

Legend: T rows, W wanted rows, V vocabulary, S sampled tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...cuda.device_model import StepInputs
from .model import TransformersModel
from .tree import DeviceAttention, DeviceStep

if TYPE_CHECKING:
    from ...options import EngineOptions
    from ...step.executor import Executor


class DeviceTransformers(TransformersModel):
    """Implements `cuda.device_model.DeviceModel` beside `step.packed.Model`."""

    attention: DeviceAttention
    captured = False
    """No step of it is replayed from a CUDA graph."""

    def _attention(self) -> DeviceAttention:
        return DeviceAttention(self.layers, self.device, self.dtype)

    def executor(self, vocab_size: int, options: EngineOptions) -> Executor:
        """Make the device's executor. With `attention_backend="torch"`: the host's, with no kernels but torch's."""
        if options.attention_backend == "torch":
            from ...step.executor import HostExecutor

            self.attention.without_kernels()
            return HostExecutor(self, vocab_size)
        from ...cuda.executor import DeviceExecutor

        return DeviceExecutor(self, vocab_size, replace(options, cuda_graph_max_bs=0), self.attention)

    def tune(self) -> None:
        """Do nothing: the matrix products of this model are torch's."""

    @torch.inference_mode()
    def compute(self, inputs: StepInputs, sampled_S: torch.Tensor, attention: DeviceStep) -> torch.Tensor:
        """Run one step; the logits of the wanted rows [W, V], in the model's dtype. (The model's code makes them.)"""
        tokens_T = inputs.tokens_T.long()
        place_T = (-1 - tokens_T).clamp_min_(0)
        tokens_T = torch.where(tokens_T < 0, sampled_S[place_T].long(), tokens_T)
        return self.forward_rows(tokens_T, inputs.positions_T.long(), inputs.want_W.long(), attention)

    def logits(self, logits_WV: torch.Tensor, out_WV: torch.Tensor | None = None) -> torch.Tensor:
        """Return what `compute` returned."""
        return logits_WV
