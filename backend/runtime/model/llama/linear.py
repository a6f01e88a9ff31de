"""`Linear`: y = x W^T + b on the CPU, with the weight laid out for the machine.

Owns: the weight layout. Knows nothing of layers. In float32 on the CPU weights are packed once for oneDNN, else a
product is `F.linear`. Measured on two cores against `F.linear`: 1.5 to 3 times faster at one row, 2 to 5 times at 8
rows, never slower (LM head of 49,152 x 576, one row: 2.5 against 8.6 ms). A new number of rows costs 1 ms once.

Legend: M rows, K columns of x, N columns of y, P columns of a part of K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def _can_pack() -> bool:
    # Private operators of torch (its inductor calls them): looked up, never assumed.
    return (
        bool(torch._C._has_mkldnn)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


SUM_COLUMNS = 1024
"""Longest sum along K of one packed call. oneDNN adds along K one by one, so its rounding grows with K. At 1,536 it is
four times that of `F.linear`, enough to move a logit by 1e-3; sums of shorter parts stay near."""


class Linear:
    """Rows [M, K] times weight [N, K]; M may be 0."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        self.width, depth = weight_NK.shape
        self.bias_N = bias_N
        self.packed = weight_NK.device.type == "cpu" and weight_NK.dtype == torch.float32 and _can_pack()
        self.weight = weight_NK
        self.parts: list[torch.Tensor] = []
        if self.packed:
            self.each = -(-depth // -(-depth // SUM_COLUMNS))  # equal parts of at most SUM_COLUMNS
            pack = torch.ops.mkldnn._reorder_linear_weight
            self.parts = [pack(part.contiguous()) for part in weight_NK.split(self.each, dim=1)]
            self.weight = weight_NK.new_empty(0)

    def __call__(self, x_MK: torch.Tensor) -> torch.Tensor:
        if not self.packed:
            return F.linear(x_MK, self.weight, self.bias_N)
        if not x_MK.shape[0]:
            return x_MK.new_empty(0, self.width)
        linear = torch.ops.mkldnn._linear_pointwise
        if len(self.parts) == 1:
            y_MN: torch.Tensor = linear(x_MK, self.parts[0], self.bias_N, "none", [], "")
            return y_MN
        first, *others = zip(x_MK.split(self.each, dim=1), self.parts)
        y_MN = linear(*first, self.bias_N, "none", [], "")
        for x_MP, part in others:
            y_MN += linear(x_MP, part, None, "none", [], "")
        return y_MN
