"""Whether FlashInfer works here: each of its kernels run once, on a few rows, against the definition of attention.

Knows nothing of models, nor of what is done about a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ....lang.errors import BackendError
from ..step.packed import SpanLayout
from .flash_plan import plan_flash
from .flashinfer_attention import FA3_FROM_ROWS, TENSOR_CORES_FROM_SPANS, FlashInferAttention

CONTEXT_SLOTS = 5
"""Slots before each span of a trial."""
TOLERANCE = 3e-2
TRIALS = ([1, 1], [1] * TENSOR_CORES_FROM_SPANS, [3, 1], [2 * FA3_FROM_ROWS])
"""Rows of the spans of each trial step; together the steps use every kernel."""


def probe(attention: FlashInferAttention) -> None:
    """Run every kernel that steps will use. The first run on a machine may compile them, which takes minutes.

    Raises `BackendError`, with what to do, if a kernel cannot be compiled, loaded or run, or gives wrong numbers.
    """
    for rows in TRIALS:
        try:
            kernel, error = _trial(attention, rows)
        except Exception as failure:
            raise BackendError(
                f"FlashInfer cannot run its kernels for head dim {attention.head_dim} and {attention.dtype} "
                f"({type(failure).__name__}: {str(failure)[-400:]}). It compiles them when they are first used: "
                "install the CUDA toolkit (nvcc) and `pip install ninja`, or choose attention_backend='triton'"
            ) from failure
        if not error <= TOLERANCE:  # so written that NaN fails
            raise BackendError(
                f"FlashInfer's kernel {kernel!r} is off by {error:.3g}: remove ~/.cache/flashinfer and try again, "
                "or choose attention_backend='triton'"
            )


def _trial(attention: FlashInferAttention, rows: Sequence[int]) -> tuple[str, float]:
    """The kernel that ran a step of spans of so many rows, and its largest error over random tensors."""
    total, slots = sum(rows), sum(rows) + CONTEXT_SLOTS * len(rows)
    plan = plan_flash(
        [
            SpanLayout(sum(rows[:i]), n, ((total + CONTEXT_SLOTS * i, CONTEXT_SLOTS),), CONTEXT_SLOTS)
            for i, n in enumerate(rows)
        ],
        np.arange(total),
    )
    generator = torch.Generator().manual_seed(0)
    q_TQD, k_NHD, v_NHD = (
        torch.randn(n, heads, attention.head_dim, generator=generator).to(attention.device, attention.dtype)
        for n, heads in ((total, attention.query_heads), (slots, attention.kv_heads), (slots, attention.kv_heads))
    )
    out_TQD = torch.zeros_like(q_TQD)
    packed = torch.from_numpy(plan.pack(plan.needs)).to(attention.device)
    attention.start(packed, plan.needs, plan).attend(q_TQD, k_NHD, v_NHD, out_TQD)
    errors: list[torch.Tensor] = []
    for i, first in enumerate(plan.qo_indptr[:-1].tolist()):
        context = range(total + CONTEXT_SLOTS * i, total + CONTEXT_SLOTS * (i + 1))
        for row in range(first, first + rows[i]):
            right_QD = attend_row(q_TQD[row], [*context, *range(first, row + 1)], k_NHD, v_NHD)
            errors.append((out_TQD[row].float() - right_QD).abs().max())
    return attention.kernel(plan), float(torch.stack(errors).max())  # NaN if there is one


def attend_row(q_QD: torch.Tensor, slots: Sequence[int], k_NHD: torch.Tensor, v_NHD: torch.Tensor) -> torch.Tensor:
    """The attention of one row over these slots by the definition, in float32 [Q, D]."""
    group = q_QD.shape[0] // k_NHD.shape[1]
    k_LQD, v_LQD = (x_NHD[list(slots)].float().repeat_interleave(group, dim=1) for x_NHD in (k_NHD, v_NHD))
    weight_QL = (torch.einsum("qd,lqd->ql", q_QD.float(), k_LQD) * q_QD.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("ql,lqd->qd", weight_QL, v_LQD)
