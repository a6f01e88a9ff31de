"""`Graphs`: which sizes of step are captured, and which one a step is replayed with.

Knows nothing of what is captured. A step is replayed with the smallest captured step that it fits. Decoding wants the
logits of every row. Steps that mix prompts, choices and decoding want those of few rows. So there are larger sizes with
few and with more wanted rows.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from ..step.packed import Batch
from .device_model import DeviceModel
from .fixed_step import FixedStep

if TYPE_CHECKING:
    from ..options import EngineOptions

log = logging.getLogger("sgl")

MOST_CAPTURED_ROWS = 512
"""Larger steps keep the device busy for longer than it takes to launch them kernel by kernel."""


def sizes(most: int) -> list[tuple[int, int]]:
    """(rows, wanted rows) of the steps to capture, ascending, for up to `most` decoding branches."""
    rows = [1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
    found = {(r, r) for r in rows if r < most} | {(most, most)}
    if most >= 8:
        found |= {(r, w) for r in (128, 256, 512) for w in (16, 64, 256) if w < r and w < 2 * most}
    return sorted(found)


class Graphs:
    """The captured steps of one executor; none with graphs turned off."""

    def __init__(
        self, model: DeviceModel, attention: Any, sampled_S: torch.Tensor, options: EngineOptions | None
    ) -> None:
        most = 0 if options is None else min(options.cuda_graph_max_bs, MOST_CAPTURED_ROWS)
        self.steps: list[FixedStep] = []
        if options is None or not most:
            return
        began = time.monotonic()
        context = min(options.context_length, options.pool_tokens)
        wanted = sizes(most)
        # One tensor for all: the logits of a step are read before the next is replayed.
        shape = max(wants for _, wants in wanted), model.vocab_size
        logits_WV = torch.empty(shape, dtype=torch.float32, device=model.device)
        self.steps = [FixedStep(model, attention, rows, wants, context, sampled_S, logits_WV) for rows, wants in wanted]
        if model.device.type == "cuda":
            self._capture()
        log.info(
            "captured %d sizes of step, up to %d branches (cuda_graph_max_bs), in %.1f s",
            len(self.steps), most, time.monotonic() - began,
        )  # fmt: skip

    def _capture(self) -> None:
        pool: Any = None
        for step in reversed(self.steps):  # the largest first: its memory serves all others
            step.warm_up()
            torch.cuda.synchronize()
            pool = torch.cuda.graph_pool_handle() if pool is None else pool
            step.capture(pool)

    def choose(self, batch: Batch, plan: Any) -> FixedStep | None:
        """The smallest captured step that carries this one out."""
        for step in self.steps:
            if step.fits(batch, plan):
                return step
        return None
