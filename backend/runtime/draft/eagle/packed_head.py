"""`pack_head`: a head's products on the CPU in blocks of 8 bits, by the kernels that compute quantised models.

Owns: `PackedLinear`. Knows nothing of what a head computes. Only inference uses it: such a head is not trained.

A product of one row is a read of its weights, so a draft costs a fourth of what it costs in float32.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...model.cpu import native
from ...model.cpu.packed import BLOCK, packed, quantised
from .head import Eagle3Head


class PackedLinear(nn.Module):
    """y = x W^T without bias, with W in blocks of 8 bits. x is float32 on the CPU."""

    def __init__(self, weight_NK: torch.Tensor) -> None:
        super().__init__()
        self.outputs, self.depth = weight_NK.shape
        blocks = quantised(np.ascontiguousarray(weight_NK.detach().float().numpy()), 8)
        self._bytes = packed(blocks)
        self.view = native.MatrixView(
            data=self._bytes.ctypes.data, bias=None, kind=blocks.kind, outputs=self.outputs, depth=self.depth
        )
        self._multiply, self._level = native.library().sgl_multiply, native.level()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y_MN = self.multiply(x.reshape(-1, self.depth).numpy())
        return torch.from_numpy(y_MN).view(*x.shape[:-1], self.outputs)

    def multiply(self, x_MK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same for arrays."""
        x_MK = np.ascontiguousarray(x_MK, np.float32)
        y_MN = np.empty((len(x_MK), self.outputs), np.float32)
        self._multiply(ctypes.byref(self.view), x_MK.ctypes.data, len(x_MK), y_MN.ctypes.data, self._level)
        return y_MN


def pack_head(head: Eagle3Head) -> bool:
    """Replace the products of a head on the CPU, in place; whether it was done.

    It is not done where the kernels are missing, or where a product's depth is no multiple of 32: the head stays as it
    is. `fc` stays too: it says where the head lies, and is computed once a round.
    """
    linears = [(owner, name, part) for owner in head.modules() for name, part in owner.named_children()]
    products = [(owner, name, part) for owner, name, part in linears if isinstance(part, nn.Linear) and name != "fc"]
    if any(part.weight.device.type != "cpu" or part.in_features % BLOCK for _, _, part in products):
        return False
    try:
        for owner, name, part in products:
            setattr(owner, name, PackedLinear(part.weight))
    except native.MissingLibrary:
        return False
    head.to(torch.float32)
    return True


def is_packed(head: Eagle3Head) -> bool:
    return isinstance(head.lm_head, PackedLinear)
