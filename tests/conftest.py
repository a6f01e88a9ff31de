"""Every run of the tests: a watchdog for each test, Ctrl-C that works, one thread of torch for each worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from .watchdog import rest, watch

TEST_SECONDS = 100
"""The longest test takes 10 s on an idle core."""

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # before anything imports torch: threads of several workers on the same cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job inherits an ignored SIGINT: tests of Ctrl-C would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run with all tracebacks when a test (with the fixtures that it makes) hangs."""
    watch(item.config, TEST_SECONDS)
    try:
        return (yield)
    finally:
        rest()
