"""GGUF's block formats as `Blocks`, without loss.

Knows nothing of the names or the order of a model's tensors. The formats: Q4_0, Q4_1, Q5_0, Q8_0 (blocks of 32 with
scales in float16) and Q4_K (256 weights with eight scales and minima of 6 bits under two in float16). Codes of 5 bits
become the same numbers in codes of 8. The other formats have a minimum beside more than 4 bits (Q5_1, Q5_K), or other
blocks (Q6_K, and those of 2 and 3 bits): who packs them dequantises them and rounds to 8 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .packed import BLOCK, Q4_0, Q4_1, Q4_K, Q8_0, Blocks

READABLE = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K")
FLOATS = ("F64", "F32", "F16", "BF16")
"""GGUF's formats that are no blocks."""


def read_blocks(kind: str, raw: npt.NDArray[np.uint8], outputs: int, depth: int) -> Blocks:
    """The blocks of a tensor's raw bytes.

    Args:
        kind: GGUF's name of the format, one of `READABLE`.
        raw: The tensor's bytes.
        outputs, depth: Its shape; `depth` is a multiple of the format's block.
    """
    rows = np.ascontiguousarray(raw).view(np.uint8).reshape(outputs, -1)
    if kind == "Q4_K":
        return _q4_k(rows, outputs, depth)
    raw_NBX: npt.NDArray[np.uint8] = rows.reshape(outputs, depth // BLOCK, -1)
    scale = raw_NBX[..., :2].copy().view(np.float16)[..., 0]
    if kind == "Q8_0":
        return Blocks(Q8_0, np.bitwise_xor(raw_NBX[..., 2:], np.uint8(0x80)).reshape(outputs, depth), scale)
    minimum = raw_NBX[..., 2:4].copy().view(np.float16)[..., 0] if kind == "Q4_1" else None
    halves = raw_NBX[..., -16:]
    codes: npt.NDArray[np.uint8] = np.concatenate((halves & 15, halves >> 4), axis=-1)
    if kind == "Q5_0":  # d (code - 16): the fifth bits are one word of 32
        codes |= np.unpackbits(raw_NBX[..., 2:6], axis=-1, bitorder="little") << 4
        return Blocks(Q8_0, (codes + np.uint8(128 - 16)).reshape(outputs, depth), scale)
    return Blocks(Q4_1 if kind == "Q4_1" else Q4_0, codes.reshape(outputs, depth), scale, minimum)


def _q4_k(rows: npt.NDArray[np.uint8], outputs: int, depth: int) -> Blocks:
    """Scale and minimum of a block of 32 are products of a float16 and 6 bits, exact in float32."""
    raw = rows.reshape(outputs, depth // 256, 144)
    d, dmin = (raw[..., at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    six = raw[..., 4:16]
    low, high, both = six[..., :4], six[..., 4:8], six[..., 8:]
    scales = np.concatenate((low & 63, both & 15 | low >> 6 << 4), axis=-1)
    minima = np.concatenate((high & 63, both >> 4 | high >> 6 << 4), axis=-1)
    both_codes = raw[..., 16:].reshape(outputs, -1, 4, 32)
    codes = np.stack((both_codes & 15, both_codes >> 4), axis=3).reshape(outputs, depth).astype(np.uint8)
    scale = (d * scales).reshape(outputs, -1)
    return Blocks(Q4_K, codes, scale, -(dmin * minima).reshape(outputs, -1))
