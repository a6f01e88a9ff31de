"""`FixedStep`: a step of fixed sizes over one buffer of inputs, captured as a CUDA graph and replayed.

Owns: where the inputs of a step lie in its buffer, the padding of smaller steps, capture and replay. Knows nothing of
what the rows are for. Padding rows hold token 0 at position 0 and write the scratch slot; their logits are never read.

Off a GPU a replay makes the same launches again, from the same buffer: so this is tested without a card.

Legend: W wanted rows, V vocabulary, S sampled tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from ..step.packed import Batch
from .device_model import DeviceModel, StepInputs
from .staging import Ints, Staging


def layout(rows: int, wants: int) -> tuple[int, int]:
    """(ints of tokens, positions, slots and wanted rows; where the attention plan begins, a multiple of 4)."""
    head = 3 * rows + wants
    return head, -(-head // 4) * 4


def fill(room: Ints, batch: Batch, rows: int, wants: int, packed: Ints) -> None:
    """Lay a batch out as the inputs of a step of `rows` rows and `wants` wanted ones."""
    real, asked = len(batch.tokens), len(batch.want)
    _, start = layout(rows, wants)
    for i, values in enumerate((batch.tokens, batch.positions, batch.slots)):
        room[i * rows : i * rows + real] = values
        room[i * rows + real : (i + 1) * rows] = 0
    room[3 * rows : 3 * rows + asked] = batch.want
    room[3 * rows + asked : start] = 0
    room[start : start + len(packed)] = packed


def views(buffer: torch.Tensor, rows: int, wants: int) -> tuple[StepInputs, torch.Tensor]:
    """The inputs in a device's buffer, and where its attention plan begins."""
    head, start = layout(rows, wants)
    return (
        StepInputs(buffer[:rows], buffer[rows : 2 * rows], buffer[2 * rows : 3 * rows], buffer[3 * rows : head]),
        buffer[start:],
    )


class FixedStep:
    """A step of `rows` rows, up to `wants` of them wanted, with attention capacities for contexts up to
    `context_length`. Tokens may stand for `sampled_S`; the first rows of `logits_WV` take the logits."""

    def __init__(
        self,
        model: DeviceModel,
        attention: Any,
        rows: int,
        wants: int,
        context_length: int,
        sampled_S: torch.Tensor,
        logits_WV: torch.Tensor,
    ) -> None:
        self.model, self.attention = model, attention
        self.rows, self.wants = rows, wants
        self.caps = attention.caps(rows, context_length)
        self.size = layout(rows, wants)[1] + self.caps.size
        self._buffer = torch.zeros(self.size, dtype=torch.int32, device=model.device)
        self._sampled_S = sampled_S
        self._planned: Any = None  # the step of an attention that plans on the host before each replay
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits_WV = logits_WV[:wants]

    def fits(self, batch: Batch, plan: Any) -> bool:
        return len(batch.tokens) <= self.rows and len(batch.want) <= self.wants and plan.fits(self.caps)

    def _run(self) -> None:
        inputs, packed = views(self._buffer, self.rows, self.wants)
        if self.attention.captured:
            started = self.attention.start(packed, self.caps)
        else:  # made when the step is warmed up, never within a capture
            started = self._planned = self._planned or self.attention.fixed_step(packed, self.caps)
        self.model.logits(self.model.compute(inputs, self._sampled_S, started), self._logits_WV)

    def warm_up(self) -> None:
        """Run once: kernels are compiled and libraries make their choices outside of a capture."""
        self._run()

    def capture(self, pool: Any) -> None:
        """Capture the launches. All captured steps share the memory `pool`, since they never run side by side."""
        self._graph = torch.cuda.CUDAGraph()
        # What other threads do on the device meanwhile is their own.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._run()

    def replay(self, batch: Batch, plan: Any, staging: Staging) -> torch.Tensor:
        """Carry out a step that fits; its logits [wants, V] are valid until the next replay of any captured step."""
        room = staging.host(self.size)
        fill(room, batch, self.rows, self.wants, plan.pack(self.caps))
        staging.send(self.size, self._buffer)
        if self._planned is not None:
            self._planned.load(plan)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        return self._logits_WV
