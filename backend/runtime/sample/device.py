"""Sampling where the logits lie: the host packs what is asked, the device answers, nothing waits in between.

Owns: the buffers of that exchange, and the order of the launches. Knows nothing of branches. `sampler.py` defines what
an ask means; these answers are equal, except between tokens whose weights float32 does not tell apart.

One launch is at most one copy to the device (none for greedy rows), one kernel, and one copy of the tokens back. Only
some asks need more kernels (`kernels.py`). The tokens also stay on the device, for the next step. Everything is
queued on the current stream; one sampler belongs to one stream. Without CUDA the kernels run in Triton's interpreter.

Legend: W rows of logits, V columns, S sampled tokens, R rows that want the most probable tokens, N how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import triton

from ....lang.errors import BackendError
from ..cuda.staging import Staging
from . import kernels, row_kernels
from .ask import Looked, Lookup
from .packing import NAN, STATS_FIELDS, Packed, Packer
from .sampler import NO_TOKEN, NOT_NUMBERS, Answer, Ask, Recipe, Request, Sampled

Top = tuple[tuple[float, int], ...]

TILE_LOGITS = 2048
"""Logits that one program takes."""
_LOGITS_A_WARP = 256
"""Eight a thread: with more, registers leave room for too few programs."""
_DRAW_ROUNDS = 3
"""Draws of a filtered row that many programs judge; rows that are still open then get one program each. To judge rows
that are answered costs next to nothing."""
_SETTLE_TILES = 2
"""Tiles that the one program of an open row takes at once."""
_PAIRS_A_PROGRAM = 128
_FIRST_WORDS = 16384
"""What the staging buffers hold at first: the records of a thousand rows."""


class DeviceSampler:
    """Answers the asks of one step at a time. `vocab_size`: real ids; `width`: columns of logits (those from
    `vocab_size` on are padding and never sampled); `rows`: the most asks of a step."""

    def __init__(
        self, vocab_size: int, width: int, device: torch.device, rows: int, *, tile: int = TILE_LOGITS
    ) -> None:
        if vocab_size > width:
            raise ValueError(f"vocab_size {vocab_size} is more than the {width} columns of logits")
        self.vocab_size, self.width, self.rows, self.device = vocab_size, width, rows, device
        self._packer = Packer(vocab_size)
        self._tile, self._tiles = tile, triton.cdiv(vocab_size, tile)
        self._shape = _shape(vocab_size, tile)
        self._whole = _shape(vocab_size, tile * _SETTLE_TILES)
        self._staging = Staging(device, _FIRST_WORDS)
        self._words = torch.empty(_FIRST_WORDS, dtype=torch.int32, device=device)
        f64: Any = {"dtype": torch.float64, "device": device}
        self._scratch = torch.empty(rows * self._tiles * kernels.TILE_FIELDS, **f64)
        self._states = torch.empty(rows * kernels.STATE_FIELDS, **f64)
        self._groups = torch.empty(rows * self._tiles * kernels.GROUPS, dtype=torch.float32, device=device)
        self._counters = torch.zeros(rows, dtype=torch.int32, device=device)
        self._results = _ResultBuffer(rows, device)
        self._unadjusted = torch.empty(16, dtype=torch.float32, device=device)

    def launch(self, logits_WV: torch.Tensor, asks: Sequence[Ask], sampled_S: torch.Tensor) -> PendingAnswers:
        """Queue the answers to `asks`, where ask i is about row i; return at once.

        `sampled_S[i]` (int32, on the device) becomes the token of ask i, 0 if it cannot be sampled. A lookup leaves it
        alone.

        `logits_WV` is float32, bfloat16 or float16, its rows contiguous, and is only read.
        """
        n = len(asks)
        if n > min(self.rows, len(logits_WV)) or n > len(sampled_S) or logits_WV.shape[1] != self.width:
            raise ValueError(
                f"{n} asks do not fit a sampler of {self.rows} rows of {self.width} columns, logits of shape "
                f"{tuple(logits_WV.shape)} and {len(sampled_S)} places for tokens"
            )
        packed = self._packer.pack(asks)
        if not n:
            return PendingAnswers(asks, packed, None)
        words = self._sent(packed)
        results = self._results
        adjusted = self._adjusted(logits_WV, packed, words)
        common = logits_WV, logits_WV.stride(0), adjusted, words
        ends = self._states, results.stats, results.tokens, sampled_S
        kernels.first[(self._tiles, n)](
            *common, self._scratch, self._groups, self._counters, *ends,
            NOISY=packed.noisy, RICH=packed.rich, **self._shape,
        )  # fmt: skip
        if not packed.rich:
            return PendingAnswers(asks, packed, results.bring(n, False))
        rows, filtered = packed.filtered
        if filtered:
            for _ in range(_DRAW_ROUNDS):
                grid = self._tiles, filtered
                kernels.again[grid](*common, rows, self._scratch, self._counters, *ends, **self._shape)
            kernels.settle[(filtered,)](*common, rows, self._scratch, *ends, **self._whole)
        looked, topped = self._looked(logits_WV, packed, words), self._topped(logits_WV, packed, words)
        return PendingAnswers(asks, packed, results.bring(n, packed.measured), looked, topped)

    def warm(self, logits_WV: torch.Tensor, sampled_S: torch.Tensor) -> None:
        """Compile every kernel for logits of this dtype and stride, so that no step waits for it later."""
        greedy = Recipe(0.0, -1, 1.0, 0.0, 0.0, 0.0, 1.0, (), 0, False, 0)
        rich = Recipe(1.0, 1, 0.5, 0.0, 0.0, 0.0, 1.0, ((0, 1.0),), 0, True, 1)
        plain = Recipe(1.0, -1, 1.0, 0.0, 0.0, 0.0, 1.0, (), 0, False, 0)
        asks: list[Ask] = [Request(greedy, 0), Request(plain, 0), Request(rich, 0), Lookup((0,), 1)]
        for ask in asks:
            self.launch(logits_WV, [ask], sampled_S).answers()

    def _sent(self, packed: Packed) -> torch.Tensor:
        """The words of `packed` on the device, until the next call."""
        if size := packed.size:
            if len(self._words) < size:
                self._words = torch.empty(2 * size, dtype=torch.int32, device=self.device)
            packed.write(self._staging.host(size))
            self._staging.send(size, self._words)
        return self._words

    def _adjusted(self, logits_WV: torch.Tensor, packed: Packed, words: torch.Tensor) -> torch.Tensor:
        """float32 copies of the rows with penalties, bias or bans, with those applied."""
        at, count = packed.adjusted
        if not count:
            return self._unadjusted
        rows = logits_WV[:, : self.vocab_size].index_select(0, words[at : at + count]).float()
        row_kernels.adjust[(count,)](rows, words, at + count, VOCAB=self.vocab_size, BLOCK=min(1024, self._tile))
        return rows

    def _looked(self, logits_WV: torch.Tensor, packed: Packed, words: torch.Tensor) -> torch.Tensor | None:
        """The log-probability of each pair of row and id, on its way to the host."""
        at, pairs = packed.looked
        if not pairs:
            return None
        found = torch.empty(pairs, dtype=torch.float64, device=self.device)
        source = logits_WV, logits_WV.stride(0), words
        grid = (triton.cdiv(pairs, _PAIRS_A_PROGRAM),)
        row_kernels.look[grid](*source, at, pairs, self._results.stats, found, BLOCK=_PAIRS_A_PROGRAM)
        return _to_host(found)

    def _topped(self, logits_WV: torch.Tensor, packed: Packed, words: torch.Tensor) -> torch.Tensor | None:
        """The keys of the most probable tokens of each row that wants some, falling, on their way to the host."""
        at, count = packed.topped
        if not count:
            return None
        keys = torch.empty((count, self._tiles * packed.top), dtype=torch.int64, device=self.device)
        source = logits_WV, logits_WV.stride(0), words
        shape = {name: value for name, value in self._shape.items() if name != "POW2"}
        row_kernels.tops[(self._tiles, count)](*source, at, packed.top, keys, **shape)
        return _to_host(torch.topk(keys, packed.top, dim=1).values)


class PendingAnswers:
    """The answers to one step, on their way to the host."""

    def __init__(
        self,
        asks: Sequence[Ask],
        packed: Packed,
        landing: _Landing | None,
        looked: torch.Tensor | None = None,
        topped: torch.Tensor | None = None,
    ) -> None:
        self._asks, self._packed, self._landing = asks, packed, landing
        self._looked, self._topped = looked, topped

    def answers(self) -> list[Answer]:
        """One for each ask, in order; waits for them. An exception is that row's alone. Called once."""
        if self._landing is None:
            return []
        tokens, stats = self._landing.take(len(self._asks))
        if not self._packed.rich and min(tokens) >= 0:
            return [Sampled(token) for token in tokens]
        looked = iter([] if self._looked is None else self._looked.tolist())
        tops = self._tops(stats)
        return [self._answer(i, ask, tokens[i], stats, looked, tops) for i, ask in enumerate(self._asks)]

    def _answer(
        self, i: int, ask: Ask, token: int, stats: list[list[float]], looked: Iterator[float], tops: dict[int, Top]
    ) -> Answer:
        if isinstance(ask, Lookup):
            logprobs = tuple(islice(looked, len(ask.ids)))
            wanted = ask.ids or ask.top
            return BackendError(NOT_NUMBERS) if wanted and token < 0 else Looked(logprobs, tops.get(i, ()))
        if token < 0:
            return BackendError(NOT_NUMBERS if token == NAN else NO_TOKEN)
        if i in self._packed.faults:
            return self._packed.faults[i]
        recipe = ask.recipe
        if not (recipe.logprobs or recipe.traced):
            return Sampled(token)
        _, logprob, forbidden = stats[i]
        if not recipe.logprobs:
            return Sampled(token, logprob)
        return Sampled(token, logprob, tops.get(i, ()), 0.0 if ask.mask is None else max(0.0, forbidden))

    def _tops(self, stats: list[list[float]]) -> dict[int, Top]:
        """The (logprob, id) of the rows that want some."""
        if self._topped is None:
            return {}
        keys_RN = self._topped.numpy()
        high_RN = (keys_RN >> 32).astype(np.int32)
        logits_RN = (high_RN ^ ((high_RN >> 31) & 0x7FFFFFFF)).view(np.float32).astype(np.float64)
        ids_RN = 0x7FFFFFFF - (keys_RN & 0xFFFFFFFF)
        tops: dict[int, Top] = {}
        for i, logits_N, ids_N in zip(self._packed.topped_rows, logits_RN, ids_RN):
            ask = self._asks[i]
            n = ask.top if isinstance(ask, Lookup) else ask.recipe.top_logprobs
            tops[i] = tuple(zip((logits_N[:n] - stats[i][0]).tolist(), ids_N[:n].tolist()))
        return tops


class _ResultBuffer:
    """Tokens and log-probabilities on the device, in one buffer, so that one copy brings them to the host."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device, self._rows = device, rows + rows % 2
        self._words = torch.zeros(self._rows + 2 * rows * STATS_FIELDS, dtype=torch.int32, device=device)
        self.tokens = self._words[:rows]
        self.stats = self._words[self._rows :].view(torch.float64)
        self._free: list[_Landing] = []

    def bring(self, count: int, measured: bool) -> _Landing:
        """Start the copy of the first `count` tokens, and of the log-probabilities if any row has some."""
        landing = self._free.pop() if self._free else _Landing(self._free, self._rows, self._words)
        landing.bring(self._words, None if measured else count)
        return landing


class _Landing:
    """A host copy of a `_ResultBuffer`, used again after it was taken."""

    def __init__(self, home: list[_Landing], rows: int, words: torch.Tensor) -> None:
        self._home, self._rows = home, rows
        self._words = _pinned(len(words), words.device)
        self._landed = _event() if words.is_cuda else None
        self._measured = False

    def bring(self, words: torch.Tensor, count: int | None) -> None:
        self._measured = count is None
        self._words[:count].copy_(words[:count], non_blocking=True)
        if self._landed is not None:
            self._landed.record()

    def take(self, count: int) -> tuple[list[int], list[list[float]]]:
        """The tokens, and each row's log-probabilities if they were brought; waits for them."""
        if self._landed is not None:
            self._landed.synchronize()
        words = self._words.numpy()
        tokens: list[int] = words[:count].tolist()
        stats: list[list[float]] = []
        if self._measured:
            stats = words[self._rows :].view(np.float64).reshape(-1, STATS_FIELDS)[:count].tolist()
        self._home.append(self)
        return tokens, stats


def _shape(vocab_size: int, tile: int) -> dict[str, int]:
    """The compile-time sizes of a kernel that goes over rows in tiles."""
    tiles = triton.cdiv(vocab_size, tile)
    warps = max(1, min(16, tile // _LOGITS_A_WARP))
    pow2 = max(2, triton.next_power_of_2(tiles))
    return {"VOCAB": vocab_size, "TILES": tiles, "POW2": pow2, "BLOCK": tile, "num_warps": warps}


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _pinned(words: int, device: torch.device) -> torch.Tensor:
    return torch.empty(words, dtype=torch.int32, pin_memory=device.type == "cuda")


def _to_host(found: torch.Tensor) -> torch.Tensor:
    """A host copy that is there once a later event of the stream has passed."""
    host = torch.empty(found.shape, dtype=found.dtype, pin_memory=found.is_cuda)
    return host.copy_(found, non_blocking=True)
