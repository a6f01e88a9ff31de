"""Weights in blocks of 4 or 8 bits, as the kernels read them.

Owns: the formats (`Blocks`), the packing (`native/blocks.h` describes it), and quantising float weights. Knows nothing
of files or of layers.

Blocks lie along the depth of a product, 32 weights each. A weight is `scale * code + minimum`, where the code has 4 or
8 bits. GGUF's Q4_0, Q4_1, Q4_K and Q8_0 are such blocks, so nothing is lost.

Legend: N outputs, K depth, B = K / 32 blocks, G groups of 16 outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32
GROUP = 16
Scales = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float32]

Q4_0, Q4_1, Q4_K, Q8_0 = range(4)
"""The kinds of `native/blocks.h`."""
KIND_NAMES = ("q4_0", "q4_1", "q4_k", "q8_0")
_OFFSETS = {Q4_0: 8, Q8_0: 128}
"""Kinds without minima: what is subtracted from a code."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A matrix as codes and scales."""

    kind: int
    codes_NK: npt.NDArray[np.uint8]
    scale_NB: Scales
    minimum_NB: Scales | None = None

    @property
    def shape(self) -> tuple[int, int]:
        outputs, depth = self.codes_NK.shape
        return outputs, depth

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.kind == Q8_0 else 4

    def rows(self, order: npt.NDArray[np.int64]) -> Blocks:
        """The matrix with its rows in another order."""
        minimum = None if self.minimum_NB is None else self.minimum_NB[order]
        return Blocks(self.kind, self.codes_NK[order], self.scale_NB[order], minimum)

    def floats(self) -> npt.NDArray[np.float32]:
        """The matrix in float32, [N, K]."""
        outputs, depth = self.shape
        codes = self.codes_NK.astype(np.float32).reshape(outputs, -1, BLOCK) - _OFFSETS.get(self.kind, 0)
        values = codes * self.scale_NB.astype(np.float32)[..., None]
        if self.minimum_NB is not None:
            values += self.minimum_NB.astype(np.float32)[..., None]
        return values.reshape(outputs, depth)


def stacked(matrices: Sequence[Blocks]) -> Blocks:
    """Matrices of one depth and kind, one above the other."""
    kinds = {matrix.kind for matrix in matrices}
    if kinds == {matrices[0].kind}:
        minima = [m.minimum_NB for m in matrices if m.minimum_NB is not None]
        return Blocks(
            matrices[0].kind,
            np.concatenate([m.codes_NK for m in matrices]),
            np.concatenate([m.scale_NB for m in matrices]),
            np.concatenate(minima) if minima else None,
        )
    raise ValueError(f"matrices of different kinds: {sorted(KIND_NAMES[kind] for kind in kinds)}")


def record_bytes(kind: int) -> int:
    """Bytes of a group's block: scales, minima, codes."""
    return {Q4_0: 2, Q4_1: 4, Q4_K: 8, Q8_0: 2}[kind] * GROUP + GROUP * BLOCK // (1 if kind == Q8_0 else 2)


def packed(matrix: Blocks) -> npt.NDArray[np.uint8]:
    """The bytes that the kernels read; outputs are filled up with zeros to whole groups."""
    outputs, depth = matrix.shape
    groups, blocks = -(-outputs // GROUP), depth // BLOCK
    out_GBX = np.zeros((groups, blocks, record_bytes(matrix.kind)), dtype=np.uint8)
    at = 0
    for values in (matrix.scale_NB, matrix.minimum_NB):
        if values is not None:
            kind = np.float32 if matrix.kind == Q4_K else np.float16
            laid = _grouped(values.astype(kind), groups).swapaxes(1, 2)  # [G, B, 16]
            raw = np.ascontiguousarray(laid).view(np.uint8).reshape(groups, blocks, -1)
            out_GBX[..., at : at + raw.shape[-1]] = raw
            at += raw.shape[-1]
    # [G, 16, B, 8 fours, 4] -> [G, B, 8 fours, 16, 4]
    codes = _grouped(matrix.codes_NK, groups).reshape(groups, GROUP, blocks, 8, 4).transpose(0, 2, 3, 1, 4)
    if matrix.kind != Q8_0:
        codes = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    out_GBX[..., at:] = codes.reshape(groups, blocks, -1)
    return out_GBX.reshape(-1)


def _grouped(values: npt.NDArray[np.generic], groups: int) -> npt.NDArray[np.generic]:
    """[N, X] as [G, 16, X], with zeros below."""
    missing = groups * GROUP - len(values)
    return np.pad(values, ((0, missing), (0, 0))).reshape(groups, GROUP, -1)


def quantised(weight_NK: npt.NDArray[np.float32], bits: int) -> Blocks:
    """Float weights in blocks of 4 bits (Q4_1) or 8 bits (Q8_0), each value rounded to the nearest."""
    outputs, depth = weight_NK.shape
    values = weight_NK.reshape(outputs, depth // BLOCK, BLOCK)
    if bits == 8:
        scale = (np.abs(values).max(axis=-1) / 127).astype(np.float16)
        codes = np.rint(values * _inverse(scale)).clip(-127, 127) + 128
        return Blocks(Q8_0, codes.astype(np.uint8).reshape(outputs, depth), scale)
    low, high = values.min(axis=-1), values.max(axis=-1)
    scale, minimum = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
    codes = np.rint((values - minimum.astype(np.float32)[..., None]) * _inverse(scale)).clip(0, 15)
    return Blocks(Q4_1, codes.astype(np.uint8).reshape(outputs, depth), scale, minimum)


def _inverse(scale_NB: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    scale = scale_NB.astype(np.float32)[..., None]
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
