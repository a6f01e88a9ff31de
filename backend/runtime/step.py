"""One step: the spans that go through the model together, packed.

Owns: `Span` (what one branch wants from one forward) and packing. Knows nothing of why a span is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .batch import Batch, Run, SpanLayout

if TYPE_CHECKING:
    from .branch import Branch
    from .executor import Ask, Flight
    from .job import Job


@dataclass(slots=True)
class Span:
    """`tokens` at depth `start` on, their KV going to `slots`, seeing `context`; `want` are the rows (numbered in the
    span) whose logits its consumer takes. `chain` is the side chain it computes, None for the branch's own path."""

    branch: Branch
    start: int
    tokens: list[int]
    slots: list[Run]
    context: tuple[Run, ...]
    want: Sequence[int]
    chain: Any = None


class Asked(NamedTuple):
    """What one span asks of its wanted rows, for the job that its branch had then. `at`: where the first one stands
    among all asks of the step."""

    branch: Branch
    job: Job
    span: Span
    at: int
    asks: Sequence[Ask]


@dataclass(slots=True)
class Step:
    """A step in flight: launched, not yet collected. `began`: when it was planned, on the monotonic clock."""

    number: int
    began: float
    spans: list[Span]
    flight: Flight
    asked: list[Asked] = field(default_factory=list)
    sampled: int = 0  # rows that are sampled from

    @property
    def branches(self) -> int:
        return len({id(span.branch) for span in self.spans})


def pack(spans: Sequence[Span]) -> Batch:
    """Lay the spans end to end."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    want: list[int] = []
    layout: list[SpanLayout] = []
    for span in spans:
        first, rows = len(tokens), len(span.tokens)
        tokens += span.tokens
        positions += range(span.start, span.start + rows)
        for start, length in span.slots:
            slots += range(start, start + length)
        want += [first + row for row in span.want]
        layout.append(SpanLayout(first, rows, span.context, span.start))
    return Batch(
        np.array(tokens, dtype=np.int64),
        np.array(positions, dtype=np.int64),
        np.array(slots, dtype=np.int64),
        layout,
        np.array(want, dtype=np.int64),
    )
