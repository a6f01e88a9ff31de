"""What the runtime does, once a second, in the words people know.

Owns: the log line at `log_level="info"` and the counts behind it. Costs one comparison a step while nobody listens.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ..base import Usage

if TYPE_CHECKING:
    from .engine import Engine
    from .step.span import Step

log = logging.getLogger("sgl")

EVERY = 1.0
"""Seconds between two lines."""


class Meter:
    """`tokens`: generated since the start. `ended`: the usage of all calls that are over."""

    def __init__(self) -> None:
        self.tokens = 0
        self.ended = Usage()
        self._since = time.monotonic()
        self._outside = 0
        self._tokens, self._prompt, self._reused, self._drafted, self._accepted, self._steps = 0, 0, 0, 0, 0, 0

    def tick(self, engine: Engine, step: Step) -> None:
        """After a step: a line, if one is due."""
        if not log.isEnabledFor(logging.INFO):
            return
        now = time.monotonic()
        if now - self._since >= EVERY:
            log.info("%s", self._line(engine, step.branches, now))

    def _line(self, engine: Engine, running: int, now: float) -> str:
        pool, ended = engine.tree.pool, self.ended
        used = pool.capacity - pool.available - engine.tree.cached
        tokens = self.tokens - self._tokens
        prompt, reused = ended.prompt - self._prompt, ended.reused - self._reused
        drafted, accepted = ended.drafted - self._drafted, ended.accepted - self._accepted
        steps = max(1, engine.steps - self._steps)
        outside = getattr(engine.executor, "outside", 0) - self._outside
        line = (
            f"#running: {running}, #queue: {len(engine.active) + len(engine.admission.waiting) - running}, "
            f"token usage: {used / pool.capacity:.2f}, "
            f"gen throughput (token/s): {tokens / (now - self._since):.1f}, "
            f"cached: {reused / prompt if prompt else 0:.0%}, "
            f"accept len: {1 + accepted / steps if drafted else 1:.2f}"
            f"{f', outside graphs: {outside} of {steps} steps' if outside else ''}"
        )
        self._outside += outside
        self._since, self._tokens, self._steps = now, self.tokens, engine.steps
        self._prompt, self._reused = ended.prompt, ended.reused
        self._drafted, self._accepted = ended.drafted, ended.accepted
        return line
