"""One step: the spans that go through the model together, from its plan to its answers.

Knows nothing of why a span is there. Rows are laid end to end while the step is planned, and a span is one object from
its plan to its answer. So little is made anew for each row: that is what a step costs the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ..job.job import Job
from ..kv.chain import Chain
from ..kv.pool import Run
from ..program.branch import Branch
from .executor import Flight
from .packed import Batch, SpanLayout


@dataclass(slots=True)
class Span:
    """What one branch wants from one forward: rows at depth `start` on, for the `job` that it had when it was planned.

    `want`: the rows (numbered in the span) whose logits the job reads. `chain`: the side chain that the rows belong to;
    None for the branch's own path. `draft`: tokens that may follow, whose rows are the span's last ones. Once the step
    was asked, `samples` says whether the span is sampled from. A span has one ask for each row in `want`; `at` is the
    place of the first one among all asks of the step.
    """

    branch: Branch
    job: Job
    start: int
    want: Sequence[int]
    chain: Chain | None = None
    draft: Sequence[int] = ()
    samples: bool = False
    at: int = 0


@dataclass(slots=True)
class Step:
    """One step: planned, then launched, asked and collected.

    `number` counts steps from 1; `began` is when its plan began, in seconds on the monotonic clock. The lists hold its
    rows, laid end to end, and for each span its `layout`.
    """

    number: int
    began: float
    # planned
    spans: list[Span] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    layout: list[SpanLayout] = field(default_factory=list)
    want: list[int] = field(default_factory=list)
    # launched
    masks: Future[None] | None = None  # being filled meanwhile
    flight: Flight | None = None
    # asked
    asked: list[Span] = field(default_factory=list)  # spans that want something, by the order of their asks
    own_rows: int = 0  # of those, spans of a branch's own path
    sampled_rows: int = 0
    going_on: list[Span] = field(default_factory=list)  # spans whose branches run ahead of the answer

    @property
    def rows(self) -> int:
        return len(self.tokens)

    def count_branches(self) -> int:
        return len({id(span.branch) for span in self.spans})

    def add_row(self, branch: Branch, job: Job, token: int, depth: int, slot: int, context: tuple[Run, ...]) -> None:
        """Plan a span of one row, whose logits are wanted."""
        row = len(self.tokens)
        self.tokens.append(token)
        self.positions.append(depth)
        self.slots.append(slot)
        self.layout.append(SpanLayout(row, 1, context, depth))
        self.want.append(row)
        self.spans.append(Span(branch, job, depth, _FIRST_ROW))

    def fill(self, tokens: Sequence[int], runs: Sequence[Run]) -> None:
        """Plan rows of the span that `add_span` ends."""
        self.tokens += tokens
        for start, length in runs:
            self.slots += range(start, start + length)

    def add_span(self, span: Span, context: tuple[Run, ...]) -> None:
        """Plan a span of the rows that were filled in since the last span."""
        first = len(self.positions)
        rows = len(self.tokens) - first
        self.positions += range(span.start, span.start + rows)
        self.layout.append(SpanLayout(first, rows, context, span.start))
        self.want += [first + row for row in span.want]
        self.spans.append(span)

    def pack(self) -> Batch:
        """The step as a model takes it."""
        return Batch(
            np.array(self.tokens, dtype=np.int64),
            np.array(self.positions, dtype=np.int64),
            np.array(self.slots, dtype=np.int64),
            self.layout,
            np.array(self.want, dtype=np.int64),
        )


_FIRST_ROW = (0,)
