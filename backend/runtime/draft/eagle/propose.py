"""`propose`: a chain of drafts from a head, and the head's KV of one branch.

Owns: `HeadKv`. Knows nothing of the engine: who calls it brings the target's features, and verifies the drafts.

Invariant: the entry of position i in a branch's KV was computed from the target's features of token i and from token
i + 1. Positions rise, and some may have no entry: the head attends to those that have one. Entries that a chain makes
of the head's own outputs are gone when `propose` returns.

Legend: E hidden size, H KV heads, D head dim, N new positions, C capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from .....lang.errors import OptionError
from ...model.llama.rope import rope_tables
from .head import Eagle3Head
from .lean import LeanHead
from .native_chain import NativeChain, fits
from .packed_head import is_packed

_FIRST_CAPACITY = 64


Embed = Callable[[torch.Tensor], torch.Tensor]


class HeadKv:
    """The KV of one branch in a head. `length`: its entries."""

    def __init__(self, head: Eagle3Head) -> None:
        shape, like = head.config.shape, head.fc.weight
        self._kv_2HCD = like.new_zeros(2, shape.num_kv_heads, _FIRST_CAPACITY, shape.head_dim)
        self.length = 0

    @property
    def bytes(self) -> int:
        return self._kv_2HCD.nbytes

    def truncate(self, length: int) -> None:
        """Forget the entries from number `length` on."""
        if not 0 <= length <= self.length:
            raise OptionError(f"a head's KV of {self.length} entries cannot be cut to {length}")
        self.length = length

    def fork(self) -> HeadKv:
        """A copy, for a branch that goes on by itself."""
        twin = HeadKv.__new__(HeadKv)
        twin._kv_2HCD = self._kv_2HCD.clone()
        twin.length = self.length
        return twin

    def attend(self, q_BQND: torch.Tensor, k_BHND: torch.Tensor, v_BHND: torch.Tensor) -> torch.Tensor:
        """Add N entries, and what each of them attends to: all entries up to itself. B is 1."""
        new, begin = k_BHND.shape[2], self.length
        end = begin + new
        self._reserve(end)
        self._kv_2HCD[0, :, begin:end], self._kv_2HCD[1, :, begin:end] = k_BHND[0], v_BHND[0]
        self.length = end
        k_HCD, v_HCD = self._kv_2HCD[0, :, :end], self._kv_2HCD[1, :, :end]
        heads, dim = len(k_HCD), q_BQND.shape[-1]
        # The query heads of a KV head are rows of one product.
        scores = (q_BQND[0] * dim**-0.5).reshape(heads, -1, dim) @ k_HCD.transpose(1, 2)
        if new > 1:
            at = torch.arange(end, device=q_BQND.device)
            later_NC = at[None, :] > at[begin:, None]
            scores = scores.view(heads, -1, new, end).masked_fill(later_NC, float("-inf")).view(heads, -1, end)
        return (scores.softmax(-1) @ v_HCD).view(q_BQND.shape)

    def entries(self, new: int) -> npt.NDArray[np.float32]:
        """The KV with `new` entries more, which the caller fills, as an array of the CPU."""
        self.length += new
        self._reserve(self.length)
        return self._kv_2HCD.numpy()[:, :, : self.length]

    def room(self, new: int) -> npt.NDArray[np.float32]:
        """The KV with room for `new` entries more, as an array of the CPU."""
        self._reserve(self.length + new)
        return self._kv_2HCD.numpy()

    def _reserve(self, positions: int) -> None:
        capacity = self._kv_2HCD.shape[2]
        if positions > capacity:
            wider = self._kv_2HCD.new_zeros(
                *self._kv_2HCD.shape[:2], max(positions, 2 * capacity), self._kv_2HCD.shape[3]
            )
            filled = min(self.length, capacity)
            wider[:, :, :filled] = self._kv_2HCD[:, :, :filled]
            self._kv_2HCD = wider


@dataclass(frozen=True)
class DraftChain:
    """Drafts, tokens of the target; `probabilities[i]` is what the head gave draft i, in its own vocabulary."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]


class Drafter:
    """A head with its target's embeddings: proposes chains for branches.

    Args:
        head: the head.
        embed: the target's embeddings [V, E], which are used as they are, or what gives those of tokens [N] as [N, E].
        positions: the longest text, tokens; default that of the head's config.
    """

    def __init__(self, head: Eagle3Head, embed: torch.Tensor | Embed, positions: int | None = None) -> None:
        self.head = head.eval()
        self._embed: Embed = (lambda ids: F.embedding(ids, embed)) if isinstance(embed, torch.Tensor) else embed
        shape = head.config.shape
        like = head.fc.weight
        tables = rope_tables(shape, shape.max_position_embeddings if positions is None else positions)
        self._cos_PD, self._sin_PD = (torch.from_numpy(table).to(like) for table in tables)
        self._draft_ids = head.draft_ids()
        self._lean = LeanHead(self.head) if is_packed(head) and not fits(head) else None
        self._native: NativeChain | None = None
        if fits(head):
            embedded_ME = self._embed(self._draft_ids).float()
            self._native = NativeChain(head, embedded_ME, self._cos_PD.numpy(), self._sin_PD.numpy())

    @torch.inference_mode()
    def propose(
        self,
        kv: HeadKv,
        tokens: Sequence[int],
        features_NF: torch.Tensor,
        drafts: int,
        *,
        at: Sequence[int] | None = None,
        least: float = 0.0,
    ) -> DraftChain:
        """Draft what follows the last token, greedily.

        Args:
            kv: the branch's KV; the new positions are added to it.
            tokens: for each new position the token one position on; the last one is the last of the text.
            features_NF: the target's features of the new positions [N, 3E].
            drafts: how many drafts, 0 or more.
            at: the new positions, rising. Default: those that follow the entries, of which none is missing.
            least: nothing is drafted behind a chain that is less probable. Default 0.

        Returns:
            The chain.

        Raises:
            OptionError: tokens and features do not have the same number, or the text is longer than `positions`.
        """
        new = len(tokens)
        if not new or new != len(features_NF):
            raise OptionError(f"propose: {new} tokens and features of {len(features_NF)} positions; they go together")
        length = kv.length + new
        positions = range(kv.length, length) if at is None else at
        end = positions[-1] + 1
        if end + drafts > len(self._cos_PD):
            raise OptionError(
                f"propose: {end} tokens and {drafts} drafts pass the head's {len(self._cos_PD)} positions"
            )
        features_NF = features_NF.to(self.head.fc.weight)
        if self._native is not None:
            ids, chances = self._native.draft(
                features_NF.numpy(),
                self._embed(torch.tensor(tokens)).float().numpy(),
                [*positions, *range(end, end + drafts)],
                kv.room(new + drafts),
                kv.length,
                drafts,
                least,
            )
            kv.length = length
            return DraftChain(tuple(self._draft_ids[ids].tolist()), tuple(chances))
        fused = self.head.fuse(features_NF) if self._lean is None else self._lean.fuse(features_NF.numpy())
        normed, feature = self._step(kv, tokens, fused, positions)
        ids, chances, whole = [], [], 1.0
        for i in range(drafts):
            if whole < least:
                break
            if i:
                normed, feature = self._step(kv, ids[-1:], feature[-1:], range(end + i - 1, end + i))
            best, chance = self._best(normed[-1]) if self._lean is None else self._lean.best(normed[-1])
            ids.append(int(self._draft_ids[best]))
            chances.append(chance)
            whole *= chances[-1]
        kv.truncate(length)
        return DraftChain(tuple(ids), tuple(chances))

    def _step(self, kv: HeadKv, tokens: Sequence[int], feature_NE: Any, positions: Sequence[int]) -> tuple[Any, Any]:
        embedded_NE = self._embed(torch.tensor(tokens, device=self._draft_ids.device))
        first, last = positions[0], positions[-1] + 1
        at = slice(first, last) if last - first == len(positions) else list(positions)
        cos_ND, sin_ND = self._cos_PD[at], self._sin_PD[at]
        if self._lean is not None:
            rows = embedded_NE.float().numpy(), feature_NE, cos_ND.numpy(), sin_ND.numpy()
            return self._lean.step(*rows, kv.entries(len(tokens)))
        normed, feature = self.head(embedded_NE[None].to(feature_NE), feature_NE[None], cos_ND, sin_ND, kv.attend)
        return normed[0], feature[0]

    def _best(self, normed_E: torch.Tensor) -> tuple[int, float]:
        chance_M = self.head.lm_head(normed_E).float().softmax(-1)
        best = int(chance_M.argmax())
        return best, float(chance_M[best])
