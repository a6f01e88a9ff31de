"""Probability masses in whole units, so that a sum of them is exact and does not depend on its order.

Knows nothing of sampling. A mass is exp((x - peak) / temperature) in units of 2^-44, computed with sums and products of
float64 alone. So compiled code has the same numbers (`model/cpu/native/sampling.inc`), at any width of its vectors. A
unit is far less than the error of a logit in float32.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LOG2_E = 1.4426950408889634
UNITS = 2.0**44
"""Units of the most probable token. A vocabulary of half a million such tokens fits into 63 bits."""
_LEAST_POWER = -64.0
"""Lower powers of two are no unit, and are taken as this one."""
_POWERS = (
    4.4455382718708116e-10, 7.054911620801123e-09, 1.01780860092397e-07, 1.321548679014431e-06,
    1.5252733804059841e-05, 0.0001540353039338161, 0.0013333558146428443, 0.009618129107628477,
    0.05550410866482158, 0.24022650695910072, 0.6931471805599453, 1.0,
)  # fmt: skip
"""ln(2)^i / i!, the highest power first: 2^f for f in -1/2 .. 1/2, to some 1e-15."""


def masses(row: npt.NDArray[np.float32], peak: float, temperature: float = 1.0) -> npt.NDArray[np.int64]:
    """The mass of each logit. `peak`: a finite number that is no less than any of them."""
    t = (row.astype(np.float64) - peak) * (LOG2_E / temperature)
    np.maximum(t, _LEAST_POWER, out=t)
    whole = np.rint(t)
    t -= whole
    p = np.full_like(t, _POWERS[0])
    for power in _POWERS[1:]:
        p *= t
        p += power
    p.view(np.int64)[:] += whole.astype(np.int64) << 52  # p times 2^whole
    p *= UNITS
    return np.rint(p, out=p).astype(np.int64)


def log_sum_exp(row: npt.NDArray[np.float32]) -> float:
    """The natural log of the sum of exp(logit); NaN for a row without a finite largest one."""
    peak = float(row.max())
    return peak + math.log(int(masses(row, peak).sum()) / UNITS) if math.isfinite(peak) else math.nan
