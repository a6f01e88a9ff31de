"""The progress bar of a batch: rows, generated tokens a second, and the share of prompt tokens that was reused.

Knows nothing of programs: it is told of each finished row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ...backend.base import Usage

log = logging.getLogger("sgl")


class Progress:
    """A context manager around tqdm; without `show` it does nothing. `rows` is None where their number is not known."""

    def __init__(self, rows: int | None, show: bool) -> None:
        self._bar: Any = None
        self._total = Usage()
        self._since = time.monotonic()
        if show:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=rows, unit="row")

    def finished(self, cost: Callable[[], Usage]) -> None:
        """Count a finished row and its costs."""
        if self._bar is None:
            return
        self._total.add(cost())
        rate = self._total.generated / max(time.monotonic() - self._since, 1e-9)
        reuse = self._total.reused / max(self._total.prompt, 1)
        with self._dropped_if_broken():
            self._bar.set_postfix_str(f"{rate:.0f} tok/s, {reuse:.0%} reused", refresh=False)
            self._bar.update()

    @contextmanager
    def _dropped_if_broken(self) -> Iterator[None]:
        """Go on without the bar when it cannot be shown (its stream is closed): rows are worth more."""
        try:
            yield
        except Exception:
            self._bar = None
            log.exception("the progress bar raised, and is shown no more")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            with self._dropped_if_broken():
                self._bar.close()
