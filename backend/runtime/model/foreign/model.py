"""`TransformersModel`: any causal model that transformers knows, run by its own code with our attention in it.

Owns: a step through such a model, and the proof that a step gives its logits. Knows nothing of branches (a `Batch` says
which slots a row attends to), nor of how attention is computed (`LayerAttention`).

All rows of a step are one sequence of batch size one with explicit positions; transformers keeps no cache and makes no
mask. The n-th call of attention in a forward is layer n: models may share or skip modules, but not change the order.

Legend: T rows, W wanted rows, V vocabulary, Q query heads, H KV heads, D head dim.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .....lang.errors import BackendError, ModelLoadError
from ...device import on
from ...step.packed import Batch
from ..load.fields import first_line
from .attention import SCORES_AT_ONCE, LayerAttention, LayerShape, LayerStep, TorchAttention
from .probe import (
    PROBE,
    STEP,
    SUPPORTED,
    AttentionRecorder,
    attend_through,
    compare,
    interleaved,
    probe_tokens,
    register,
)

_log = logging.getLogger(__name__)


class TransformersModel:
    """A loaded model; implements `step.packed.Model`.

    `network` is transformers' own module, in evaluation mode on `device`. `prove`: first compare a step's logits with
    those of the model's own attention, which shows every mistake of structure.

    Raises `ModelLoadError` for a model that our attention cannot compute exactly.
    """

    def __init__(self, network: Any, name: str, *, prove: bool = True) -> None:
        self.network = network
        self.name = name
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        self.device_type = self.device.type
        self._takes_rows = "logits_to_keep" in inspect.signature(self.network.forward).parameters
        register()
        own_TV = self._own_logits() if prove else None
        self.layers: Sequence[LayerShape] = self._record()
        self.context_length = _context_length(network.config.get_text_config(), name)
        self.attention = self._attention()
        """May be replaced before `allocate`."""
        self._step: LayerStep | None = None
        self._next = 0
        attend_through(network, self._attend)
        self.network.set_attn_implementation(STEP)
        if own_TV is not None:
            self._prove(own_TV)
        elements = sum(2 * layer.kv_heads * layer.head_dim for layer in self.layers)
        self.kv_bytes_per_token = elements * self.dtype.itemsize

    def _attention(self) -> LayerAttention:
        return TorchAttention(self.layers, self.device, self.dtype)

    def allocate(self, slots: int) -> None:
        """Make KV tensors of `slots` slots."""
        self.attention.allocate(slots)

    def step_bytes(self, rows: int) -> int:
        """Guess the bytes that a step of `rows` rows needs beside weights and KV (by transformers' code)."""
        config = self.network.config.get_text_config()
        wide = 16 * config.hidden_size + 6 * (getattr(config, "intermediate_size", 0) or 4 * config.hidden_size)
        tiled = 24 * SCORES_AT_ONCE * max(layer.query_heads for layer in self.layers)  # scores, and copies of them
        return rows * wide * 4 + 3 * 4 * min(rows, 1024) * self.vocab_size + tiled + (512 << 20)

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Run one step; float32 logits [W, V] on the host."""
        if not len(batch.tokens):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        with on(self.device):
            return self.forward_device(self._tensor(batch.tokens), batch).float().cpu().numpy()

    def forward_device(self, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Run one step; logits [W, V] on the device, in the model's dtype. `tokens` [T] replace the batch's."""
        step = self.attention.begin(batch)
        return self.forward_rows(tokens, self._tensor(batch.positions), self._tensor(batch.want), step)

    @torch.inference_mode()
    def forward_rows(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, want_W: torch.Tensor, step: LayerStep
    ) -> torch.Tensor:
        """Run the forward of a step whose attention is `step`; logits [W, V]. The host is not touched."""
        self._next, self._step = 0, step
        try:
            logits_WV = self._run(tokens_T, positions_T, want_W)
        finally:
            self._step = None  # its tensors are as large as the step's
        if self._next != len(self.layers):
            raise BackendError(f"{self.name}: {self._next} attentions in a step, {len(self.layers)} when it was loaded")
        return logits_WV

    def _run(self, tokens_T: torch.Tensor, positions_T: torch.Tensor, want_W: torch.Tensor | None) -> torch.Tensor:
        options: dict[str, Any] = {"input_ids": tokens_T[None], "position_ids": positions_T[None], "use_cache": False}
        if want_W is not None and self._takes_rows:
            options["logits_to_keep"] = want_W
        logits_TV = self.network(**options, return_dict=True).logits[0]
        return logits_TV if want_W is None or self._takes_rows else logits_TV[want_W]

    def _attend(
        self,
        module: torch.nn.Module,
        query_1QTD: torch.Tensor,
        key_1HTD: torch.Tensor,
        value_1HTD: torch.Tensor,
        mask: Any,
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """Compute the n-th attention of a step; [1, T, Q, value dim]."""
        layer = self._next
        self._next += 1
        if layer >= len(self.layers):
            raise BackendError(f"{self.name}: more attentions in a step than the {len(self.layers)} when it was loaded")
        dim = self.layers[layer].head_dim
        q_TQD, k_THD, v_THD = (_widened(x, dim, self.dtype) for x in (query_1QTD, key_1HTD, value_1HTD))
        assert self._step is not None
        mixed_TQD = self._step.attend(layer, q_TQD, k_THD, v_THD)
        return mixed_TQD[None, :, :, : value_1HTD.shape[3]].to(query_1QTD.dtype)

    def _tensor(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    @torch.inference_mode()
    def _own_logits(self) -> torch.Tensor:
        """Compute the logits of a short text by the model's own attention."""
        self.network.set_attn_implementation("eager")
        tokens = probe_tokens(self._vocabulary())
        positions_T = torch.arange(len(tokens), device=self.device)
        try:
            return self._run(torch.tensor(tokens, device=self.device), positions_T, None)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ModelLoadError(f"{self.name}: its forward fails ({first_line(error)})") from error

    @torch.inference_mode()
    def _record(self) -> Sequence[LayerShape]:
        """Record what each attention of a forward is."""
        recorder = AttentionRecorder(self.name)
        attend_through(self.network, recorder)
        self.network.set_attn_implementation(PROBE)
        tokens = probe_tokens(self._vocabulary())
        positions_T = torch.arange(len(tokens), device=self.device)
        try:
            logits_TV = self._run(torch.tensor(tokens, device=self.device), positions_T, None)
        except (ModelLoadError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a model that handles masks itself trips over ours
            raise ModelLoadError(
                f"{self.name}: its attention cannot be replaced ({first_line(error)}); supported: {SUPPORTED}"
            ) from error
        blocks = self.network.config.get_text_config().num_hidden_layers
        if len(recorder.layers) < blocks:
            raise ModelLoadError(
                f"{self.name}: only {len(recorder.layers)} of its {blocks} layers go through transformers' attention "
                f"interface; supported: {SUPPORTED}"
            )
        self.vocab_size = int(logits_TV.shape[-1])
        return tuple(recorder.layers)

    def _vocabulary(self) -> int:
        return int(self.network.get_input_embeddings().weight.shape[0])

    def _prove(self, own_TV: torch.Tensor) -> None:
        """Check a step in which a text's rows lie between those of another branch: it gives the text's own logits."""
        batch, rows = interleaved(probe_tokens(self._vocabulary()))
        self.allocate(len(batch.tokens))
        ours_TV = self.forward_device(self._tensor(batch.tokens), batch)[rows]
        compare(ours_TV, own_TV, self.name)


def _context_length(config: Any, name: str) -> int:
    """Return the longest context that is computed exactly."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        raise ModelLoadError(f"{name}: its config has no 'max_position_embeddings'; the longest context is unknown")
    longest = int(limit)
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        kind = rope.get("rope_type")
        if kind == "yarn" and original and rope.get("factor"):
            longest = max(longest, int(original * rope["factor"]))
        elif kind == "longrope" and original and int(original) < longest:
            # Its code turns every row of a forward to the long factors when one row is that far.
            _log.warning("%s: its context is limited to %d tokens (longrope; it allows %d)", name, original, longest)
            longest = int(original)
    return longest


def _ropes(parameters: Any) -> list[Mapping[str, Any]]:
    """List the RoPE settings: one, or one for each type of layer."""
    if not isinstance(parameters, Mapping):
        return []
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    return nested or [parameters]


def _widened(x_1HTD: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return [T, H, D] in one dtype, padded with zeros where keys and values have different widths."""
    x_THD = x_1HTD[0].transpose(0, 1).to(dtype)
    return x_THD if x_THD.shape[-1] == dim else F.pad(x_THD, (0, dim - x_THD.shape[-1]))
