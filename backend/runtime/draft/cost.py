"""What one more row costs a step, learnt from the steps. Knows nothing of drafts.

T(n) is the time of a step of n rows. A row that is right with probability p brings p tokens. Without it the runtime
makes n tokens in T(n). If the next n rows cost T(2n) - T(n), a row pays where p exceeds T(2n) / T(n) - 1: the `share`.
It is near 0 where a step's time is that of reading the weights, and near 1 where it is that of the rows.
"""

from __future__ import annotations

MOST_CLASSES = 10
"""Classes of steps by their rows: 1, 2, 3-5, 6-11, ... Larger steps are prompts, and say nothing about these."""
QUANTILE, LEARNING_RATE = 0.3, 0.1
"""The time of a class follows this quantile of its steps: a busy neighbour does not show in it."""
PRIOR_STEPS = 6
"""Steps that the assumption of the beginning counts as."""


class StepCost:
    """`slope`: (T(2) - T(1)) / T(1) where nothing is known yet; T is then taken to be linear."""

    def __init__(self, slope: float) -> None:
        self._slope = slope / max(1e-9, 1 - slope)
        self._seconds = [0.0] * MOST_CLASSES
        self._steps = [0] * MOST_CLASSES

    def learn(self, rows: int, seconds: float) -> None:
        at = _class_of(rows)
        if at >= MOST_CLASSES or seconds <= 0:
            return
        known, steps = self._seconds[at], self._steps[at]
        self._steps[at] = steps + 1
        if not steps:
            self._seconds[at] = seconds
        else:
            rate = max(LEARNING_RATE, 1 / (steps + 1))
            change = (1 - QUANTILE) * min(0.0, seconds - known) + QUANTILE * min(known, max(0.0, seconds - known))
            self._seconds[at] = known + 2 * rate * change

    def seconds(self, rows: int) -> float:
        """A step of so many rows, seconds; 0 if no step is known."""
        at = min(_class_of(rows), MOST_CLASSES - 1)
        known = [i for i, steps in enumerate(self._steps) if steps]
        if not known:
            return 0.0
        near = min(known, key=lambda i: abs(i - at))
        return self._seconds[near] * (1 + self._slope * rows) / (1 + self._slope * (rows if near == at else 1 << near))

    def share(self, rows: int) -> float:
        """The least probability with which a row more, beside `rows`, pays."""
        linear = self._slope * rows / (1 + self._slope * rows)
        at = _class_of(rows)
        if at + 1 >= MOST_CLASSES:
            return max(linear, 0.95)
        steps = min(self._steps[at], self._steps[at + 1])
        if not steps:
            return linear
        measured = min(1.0, max(0.0, self._seconds[at + 1] / self._seconds[at] - 1))
        return (steps * measured + PRIOR_STEPS * linear) / (steps + PRIOR_STEPS)


def _class_of(rows: int) -> int:
    """The class of a step: the nearest power of two."""
    return ((2 * rows * rows).bit_length() - 1) // 2
