"""Time in the tests: how long a test may take, and how long a piece of work, on a machine that may be busy.

Knows nothing of the library. Limits are seconds of an idle machine; on a busy one they grow with its load.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key


def slowness() -> float:
    """Return how many times longer work takes now than on idle cores: tasks that want a core, for each core."""
    try:
        with open("/proc/loadavg") as file:
            wanting = int(file.read().split()[3].split("/")[0])
    except OSError:  # not Linux
        wanting = 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1.0, max(wanting, os.getloadavg()[0]) / cores)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Assert that the block takes less than `seconds` on an idle machine."""
    before, began = slowness(), time.monotonic()
    yield
    took, busy = time.monotonic() - began, max(before, slowness())
    assert took < seconds * busy, f"took {took:.2f} s, more than {seconds} s on a machine {busy:.1f} times slower"


def watch(config: pytest.Config, seconds: float) -> None:
    """End the process with the traceback of every thread when `seconds` of an idle machine pass without `rest`."""
    stderr = config.stash.get(fault_handler_stderr_fd_key, 2)  # fd 2 itself is captured
    faulthandler.dump_traceback_later(seconds * slowness(), exit=True, file=stderr)


def rest() -> None:
    """Stop watching."""
    faulthandler.cancel_dump_traceback_later()
