"""What is asked of a step's rows, as the 32-bit words a device reads.

Owns: the layout of those words, and which part of a recipe needs which kernel. Knows nothing of the device. A step's
words are one record a row (`RECORD`), then lists whose word offsets the records and `Packed` hold. This runs before
every forward, so steps of plain samples pack only keys, positions and temperatures, greedy ones nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ....lang.errors import BackendError
from .ask import Lookup
from .sampler import Mask, Request

Words = npt.NDArray[np.int32]

RECORD = np.dtype(
    [
        ("key", "<u8"),
        ("position", "<i4"),
        ("temperature", "<f4"),
        ("kind", "<i4"),
        ("top_k", "<i4"),
        ("top_p", "<f8"),
        ("min_p", "<f4"),
        ("mask", "<i4"),  # word offset
        ("adjusted", "<i4"),  # which of the adjusted rows
        ("spare", "<i4"),
    ]
)
LOOKUP, MASKED, ADJUSTED, FILTERED, MEASURED = 1, 2, 4, 8, 16
"""Bits of a record's kind. MEASURED: its log-probabilities are wanted."""
NAN, NOTHING_ALLOWED = -1, -2
"""What stands for the token of a row that cannot be sampled."""
STATS_FIELDS = 3
"""float64 numbers of a measured row: its log-sum-exp, its token's log-probability, the mass that its mask forbids."""

_KEY = (1 << 64) - 1


@dataclass(slots=True)
class Packed:
    """`noisy`: some row has a temperature; `rich`: some record has a kind. Lists are (word offset, length)."""

    count: int
    noisy: bool = False
    rich: bool = False
    measured: bool = False
    records: npt.NDArray[np.void] | None = None
    pieces: list[Words] = field(default_factory=list)
    size: int = 0  # words of records and pieces
    filtered: tuple[int, int] = (0, 0)  # rows
    adjusted: tuple[int, int] = (0, 0)  # rows, then as many offsets of their lists
    looked: tuple[int, int] = (0, 0)  # rows, then as many ids
    topped: tuple[int, int] = (0, 0)  # rows
    topped_rows: list[int] = field(default_factory=list)
    top: int = 0  # the largest number of most probable tokens wanted
    faults: dict[int, Exception] = field(default_factory=dict)

    def put(self, words: Words) -> int:
        """Add a list; its word offset."""
        at = self.size
        self.pieces.append(words)
        self.size += len(words)
        return at

    def write(self, into: Words) -> None:
        """Write all words; `into` has at least `size`."""
        if self.records is None:
            return
        at = self.count * (RECORD.itemsize // 4)
        into[:at] = self.records.view(np.int32)
        for piece in self.pieces:
            into[at : at + len(piece)] = piece
            at += len(piece)


class Packer:
    """Packs steps for one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._mask_words = (vocab_size + 31) // 32

    def pack(self, asks: Sequence[Request | Lookup]) -> Packed:
        temperatures: list[float] = []
        for ask in asks:
            if type(ask) is Lookup:
                return self._rich(asks)
            recipe, _, banned, mask = ask  # type: ignore[misc]
            if mask is not None or banned or not recipe.simple:
                return self._rich(asks)
            temperatures.append(recipe.temperature)
        packed = Packed(len(asks))
        if any(temperatures):
            packed.noisy = True
            self._noise(packed, asks, temperatures)  # type: ignore[arg-type]
        return packed

    def _noise(self, packed: Packed, requests: Sequence[Request], temperatures: list[float]) -> None:
        n = packed.count
        records = packed.records = np.zeros(n, RECORD)
        packed.size = n * (RECORD.itemsize // 4)
        records["temperature"] = temperatures
        records["position"] = [request.position for request in requests]
        records["key"] = np.fromiter([request.recipe.key & _KEY for request in requests], np.uint64, n)

    def _rich(self, asks: Sequence[Request | Lookup]) -> Packed:
        n = len(asks)
        packed = Packed(n, noisy=True, rich=True, size=n * (RECORD.itemsize // 4))
        packed.records = np.zeros(n, RECORD)
        masks: dict[int, int] = {}  # word offsets; rows in the same state share their mask
        looked: list[tuple[int, tuple[int, ...]]] = []
        topped: list[int] = []
        adjusted: list[int] = []
        lists: list[int] = []
        for i, ask in enumerate(asks):
            if isinstance(ask, Lookup):
                packed.records[i]["kind"] = LOOKUP | (MEASURED if ask.ids or ask.top > 0 else 0)
                if ask.ids:
                    looked.append((i, ask.ids))
                top = ask.top
            else:
                self._record(packed, i, ask, masks)
                words = self._adjustment(packed, i, ask)
                if words is not None:
                    packed.records[i]["kind"] |= ADJUSTED
                    packed.records[i]["adjusted"] = len(adjusted)
                    adjusted.append(i)
                    lists.append(packed.put(words))
                top = ask.recipe.top_logprobs if ask.recipe.logprobs else 0
            if top > 0:
                topped.append(i)
                packed.top = max(packed.top, min(top, self._vocab_size))
        kinds = packed.records["kind"]
        packed.measured = bool((kinds & MEASURED).any())
        filtered = np.flatnonzero(kinds & FILTERED).astype(np.int32)
        packed.filtered = packed.put(filtered), len(filtered)
        packed.adjusted = packed.put(np.array(adjusted + lists, dtype=np.int32)), len(adjusted)
        packed.topped_rows = topped
        packed.topped = packed.put(np.array(topped, dtype=np.int32)), len(topped)
        pairs = [i for i, ids in looked for _ in ids] + [token for _, ids in looked for token in ids]
        packed.looked = packed.put(np.array(pairs, dtype=np.int32)), len(pairs) // 2
        return packed

    def _record(self, packed: Packed, i: int, request: Request, masks: dict[int, int]) -> None:
        recipe, kind, mask_at = request.recipe, 0, 0
        if request.mask is not None:
            kind |= MASKED
            mask_at = masks.get(id(request.mask), -1)
            if mask_at < 0:
                mask_at = masks[id(request.mask)] = packed.put(self._fitted(request.mask))
        if recipe.filtered:
            kind |= FILTERED
        if recipe.logprobs or recipe.traced:
            kind |= MEASURED
        assert packed.records is not None
        filters = min(recipe.top_k, self._vocab_size), recipe.top_p, recipe.min_p
        packed.records[i] = (recipe.key & _KEY, request.position, recipe.temperature, kind, *filters, mask_at, 0, 0)

    def _fitted(self, mask: Mask) -> Words:
        """`mask` in exactly as many words as the vocabulary has; ids beyond its end are forbidden."""
        if len(mask) >= self._mask_words:
            return mask[: self._mask_words]
        return np.concatenate([mask, np.zeros(self._mask_words - len(mask), np.int32)])

    def _adjustment(self, packed: Packed, i: int, request: Request) -> Words | None:
        """Four counts, the repetition penalty, then the lists of `row_kernels.adjust`; None if nothing changes."""
        recipe, banned = request.recipe, request.banned
        if not (recipe.penalised or recipe.bias or banned):
            return None
        seen = recipe.seen(self._vocab_size) if recipe.repetition != 1.0 else np.empty(0, np.int32)
        counted = np.empty(0, np.int32)
        if recipe.counts and (recipe.frequency or recipe.presence):
            counted = np.fromiter(recipe.counts.keys(), np.int32, len(recipe.counts))
        less = recipe.presence + recipe.frequency * np.fromiter(recipe.counts.values(), np.float32, len(recipe.counts))
        bias = recipe.biased
        unknown = [int(token) for token in (*bias[bias >= self._vocab_size], *banned) if token >= self._vocab_size]
        if unknown:
            packed.faults[i] = BackendError(
                f"token id {unknown[0]} (of logit_bias or stop_token_ids) is not one of this model's {self._vocab_size}"
            )
            return None
        return np.concatenate(
            [
                np.array([len(seen), len(counted), len(bias), len(banned)], dtype=np.int32),
                np.array([recipe.repetition], dtype=np.float32).view(np.int32),
                seen,
                counted,
                less[: len(counted)].astype(np.float32).view(np.int32),
                bias,
                recipe.biases.view(np.int32),
                np.fromiter(banned, np.int32, len(banned)),
            ]
        )
