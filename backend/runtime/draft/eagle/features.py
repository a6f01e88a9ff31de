"""`FeatureStore`: rows of training data with what the target says of them, computed once where there is room.

Owns: the memory of features. Knows nothing of heads or losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .conversations import PackedRows
from .target import Target
from .unroll import guessed


@dataclass(frozen=True)
class TrainingBatch:
    """Some rows on the device. `places`: flat places of the tokens to guess; `top`: the target's likeliest for each."""

    tokens: torch.Tensor
    segments: torch.Tensor
    features: torch.Tensor
    last: torch.Tensor
    places: torch.Tensor
    top: torch.Tensor


class FeatureStore:
    """Keeps the features of as many rows as `keep_bytes` hold; those of others are computed each time."""

    def __init__(self, target: Target, rows: PackedRows, after: tuple[int, int, int], keep_bytes: int) -> None:
        self._target, self._rows, self._after = target, rows, after
        length, hidden = rows.tokens.shape[1], target.config.hidden_size
        a_row = length * 4 * hidden * target.embed_VE.element_size()
        self.kept = min(len(rows), max(1, keep_bytes // a_row))
        like = target.embed_VE
        self._features = like.new_empty(self.kept, length, 3 * hidden)
        self._last = like.new_empty(self.kept, length, hidden)
        self._top = torch.zeros(len(rows), length, dtype=torch.int32, device=like.device)
        self._have = torch.zeros(len(rows), dtype=torch.bool)

    def batch(self, numbers: torch.Tensor) -> TrainingBatch:
        """The rows of these numbers (on the CPU)."""
        rows, device = self._rows, self._target.device
        tokens, segments = rows.tokens[numbers], rows.segments[numbers]
        places = guessed(rows.written[numbers])
        tokens, segments, places = (x.to(device, non_blocking=True) for x in (tokens, segments, places))
        kept = self._have[numbers]
        numbers_there = numbers.to(device)
        if bool(kept.all()):
            features, last = self._features[numbers_there], self._last[numbers_there]
        else:
            features, last = self._computed(numbers, kept, tokens, segments)
        before = self._top[numbers_there].flatten()[places - 1].long()
        return TrainingBatch(tokens, segments, features, last, places, before)

    def _computed(
        self, numbers: torch.Tensor, kept: torch.Tensor, tokens: torch.Tensor, segments: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._target.device
        wanted = self._rows.written[numbers].roll(-1, 1)
        wanted[:, -1] = False
        new = (~kept).to(device)
        seen = self._target.see(tokens[new], segments[new], wanted.to(device)[new], self._after)
        features = self._features.new_empty(*tokens.shape, self._features.shape[-1])
        last = self._last.new_empty(*tokens.shape, self._last.shape[-1])
        features[new], last[new] = seen.features, seen.last
        there = numbers[kept].to(device)
        features[~new], last[~new] = self._features[there], self._last[there]
        fresh = numbers[~kept]
        self._top[fresh.to(device)] = seen.top
        room = fresh < self.kept
        into, which = fresh[room].to(device), room.to(device)
        self._features[into], self._last[into] = seen.features[which], seen.last[which]
        self._have[fresh[room]] = True
        return features, last
