"""Every run of the tests: a watchdog for each test, Ctrl-C that works, as many threads of torch as cores are free."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest

from .watchdog import rest, watch

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a machine with a GPU may lack it: tests that need none of it run there
    pass
else:  # how long an example takes is the machine's load
    settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("loaded")

TEST_SECONDS = 100
"""The longest test takes 10 s on an idle core."""

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
# Before anything imports torch. With a thread for every core, on a busy machine, threads spin for each other.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, ((os.cpu_count() or 1) - 1) // WORKERS)))

LONG = (
    "tests/test_determinism.py",
    "tests/backend/model/test_transformers_device.py",
    "tests/backend/model/test_smollm2.py",
)
"""Files of half a minute or more: they go first, so that no worker is left with one at the end."""


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job inherits an ignored SIGINT: tests of Ctrl-C would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """Spare every `gc.collect()` of a test the modules that are loaded by now: they are most of the heap."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run with all tracebacks when a test (with the fixtures that it makes) hangs."""
    watch(item.config, TEST_SECONDS)
    try:
        return (yield)
    finally:
        rest()
