"""How a step gets through a model: launched, asked, answered.

Knows nothing of plans or of branches. It is the seam between the engine and what computes, and has the executor of the
host: for a model that gives its logits to the host. A model on a device brings an executor of its own
(`Model.executor`), which computes and samples there.

1. The calls of a step may lie apart. `launch` sends the batch. `ask` says what is wanted of each wanted row; it needs
   the masks, which are filled while the forward runs. `answers` waits.
2. An executor that runs `ahead` takes the next batch before it was asked for this one's answers. In such a batch the
   token `ahead_of(i)` stands for the one that answer i of the step before will hold.
3. Steps are carried out in the order of their launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..options import EngineOptions
from ..sample.host import HostSampler
from ..sample.sampler import Answer, Ask
from .packed import Batch, Model


def ahead_of(i: int) -> int:
    """The token that stands for answer i of the step before."""
    return -1 - i


class Flight(Protocol):
    """One step on its way."""

    def ask(self, asks: Sequence[Ask]) -> None:
        """One for each wanted row, in order. Called once."""

    def answers(self) -> list[Answer]:
        """One for each ask, in order; waits for them."""


class Executor(Protocol):
    """Carries out steps, one after the other."""

    ahead: bool

    def launch(self, batch: Batch) -> Flight:
        """Send a step on its way. What it raises means that the step did not happen."""


class HostExecutor:
    """A model whose logits come to the host, and are sampled there."""

    ahead = False

    def __init__(self, model: Model, vocab_size: int) -> None:
        self.model = model
        self._sampler = HostSampler(vocab_size)

    def launch(self, batch: Batch) -> HostFlight:
        return HostFlight(self.model.forward(batch), self._sampler)


def executor_of(model: Model, vocab_size: int, options: EngineOptions) -> Executor:
    """The model's own executor, or the host's."""
    make = getattr(model, "executor", None)
    return HostExecutor(model, vocab_size) if make is None else make(vocab_size, options)


class HostFlight:
    def __init__(self, logits: Any, sampler: HostSampler) -> None:
        self._logits = logits  # [W, V] float32
        self._sampler = sampler
        self._asks: Sequence[Ask] = ()

    def ask(self, asks: Sequence[Ask]) -> None:
        self._asks = asks

    def answers(self) -> list[Answer]:
        return self._sampler.answers(self._logits, self._asks)
