"""Answers to what is asked of rows of logits on the host: by compiled code where it was built, by numpy elsewhere.

Owns: the exchange with `model/cpu/native/sampling.cpp`, one call for all rows of a step. Knows nothing of branches. What an
ask means is `sampler.py`'s to say, and both ways have the same bits.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....lang.errors import BackendError, OutOfMemory
from ..model.cpu import native
from .ask import Looked, Lookup
from .packing import NAN
from .sampler import NO_TOKEN, NOT_NUMBERS, Floats, Mask, Request, Sampled, adjusted, look, sample

Ask = Request | Lookup
Answer = Sampled | Looked | Exception
"""An exception is that row's alone."""

_RECORD = struct.Struct("=QQQQqQddfiii")
"""`Ask` in `sampling.cpp`."""
_SAMPLE, _MEASURE = 1, 2
_KEY = (1 << 64) - 1
_MOST_TOP_K = (1 << 31) - 1


class HostSampler:
    """Answers the asks of one step at a time. `vocab_size`: real ids; later columns of logits are padding."""

    def __init__(self, vocab_size: int, compiled: bool = True, level: int | None = None) -> None:
        self.vocab_size = vocab_size
        self._sample: Any = None
        if compiled:
            try:
                self._sample = native.library().sgl_sample
                self._level = native.level() if level is None else level
            except native.MissingLibrary:
                pass  # numpy answers

    def answers(self, logits: Floats, asks: Sequence[Ask]) -> list[Answer]:
        """The answer to each ask i, which is about row i of `logits` [W, V]."""
        if not asks:
            return []
        if self._sample is None or logits.dtype != np.float32 or logits.strides[1] != 4:
            return [self._plain(row, ask) for row, ask in zip(logits, asks)]
        return _Exchange(logits, asks, self.vocab_size).answers(self._sample, self._level)

    def _plain(self, row: Floats, ask: Ask) -> Answer:
        try:
            if isinstance(ask, Lookup):
                return look(row[: self.vocab_size], ask)
            return sample(row[None], [ask], self.vocab_size)[0]
        except Exception as error:
            return error


class _Exchange:
    """The asks of one step as the compiled code reads them, and its answers."""

    def __init__(self, logits: Floats, asks: Sequence[Ask], vocab_size: int) -> None:
        self._logits, self._asks, self._vocab_size = logits, asks, vocab_size
        self._records = ctypes.create_string_buffer(_RECORD.size * len(asks))
        self._rows: list[int] = []  # of the records
        self._found: dict[int, Answer] = {}  # without them
        self._tops: dict[int, Any] = {}
        self._kept: list[Any] = []  # what the records point to
        base, stride = logits.ctypes.data, logits.strides[0]
        for i, ask in enumerate(asks):
            if type(ask) is Request:
                self._add_request(i, base + i * stride, ask)
            else:
                self._add_lookup(i, base + i * stride, ask)  # type: ignore[arg-type]

    def _add(self, i: int, *fields: Any) -> None:
        _RECORD.pack_into(self._records, _RECORD.size * len(self._rows), *fields)
        self._rows.append(i)

    def _add_request(self, i: int, raw: int, request: Request) -> None:
        recipe, position, banned, mask = request
        row = raw
        if banned or recipe.penalised or recipe.bias:
            try:
                changed = adjusted(self._logits[i, : self._vocab_size], request)
            except Exception as error:
                self._found[i] = error
                return
            self._kept.append(changed)
            row = changed.ctypes.data
        self._add(
            i, raw, row, 0 if mask is None else self._address_of(mask), recipe.key & _KEY, position,
            self._room_for(i, recipe.top_logprobs) if recipe.logprobs else 0, recipe.top_p, recipe.log_min_p,
            recipe.temperature, min(recipe.top_k, _MOST_TOP_K),
            _SAMPLE | _MEASURE if recipe.logprobs or recipe.traced else _SAMPLE, len(self._tops.get(i, ())),
        )  # fmt: skip

    def _add_lookup(self, i: int, raw: int, lookup: Lookup) -> None:
        if not lookup.ids and lookup.top <= 0:
            self._found[i] = Looked(())
            return
        top = self._room_for(i, lookup.top)
        self._add(i, raw, raw, 0, 0, 0, top, 1.0, 0.0, 0.0, 0, _MEASURE, len(self._tops.get(i, ())))

    def _room_for(self, i: int, top: int) -> int:
        """The address of room for the ids of the most probable tokens of ask i; 0 if none are wanted."""
        if top <= 0:
            return 0
        ids = self._tops[i] = np.empty(min(top, self._vocab_size), np.int32)
        return ids.ctypes.data

    def _address_of(self, mask: Mask) -> int:
        words = (self._vocab_size + 31) // 32
        if len(mask) < words or not mask.flags.c_contiguous:  # ids beyond its end are forbidden
            mask = np.concatenate([mask, np.zeros(max(0, words - len(mask)), np.int32)])
            self._kept.append(mask)
        return mask.ctypes.data

    def answers(self, sample: Any, level: int) -> list[Answer]:
        count = len(self._rows)
        tokens, stats = np.empty(count, np.int32), np.empty((count, 2))
        if count and sample(
            self._records, ctypes.c_int64(count), self._vocab_size, ctypes.c_void_p(tokens.ctypes.data),
            ctypes.c_void_p(stats.ctypes.data), level,
        ):  # fmt: skip
            raise OutOfMemory("no memory to sample a step's rows")
        found = self._found
        for at, (i, token) in enumerate(zip(self._rows, tokens.tolist())):
            found[i] = self._answer(i, token, stats, at)
        return [found[i] for i in range(len(self._asks))]

    def _answer(self, i: int, token: int, stats: Any, at: int) -> Answer:
        ask = self._asks[i]
        if token < 0:
            return BackendError(NOT_NUMBERS if token == NAN else NO_TOKEN)
        if isinstance(ask, Lookup):
            lse = float(stats[at, 0])
            if lse != lse:
                return BackendError(NOT_NUMBERS)
            return Looked(tuple([float(self._logits[i, id]) - lse for id in ask.ids]), self._top(i, lse))
        recipe = ask.recipe
        if not (recipe.logprobs or recipe.traced):
            return Sampled(token)
        lse, forbidden = stats[at].tolist()
        logprob = float(self._logits[i, token]) - lse
        return Sampled(token, logprob, self._top(i, lse), forbidden) if recipe.logprobs else Sampled(token, logprob)

    def _top(self, i: int, lse: float) -> tuple[tuple[float, int], ...]:
        row = self._logits[i]
        return tuple([(float(row[id]) - lse, id) for id in self._tops[i].tolist()]) if i in self._tops else ()
