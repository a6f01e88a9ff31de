"""Answers to what is asked of rows of logits on the host: by compiled code where it was built, by numpy elsewhere.

Owns: the exchange with `model/cpu/native/sampling.cpp`, one call for all rows of a step. Knows nothing of branches.
What an ask means is `sampler.py`'s to say, and both ways have the same bits.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....lang.errors import BackendError, OutOfMemory
from ..model.cpu import native
from .ask import Looked, Lookup
from .packing import NAN
from .sampler import NO_TOKEN, NOT_NUMBERS, Answer, Ask, Floats, Mask, Request, Sampled, adjusted, look, sample

log = logging.getLogger("sgl")

_RECORD = struct.Struct("=QQQQqQddfiii")
"""`Ask` in `sampling.cpp`."""
_SAMPLE, _MEASURE = 1, 2
_KEY = (1 << 64) - 1
_FIRST_ROWS = 64
"""Rows that the buffers have room for at first."""


class HostSampler:
    """Answers the asks of one step at a time.

    Args:
        vocab_size: Real ids; later columns of logits are padding.
        level: The level of instructions, one of `native.LEVELS` by its number (default: what `native.level()` says).
            Negative: numpy answers, as it does where no compiled code is.
    """

    def __init__(self, vocab_size: int, level: int | None = None) -> None:
        self.vocab_size = vocab_size
        self._exchange: _Exchange | None = None
        try:
            level = native.level() if level is None else level
            if level >= 0:
                self._exchange = _Exchange(vocab_size, level)
        except native.MissingLibrary as missing:
            log.info("numpy samples, more slowly than compiled code: %s", missing)

    def answers(self, logits: Floats, asks: Sequence[Ask]) -> list[Answer]:
        """The answer to each ask i, which is about row i of `logits` [W, V]."""
        if not asks:
            return []
        if self._exchange is None or logits.dtype != np.float32 or logits.strides[1] != 4:
            return [self._plain(row, ask) for row, ask in zip(logits, asks)]
        return self._exchange.answers(logits, asks)

    def _plain(self, row: Floats, ask: Ask) -> Answer:
        try:
            if isinstance(ask, Lookup):
                return look(row[: self.vocab_size], ask)
            return sample(row[None], [ask], self.vocab_size)[0]
        except Exception as error:
            return error


class _Exchange:
    """The asks of a step as compiled code reads them, and its answers, in buffers that stay."""

    def __init__(self, vocab_size: int, level: int) -> None:
        self._vocab_size, self._level = vocab_size, level
        self._sample = native.library().sgl_sample
        self._make_room(_FIRST_ROWS)

    def _make_room(self, rows: int) -> None:
        self._records = ctypes.create_string_buffer(_RECORD.size * rows)
        self._tokens, self._stats = np.zeros(rows, np.int32), np.zeros((rows, 2))
        self._addresses = ctypes.addressof(self._records), self._tokens.ctypes.data, self._stats.ctypes.data

    def answers(self, logits: Floats, asks: Sequence[Ask]) -> list[Answer]:
        if len(asks) > len(self._tokens):
            self._make_room(2 * len(asks))
        self._logits = logits
        self._found: dict[int, Answer] = {}  # what needs no compiled code
        self._tops: dict[int, Any] = {}  # room for the ids of the most probable tokens
        self._kept: list[Any] = []  # what else the records point to
        rows: list[int] = []
        is_rich = False
        base, stride = logits.ctypes.data, logits.strides[0]
        for i, ask in enumerate(asks):
            raw = base + i * stride
            record = self._of_lookup(i, raw, ask) if isinstance(ask, Lookup) else self._of_request(i, raw, ask)
            if record is not None:
                _RECORD.pack_into(self._records, _RECORD.size * len(rows), *record)
                rows.append(i)
                is_rich = is_rich or record[-2] != _SAMPLE
        tokens = self._call(len(rows))
        if not (is_rich or self._found) and min(tokens) >= 0:
            return [Sampled(token) for token in tokens]
        for i, token, (lse, forbidden) in zip(rows, tokens, self._stats.tolist()):
            self._found[i] = self._answer(i, asks[i], token, lse, forbidden)
        return [self._found[i] for i in range(len(asks))]

    def _call(self, count: int) -> list[int]:
        records, tokens, stats = self._addresses
        if self._sample(records, count, self._vocab_size, tokens, stats, self._level):
            raise OutOfMemory("no memory to sample a step's rows")
        return self._tokens[:count].tolist()  # type: ignore[no-any-return]

    def _of_request(self, i: int, raw: int, request: Request) -> tuple[Any, ...] | None:
        recipe, position, banned, mask = request
        row, kind, room, top = raw, _SAMPLE, 0, 0
        if banned or recipe.adjusts:
            try:
                changed = adjusted(self._logits[i, : self._vocab_size], request)
            except Exception as error:
                self._found[i] = error
                return None
            self._kept.append(changed)
            row = changed.ctypes.data
        if recipe.logprobs or recipe.traced:
            kind = _SAMPLE | _MEASURE
            room, top = self._room(i, recipe.top_logprobs if recipe.logprobs else 0)
        return (
            raw, row, 0 if mask is None else self._address(mask), recipe.key & _KEY, position, room, recipe.top_p,
            recipe.log_min_p, recipe.temperature, min(recipe.top_k, self._vocab_size), kind, top,
        )  # fmt: skip

    def _of_lookup(self, i: int, raw: int, lookup: Lookup) -> tuple[Any, ...] | None:
        if not lookup.ids and lookup.top <= 0:
            self._found[i] = Looked(())
            return None
        room, top = self._room(i, lookup.top)
        return raw, raw, 0, 0, 0, room, 1.0, 0.0, 0.0, 0, _MEASURE, top

    def _room(self, i: int, top: int) -> tuple[int, int]:
        """The address of room for the ids of the `top` most probable tokens of row i, and how many fit."""
        if top <= 0:
            return 0, 0
        ids = self._tops[i] = np.empty(min(top, self._vocab_size), np.int32)
        return ids.ctypes.data, len(ids)

    def _address(self, mask: Mask) -> int:
        missing = (self._vocab_size + 31) // 32 - len(mask)
        if missing > 0:  # ids beyond its end are forbidden
            mask = np.concatenate([mask, np.zeros(missing, np.int32)])
            self._kept.append(mask)
        return mask.ctypes.data

    def _answer(self, i: int, ask: Ask, token: int, lse: float, forbidden: float) -> Answer:
        if token < 0:
            return BackendError(NOT_NUMBERS if token == NAN else NO_TOKEN)
        row = self._logits[i]
        top = tuple([(float(row[id]) - lse, id) for id in self._tops[i].tolist()]) if i in self._tops else ()
        if isinstance(ask, Lookup):
            if lse != lse:
                return BackendError(NOT_NUMBERS)
            return Looked(tuple([float(row[id]) - lse for id in ask.ids]), top)
        if ask.recipe.logprobs:
            return Sampled(token, float(row[token]) - lse, top, forbidden)
        return Sampled(token, float(row[token]) - lse) if ask.recipe.traced else Sampled(token)
