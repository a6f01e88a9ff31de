"""`DeviceExecutor`: steps that are computed and sampled on a device, while the host prepares the next.

Owns: which steps are replayed and which are launched kernel by kernel, and the tokens that the last step sampled. Knows
nothing of branches.

1. Steps run on one stream in the order of their launch. So only a later step writes again a slot that a step wrote in
   vain.
2. A step's logits are read by its own sampling before the next step overwrites them.
3. Only `answers` waits for the device, and `Staging` for a copy that ended long ago.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....lang.errors import BackendError, OutOfMemory
from ..device import on
from ..sample.ask import Lookup
from ..sample.device import DeviceSampler
from ..sample.sampler import Answer, Ask
from ..step.packed import Batch, SpanLayout
from .device_model import LOGIT_ROWS, DeviceModel
from .fixed_step import fill, layout, views
from .graphs import Graphs
from .staging import Staging

if TYPE_CHECKING:
    from ..options import EngineOptions

log = logging.getLogger("sgl")


class DeviceExecutor:
    """Runs the steps of one model. Without `options` it runs one step at a time and captures nothing. `attention`: the
    model's own, if it has one."""

    def __init__(
        self, model: DeviceModel, vocab_size: int, options: EngineOptions | None, attention: Any = None
    ) -> None:
        self.model = model
        self.device = model.device
        self.ahead = options is not None and options.overlap
        most = 1 if options is None else options.step_tokens
        asked = "auto" if options is None else options.attention_backend
        self.attention = attention_of(model, asked) if attention is None else attention
        self.staging = Staging(self.device)
        self.sampled_S = torch.zeros(max(most, 64), dtype=torch.int32, device=self.device)
        self.sampler = DeviceSampler(vocab_size, model.vocab_size, self.device, rows=min(LOGIT_ROWS, max(most, 64)))
        with on(self.device):
            if options is not None and self.device.type == "cuda":
                self._warm_up(options.step_tokens)
            self.graphs = Graphs(model, self.attention, self.sampled_S, options)
        self.outside = 0  # steps that fitted no captured one

    def launch(self, batch: Batch) -> DeviceFlight:
        try:
            with on(self.device):
                return self._launch(batch)
        except torch.OutOfMemoryError as error:
            raise self.out_of_memory(f"a step of {len(batch.tokens)} rows") from error

    def _launch(self, batch: Batch) -> DeviceFlight:
        plan = self.attention.plan(batch)
        fixed = self.graphs.choose(batch, plan)
        if fixed is not None:
            return DeviceFlight(self, None, fixed.replay(batch, plan, self.staging))
        self.outside += 1
        hidden_WE = self._compute(batch, plan)
        return DeviceFlight(self, hidden_WE, None)

    def _compute(self, batch: Batch, plan: Any) -> torch.Tensor:
        """Launch a step kernel by kernel; the hidden states of its wanted rows [W, E]."""
        rows, wants, caps = len(batch.tokens), len(batch.want), plan.needs
        size = layout(rows, wants)[1] + caps.size
        fill(self.staging.host(size), batch, rows, wants, plan.pack(caps))
        inputs, packed = views(self.staging.send(size), rows, wants)
        started = self.attention.start(packed, caps, plan)
        return self.model.compute(inputs, self.sampled_S, started)

    def _warm_up(self, most: int) -> None:
        """Run every kind of step once, on the scratch slot, before a user waits for a token. This compiles kernels (or
        finds them in the cache on disk), and shows that the largest step fits into memory."""
        began = time.monotonic()
        self.model.tune()
        for spans in ([most], [20] * 40, [1] * 600, [40], [1] * 40, [40, *[1] * 20]):
            rows = min(sum(spans), most)
            batch = _scratch_batch([min(span, rows) for span in spans][:rows], rows)
            flight = DeviceFlight(self, self._compute(batch, self.attention.plan(batch)), None)
            flight.ask([Lookup((0,))] * len(batch.want))
            flight.answers()
        logits_WV = self.logits(_scratch_batch([1, 1], 2))
        self.sampler.warm(logits_WV, self.sampled_S)
        log.info("kernels ready in %.1f s", time.monotonic() - began)

    def logits(self, batch: Batch) -> torch.Tensor:
        """The logits [W, V] of one step, on the device."""
        return self.model.logits(self._compute(batch, self.attention.plan(batch)))

    def out_of_memory(self, what: str) -> OutOfMemory:
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return OutOfMemory(
            f"{what} did not fit into the GPU's memory: {free / 2**30:.2f} of {total / 2**30:.2f} GiB are free beside "
            "the weights and the KV pool; lower mem_fraction_static= or chunked_prefill_size="
        )


class DeviceFlight:
    """A step on the device: its logits, or hidden states whose logits are computed when they are asked about."""

    def __init__(
        self, executor: DeviceExecutor, hidden_WE: torch.Tensor | None, logits_WV: torch.Tensor | None
    ) -> None:
        self._executor = executor
        self._hidden_WE = hidden_WE
        self._logits_WV = logits_WV
        self._pending: list[Any] = []

    def ask(self, asks: Sequence[Ask]) -> None:
        try:
            with on(self._executor.device):
                self._ask(asks)
        except torch.OutOfMemoryError as error:
            raise self._executor.out_of_memory(f"the logits of a step's {len(asks)} rows") from error
        self._hidden_WE = self._logits_WV = None

    def _ask(self, asks: Sequence[Ask]) -> None:
        executor = self._executor
        for start in range(0, len(asks), LOGIT_ROWS):
            some = asks[start : start + LOGIT_ROWS]
            logits_WV = self._logits_WV
            if logits_WV is None or start:
                assert self._hidden_WE is not None
                logits_WV = executor.model.logits(self._hidden_WE[start : start + len(some)])
            self._pending.append(executor.sampler.launch(logits_WV, some, executor.sampled_S[start:]))

    def answers(self) -> list[Answer]:
        return [answer for pending in self._pending for answer in pending.answers()]


def _scratch_batch(spans: list[int], rows: int) -> Batch:
    """A step of `rows` rows in spans of so many, which reads and writes the scratch slot only."""
    layout, at = [], 0
    for span in spans:
        span = min(span, rows - at)
        if span:
            layout.append(SpanLayout(at, span, ((0, 1),), 1))
        at += span
    zeros = np.zeros(at, dtype=np.int64)
    return Batch(zeros, zeros, zeros, layout, np.arange(min(at, LOGIT_ROWS), dtype=np.int64))


def attention_of(model: Any, asked: str) -> Any:
    """The attention that was asked for, of a model with one shape of heads (`config`). Where FlashInfer does not work
    on this machine, ours with a warning.

    Raises `OptionError` where FlashInfer is not installed, or has no kernel for this model.
    """
    config = model.config
    shape = (config.num_heads, config.num_kv_heads, config.head_dim, model.device, model.dtype)
    if asked == "flashinfer":
        from ..attention.flashinfer_attention import FlashInferAttention
        from ..attention.flashinfer_probe import probe

        attention = FlashInferAttention(*shape)
        try:
            probe(attention)
            return attention
        except BackendError as error:
            log.warning("attention_backend='triton' is used instead: %s", error)
    from ..attention.tree_attention import TreeAttention

    return TreeAttention(*shape)
