"""`Staging`: host arrays of a step (its inputs, its asks) on their way to the device, each in one copy.

Owns: pinned memory, taken in turns. Knows nothing of what the arrays mean.
Invariant: a buffer is written again only after the copy that read it is over. Off a GPU the copy is plain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int32]
BUFFERS = 3
"""One being read by the copy of the step in flight, one for the step that is prepared, one to spare."""


class _Buffer:
    def __init__(self, size: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.tensor = torch.empty(size, dtype=torch.int32, pin_memory=pinned)
        self.array: Ints = self.tensor.numpy()
        self.copied: Any = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]


class Staging:
    """int32 arrays to one device."""

    def __init__(self, device: torch.device, size: int = 1 << 16) -> None:
        self.device = device
        self._buffers = [_Buffer(size, device) for _ in range(BUFFERS)]
        self._turn = 0

    def host(self, size: int) -> Ints:
        """An array of `size` ints to fill; the next `send` sends it."""
        self._turn = (self._turn + 1) % BUFFERS
        buffer = self._buffers[self._turn]
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.array) < size:
            buffer = self._buffers[self._turn] = _Buffer(2 * size, self.device)
        return buffer.array[:size]

    def send(self, size: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """Begin to copy the first `size` ints of that array to the front of `into`, or to a new tensor."""
        buffer = self._buffers[self._turn]
        target = torch.empty(size, dtype=torch.int32, device=self.device) if into is None else into[:size]
        target.copy_(buffer.tensor[:size], non_blocking=True)
        if buffer.copied is not None:
            buffer.copied.record()
        return target
