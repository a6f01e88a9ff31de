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

from ....lang.errors import BackendError
from ..options import EngineOptions
from ..sample.ask import Looked, Lookup
from ..sample.sampler import Request, Sampled, look, sample
from .packed import Batch, Model

Ask = Request | Lookup
Answer = Sampled | Looked | Exception
"""An exception is that row's alone."""


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
    """A model whose logits come to the host: sampled there, in numpy."""

    ahead = False

    def __init__(self, model: Model, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size

    def launch(self, batch: Batch) -> HostFlight:
        return HostFlight(self.model.forward(batch), self.vocab_size)


def executor_of(model: Model, vocab_size: int, options: EngineOptions) -> Executor:
    """The model's own executor, or the host's."""
    make = getattr(model, "executor", None)
    return HostExecutor(model, vocab_size) if make is None else make(vocab_size, options)


class HostFlight:
    def __init__(self, logits: Any, vocab_size: int) -> None:
        self._logits = logits  # [W, V] float32
        self._vocab_size = vocab_size
        self._asks: Sequence[Ask] = ()

    def ask(self, asks: Sequence[Ask]) -> None:
        self._asks = asks

    def answers(self) -> list[Answer]:
        asks = self._asks
        rows = [i for i, ask in enumerate(asks) if isinstance(ask, Request)]
        if len(rows) == len(asks):
            return self._sampled(self._logits, asks) if rows else []
        found: dict[int, Answer] = {}
        if rows:
            found.update(zip(rows, self._sampled(self._logits[rows], [asks[i] for i in rows])))
        for i, ask in enumerate(asks):
            if isinstance(ask, Lookup):
                found[i] = self._looked(i, ask)
        return [found[i] for i in range(len(asks))]

    def _sampled(self, logits: Any, requests: Sequence[Any]) -> list[Answer]:
        """Sample all rows together; if that fails, each alone, so that a row that cannot be sampled fails alone."""
        try:
            return list(sample(logits, requests, self._vocab_size))
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [self._sampled(logits[i : i + 1], [request])[0] for i, request in enumerate(requests)]

    def _looked(self, i: int, lookup: Lookup) -> Answer:
        try:
            return look(self._logits[i, : self._vocab_size], lookup)
        except BackendError as error:
            return error
