"""Nothing in these tests may hang: a test that takes 20 seconds ends the run with every thread's traceback."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from sgl.interpreter.defaults import set_default_backend


@pytest.fixture(autouse=True)
def no_hangs_and_no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    stderr = request.config.stash.get(fault_handler_stderr_fd_key, 2)  # fd 2 itself is captured
    faulthandler.dump_traceback_later(20, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    set_default_backend(None)
