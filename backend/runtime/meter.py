"""The meter: what the runtime does, once a second, in a line of the log.

Knows nothing of the engine, which tells it the counts. The line is written at `log_level="info"`. Below that level the
meter costs one comparison a step.
"""

from __future__ import annotations

import logging
import time

from ..base import Usage
from .kv.tree import Tree

log = logging.getLogger("sgl")

LINE_SECONDS = 1.0
"""Least time between two lines of the log."""


class Meter:
    """`tokens`: generated since the start. `ended`: the usage of all calls that are over. `steps`, `rows`: steps
    launched, and rows that went through the model."""

    def __init__(self) -> None:
        self.tokens = 0
        self.steps = 0
        self.rows = 0
        self.ended = Usage()
        self._since = time.monotonic()
        self._before = self._counts(0)

    def is_due(self) -> bool:
        """Whether it is time for a line, if the log takes one."""
        return time.monotonic() - self._since >= LINE_SECONDS

    def write_line(self, running: int, queued: int, tree: Tree, outside: int) -> None:
        """Write a line. `running`: branches in the last step. `queued`: other branches with a job. `outside`: steps
        since the start that no captured graph replayed."""
        now, counts = time.monotonic(), self._counts(outside)
        tokens, prompt, reused, drafted, accepted, rounds, steps, outside = (
            count - before for count, before in zip(counts, self._before)
        )
        used = tree.pool.capacity - tree.pool.available - tree.cached
        log.info(
            f"#running: {running}, #queue: {queued}, token usage: {used / tree.pool.capacity:.2f}, "
            f"gen throughput (token/s): {tokens / (now - self._since):.1f}, "
            f"cached: {reused / prompt if prompt else 0:.0%}, "
            f"accept len: {1 + accepted / max(1, rounds) if drafted else 1:.2f}"
            f"{f', outside graphs: {outside} of {steps} steps' if outside else ''}"
        )
        self._since, self._before = now, counts

    def _counts(self, outside: int) -> tuple[int, ...]:
        ended = self.ended
        return self.tokens, ended.prompt, ended.reused, ended.drafted, ended.accepted, ended.steps, self.steps, outside
