"""The options of a batch, checked. Knows nothing of rows."""

from __future__ import annotations

import time
from typing import Any

from ...lang.errors import OptionError, ProgramTimeout
from ...lang.sampling import shown

MAX_THREADS = 64
"""Bodies at a time for `num_threads="auto"`. A body that has returned needs no thread."""
IN_FLIGHT = 256
"""Programs in flight for `num_threads="auto"`; of async programs, which need no thread, four times as many."""


class BatchPlan:
    """`in_flight`: the most programs that are unfinished. `window`: the most that are started and not given out.

    `batch_timeout` counts in seconds from now; `expired` is set once they have passed.
    """

    def __init__(
        self,
        where: str,
        *,
        num_threads: Any,
        progress: bool,
        on_error: str,
        ordered: bool,
        windowed: bool,
        batch_timeout: float | None,
        is_async: bool,
    ) -> None:
        if num_threads == "auto":
            self.threads, self.in_flight = MAX_THREADS, IN_FLIGHT * (4 if is_async else 1)
        elif isinstance(num_threads, int) and not isinstance(num_threads, bool) and num_threads >= 1:
            self.threads = num_threads
            self.in_flight = num_threads if is_async else max(MAX_THREADS, num_threads * 4)
        else:
            raise OptionError(f"{where}: num_threads must be 'auto' or at least 1, got {num_threads!r:.60}")
        if on_error not in ("raise", "keep"):
            raise OptionError(f"{where}: on_error must be 'raise' or 'keep', got {on_error!r:.60}")
        for name, value in (("progress_bar", progress), ("ordered", ordered)):
            if not isinstance(value, bool):
                raise OptionError(f"{where}: {name} must be True or False, got {value!r:.60}")
        number = isinstance(batch_timeout, (int, float)) and not isinstance(batch_timeout, bool)
        if batch_timeout is not None and not (number and 0 < batch_timeout <= 1e9):
            raise OptionError(
                f"{where}: batch_timeout must be a number of seconds above 0 and up to 1e9, got {shown(batch_timeout)}"
            )
        self.where = where
        self.window: float = self.in_flight * 4 if windowed else float("inf")
        self.progress, self.keep, self.ordered = progress, on_error == "keep", ordered
        self.timeout = batch_timeout
        self.deadline = None if batch_timeout is None else time.monotonic() + batch_timeout
        self.expired = False

    def timeout_error(self) -> ProgramTimeout:
        return ProgramTimeout(f"{self.where}: batch_timeout={self.timeout:g} s passed before all rows were finished")
