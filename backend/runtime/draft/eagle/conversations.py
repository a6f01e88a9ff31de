"""Conversations as tokens: files of them, and rows of one length that several of them share.

Owns: `Dialogue`, its files, and `PackedRows`. Knows nothing of who wrote the tokens, or of models.

Legend: R rows, L positions of a row, N tokens, C conversations, S spans.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .....lang.errors import OptionError
from ...model.load.store import replace_file

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dialogue:
    """A conversation: its tokens, and which of them the model wrote as answers: spans (begin, end)."""

    tokens: Ints
    written: tuple[tuple[int, int], ...]


def save_conversations(file: Path, conversations: Sequence[Dialogue]) -> None:
    """Write a file of conversations, whole or not at all."""
    spans = [(i, *span) for i, each in enumerate(conversations) for span in each.written]
    tokens_N = np.concatenate([np.empty(0, np.int64), *(each.tokens for each in conversations)])
    small = not len(tokens_N) or int(tokens_N.max()) < 1 << 16
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": tokens_N.astype(np.uint16 if small else np.int32),
        "lengths": np.array([len(each.tokens) for each in conversations], np.int32),
        "written": np.array(spans, np.int32).reshape(-1, 3),
    }
    replace_file(file, lambda to: save_file(arrays, to))


def load_conversations(file: Path) -> list[Dialogue]:
    """Read a file of conversations. Raises `OptionError` for a file that is none."""
    try:
        arrays = load_file(file)
        ends_C = np.cumsum(arrays["lengths"], dtype=np.int64)
        tokens_N, spans_S3 = arrays["tokens"].astype(np.int64), arrays["written"]
        if len(tokens_N) != (ends_C[-1] if len(ends_C) else 0):
            raise ValueError("lengths and tokens differ")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise OptionError(f"{file}: no file of conversations ({error}); delete it, and it is written again") from error
    written: list[list[tuple[int, int]]] = [[] for _ in ends_C]
    for of, begin, end in spans_S3.tolist():
        written[of].append((begin, end))
    pieces = np.split(tokens_N, ends_C[:-1]) if len(ends_C) else []
    return [Dialogue(tokens, tuple(spans)) for tokens, spans in zip(pieces, written)]


@dataclass(frozen=True)
class PackedRows:
    """Rows of several conversations each. `segments`: which conversation of the row a token is of, 0 for padding.
    `written`: whether the model wrote the token."""

    tokens: torch.Tensor  # [R, L] int32
    segments: torch.Tensor  # [R, L] int16
    written: torch.Tensor  # [R, L] bool

    def __len__(self) -> int:
        return len(self.tokens)


def pack(conversations: Iterable[Dialogue], length: int, seed: int = 0) -> PackedRows:
    """Lay conversations into rows of `length` tokens, each where it fits best; what is longer is cut at its end."""
    found = list(conversations)
    order = np.random.default_rng(seed).permutation(len(found))
    rows: list[list[Dialogue]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for i in order:
        size = min(len(found[i].tokens), length)
        at = bisect.bisect_left(room, (size, -1))
        free, row = room.pop(at) if at < len(room) else (length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(found[i])
        if free > size:
            bisect.insort(room, (free - size, row))
    tokens = np.zeros((len(rows), length), np.int32)
    segments = np.zeros((len(rows), length), np.int16)
    written = np.zeros((len(rows), length), np.bool_)
    for row, members in enumerate(rows):
        at = 0
        for number, each in enumerate(members, 1):
            size = min(len(each.tokens), length)
            tokens[row, at : at + size] = each.tokens[:size]
            segments[row, at : at + size] = number
            for begin, end in each.written:
                written[row, at + begin : at + min(end, size)] = True
            at += size
    return PackedRows(torch.from_numpy(tokens), torch.from_numpy(segments), torch.from_numpy(written))


def frequent_tokens(conversations: Iterable[Dialogue], vocab: int, most: int) -> tuple[torch.Tensor, float]:
    """The `most` tokens that the model wrote most often, as rising ids, and which share of its text they are."""
    counts = np.zeros(vocab, np.int64)
    for each in conversations:
        for begin, end in each.written:
            counts += np.bincount(each.tokens[begin:end], minlength=vocab)
    # Among tokens that never came, the first ids: vocabularies begin with the common ones.
    ids = np.sort(np.argsort(-counts, kind="stable")[:most])
    return torch.from_numpy(ids), float(counts[ids].sum() / max(1, counts.sum()))
