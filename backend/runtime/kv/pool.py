"""Token slots: who may write where in the KV tensors.

Knows nothing of tokens, nodes or tensors. Slots are handed out as contiguous *runs* `(first, length)`. So a CPU reads
views of the KV tensors, and a GPU needs few indices. The unit of sharing and of cutting is one token.

1. Free runs are sorted, disjoint and never adjacent: adjacent ones are joined.
2. Slot 0 is scratch, where padding rows of a captured graph write. It is never handed out.
3. `available` is the sum of the free runs.

Memory is the process's only once it was written. So slots that were given back are taken again before untouched ones,
although a longer run could be had there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

Run = tuple[int, int]
"""A contiguous run of KV slots: (first slot, number of slots)."""

SCRATCH = 1
"""Slots at the front of the pool that belong to no token."""


class SlotPool:
    """`capacity` token slots, numbered 1 .. capacity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.available = capacity
        self._starts = [SCRATCH] if capacity else []
        self._lengths = [capacity] if capacity else []
        self._next = 0  # slot where the last search ended: small holes before it are not looked at each time
        self._untouched = SCRATCH  # first slot that was never handed out, nor any behind it
        self._longest = 0  # no hole before the untouched slots is longer

    @property
    def touched(self) -> int:
        """Slots that were handed out at least once."""
        return self._untouched - SCRATCH

    def take(self, n: int, after: int | None = None, spare: int = 0) -> list[Run]:
        """n slots, as few runs as possible; `after` is a slot number they should continue, if that is free.

        The last `spare` of them may be left out, so that the others fit where slots were in use before. The caller has
        made sure of room (`available >= n`); next fit, and several runs when no run is long enough.
        """
        assert 0 <= spare < n <= self.available, f"{n} slots asked of {self.available}"
        taken = self._take(n, after, n - spare)
        self._untouched = max(self._untouched, max([start + length for start, length in taken]))
        return taken

    def _take(self, n: int, after: int | None, least: int) -> list[Run]:
        taken: list[Run] = []
        if after is not None:
            i = bisect_left(self._starts, after)
            if i < len(self._starts) and self._starts[i] == after:
                taken.append(self._cut(i, n))
                n, least = n - taken[0][1], least - taken[0][1]
                if least <= 0:
                    return taken
        if n:
            fit = self._hole(n)
            if fit is None and least < n and (fit := self._hole(least)) is not None:
                n = min(n, self._lengths[fit])
            if fit is None and self._lengths[-1] >= n:
                fit = len(self._lengths) - 1  # the untouched slots, and free ones just before them
            if fit is not None:
                self._next = self._starts[fit]
                append_run(taken, self._cut(fit, n))
                n = 0
        while n:
            run = self._cut(0, n)
            append_run(taken, run)
            n -= run[1]
        return taken

    def _hole(self, n: int) -> int | None:
        """The next free run of at least n slots that were all in use before, around from where the last one was found.
        A search in vain is not repeated before such a run is given back."""
        if n > self._longest:
            return None
        lengths = self._lengths
        holes = len(lengths) - (bool(lengths) and self._starts[-1] + lengths[-1] > self._untouched)
        first = min(bisect_left(self._starts, self._next), holes)
        for each in (range(first, holes), range(first)):
            for i in each:
                if lengths[i] >= n:
                    return i
        self._longest = max(lengths[:holes], default=0)
        return None

    def _cut(self, i: int, n: int) -> Run:
        start, length = self._starts[i], self._lengths[i]
        size = min(n, length)
        if size == length:
            del self._starts[i], self._lengths[i]
        else:
            self._starts[i], self._lengths[i] = start + size, length - size
        self.available -= size
        return start, size

    def give(self, runs: list[Run]) -> None:
        """Return runs; adjacent free runs are joined."""
        for start, length in runs:
            i = bisect_right(self._starts, start)
            assert (i == 0 or self._starts[i - 1] + self._lengths[i - 1] <= start) and (
                i == len(self._starts) or start + length <= self._starts[i]
            ), f"slots {start}..{start + length - 1} given back twice"
            self.available += length
            if i < len(self._starts) and start + length == self._starts[i]:
                length += self._lengths[i]
                del self._starts[i], self._lengths[i]
            if i and self._starts[i - 1] + self._lengths[i - 1] == start:
                self._lengths[i - 1] += length
                start, length = self._starts[i - 1], self._lengths[i - 1]
            else:
                self._starts.insert(i, start)
                self._lengths.insert(i, length)
            if start + length <= self._untouched:
                self._longest = max(self._longest, length)

    def free_runs(self) -> list[Run]:
        return list(zip(self._starts, self._lengths))


def append_run(runs: list[Run], run: Run) -> None:
    """Append in place, joining with the last run where they touch."""
    if runs and runs[-1][0] + runs[-1][1] == run[0]:
        runs[-1] = (runs[-1][0], runs[-1][1] + run[1])
    else:
        runs.append(run)


def size(runs: list[Run]) -> int:
    """Slots in all runs."""
    return sum([length for _, length in runs])


def cut(runs: list[Run], n: int) -> tuple[list[Run], list[Run]]:
    """The first n slots, and the rest."""
    if n <= 0:
        return [], list(runs)
    left: list[Run] = []
    for i, (start, length) in enumerate(runs):
        if n <= length:
            left.append((start, n))
            rest = [(start + n, length - n)] if n < length else []
            return left, rest + list(runs[i + 1 :])
        left.append((start, length))
        n -= length
    assert n == 0, "cut beyond the end of the runs"
    return left, []


def part(runs: list[Run], begin: int, end: int) -> list[Run]:
    """Slots number begin .. end-1 of the runs."""
    found: list[Run] = []
    for start, length in runs:
        if begin < length:
            take = min(end, length) - begin
            if take > 0:
                found.append((start + begin, take))
            begin += take
        begin -= length
        end -= length
        if end <= 0:
            break
    return found
