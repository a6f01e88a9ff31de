"""The functions of wings that the core calls. Knows no wing: `function.py`, which joins both, sets them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..lang.constraint import Constraint
from .record import Listener, ProgramRecord


class PartialValues(Protocol):
    """The typed values of a text that is still being written."""

    def events(self, text_so_far: str) -> Iterator[Any]:
        """The values that became known since the last call."""


class Hooks:
    """One function of each wing that the core needs."""

    partial_values: Callable[[Constraint | None], PartialValues]  # of `partial/`: for `s.value_iter`
    program_trace: Callable[[ProgramRecord | None], dict[str, Any]]  # of `trace/`: for `s.trace`
    start_span: Callable[[ProgramRecord], Listener | None]  # of `trace/`: OpenTelemetry, if the application uses it


hooks = Hooks()
