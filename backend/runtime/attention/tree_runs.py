"""The runs that the spans of a step attend to: which span each belongs to, and which several spans read together.

Knows nothing of tiles, of items, or of what sharing is worth. Every run of every row passes through here at each step,
so runs are handled as arrays, not one by one.

Legend: S spans, U runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..step.packed import SpanLayout

Ints = npt.NDArray[np.int64]
Group = tuple[int, ...]
"""Spans, ascending."""


class Context(NamedTuple):
    """What rows attend to besides their own span, [U] each: `owner` is a span, or S + i for group i."""

    owner: Ints
    first: Ints  # slot
    length: Ints


def split_context(spans: Sequence[SpanLayout], worth: Callable[[Group, int], bool]) -> tuple[Context, list[Group]]:
    """The owner of each run, and the groups: spans that share runs, where `worth(group, keys)` says that reading these
    keys once for all of them pays. A span's runs keep their order."""
    contexts = [span[2] for span in spans]
    count_S = [len(context) for context in contexts]
    flat = chain.from_iterable(chain.from_iterable(contexts))
    first, length = np.fromiter(flat, np.int64, 2 * sum(count_S)).reshape(-1, 2).T
    owner = np.arange(len(spans)).repeat(count_S)
    name = (first << 32) + length  # equal runs, and only they, have equal names
    ordered = np.sort(name)
    alike = ordered[1:] == ordered[:-1]
    groups: list[Group] = []
    dropped: list[int] = []
    for group, runs in (_shared(owner, name, alike) if alike.any() else {}).items():
        if worth(group, sum([int(length[run[0]]) for run in runs])):
            for run in runs:  # its first place in the list becomes the group's, the others go
                owner[run[0]] = len(spans) + len(groups)
                dropped += run[1:]
            groups.append(group)
    if not groups:
        return Context(owner, first, length), groups
    kept = np.ones(len(owner), dtype=np.bool_)
    kept[dropped] = False
    return Context(owner[kept], first[kept], length[kept]), groups


def ranges(count: Ints, begin: Ints | None = None) -> Ints:
    """`begin, begin + 1, ...` (`count` of them; from 0 without `begin`) for each of some ranges, end to end."""
    end = count.cumsum()
    shift = count - end if begin is None else begin + count - end
    return np.arange(int(end[-1])) + shift.repeat(count)


def _shared(owner: Ints, name: Ints, alike: npt.NDArray[np.bool_]) -> dict[Group, list[list[int]]]:
    """The places of shared runs in the list of all, by the spans that share them. `alike`: which of the sorted names
    equal the next one."""
    order = name.argsort(kind="stable")
    places, owners = order.tolist(), owner[order].tolist()
    inside = np.zeros(len(alike) + 2, dtype=np.bool_)
    inside[1:-1] = alike
    edges = (inside[1:] != inside[:-1]).nonzero()[0].tolist()
    found: dict[Group, list[list[int]]] = {}
    for begin, last in zip(edges[::2], edges[1::2]):
        found.setdefault(tuple(owners[begin : last + 1]), []).append(places[begin : last + 1])
    return found
