"""Noise keyed by position: the randomness of sampling as a pure function.

Knows nothing of sampling. `uniform(key, position, ids)` depends on nothing but its arguments. So a sample can be
replayed, and does not depend on the batch, on chunking, on cache hits or on speculation.

All arithmetic on ids is on integers (murmur3's 32-bit finaliser, twice), so that a GPU kernel computes the same bits.
Keys are 64-bit integers mixed in plain Python (splitmix64's finaliser, Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1


def mix(key: int, value: int = 0) -> int:
    """A 64-bit hash of two 64-bit integers."""
    z = (key * 0x9E3779B97F4A7C15 + value * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _finalise(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def uniform(key: int, position: int, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Uniform numbers strictly inside (0, 1), one for each token id; 32 bits of resolution."""
    word = mix(key, position)
    h = ids * np.uint32(0x9E3779B1)
    h ^= np.uint32(word & 0xFFFFFFFF)
    h = _finalise(h)
    h += np.uint32(word >> 32)
    return (_finalise(h).astype(np.float64) + 0.5) * 2.0**-32
