"""One step: the spans that go through the model together, planned, packed, and in flight.

Owns: `Span` (what one branch wants from one forward), the rows of a step being planned (`Draft`) and their packing.
Knows nothing of why a span is there.

Rows are laid end to end while the step is planned, and a span is one object from its plan to its answer: what is made
for every row of every step is what a step costs the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .packed import Batch, Run, SpanLayout

if TYPE_CHECKING:
    from ..job.job import Job
    from ..program.branch import Branch
    from .executor import Flight


@dataclass(slots=True)
class Span:
    """Rows of a branch at depth `start` on; `want` are those (numbered in the span) whose logits its consumer takes.
    `chain` is the side chain they belong to, None for the branch's own path.

    What follows is known once the step was asked: the `job` that the branch had then, whether it `samples`, and where
    the first of its asks (one for each row in `want`) stands among all asks of the step.
    """

    branch: Branch
    start: int
    want: Sequence[int]
    chain: Any = None
    job: Job | None = None
    samples: bool = False
    at: int = 0


@dataclass(slots=True)
class Draft:
    """A step that is being planned: its spans, and their rows laid end to end."""

    spans: list[Span] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    layout: list[SpanLayout] = field(default_factory=list)
    want: list[int] = field(default_factory=list)

    def row(self, branch: Branch, depth: int, token: int, slot: int, context: tuple[Run, ...]) -> None:
        """A span of one row, which is wanted."""
        row = len(self.tokens)
        self.tokens.append(token)
        self.positions.append(depth)
        self.slots.append(slot)
        self.layout.append(SpanLayout(row, 1, context, depth))
        self.want.append(row)
        self.spans.append(Span(branch, depth, FIRST))

    def fill(self, tokens: Sequence[int], runs: Sequence[Run]) -> None:
        """Rows of the span that `add` will end."""
        self.tokens += tokens
        for start, length in runs:
            self.slots += range(start, start + length)

    def add(self, span: Span, context: tuple[Run, ...]) -> None:
        """A span of the rows that were filled in since the last one."""
        first = len(self.positions)
        rows = len(self.tokens) - first
        self.positions += range(span.start, span.start + rows)
        self.layout.append(SpanLayout(first, rows, context, span.start))
        self.want += [first + row for row in span.want]
        self.spans.append(span)

    def pack(self) -> Batch:
        return Batch(
            np.array(self.tokens, dtype=np.int64),
            np.array(self.positions, dtype=np.int64),
            np.array(self.slots, dtype=np.int64),
            self.layout,
            np.array(self.want, dtype=np.int64),
        )


FIRST = (0,)


@dataclass(slots=True)
class Step:
    """A step in flight: launched, not yet collected. `began`: when it was planned, on the monotonic clock."""

    number: int
    began: float
    rows: int
    spans: list[Span]
    flight: Flight
    asked: list[Span] = field(default_factory=list)  # those that want something, by the order of their asks
    own: int = 0  # of those, spans of a branch's own path
    sampled: int = 0  # rows that are sampled from
    going_on: list[Span] = field(default_factory=list)  # whose branches may run ahead

    @property
    def branches(self) -> int:
        return len({id(span.branch) for span in self.spans})
